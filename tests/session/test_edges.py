"""Edges that a review found: each was once a wait without an end, an answer that never came, or a session lost for nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoServer,
    HandlerError,
    InvalidArgument,
    Limits,
    Overloaded,
    RequestTimeout,
    Session,
    StreamReceiver,
    Timestamped,
    event,
    rpc,
    stream,
)
from echokernel.engine import inherited
from echokernel.testing import MemoryTransport, connected
from echokernel_protocol.codes import Code

pytestmark = pytest.mark.anyio


@rpc
async def double(value: int) -> int:
    return 2 * value


async def test_a_stream_opened_while_on_connect_runs_keeps_its_data() -> None:
    got: list[bytes] = []

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        got.extend([frame.data async for frame in receiver])

    server = EchoServer.builder().on_connect(lambda session: anyio.sleep(3))
    async with connected(audio, server=server) as nodes:
        async with await nodes.client.create_stream("audio") as sender:
            await sender.send(b"early")
        await anyio.sleep(5)
    assert got == [b"early"]


@pytest.mark.parametrize(
    "error",
    [
        HandlerError(ValueError("x")),  # type: ignore[arg-type]
        HandlerError("x", code=-1000),
        HandlerError("x", details="text"),  # type: ignore[arg-type]
    ],
)
async def test_an_error_that_cannot_travel_is_answered_all_the_same(error: Exception) -> None:
    @rpc
    async def broken() -> None:
        raise error

    async with connected(broken) as nodes:
        with pytest.raises(HandlerError, match="broken failed: HandlerError"):
            await nodes.client.request("broken")
        assert nodes.session.stats()["open_peer_requests"] == 0


@pytest.mark.parametrize("result", [None, "text", 5])
async def test_a_handler_class_that_returns_no_bytes_is_answered_all_the_same(result: Any) -> None:
    class Wrong:
        name = "wrong"

        async def handle(self, session: Session, payload: bytes) -> bytes:
            return result  # type: ignore[no-any-return]

    async with connected(server=EchoServer.builder().add_rpc(Wrong())) as nodes:
        with pytest.raises(HandlerError, match="wrong failed: TypeError"):
            await nodes.client.request("wrong")
        assert nodes.session.stats()["open_peer_requests"] == 0


async def test_a_connection_that_a_handler_lost_is_not_the_callers() -> None:
    @rpc
    async def proxy() -> None:
        raise ConnectionClosed("the database is gone", code=Code.GOING_AWAY)

    async with connected(proxy) as nodes:
        with pytest.raises(HandlerError, match="proxy lost a connection that it needs") as caught:
            await nodes.client.request("proxy")
        assert caught.value.code == Code.ABORTED


async def test_an_error_may_be_longer_than_a_frame() -> None:
    @rpc
    async def verbose() -> None:
        raise HandlerError("see the details", details=b"x" * 200_000)

    async with connected(verbose, double) as nodes:
        with pytest.raises(HandlerError, match="see the details") as caught:
            await nodes.client.request("verbose")
        assert caught.value.details == b"x" * 200_000
        assert await nodes.client.request("double", 1) == 2


async def test_what_follows_the_hellos_answer_may_be_longer_than_a_hello() -> None:
    got: list[int] = []

    @event
    async def welcome(text: str) -> None:
        got.append(len(text))

    async def greet(session: Session) -> None:
        await session.emit("welcome", "x" * 60_000)
        await session.emit("welcome", "x" * 20_000)

    async with connected(server=EchoServer.builder().on_connect(greet), client_handlers=[welcome]):
        await anyio.sleep(0.2)
    assert got == [60_000, 20_000]


async def test_the_deadline_covers_an_answer_that_is_announced_and_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    from echokernel.engine.bodies import Bodies

    @rpc
    async def long() -> str:
        return "x" * 200_000

    async with connected(long, double) as nodes:
        monkeypatch.setattr(Bodies, "send", lambda self, number, payload: None)
        began = anyio.current_time()
        with pytest.raises(RequestTimeout, match="its answer was announced, and did not come within the deadline"):
            await nodes.client.request("long", timeout=2)
        assert anyio.current_time() - began < 2.2
        assert await nodes.client.request("double", 1) == 2


async def test_those_who_wait_for_room_learn_that_the_session_is_over() -> None:
    @rpc
    async def hold() -> None:
        await anyio.sleep_forever()

    ended: list[str] = []
    server = EchoServer.builder().limits(Limits(max_requests=1))
    async with connected(hold, server=server) as nodes:

        async def call() -> None:
            try:
                await nodes.client.request("hold", timeout=0)
            except ConnectionClosed as error:
                ended.append(type(error).__name__)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call)
            await anyio.sleep(0.1)
            nodes.transport.connections[0][0].die()
            with anyio.move_on_after(5):
                while len(ended) < 5:
                    await anyio.sleep(0.05)
            assert sorted(ended) == ["ConnectionClosed"] * 4 + ["OutcomeUnknown"]


async def test_one_request_alone_is_always_allowed() -> None:
    limits = Limits(max_frame=16_384, max_message=200_000, max_request_bytes=200_000)

    @rpc
    async def length(text: str) -> int:
        return len(text)

    async with connected(length, server=EchoServer.builder().limits(limits)) as nodes:
        assert await nodes.client.request("length", "x" * 199_998) == 199_998


def test_a_window_has_room_for_the_longest_message() -> None:
    with pytest.raises(ValueError, match=r"event_window is 4,194,304 bytes; wanted max_message and 16 KiB: 4,210,688"):
        Limits(event_window=4_194_304)


async def test_on_disconnect_has_no_deadline() -> None:
    seen: list[float | None] = []
    server = EchoServer.builder().on_disconnect(lambda session: seen.append(inherited.deadline.get()))
    async with connected(double, server=server) as nodes:
        await nodes.client.request("double", 1)
        await nodes.client.close()
        await anyio.sleep(0.5)
    assert seen == [None]


async def test_a_peer_that_leaves_while_it_is_judged_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    transport = MemoryTransport()

    class Slow:
        async def authenticate(self, credentials: bytes, peer: object) -> str | None:
            await anyio.sleep(1)
            return "ann"

    async with connected(server=EchoServer.builder().authenticator(Slow()), transport=transport) as nodes:
        with anyio.move_on_after(0.5):
            from echokernel.testing import JsonSerializer

            async with (
                EchoClient.builder().transport(transport).serializer(JsonSerializer()).connect("memory://node:1")
            ):
                pass
        await anyio.sleep(3)
        assert {"sessions": 1, "unauthenticated": 0}.items() <= nodes.server.stats().items()
        assert transport.connections[-1][1].error is not None
    assert "failed" not in caplog.text


async def test_a_peer_that_stops_reading_the_channel_ends_the_session() -> None:
    async with connected(double) as nodes:
        nodes.session._recv.stop(Code.CANCELLED)
        with pytest.raises(ConnectionClosed), anyio.fail_after(5):
            while True:
                await nodes.client.request("double", 1, timeout=0)


async def test_a_cancelled_client_leaves_nothing_open() -> None:
    transport = MemoryTransport()
    async with connected(double, transport=transport) as nodes:
        from echokernel.testing import JsonSerializer

        with anyio.move_on_after(0.1):
            async with (
                EchoClient.builder().transport(transport).serializer(JsonSerializer()).connect("memory://node:1")
            ):
                await anyio.sleep_forever()
        await anyio.sleep(3)
        assert len(nodes.server.context().sessions()) == 1
        assert transport.connections[-1][0].error is not None


async def test_a_client_may_close_itself_in_a_handler() -> None:
    holder: list[EchoClient] = []

    @event
    async def leave() -> None:
        await holder[0].close()

    async with connected(double, client_handlers=[leave]) as nodes:
        holder.append(nodes.client)
        await nodes.session.emit("leave")
        await anyio.sleep(3)
        assert nodes.client.session.closed is not None
    with pytest.raises(ConnectionClosed):
        await holder[0].request("double", 1)


async def test_a_failing_on_stop_does_not_keep_the_server_open(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise ValueError("no")

    stopped: list[int] = []
    server = EchoServer.builder().on_stop(fail).on_stop(lambda context: stopped.append(1))
    async with connected(double, server=server) as nodes:
        await nodes.client.request("double", 1)
    assert stopped == [1]
    assert "on_stop failed: ValueError" in caplog.text


async def test_pings_are_bounded_at_their_sender() -> None:
    async with connected(double) as nodes, anyio.create_task_group() as tasks:
        refused = 0

        async def ping() -> None:
            nonlocal refused
            try:
                await nodes.client.ping()
            except Overloaded:
                refused += 1

        for _ in range(80):
            tasks.start_soon(ping)
        await anyio.sleep(0.5)
        assert refused == 48
        assert await nodes.client.request("double", 1) == 2


async def test_a_stamp_that_cannot_travel_is_refused_before_it_leaves() -> None:
    @stream
    async def audio(receiver: StreamReceiver) -> None:
        async for _ in receiver:
            pass

    async with connected(audio, double) as nodes:
        sender = await nodes.client.create_stream("audio")
        for stamp in (Timestamped(-5, 0, b""), Timestamped(0, 2**32, b""), Timestamped(2**64, 0, b"")):
            with pytest.raises(InvalidArgument, match="wanted a u64 and a u32"):
                await sender.send_timestamped(stamp)
        await sender.finish()
        assert await nodes.client.request("double", 1) == 2


async def test_raising_a_stored_error_again_does_not_grow_it() -> None:
    async with connected(double) as nodes:
        nodes.transport.connections[0][0].die()
        await anyio.sleep(0.1)
        sizes = []
        for _ in range(50):
            with pytest.raises(ConnectionClosed) as caught:
                await nodes.client.emit("x", 1)
            sizes.append(len(caught.traceback))
        assert max(sizes) == min(sizes)


async def test_threads_stay_bounded_when_their_callers_give_up() -> None:
    lock, release = threading.Lock(), threading.Event()
    running = most = 0

    @rpc
    def block() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        release.wait(20)
        with lock:
            running -= 1

    async with connected(block, double) as nodes:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises((RequestTimeout, HandlerError)):
                    await nodes.client.request("block", timeout=0.2)

            for _ in range(120):
                tasks.start_soon(call)
            await anyio.sleep(2)
            with lock:
                assert most <= 40
            release.set()
        assert await nodes.client.request("double", 1) == 2

    def wait_for_the_last_one() -> None:
        while running:
            time.sleep(0.01)

    await anyio.to_thread.run_sync(wait_for_the_last_one)
    assert most <= 40
