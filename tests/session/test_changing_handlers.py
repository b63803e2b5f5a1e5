"""Handlers that come and go while a node runs, on both ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import anyio
import pytest

from echokernel import InvalidArgument, MethodNotFound, StreamReceiver, event, rpc, stream
from echokernel.testing import connected

pytestmark = pytest.mark.anyio


@rpc
async def double(value: int) -> int:
    return 2 * value


async def test_an_open_session_sees_a_new_handler_and_misses_a_removed_one() -> None:
    @rpc
    async def count(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    async with connected() as nodes:
        for adder, session in ((nodes.server, nodes.client.session), (nodes.client, nodes.session)):
            with pytest.raises(MethodNotFound):
                await session.request("double", 1)
            assert adder.add_rpc(double).add_handler(count) is adder
            assert await session.request("double", 1) == 2
            assert [number async for number in session.request_stream("count", 2)] == [0, 1]
            adder.remove_rpc("double")
            adder.remove_rpc("count")
            with pytest.raises(MethodNotFound):
                await session.request("double", 1)
            with pytest.raises(MethodNotFound):
                await anext(session.request_stream("count", 2))


async def test_a_removed_handler_finishes_what_it_began_and_another_takes_its_name() -> None:
    @rpc("work")
    async def old() -> str:
        await anyio.sleep(1)
        return "old"

    @rpc("work")
    async def new() -> str:
        return "new"

    async with connected(old) as nodes:
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await nodes.client.request("work"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(0.1)
            nodes.server.remove_rpc("work")
            nodes.server.add_rpc(new)
            tasks.start_soon(ask)
        assert answers == ["new", "old"]


async def test_events_follow_the_change_and_those_that_wait_for_a_removed_handler_are_dropped() -> None:
    seen: list[str] = []

    @event("note")
    async def slow(text: str) -> None:
        await anyio.sleep(1)
        seen.append(f"slow {text}")

    @event("note", concurrent=True)
    async def quick(text: str) -> None:
        seen.append(f"quick {text}")

    async with connected(slow) as nodes:
        for text in "abc":
            await nodes.client.emit("note", text)
        await anyio.sleep(0.5)
        nodes.server.remove_event("note")
        await anyio.sleep(2)
        assert (seen, nodes.session.stats()["unknown_events"]) == (["slow a"], 2)
        nodes.server.add_event(quick)
        await nodes.client.emit("note", "d")
        await anyio.sleep(0.1)
        nodes.server.remove_event("note")
        await nodes.client.emit("note", "e")
        await anyio.sleep(0.1)
        assert (seen, nodes.session.stats()["unknown_events"]) == (["slow a", "quick d"], 3)


async def test_streams_follow_the_change() -> None:
    seen: list[bytes] = []

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        seen.extend([frame.data async for frame in receiver])

    async with connected() as nodes:
        nodes.server.add_stream(audio)
        async with await nodes.client.create_stream("audio") as sender:
            await sender.send(b"x")
        await anyio.sleep(0.1)
        nodes.server.remove_stream("audio")
        refused = await nodes.client.create_stream("audio")
        await anyio.sleep(0.1)
        with pytest.raises(MethodNotFound):
            await refused.send(b"y")
    assert seen == [b"x"]


async def test_a_change_that_cannot_work_changes_nothing() -> None:
    @rpc("double")
    async def other(value: int) -> int:
        return 3 * value

    @rpc
    async def odd(value: complex) -> object:
        return value

    class Wrong:
        name = "$describe2"

        async def handle(self, session: object, payload: bytes) -> bytes:
            return payload

    async with connected(double) as nodes:
        with pytest.raises(InvalidArgument, match="two rpc handlers are called 'double'"):
            nodes.server.add_rpc(other)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="no event handler is called 'nothing'; there are: none"):
            nodes.server.remove_event("nothing")
        with pytest.raises(InvalidArgument, match="begin with \\$ belong to the kernel"):
            nodes.server.add_rpc(Wrong())  # type: ignore[arg-type]
        assert await nodes.client.request("double", 2) == 4


async def test_a_type_that_no_serializer_knows_is_refused_while_running() -> None:
    class Strange:
        pass

    async def strange(value: Strange) -> Decimal:
        return Decimal(1)

    strange.__annotations__ = {"value": Strange, "return": Decimal}
    async with connected(double) as nodes:
        with pytest.raises(InvalidArgument, match="cannot express"):
            nodes.server.add_rpc(rpc("strange")(strange))
        with pytest.raises(MethodNotFound):
            await nodes.client.request("strange", 1)
