"""Metadata: what travels beside a payload, what is passed on, and where it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel import InvalidArgument, Session, current_metadata, event, rpc, time_left
from echokernel.engine.metadata import encode_metadata
from echokernel.testing import connected
from echokernel_protocol.maps import MAX_ENTRIES, take_map

pytestmark = pytest.mark.anyio
TRACE = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "a=b",
    "baggage": "c=d",
}


@rpc
async def see() -> dict[str, str]:
    return dict(current_metadata())


@pytest.mark.parametrize("isolated", [False, True])
async def test_a_request_brings_its_metadata_and_the_next_one_none(isolated: bool) -> None:
    async with connected(see, client_handlers=[see]) as nodes:
        got = await nodes.client.request("see", metadata={"tenant": "blue"}, isolated=isolated)
        assert got == {"tenant": "blue"}
        assert await nodes.client.request("see", isolated=isolated) == {}
        assert await nodes.session.request("see", metadata={"a": "ä"}, isolated=isolated) == {"a": "ä"}
    assert current_metadata() == {}


async def test_a_streaming_request_brings_its_metadata() -> None:
    @rpc
    async def keys() -> AsyncIterator[str]:
        for key in current_metadata():
            yield key

    async with connected(keys) as nodes:
        call = nodes.client.request_stream("keys", metadata={"a": "1", "b": "2"})
        assert [key async for key in call] == ["a", "b"]


async def test_each_event_has_its_own() -> None:
    seen: list[tuple[int, Mapping[str, str]]] = []

    @event
    async def note(number: int) -> None:
        seen.append((number, current_metadata()))

    async with connected(note) as nodes:
        await nodes.client.emit("note", 1, metadata={"a": "1"})
        await nodes.client.emit("note", 2)
        await nodes.client.emit("note", 3, metadata={"a": "3"})
        await nodes.client.emit("note", 4)
        await anyio.sleep(0.1)
    assert seen == [(1, {"a": "1"}), (2, {}), (3, {"a": "3"}), (4, {})]


async def test_a_message_longer_than_a_frame_keeps_its_metadata() -> None:
    @rpc
    async def size(text: str) -> tuple[int, str]:
        return len(text), current_metadata()["a"]

    async with connected(size) as nodes:
        for isolated in (False, True):
            got = await nodes.client.request("size", "x" * 200_000, metadata={"a": "b"}, isolated=isolated)
            assert got == [200_000, "b"]


@pytest.mark.parametrize("isolated", [False, True])
async def test_the_trace_is_passed_on_and_the_rest_is_not(isolated: bool) -> None:
    @rpc
    async def relay(session: Session) -> dict[str, str]:
        answer: dict[str, str] = await session.request("see", isolated=isolated)
        return answer

    async with connected(relay, client_handlers=[see]) as nodes:
        got = await nodes.client.request("relay", metadata={**TRACE, "tenant": "blue"}, isolated=isolated)
        assert got == TRACE
        assert await nodes.client.request("relay", isolated=isolated) == {}


async def test_a_handler_may_put_its_own_over_what_it_inherits() -> None:
    @rpc
    async def relay(session: Session) -> dict[str, str]:
        answer: dict[str, str] = await session.request("see", metadata={"baggage": "mine", "x": "y"})
        return answer

    async with connected(relay, client_handlers=[see]) as nodes:
        assert await nodes.client.request("relay", metadata=TRACE) == {**TRACE, "baggage": "mine", "x": "y"}


async def test_deadlines_nest() -> None:
    @rpc
    async def left() -> float | None:
        return time_left()

    @rpc
    async def relay(session: Session) -> float | None:
        await anyio.sleep(1)
        answer: float | None = await session.request("left", timeout=60)
        return answer

    async with connected(relay, left, client_handlers=[left]) as nodes:
        got = await nodes.client.request("relay", timeout=3, returns=float)
        assert 1.9 < got <= 2
        assert await nodes.client.request("left", timeout=0) is None
        assert 9 < await nodes.client.request("left", returns=float) <= 10
    assert time_left() is None


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({"$timeout": "1"}, "begin with \\$ are the kernel's"),
        ({"": "1"}, "wanted a name"),
        ({"a": 1}, "text by text"),
        ({"a": "x" * 8_192}, r"takes 8,2\d\d bytes|takes 8,19\d bytes; the limit is 8,192"),
        ({str(number): "" for number in range(65)}, r"6[56] entries; the limit is 64"),
        ({"a": "\ud800"}, "metadata"),
    ],
)
async def test_metadata_that_cannot_travel_is_refused_before_anything_is_sent(
    metadata: dict[str, str], wanted: str
) -> None:
    async with connected(see) as nodes:
        for isolated in (False, True):
            with pytest.raises(InvalidArgument, match=wanted):
                await nodes.client.request("see", metadata=metadata, isolated=isolated)
        with pytest.raises(InvalidArgument, match=wanted):
            await nodes.client.emit("see", metadata=metadata)
        with pytest.raises(InvalidArgument, match=wanted):
            await anext(nodes.client.request_stream("see", metadata=metadata))
        assert await nodes.client.request("see") == {}


async def test_as_much_as_is_allowed_travels() -> None:
    most = {str(number): "v" for number in range(MAX_ENTRIES - 1)}  # $timeout is one more
    longest = {"a": "x" * 8_150}
    async with connected(see) as nodes:
        assert await nodes.client.request("see", metadata=most, timeout=5) == most
        assert await nodes.client.request("see", metadata=longest, isolated=True) == longest


@given(
    st.dictionaries(st.text(min_size=1, max_size=9).filter(lambda key: key[0] != "$"), st.text(max_size=9), max_size=9)
)
def test_what_is_encoded_is_what_was_meant(metadata: dict[str, str]) -> None:
    encoded = encode_metadata("m", metadata, {})
    assert (take_map(encoded)[0] if encoded else {}) == metadata
