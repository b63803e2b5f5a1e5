"""Events in order and within their credit; streams with backpressure, ends and errors."""

from __future__ import annotations

import anyio
import pytest

from echokernel import (
    ConnectionClosed,
    EchoServer,
    InvalidArgument,
    Limits,
    MethodNotFound,
    Overloaded,
    ProtocolError,
    Session,
    StreamReceiver,
    StreamReset,
    StreamStopped,
    Timestamped,
    event,
    rpc,
    stream,
)
from echokernel.testing import connected

pytestmark = pytest.mark.anyio


async def settle(condition: object = None) -> None:
    """Let a moment pass."""
    await anyio.sleep(0.2)


# --- events ---------------------------------------------------------------------------------------------------------


async def test_events_of_one_name_are_handled_one_at_a_time_in_order() -> None:
    log: list[int] = []
    busy = 0

    @event
    async def note(number: int) -> None:
        nonlocal busy
        busy += 1
        assert busy == 1
        await anyio.sleep(0.001 * (number % 3))
        log.append(number)
        busy -= 1

    async with connected(note) as nodes:
        for number in range(200):
            await nodes.client.emit("note", number)
        await anyio.sleep(2)
    assert log == list(range(200))


async def test_events_of_different_names_do_not_wait_for_each_other() -> None:
    log: list[str] = []

    @event
    async def slow() -> None:
        await anyio.sleep(5)
        log.append("slow")

    @event
    async def fast() -> None:
        log.append("fast")

    async with connected(slow, fast) as nodes:
        await nodes.client.emit("slow")
        await nodes.client.emit("fast")
        await anyio.sleep(6)
    assert log == ["fast", "slow"]


async def test_concurrent_events_overlap() -> None:
    running = most = 0

    @event(concurrent=True)
    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    async with connected(work) as nodes:
        for number in range(5):
            await nodes.client.emit("work", number)
        await anyio.sleep(2)
    assert most == 5


async def test_every_form_of_an_event_handler() -> None:
    log: list[object] = []

    @event
    async def bare() -> None:
        log.append("bare")

    @event
    async def with_session(session: Session) -> None:
        log.append(session.id)

    @event
    async def both(session: Session, text: str, number: int) -> None:
        log.append((session.id, text, number))

    @event("plain", inline=True)
    def plain(text: str) -> None:
        log.append(text)

    async with connected(bare, with_session, both, plain) as nodes:
        await nodes.client.emit("bare")
        await nodes.client.emit("with_session")
        await nodes.client.emit("both", ("a", 1))
        await nodes.client.emit("plain", "p")
        await settle()
    assert sorted(map(str, log)) == ["(1, 'a', 1)", "1", "bare", "p"]  # names promise nothing to each other


async def test_a_failing_event_handler_costs_its_event_alone(caplog: pytest.LogCaptureFixture) -> None:
    log: list[int] = []

    @event
    async def odd_only(number: int) -> None:
        if number % 2 == 0:
            raise ValueError("even")
        log.append(number)

    async with connected(odd_only) as nodes:
        for number in range(6):
            await nodes.client.emit("odd_only", number)
        await nodes.client.emit("odd_only", "garbage")
        await nodes.client.emit("odd_only", 7)
        await settle()
    assert log == [1, 3, 5, 7]
    assert "event odd_only: the handler failed: ValueError" in caplog.text
    assert "event odd_only: the handler failed: InvalidArgument" in caplog.text


async def test_unknown_events_are_counted_and_give_their_credit_back() -> None:
    async with connected(server=EchoServer.builder().limits(Limits(event_window=4_300_000))) as nodes:
        for _ in range(300):
            await nodes.client.emit("nobody", "x" * 60_000)
        await nodes.client.emit("nobody", "x" * 500_000)
        await settle()
        assert nodes.session.stats()["unknown_events"] == 301


async def test_a_sender_waits_while_the_receiver_is_a_window_behind() -> None:
    go = anyio.Event()
    handled = sent = 0

    @event
    async def slow(text: str) -> None:
        nonlocal handled
        await go.wait()
        handled += 1

    limits = Limits(max_frame=16_384, max_message=16_384, event_window=65_536)
    async with connected(slow, server=EchoServer.builder().limits(limits)) as nodes, anyio.create_task_group() as tasks:

        async def push() -> None:
            nonlocal sent
            for _ in range(100):
                await nodes.client.emit("slow", "x" * 10_000)
                sent += 1

        tasks.start_soon(push)
        await settle()
        assert sent == 6  # 6 x (10,002 + 64) bytes fit 65,536
        go.set()
    await settle()
    assert handled == sent == 100


async def test_a_long_event_keeps_its_place() -> None:
    log: list[int] = []

    @event
    async def note(text: str) -> None:
        log.append(len(text))

    async with connected(note) as nodes:
        for size in (1, 200_000, 2, 70_000, 3):
            await nodes.client.emit("note", "x" * size)
        await settle()
    assert log == [1, 200_000, 2, 70_000, 3]


async def test_broadcast_reaches_every_session() -> None:
    log: list[str] = []

    @event
    async def news(text: str) -> None:
        log.append(text)

    async with connected(client_handlers=[news]) as nodes, connected(client_handlers=[news]):
        await nodes.server.context().broadcast("news", "hello")
        await settle()
    assert log == ["hello"]


# --- streams --------------------------------------------------------------------------------------------------------


async def test_a_stream_arrives_whole_in_order_and_stamped() -> None:
    frames: list[Timestamped[bytes]] = []

    @stream
    async def audio(session: Session, receiver: StreamReceiver) -> None:
        frames.extend([frame async for frame in receiver])

    async with connected(audio) as nodes:
        async with await nodes.client.create_stream("audio") as sender:
            for number in range(500):
                await sender.send(number.to_bytes(4, "big") * 100)
        await settle()
    assert [frame.seq for frame in frames] == list(range(500))
    assert [frame.data[:4] for frame in frames] == [number.to_bytes(4, "big") for number in range(500)]
    assert frames[0].wall_time > 1_700_000_000_000_000


async def test_stamps_may_be_the_senders_own() -> None:
    frames: list[Timestamped[bytes] | None] = []

    @stream
    async def pose(receiver: StreamReceiver) -> None:
        while (frame := await receiver.recv()) is not None:
            frames.append(frame)
        frames.append(await receiver.recv())

    async with connected(pose) as nodes:
        sender = await nodes.client.create_stream("pose")
        await sender.send_timestamped(Timestamped(123, 7, b"a"))
        await sender.send_timestamped(Timestamped(5, 2**32 - 1, b""))
        await sender.finish()
        await sender.finish()
        with pytest.raises(InvalidArgument, match="stream 'pose' is finished"):
            await sender.send(b"x")
        await settle()
    assert frames == [Timestamped(123, 7, b"a"), Timestamped(5, 2**32 - 1, b""), None]


async def test_an_empty_stream_ends() -> None:
    ended: list[object] = []

    @stream
    async def quiet(receiver: StreamReceiver) -> None:
        ended.append(await receiver.recv())

    async with connected(quiet) as nodes:
        sender = await nodes.client.create_stream("quiet")
        await sender.finish()
        await settle()
    assert ended == [None]


async def test_send_waits_while_nobody_reads() -> None:
    go = anyio.Event()
    sent = received = 0

    @stream
    async def slow(receiver: StreamReceiver) -> None:
        nonlocal received
        await go.wait()
        async for _ in receiver:
            received += 1

    async with connected(slow) as nodes, anyio.create_task_group() as tasks:

        async def push() -> None:
            nonlocal sent
            async with await nodes.client.create_stream("slow") as sender:
                for _ in range(100):
                    await sender.send(bytes(60_000))
                    sent += 1

        tasks.start_soon(push)
        await settle()
        assert 1 <= sent <= 6
        assert await nodes.client.ping() >= 0
        go.set()
    await settle()
    assert received == sent == 100


async def test_a_refused_stream_says_why() -> None:
    async with connected() as nodes:
        sender = await nodes.client.create_stream("nobody")
        with pytest.raises(MethodNotFound, match="stream 'nobody' was refused: no stream 'nobody' here"):
            while True:
                await sender.send(bytes(1_000))
                await anyio.sleep(0.01)


async def test_too_many_streams_are_refused_one_by_one() -> None:
    @stream
    async def hold(receiver: StreamReceiver) -> None:
        async for _ in receiver:
            pass

    async with connected(hold, server=EchoServer.builder().limits(Limits(max_streams=2))) as nodes:
        senders = [await nodes.client.create_stream("hold") for _ in range(3)]
        await settle()
        for sender in senders[:2]:
            await sender.send(b"fine")
        with pytest.raises(Overloaded, match="2 streams are open already"):
            await senders[2].send(b"too many")
        await senders[0].finish()
        await settle()
        await (await nodes.client.create_stream("hold")).send(b"again")


async def test_a_receiver_that_stops_early_stops_the_sender() -> None:
    @stream
    async def sip(receiver: StreamReceiver) -> None:
        await receiver.recv()

    async with connected(sip) as nodes:
        sender = await nodes.client.create_stream("sip")
        with pytest.raises(StreamStopped):
            while True:
                await sender.send(bytes(1_000))
                await anyio.sleep(0.01)
        with pytest.raises(StreamStopped):
            await sender.finish()


async def test_a_sender_that_aborts_is_not_mistaken_for_one_that_finished() -> None:
    errors: list[Exception] = []

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        try:
            async for _ in receiver:
                pass
        except Exception as error:
            errors.append(error)

    async with connected(audio) as nodes:
        sender = await nodes.client.create_stream("audio")
        await sender.send(b"x")
        await settle()
        sender.abort(4711, "microphone unplugged")
        await settle()
        with pytest.raises(ZeroDivisionError):
            async with await nodes.client.create_stream("audio") as sender:
                await sender.send(b"x")
                raise ZeroDivisionError
        await settle()
    assert len(errors) == 2
    assert all(isinstance(error, StreamReset) or "microphone" in str(error) for error in errors)


async def test_a_lost_connection_ends_streams_with_an_error_at_both_ends() -> None:
    errors: list[Exception] = []

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        try:
            async for _ in receiver:
                pass
        except Exception as error:
            errors.append(error)

    async with connected(audio) as nodes:
        sender = await nodes.client.create_stream("audio")
        await sender.send(b"x")
        await settle()
        nodes.transport.connections[0][0].die()
        await settle()
        with pytest.raises(ConnectionClosed):
            await sender.send(b"y")
    assert len(errors) == 1
    assert isinstance(errors[0], ConnectionClosed)


async def test_a_frame_that_is_too_long_is_refused_before_it_leaves() -> None:
    @stream
    async def audio(receiver: StreamReceiver) -> None:
        async for _ in receiver:
            pass

    async with connected(audio) as nodes:
        sender = await nodes.client.create_stream("audio")
        await sender.send(bytes(65_536))
        with pytest.raises(
            InvalidArgument, match=r"a frame of 65,537 bytes; the peer takes 65,536\. Send it in parts\."
        ):
            await sender.send(bytes(65_537))
        await sender.finish()


async def test_the_server_streams_to_the_client() -> None:
    received: list[bytes] = []

    @stream
    async def video(receiver: StreamReceiver) -> None:
        received.extend([frame.data async for frame in receiver])

    @rpc
    async def play(session: Session) -> None:
        async with await session.create_stream("video") as sender:
            await sender.send(b"one")
            await sender.send(b"two")

    async with connected(play, client_handlers=[video]) as nodes:
        await nodes.client.request("play")
        await settle()
    assert received == [b"one", b"two"]


async def test_a_stream_whose_end_does_not_match_is_cut() -> None:
    errors: list[Exception] = []

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        try:
            async for _ in receiver:
                pass
        except Exception as error:
            errors.append(error)

    async with connected(audio) as nodes:
        sender = await nodes.client.create_stream("audio")
        await sender.send(b"x")
        sender._sent = 3  # it says that it sent more than it did
        await sender.finish()
        await settle()
    assert isinstance(errors[0], ProtocolError)
    assert "ended after 1 of 3 frames" in str(errors[0])


@pytest.mark.parametrize("name", ["$ack", "$mine"])
async def test_the_kernels_names_are_not_for_events_and_streams(name: str) -> None:
    async with connected() as nodes:
        for reliable in (True, False):
            for _ in range(2):
                with pytest.raises(InvalidArgument, match="begin with \\$ belong to the kernel"):
                    await nodes.client.emit(name, 1, reliable=reliable)
        with pytest.raises(InvalidArgument, match="begin with \\$ belong to the kernel"):
            await nodes.client.create_stream(name)
        assert (await nodes.client.describe()).methods == ()
        with pytest.raises(InvalidArgument, match="begin with \\$ belong to the kernel"):
            await nodes.client.emit("$describe")
