"""Middleware: around what arrives, around what leaves, and around sessions, at both ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoError,
    EchoServer,
    Frame,
    HandlerError,
    Header,
    MessageType,
    MethodNotFound,
    Middleware,
    PermissionDenied,
    Session,
    StreamReceiver,
    current_metadata,
    event,
    rpc,
    stream,
)
from echokernel.middleware import Next
from echokernel.testing import connected

pytestmark = pytest.mark.anyio


@rpc
async def double(value: int) -> int:
    return 2 * value


@rpc
async def count(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number


@rpc
async def see() -> dict[str, str]:
    return dict(current_metadata())


class Log(Middleware):
    """Writes down what passes."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name, self.lines = name, lines

    async def process_request(self, frame: Frame) -> Frame:
        self.lines.append(f"{self.name} > {frame.header.message_type.name} {frame.header.method}")
        return frame

    async def process_response(self, frame: Frame) -> Frame:
        self.lines.append(f"{self.name} < {frame.payload.decode()}")
        return frame


async def test_the_order_is_that_of_the_builder_and_the_way_back_is_reversed() -> None:
    lines: list[str] = []
    server = EchoServer.builder().middleware(Log("a", lines)).middleware(Log("b", lines))
    async with connected(double, server=server) as nodes:
        assert await nodes.client.request("double", 2) == 4
    assert lines == ["a > REQUEST double", "b > REQUEST double", "b < 4", "a < 4"]


async def test_a_client_sees_what_it_sends_and_a_server_what_it_is_asked() -> None:
    server_lines: list[str] = []
    client_lines: list[str] = []
    noted = anyio.Event()

    @event
    async def note(text: str) -> None:
        noted.set()

    async with connected(
        double,
        note,
        server=EchoServer.builder().middleware(Log("server", server_lines)),
        client=EchoClient.builder().middleware(Log("client", client_lines)),
        client_handlers=[double],
    ) as nodes:
        assert await nodes.client.request("double", 1) == 2
        assert await nodes.client.request("double", 1, isolated=True) == 2
        await nodes.client.emit("note", "x")
        await noted.wait()
        assert await nodes.session.request("double", 3) == 6
    assert client_lines == [
        "client > REQUEST double",
        "client < 2",
        "client > REQUEST double",
        "client < 2",
        "client > EVENT note",
        "client > REQUEST double",  # the server's request, arriving
        "client < 6",
    ]
    assert server_lines == [
        "server > REQUEST double",
        "server < 2",
        "server > REQUEST double",
        "server < 2",
        "server > EVENT note",
    ]


class Both(Middleware):
    """Adds to what leaves, and looks at what arrives."""

    async def handle_outgoing(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
        return await call_next(replace(frame, metadata={**frame.metadata, "token": "t"}))


@pytest.mark.parametrize("isolated", [False, True])
async def test_metadata_may_be_added_on_the_way_out_and_on_the_way_in(isolated: bool) -> None:
    class In(Middleware):
        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            assert current_metadata() == frame.metadata
            return await call_next(replace(frame, metadata={**frame.metadata, "seen": "yes"}))

    async with connected(
        see,
        server=EchoServer.builder().middleware(In()).middleware(Both()),
        client=EchoClient.builder().middleware(Both()),
        client_handlers=[see],
    ) as nodes:
        assert await nodes.client.request("see", metadata={"a": "b"}, isolated=isolated) == {
            "a": "b",
            "token": "t",
            "seen": "yes",
        }
        assert await nodes.session.request("see", isolated=isolated) == {"token": "t"}


@pytest.mark.parametrize("isolated", [False, True])
async def test_errors_of_handlers_can_be_seen_and_changed(isolated: bool) -> None:
    @rpc
    async def broken() -> None:
        raise KeyError("private")

    seen: list[str] = []

    class Translate(Middleware):
        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            try:
                return await call_next(frame)
            except KeyError as error:
                seen.append(str(error))
                raise HandlerError("there is no such thing", code=5) from error

    class Retry(Middleware):
        async def handle_outgoing(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            try:
                return await call_next(frame)
            except HandlerError as error:
                seen.append(error.message)
                return Frame(Header(MessageType.RESPONSE, 0, "", frame.header.flags), b'"instead"')

    server = EchoServer.builder().middleware(Translate())
    async with connected(broken, server=server) as nodes:
        with pytest.raises(HandlerError, match="no such thing") as caught:
            await nodes.client.request("broken", isolated=isolated)
        assert caught.value.code == 5
    async with connected(
        broken, server=EchoServer.builder().middleware(Translate()), client=EchoClient.builder().middleware(Retry())
    ) as nodes:
        assert await nodes.client.request("broken", isolated=isolated) == "instead"
    assert seen == ["'private'", "'private'", "there is no such thing"]


class Deny(Middleware):
    """Lets nothing through of one name, or no answer."""

    def __init__(self, name: str, answers: bool = False) -> None:
        self.name, self.answers = name, answers

    async def process_request(self, frame: Frame) -> Frame | None:
        return None if frame.header.method == self.name and not self.answers else frame

    async def process_response(self, frame: Frame) -> Frame | None:
        return None if self.answers else frame


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("at", ["server", "client"])
async def test_none_intercepts(answers: bool, at: str) -> None:
    server, client = EchoServer.builder(), EchoClient.builder()
    (server if at == "server" else client).middleware(Deny("double", answers))
    async with connected(double, count, server=server, client=client) as nodes:
        for isolated in (False, True):
            with pytest.raises(PermissionDenied, match=r"double.* intercepted"):
                await nodes.client.request("double", 1, isolated=isolated)
        if not answers:
            assert [number async for number in nodes.client.request_stream("count", 2)] == [0, 1]
            with pytest.raises(PermissionDenied, match="double was intercepted"):
                await anext(nodes.client.request_stream("double", 1))


async def test_an_intercepted_event_is_dropped() -> None:
    seen: list[int] = []

    @event
    async def note(number: int) -> None:
        seen.append(number)

    async with connected(note, server=EchoServer.builder().middleware(Deny("note"))) as nodes:
        await nodes.client.emit("note", 1)
        await anyio.sleep(0.1)
        assert nodes.session.closed is None
    async with connected(note, client=EchoClient.builder().middleware(Deny("note"))) as nodes:
        await nodes.client.emit("note", 1)
        await anyio.sleep(0.1)
        assert nodes.session.stats()["frames_received"] == 0
    assert seen == []


async def test_a_streaming_request_passes_once_around_all_its_answers() -> None:
    lines: list[str] = []

    class Around(Middleware):
        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            lines.append(f"> {frame.header.method} {frame.payload.decode()}")
            response = await call_next(frame)
            assert response is not None
            lines.append(f"< {response.header.message_type.name} {response.payload.decode()!r}")
            return response

    async with connected(count, server=EchoServer.builder().middleware(Around())) as nodes:
        assert [number async for number in nodes.client.request_stream("count", 3)] == [0, 1, 2]
    assert lines == ["> count 3", "< RESPONSE ''"]


async def test_a_method_may_be_renamed() -> None:
    class Rename(Middleware):
        async def process_request(self, frame: Frame) -> Frame:
            header = frame.header
            return replace(
                frame, header=Header(header.message_type, header.request_id, header.method[4:], header.flags)
            )

    async with connected(double, count, server=EchoServer.builder().middleware(Rename())) as nodes:
        # a request of a name that nobody has is answered before any middleware runs
        with pytest.raises(MethodNotFound):
            await nodes.client.request("old.double", 1)
        call = nodes.client.request_stream("old.count", 2)
        assert [number async for number in call] == [0, 1]


@pytest.mark.parametrize("delivery", ["reliable", "per_frame", "datagram"])
async def test_streams_pass_with_their_opening(delivery: Any) -> None:
    lines: list[str] = []
    got: list[bytes] = []

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        lines.append(f"handler {dict(current_metadata())}")
        got.extend([frame.data async for frame in receiver])

    class Around(Middleware):
        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            lines.append(f"> {frame.header.message_type.name} {frame.header.method} {dict(frame.metadata)}")
            assert await call_next(frame) is None
            lines.append("<")
            return None

    client = EchoClient.builder().middleware(Both())
    async with connected(audio, server=EchoServer.builder().middleware(Around()), client=client) as nodes:
        async with await nodes.client.create_stream("audio", delivery=delivery, metadata={"rate": "48000"}) as sender:
            await sender.send(b"x")
        await anyio.sleep(1)
    meta = "{'rate': '48000', 'token': 't'}"
    assert lines == [f"> STREAM audio {meta}", f"handler {meta}", "<"]
    assert got == [b"x"]


@pytest.mark.parametrize("how", ["intercepts", "raises"])
async def test_a_stream_that_does_not_reach_its_handler_is_refused(how: str) -> None:
    @stream
    async def audio(receiver: StreamReceiver) -> None:
        raise AssertionError("never called")

    class Refuse(Middleware):
        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            if how == "raises":
                raise HandlerError("no more tapes", code=4711)
            return None

    async with connected(audio, server=EchoServer.builder().middleware(Refuse())) as nodes:
        sender = await nodes.client.create_stream("audio")
        await anyio.sleep(0.1)
        with pytest.raises(EchoError, match="no more tapes" if how == "raises" else "intercepted") as caught:
            await sender.send(b"x")
        assert caught.value.code == (4711 if how == "raises" else 7)
    async with connected(audio, client=EchoClient.builder().middleware(Deny("audio"))) as nodes:
        with pytest.raises(PermissionDenied, match="audio was intercepted"):
            await nodes.client.create_stream("audio")


async def test_datagram_events_pass_on_both_ends() -> None:
    lines: list[str] = []
    seen: list[str] = []

    @event
    async def note(text: str) -> None:
        seen.append(text)

    async with connected(
        note,
        server=EchoServer.builder().middleware(Log("server", lines)),
        client=EchoClient.builder().middleware(Log("client", lines)),
    ) as nodes:
        await nodes.client.emit("note", "x", reliable=False)
        await anyio.sleep(0.1)
    assert (lines, seen) == (["client > EVENT note", "server > EVENT note"], ["x"])


# --- sessions --------------------------------------------------------------------------------------------------


async def test_middleware_goes_around_a_session() -> None:
    lines: list[str] = []

    class Around(Middleware):
        def __init__(self, name: str) -> None:
            self.name = name

        async def handle_session(self, session: Session, call_next: Callable[[], Awaitable[None]]) -> None:
            lines.append(f"{self.name} begins")
            try:
                await call_next()
            finally:
                lines.append(f"{self.name} ends")

    server = EchoServer.builder().middleware(Around("a")).middleware(Around("b"))
    server.on_connect(lambda session: lines.append("connected"))
    async with connected(double, server=server, client=EchoClient.builder().middleware(Around("client"))) as nodes:
        assert await nodes.client.request("double", 1) == 2
        lines.append("asked")
        await nodes.client.close()
        await anyio.sleep(0.1)
    assert [line for line in lines if "client" not in line] == [
        "a begins",
        "b begins",
        "connected",
        "asked",
        "b ends",
        "a ends",
    ]
    assert "client begins" in lines and "client ends" in lines


@pytest.mark.parametrize("how", ["raises", "returns", "breaks"])
async def test_a_session_can_be_refused(how: str) -> None:
    ran: list[int] = []

    @rpc
    async def work() -> None:
        ran.append(1)

    class Refuse(Middleware):
        async def handle_session(self, session: Session, call_next: Callable[[], Awaitable[None]]) -> None:
            if how == "raises":
                raise PermissionDenied("not today")
            if how == "breaks":
                raise ValueError("a fault")

    async with connected(work, server=EchoServer.builder().middleware(Refuse())) as nodes:
        with pytest.raises(EchoError) as caught:
            await nodes.client.request("work")
        assert isinstance(caught.value, ConnectionClosed)
        with pytest.raises(EchoError):
            await nodes.client.request("work", isolated=True)
    assert ran == []


async def test_a_message_may_be_handled_without_the_handler() -> None:
    class Cache(Middleware):
        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            header = Header(MessageType.RESPONSE, frame.header.request_id, "", frame.header.flags)
            return Frame(header, b"99")

    async with connected(double, server=EchoServer.builder().middleware(Cache())) as nodes:
        assert await nodes.client.request("double", 1) == 99
        assert await nodes.client.request("double", 1, isolated=True) == 99


async def test_duck_typed_middleware_needs_only_handle() -> None:
    class Duck:
        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            return await call_next(frame)

    duck: Any = Duck()
    async with connected(
        double, server=EchoServer.builder().middleware(duck), client=EchoClient.builder().middleware(duck)
    ) as nodes:
        assert await nodes.client.request("double", 1) == 2
