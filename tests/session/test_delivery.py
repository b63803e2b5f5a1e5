"""Streams by every carrier: what arrives, what is dropped and counted, and that nobody waits or fills memory for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from echokernel import (
    ConnectionClosed,
    EchoError,
    EchoServer,
    InvalidArgument,
    MethodNotFound,
    Overloaded,
    ProtocolError,
    Session,
    StreamReceiver,
    StreamReset,
    StreamSender,
    StreamStopped,
    Timestamped,
    rpc,
    stream,
)
from echokernel.addresses import parse_address
from echokernel.engine import inherited
from echokernel.tasks import open_tasks
from echokernel.testing import MemoryConnection, MemoryFaults, MemoryTransport, Nodes, connected
from echokernel.transport import SendStream
from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.codes import Code
from echokernel_protocol.frames import FrameDecoder, encode_frame, encode_method
from echokernel_protocol.hello import Hello
from echokernel_protocol.maps import encode_map
from echokernel_protocol.streams import Prelude, StreamKind
from echokernel_protocol.timestamped import encode_timestamped

pytestmark = pytest.mark.anyio
STREAM = 3
EVERY: list[dict[str, Any]] = [
    {},
    {"on_full": "drop_oldest"},
    {"on_full": "wait", "max_age": 0.5},
    {"delivery": "per_frame"},
    {"delivery": "per_frame", "max_age": 0.5},
    {"delivery": "per_frame", "on_full": "drop_newest"},
    {"delivery": "datagram"},
]
every_carrier = pytest.mark.parametrize("how", EVERY, ids=lambda how: "-".join(map(str, how.values())) or "plain")


class Reader:
    """A stream handler that waits, reads and remembers."""

    name = "audio"
    __echokernel_kind__ = "stream"

    def __init__(self, *, start: float = 0.0, pause: float = 0.0, most: int = 1_000_000) -> None:
        self.start, self.pause, self.most = start, pause, most
        self.frames: list[Timestamped[bytes]] = []
        self.came: list[float] = []
        self.receiver: StreamReceiver | None = None
        self.ended: EchoError | str | None = None

    async def handle(self, session: Session, receiver: StreamReceiver) -> None:
        self.receiver = receiver
        await anyio.sleep(self.start)
        try:
            while len(self.frames) < self.most:
                frame = await receiver.recv()
                if frame is None:
                    self.ended = "end"
                    return
                self.frames.append(frame)
                self.came.append(anyio.current_time())
                if self.pause:
                    await anyio.sleep(self.pause)
            self.ended = "enough"
        except EchoError as error:
            self.ended = error

    @property
    def numbers(self) -> list[int]:
        return [int.from_bytes(frame.data[:4], "big") for frame in self.frames]

    def stats(self) -> dict[str, int]:
        assert self.receiver is not None
        return dict(self.receiver.stats())


def body(number: int, size: int = 1_000) -> bytes:
    return number.to_bytes(4, "big") + bytes(size - 4)


async def push(sender: StreamSender, count: int, size: int = 1_000, pause: float = 0.0) -> None:
    for number in range(count):
        await sender.send(body(number, size))
        if pause:
            await anyio.sleep(pause)


def nothing_is_left(nodes: Nodes) -> bool:
    """Whether neither end keeps anything of a stream."""
    ends = [nodes.client.session._flows, nodes.session._flows]
    return not any(
        flows._senders or flows._frame_senders or flows._receivers or flows.sending or flows.slots.used
        for flows in ends
    )


# --- what arrives ---------------------------------------------------------------------------------------------------


@every_carrier
async def test_a_calm_stream_arrives_whole_by_every_carrier(how: dict[str, Any]) -> None:
    reader = Reader()
    async with connected(reader) as nodes:
        async with await nodes.client.create_stream("audio", metadata={"codec": "opus"}, **how) as sender:
            await push(sender, 300, pause=0.02)
        await anyio.sleep(1)
        assert reader.numbers == list(range(300))
        assert [frame.seq for frame in reader.frames] == list(range(300))
        assert reader.frames[0].wall_time > 1_700_000_000_000_000
        assert reader.ended == "end"
        assert reader.receiver is not None
        assert reader.receiver.delivery == sender.delivery == how.get("delivery", "reliable")
        assert reader.receiver.metadata == {"codec": "opus"}
        assert sender.stats() == {"sent": 300, "dropped_full": 0, "dropped_old": 0, "bytes": 300_000}
        assert reader.stats() == {"received": 300, "lost": 0, "reordered": 0, "duplicate": 0, "dropped": 0}
        assert nothing_is_left(nodes)


@every_carrier
async def test_the_server_streams_to_the_client_by_every_carrier(how: dict[str, Any]) -> None:
    reader = Reader()

    @rpc
    async def play(session: Session) -> None:
        async with await session.create_stream("audio", **how) as sender:
            await push(sender, 20, pause=0.01)

    async with connected(play, client_handlers=[reader]) as nodes:
        await nodes.client.request("play")
        await anyio.sleep(1)
        assert reader.numbers == list(range(20))
        assert nothing_is_left(nodes)


@pytest.mark.parametrize("delivery", ["reliable", "per_frame"])
async def test_waiting_loses_nothing_and_keeps_the_order_of_a_reliable_stream(delivery: Any) -> None:
    reader = Reader(pause=0.001)
    transport = MemoryTransport(faults=MemoryFaults(jitter=0.1))
    async with connected(reader, transport=transport) as nodes:
        # a max_age that is never reached: buffered, but lossless
        async with await nodes.client.create_stream("audio", delivery=delivery, max_age=3600.0, buffer=3) as sender:
            await push(sender, 1_000, size=5_000)
        await anyio.sleep(3)
        assert sorted(reader.numbers) == list(range(1_000))
        assert (reader.numbers == list(range(1_000))) == (delivery == "reliable")
        assert (reader.stats()["reordered"] > 0) == (delivery == "per_frame")
        assert reader.ended == "end"
        assert nothing_is_left(nodes)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "error"])
@pytest.mark.parametrize("delivery", ["reliable", "per_frame"])
async def test_a_full_buffer_does_what_was_chosen(policy: Any, delivery: Any) -> None:
    reader = Reader(start=10)
    refused = 0
    async with connected(reader) as nodes:
        async with await nodes.client.create_stream("audio", delivery=delivery, on_full=policy, buffer=8) as sender:
            with anyio.fail_after(1):  # nobody reads, and no send waits for that
                for number in range(1_000):
                    try:
                        await sender.send(body(number))
                    except Overloaded as error:
                        assert policy == "error"
                        assert "stream 'audio': 8 frames (8," in str(error)
                        assert error.retryable
                        refused += 1
        await anyio.sleep(20)
        stats = sender.stats()
        assert stats["sent"] + stats["dropped_full"] + refused == 1_000
        assert stats["sent"] == len(set(reader.numbers)) == reader.stats()["received"] < 200
        assert stats["dropped_full"] + refused > 800
        assert (delivery == "per_frame") or reader.numbers == sorted(reader.numbers)
        if policy == "drop_oldest":
            assert set(reader.numbers) >= set(range(992, 1_000))
        else:
            assert set(reader.numbers) >= set(range(8))
        assert reader.ended == "end"
        assert nothing_is_left(nodes)


async def test_a_buffer_is_bounded_in_bytes_too() -> None:
    reader = Reader(start=10)
    async with connected(reader) as nodes:
        sender = await nodes.client.create_stream("audio", on_full="error", buffer=10_000)
        with pytest.raises(Overloaded, match=r"wait already"):
            for number in range(1_000):
                await sender.send(body(number, 60_000))
        assert sender._waiting_bytes <= 1_048_576  # type: ignore[attr-defined]
        sender.abort()


async def test_frames_in_the_buffer_of_a_finished_stream_are_still_sent() -> None:
    reader = Reader(start=1)
    async with connected(reader) as nodes:
        sender = await nodes.client.create_stream("audio", delivery="per_frame", buffer=1_000)
        await push(sender, 500)
        with anyio.fail_after(0.001):
            await sender.finish()
            await sender.finish()
        with pytest.raises(InvalidArgument, match="stream 'audio' is finished"):
            await sender.send(b"x")
        sender.abort()  # too late to be anything
        await anyio.sleep(3)
        assert sorted(reader.numbers) == list(range(500))
        assert reader.ended == "end"


async def test_closing_a_session_waits_for_what_is_buffered() -> None:
    reader = Reader(start=0.5)
    async with connected(reader) as nodes:
        async with await nodes.client.create_stream("audio", on_full="drop_oldest", buffer=400) as sender:
            await push(sender, 400)
        await nodes.client.close()
        await anyio.sleep(1)
        assert reader.numbers == list(range(400))
        assert reader.ended == "end"


@pytest.mark.parametrize("how", [{"on_full": "wait", "max_age": 60.0}, {"delivery": "per_frame"}])
async def test_several_tasks_may_send(how: dict[str, Any]) -> None:
    reader = Reader(pause=0.001)
    async with connected(reader) as nodes:
        async with (
            await nodes.client.create_stream("audio", buffer=4, **how) as sender,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(10):
                tasks.start_soon(push, sender, 50)
        await anyio.sleep(3)
        assert sorted(frame.seq for frame in reader.frames) == list(range(500))


# --- age ------------------------------------------------------------------------------------------------------------


async def test_a_frame_that_is_too_old_is_not_sent_on_a_reliable_stream() -> None:
    reader = Reader(start=10)
    async with connected(reader) as nodes:
        sender = await nodes.client.create_stream("audio", max_age=0.2, buffer=1_000)
        await push(sender, 200, size=10_000, pause=0.02)  # 4 s, of which the transport holds about 128 KiB
        await anyio.sleep(10)
        await sender.finish()
        await anyio.sleep(1)
        stats = sender.stats()
        assert stats["sent"] == len(reader.numbers) < 20
        assert stats["dropped_old"] == 200 - stats["sent"]
        assert reader.ended == "end"
        assert nothing_is_left(nodes)


async def test_with_an_age_no_send_waits_for_longer_than_that() -> None:
    async with connected(Reader(start=1_000)) as nodes:
        sender = await nodes.client.create_stream("audio", max_age=0.2, buffer=4)
        longest = 0.0
        for number in range(100):
            before = anyio.current_time()
            await sender.send(body(number, 10_000))
            longest = max(longest, anyio.current_time() - before)
        assert 0.1 < longest < 0.25
        sender.abort()


async def test_a_stale_frame_is_taken_back_from_under_way() -> None:
    """Some streams are late by more than the age: they are reset, and the receiver waits for none of them."""
    reader = Reader()
    transport = MemoryTransport(faults=MemoryFaults(jitter=0.4))
    async with connected(reader, transport=transport) as nodes:
        async with await nodes.client.create_stream("audio", delivery="per_frame", max_age=0.1) as sender:
            await push(sender, 300, pause=0.02)
        await anyio.sleep(3)
        stats = sender.stats()
        assert reader.ended == "end"
        assert stats["sent"] == 300
        assert 150 < stats["dropped_old"] < 290  # the jitter is even between 0 and 0.4 s
        assert len(reader.numbers) == 300 - stats["dropped_old"]
        assert reader.stats()["lost"] == stats["dropped_old"]
        assert reader.stats()["received"] == len(reader.numbers)
        assert nothing_is_left(nodes)


async def test_stale_frames_do_not_hold_up_fresh_ones() -> None:
    """A receiver that stops for a while: what is sent after it is at most as old as was allowed."""
    reader = Reader(start=5)
    async with connected(reader) as nodes:
        sender = await nodes.client.create_stream("audio", delivery="per_frame", max_age=0.3)
        await push(sender, 260, pause=0.02)
        assert sorted(reader.numbers[:64]) == list(range(64))  # these had arrived
        assert min(reader.numbers[64:]) >= 5 / 0.02 - 0.3 / 0.02 - 1
        await sender.finish()
        await anyio.sleep(1)
        assert reader.ended == "end"


# --- receivers ------------------------------------------------------------------------------------------------------


@every_carrier
async def test_a_receiver_that_stops_early_stops_the_sender(how: dict[str, Any]) -> None:
    reader = Reader(most=1)
    async with connected(reader) as nodes:
        sender = await nodes.client.create_stream("audio", **how)
        with anyio.fail_after(5), pytest.raises(StreamStopped):
            await push(sender, 100_000, pause=0.01)
        with pytest.raises(StreamStopped):
            await sender.finish()
        sender.abort()
        await anyio.sleep(1)
        assert len(reader.frames) == 1
        assert nothing_is_left(nodes)


@every_carrier
async def test_a_refused_stream_says_why_by_every_carrier(how: dict[str, Any]) -> None:
    async with connected() as nodes:
        sender = await nodes.client.create_stream("audio", **how)
        with (
            anyio.fail_after(5),
            pytest.raises(MethodNotFound, match="stream 'audio' was refused: no stream 'audio' here"),
        ):
            await push(sender, 100_000, pause=0.01)
        finished = await nodes.client.create_stream("audio", **how)
        await finished.send(body(1))
        await finished.finish()
        await anyio.sleep(0.5)
        assert nothing_is_left(nodes)


@every_carrier
async def test_a_receiver_that_never_reads_keeps_memory_flat(how: dict[str, Any]) -> None:
    async with connected(Reader(start=1_000)) as nodes:
        sender = await nodes.client.create_stream("audio", **how)
        with anyio.move_on_after(20) as scope:
            await push(sender, 20_000)
        stats = sender.stats()
        if how.get("on_full", "wait") == "wait" and "max_age" not in how and sender.delivery != "datagram":
            assert scope.cancelled_caught  # it waits
            assert stats["sent"] < 300
        else:
            assert not scope.cancelled_caught or "max_age" in how
        receiver: Any = nodes.session._flows._receivers[sender.id]
        held = len(getattr(receiver, "_queue", ())) + len(getattr(receiver, "_reading", ()))
        assert held <= 256
        assert getattr(receiver, "_queued_bytes", 0) <= 1_048_576 + 65_536
        assert getattr(sender, "_waiting_bytes", 0) <= 1_048_576
        assert sum(pipe.size for pipe in nodes.transport.connections[0][0]._pipes) < 400_000
        if sender.delivery == "datagram":
            assert receiver.stats()["dropped"] > 10_000
        assert await nodes.client.ping() >= 0
        sender.abort()


@every_carrier
async def test_a_handler_may_end_without_reading(how: dict[str, Any]) -> None:
    @stream
    async def audio(receiver: StreamReceiver) -> None:
        await anyio.sleep(0.5)

    async with connected(audio) as nodes:
        sender = await nodes.client.create_stream("audio", **how)
        await push(sender, 30)
        await sender.finish()
        await anyio.sleep(2)
        assert nothing_is_left(nodes)


async def test_frames_of_a_slow_reader_are_bounded_in_bytes_and_none_is_lost() -> None:
    reader = Reader(start=8, pause=0.5)  # slower than any grace
    async with connected(reader) as nodes:
        async with await nodes.client.create_stream("audio", delivery="per_frame") as sender:
            await push(sender, 60, size=60_000)
        await anyio.sleep(7)
        receiver: Any = reader.receiver
        assert receiver._queued_bytes <= 1_048_576 + 60_000
        assert len(receiver._reading) > 30  # left with the transport
        await anyio.sleep(60)
        assert sorted(reader.numbers) == list(range(60))
        assert reader.ended == "end"
        assert nothing_is_left(nodes)


async def test_unread_flows_leave_streams_for_others() -> None:
    reader = Reader(start=1_000)
    got: list[int] = []

    @rpc
    async def size(text: str) -> int:
        return len(text)

    @stream
    async def other(receiver: StreamReceiver) -> None:
        got.extend([frame.seq async for frame in receiver])

    async with connected(reader, size, other) as nodes, anyio.create_task_group() as tasks:
        flows = nodes.client.session._flows
        for _ in range(10):
            tasks.start_soon(push, await nodes.client.create_stream("audio", delivery="per_frame"), 1_000)
            await anyio.sleep(0.1)
        assert 100 < flows.slots.used <= 112
        assert await nodes.client.request("size", "x" * 300_000) == 300_000  # its body needs a stream
        tasks.cancel_scope.cancel()
    async with connected(reader, other) as nodes:
        for _ in range(3):
            sender = await nodes.client.create_stream("audio", delivery="per_frame", on_full="drop_oldest")
            await push(sender, 200)
        async with await nodes.client.create_stream("other", delivery="per_frame") as sender:
            await push(sender, 100)
        await anyio.sleep(1)
        assert sorted(got) == list(range(100))


async def test_a_peer_that_sends_frames_and_never_reads_the_channel_gets_no_endless_acks() -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as bad:
        bad.open(1, delivery="per_frame", max_age="10")
        (pipe,) = [pipe for pipe in bad.connection._pipes if pipe.owner is bad.connection.other]
        for position in range(3_000):
            await bad.stream(1, position)
            if position % 50 == 0:
                await anyio.sleep(0.1)
                pipe.window = 0  # it reads no more
        await anyio.sleep(1)
        assert len(reader.frames) == 3_000
        assert pipe.size < 100
        pipe.window = 100_000
        pipe.changed.wake()
        await anyio.sleep(0.1)
        assert pipe.size > 3 * 2_900  # and what waited leaves when there is room, though nothing else happens


# --- senders that give up -------------------------------------------------------------------------------------------


@every_carrier
async def test_an_abort_is_never_mistaken_for_the_end(how: dict[str, Any]) -> None:
    reader = Reader()
    async with connected(reader) as nodes:
        sender = await nodes.client.create_stream("audio", **how)
        await push(sender, 10, pause=0.01)
        sender.abort(4711, "microphone unplugged")
        await anyio.sleep(1)
        assert isinstance(reader.ended, EchoError)
        assert reader.ended.code == 4711
        assert nothing_is_left(nodes)
        with pytest.raises(ZeroDivisionError):
            async with await nodes.client.create_stream("audio", **how) as sender:
                await sender.send(body(1))
                raise ZeroDivisionError
        await anyio.sleep(1)
        assert isinstance(reader.ended, StreamReset)
        assert nothing_is_left(nodes)


@every_carrier
async def test_a_lost_connection_ends_every_wait(how: dict[str, Any]) -> None:
    reader = Reader()
    async with connected(reader, Other()) as nodes:
        sender = await nodes.client.create_stream("audio", **how)
        await push(sender, 10, pause=0.01)
        blocked = await nodes.client.create_stream("other", **how)
        ended: list[Exception] = []

        async def flood() -> None:
            try:
                while True:
                    await blocked.send(body(1))
                    await anyio.sleep(0.001)
            except EchoError as error:
                ended.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            await anyio.sleep(1)
            nodes.transport.connections[0][0].die()
            with anyio.fail_after(1):
                while not ended:
                    await anyio.sleep(0.01)
        assert isinstance(ended[0], ConnectionClosed)
        with pytest.raises(ConnectionClosed):
            await sender.send(b"x")
        with pytest.raises(ConnectionClosed):
            await sender.finish()
        await anyio.sleep(0.1)
        assert isinstance(reader.ended, ConnectionClosed)


class Other(Reader):
    name = "other"

    def __init__(self) -> None:
        super().__init__(start=1_000)


async def test_a_connection_lost_after_the_end_of_a_lossy_stream_ends_it() -> None:
    reader = Reader(start=0.2)
    transport = MemoryTransport(faults=MemoryFaults(loss=0.5))
    async with connected(reader, transport=transport) as nodes:
        async with await nodes.client.create_stream("audio", delivery="datagram") as sender:
            await push(sender, 50)
        await nodes.client.ping()
        nodes.transport.connections[0][0].die()
        await anyio.sleep(0.3)
        assert reader.ended == "end"
        assert 10 < len(reader.numbers) < 40
        assert reader.stats()["lost"] == 50 - len(reader.numbers)


# --- the end of what may be lost ------------------------------------------------------------------------------------


async def test_a_stream_of_datagrams_ends_half_a_second_after_its_last_ones_were_lost() -> None:
    reader = Reader()
    transport = MemoryTransport(faults=MemoryFaults(loss=0.3, duplicates=0.1, jitter=0.05))
    async with connected(reader, transport=transport) as nodes:
        async with await nodes.client.create_stream("audio", delivery="datagram") as sender:
            await push(sender, 400, size=200, pause=0.005)
        before = anyio.current_time()
        while reader.ended is None:
            await anyio.sleep(0.01)
        assert anyio.current_time() - before == pytest.approx(0.5, abs=0.05)
        stats = reader.stats()
        assert reader.ended == "end"
        assert stats["received"] == len(set(reader.numbers)) == len(reader.numbers) == 400 - stats["lost"]
        assert 80 < stats["lost"] < 160
        assert stats["duplicate"] > 10
        assert stats["reordered"] > 50


async def test_a_stream_of_datagrams_of_which_none_is_lost_ends_at_once() -> None:
    reader = Reader()
    async with connected(reader) as nodes:
        async with await nodes.client.create_stream("audio", delivery="datagram") as sender:
            await push(sender, 20)
        await anyio.sleep(0.01)
        assert reader.ended == "end"


async def test_a_plain_stream_has_neither_buffer_nor_task() -> None:
    async with connected(Reader()) as nodes:
        sender = await nodes.client.create_stream("audio")
        assert type(sender) is StreamSender
        assert not nodes.client.session._flows.sending


# --- sizes and choices ----------------------------------------------------------------------------------------------


async def test_a_datagram_frame_has_a_size_that_is_known() -> None:
    reader = Reader()
    async with connected(reader) as nodes:
        async with await nodes.client.create_stream("audio", delivery="datagram") as sender:
            fits = sender.max_frame
            assert 1_130 < fits < 1_150
            await sender.send_timestamped(Timestamped(2**64 - 1, 2**32 - 1, bytes(fits)))  # the longest stamp there is
            with pytest.raises(
                InvalidArgument,
                match=r"a frame of 1,171 bytes takes a datagram of 1,18\d; 1,170 fit now\. Send at most 1,1\d\d bytes",
            ):
                await sender.send(bytes(1_171))
            with pytest.raises(InvalidArgument, match="takes a datagram of"):
                await sender.send(bytes(1_000_000))
        await anyio.sleep(1)
        assert [len(frame.data) for frame in reader.frames] == [fits]
        assert sender.stats()["sent"] == 1


@pytest.mark.parametrize("how", [{}, {"on_full": "drop_oldest"}, {"delivery": "per_frame"}])
async def test_other_frames_are_as_long_as_the_peer_takes(how: dict[str, Any]) -> None:
    reader = Reader()
    async with connected(reader) as nodes:
        async with await nodes.client.create_stream("audio", **how) as sender:
            assert sender.max_frame == 65_536
            await sender.send(bytes(65_536))
            with pytest.raises(
                InvalidArgument, match=r"a frame of 65,537 bytes; the peer takes 65,536\. Send it in parts"
            ):
                await sender.send(bytes(65_537))
            with pytest.raises(InvalidArgument, match="wanted a u64 and a u32"):
                await sender.send_timestamped(Timestamped(-1, 0, b""))
            await sender.send_timestamped(Timestamped(5, 2**32 - 1, memoryview(b"abc")))  # type: ignore[arg-type]
            await sender.send(b"next")
        await anyio.sleep(1)
        assert {(len(frame.data), frame.seq) for frame in reader.frames} == {(65_536, 0), (3, 2**32 - 1), (4, 0)}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"delivery": "pigeon"}, "delivery 'pigeon'; wanted reliable, per_frame, datagram"),
        ({"on_full": "block"}, "on_full 'block'; wanted wait, drop_oldest, drop_newest, error"),
        ({"max_age": 0}, "max_age 0; wanted 0.001 to 3600 seconds, or None"),
        ({"max_age": float("nan")}, "max_age nan; wanted"),
        ({"buffer": 0}, "buffer 0; wanted 1 to 65,536 frames"),
        ({"delivery": "datagram", "max_age": 1}, "max_age and on_full do not apply"),
        ({"delivery": "datagram", "on_full": "error"}, "max_age and on_full do not apply"),
        ({"metadata": {"$delivery": "x"}}, "those that begin with"),
        ({"metadata": {"key": "x" * 9_000}}, "the limit is 8,192"),
    ],
)
async def test_a_choice_that_cannot_be_is_refused_at_once(how: dict[str, Any], said: str) -> None:
    async with connected(Reader()) as nodes:
        with pytest.raises(InvalidArgument) as caught:
            await nodes.client.create_stream("audio", **how)
        assert said in str(caught.value)
        assert nothing_is_left(nodes)


async def test_the_handlers_task_knows_the_metadata_and_passes_trace_keys_on() -> None:
    seen: list[Any] = []

    @stream
    async def audio(session: Session, receiver: StreamReceiver) -> None:
        seen.append((dict(receiver.metadata), inherited.metadata.get()))
        async with await session.create_stream("echo", metadata={"own": "1"}) as sender:
            await sender.send(b"x")

    @stream
    async def echo(receiver: StreamReceiver) -> None:
        seen.append(dict(receiver.metadata))

    @stream
    async def plain(receiver: StreamReceiver) -> None:
        seen.append((dict(receiver.metadata), inherited.metadata.get()))

    @rpc
    async def look() -> None:
        seen.append(inherited.metadata.get())

    async with connected(audio, plain, look, client_handlers=[echo]) as nodes:
        metadata = {"traceparent": "00-1", "user": "7"}
        async with await nodes.client.create_stream("audio", delivery="per_frame", max_age=5.0, metadata=metadata):
            pass
        async with await nodes.client.create_stream("plain"):
            pass
        await nodes.client.create_stream("audio", metadata=metadata)
        await nodes.client.request("look")
        await anyio.sleep(1)
    assert (metadata, metadata) in seen
    assert {"traceparent": "00-1", "own": "1"} in seen
    assert ({}, None) in seen
    assert None in seen  # the request after it inherits nothing of it


# --- data beside the channel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["per_frame", "datagram"])
async def test_data_that_comes_while_on_connect_runs_is_kept(delivery: Any) -> None:
    readers: list[Reader] = []

    @stream
    async def audio(session: Session, receiver: StreamReceiver) -> None:
        reader = Reader()
        readers.append(reader)
        await reader.handle(session, receiver)

    server = EchoServer.builder().on_connect(lambda session: anyio.sleep(3))
    async with connected(audio, server=server) as nodes:
        for _ in range(2):
            sender = await nodes.client.create_stream("audio", delivery=delivery)
            with anyio.move_on_after(0.1):
                await push(sender, 50)
        await anyio.sleep(4)
        assert [sorted(reader.numbers) for reader in readers] == [list(range(50))] * 2


class Peer:
    """A raw dialer that has said hello properly."""

    def __init__(self, connection: MemoryConnection, send: SendStream) -> None:
        self.connection = connection
        self.send = send
        self.decoder = FrameDecoder(100_000)

    def frame(self, request_id: int, method: str = "", flags: int = 0, payload: bytes = b"") -> None:
        self.send.write_nowait(encode_frame(STREAM, request_id, encode_method(method, flags), payload))

    def open(self, flow_id: int, **entries: str) -> None:
        self.frame(flow_id, "audio", 8, encode_map({f"${key}": value for key, value in entries.items()}))

    def datagram(self, flow_id: int, seq: int, data: bytes = b"x") -> None:
        frame = encode_frame(STREAM, flow_id, b"\x00\x00", encode_timestamped(1, seq, data))
        self.connection.send_datagram(frame[4:])

    async def stream(self, flow_id: int, position: int, data: bytes | None = None, *, end: bool = True) -> SendStream:
        stream = await self.connection.open_uni_stream()
        if data is None:
            data = encode_frame(STREAM, flow_id, b"\x00\x00", encode_timestamped(1, position, b"x"))
        await stream.write(Prelude(StreamKind.FLOW, (flow_id, position)).encode() + data)
        if end:
            await stream.finish()
        return stream


@asynccontextmanager
async def peer(nodes: Nodes) -> AsyncIterator[Peer]:
    async with open_tasks() as tasks:
        connection = await nodes.transport.connect(parse_address("memory://node:1"), tasks)
        assert isinstance(connection, MemoryConnection)
        send, recv = await connection.open_bi_stream()
        channel = Channel(Role.DIALER, Hello(serializers=("json",)))
        channel.send_hello()
        await send.write(Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0))
        while channel.phase is Phase.WAITING:
            channel.receive(await recv.read())
        yield Peer(connection, send)
        await connection.close()


async def closed_with(bad: Peer) -> ConnectionClosed:
    with anyio.fail_after(10):
        error = await bad.connection.wait_closed()
    assert isinstance(error, ConnectionClosed)
    return error


async def test_frames_come_twice_or_after_a_gap() -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as other:
        other.open(1, delivery="per_frame", max_age="100")
        for position in (0, 2, 2, 1, 5, 0):
            await other.stream(1, position)
            await anyio.sleep(0.01)
        other.frame(1, "", 4, b"\x06")
        await anyio.sleep(0.3)
        assert reader.ended is None
        assert reader.stats() == {"received": 4, "lost": 2, "reordered": 1, "duplicate": 2, "dropped": 0}
        await anyio.sleep(0.4)  # 0.5 s and the age
        assert reader.ended == "end"
        with pytest.raises(StreamStopped):
            late = await other.stream(1, 3, b"", end=False)
            await anyio.sleep(0.1)
            await late.write(b"x")


async def test_a_frame_that_was_taken_back_is_not_waited_for() -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as other:
        other.open(1, delivery="per_frame")
        await other.stream(1, 0)
        half = await other.stream(1, 1, b"\x00\x00", end=False)
        await anyio.sleep(0.1)
        other.frame(1, "", 4, b"\x02")
        await anyio.sleep(0.1)
        assert reader.ended is None
        half.reset(Code.CANCELLED)
        await anyio.sleep(0.01)
        assert reader.ended == "end"
        assert reader.stats()["lost"] == 1


async def test_a_frame_that_has_begun_to_arrive_is_waited_for_beyond_the_grace() -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as other:
        other.open(1, delivery="per_frame", max_age="10")
        data = encode_frame(STREAM, 1, b"\x00\x00", encode_timestamped(1, 0, b"slow"))
        slow = await other.stream(1, 0, data[:8], end=False)
        other.frame(1, "", 4, b"\x02")  # the other one is lost
        await anyio.sleep(2)
        assert reader.ended is None
        await slow.write(data[8:])
        await slow.finish()
        await anyio.sleep(0.01)
        assert [frame.data for frame in reader.frames] == [b"slow"]
        assert reader.ended == "end"


async def test_where_nothing_may_be_lost_the_receiver_is_more_patient() -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as other:
        other.open(1, delivery="per_frame")
        other.frame(1, "", 4, b"\x03")
        await other.stream(1, 2)
        await anyio.sleep(4)
        await other.stream(1, 0)
        await anyio.sleep(0.5)
        assert reader.ended is None
        await anyio.sleep(1)
        assert reader.ended == "end"
        assert reader.stats()["lost"] == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "should be one frame of 'audio' is not: 0 bytes"),
        (b"\x00\x00\x00", "is not: 3 bytes"),
        (encode_frame(STREAM, 1, b"\x00\x00", encode_timestamped(1, 1, b"x"))[:-1], "should be one frame"),
        (encode_frame(STREAM, 1, b"\x00\x00", encode_timestamped(1, 1, b"x")) * 2, "should be one frame"),
        (encode_frame(STREAM, 3, b"\x00\x00", encode_timestamped(1, 1, b"x")), "something other than its data"),
        (encode_frame(2, 0, encode_method("note"), b""), "something other than its data"),
        (encode_frame(STREAM, 1, b"\x00\x00", b"\x01"), "stream data has an invalid stamp"),
        (bytes(70_000), "is longer than 66,564 bytes"),
    ],
)
async def test_a_frames_stream_with_something_else_is_a_violation(data: bytes, said: str) -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as bad:
        bad.open(1, delivery="per_frame")
        await bad.stream(1, 0, data)
        assert said in (await closed_with(bad)).reason
        await anyio.sleep(0.1)
        assert isinstance(reader.ended, ProtocolError)
        assert nodes.client.session.closed is None


async def test_a_peer_that_ignores_the_window_loses_its_newest_frames() -> None:
    reader = Reader(start=2)
    async with connected(reader) as nodes, peer(nodes) as bad:
        bad.open(1, delivery="per_frame", max_age="10")
        await anyio.sleep(0.1)
        for position in range(300):
            await bad.stream(1, position)
        await anyio.sleep(1)
        assert reader.stats()["dropped"] == 300 - 128
        await anyio.sleep(2)
        assert len({frame.seq for frame in reader.frames}) == 128


async def test_what_the_open_frame_says_is_checked() -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as bad:
        bad.open(1, delivery="pigeon")
        recv = None
        stream = await bad.stream(1, 0, b"", end=False)
        await anyio.sleep(0.1)
        with pytest.raises(StreamStopped):
            await stream.write(b"x")
        assert reader.receiver is recv
        assert bad.connection.error is None
        bad.open(3, delivery="per_frame", max_age="soon")
        assert "$max_age is 'soon'; wanted milliseconds" in (await closed_with(bad)).reason
        async with peer(nodes) as worse:
            worse.frame(1, "audio", 0x40, b"\x05")
            assert "a stream frame with a body" in (await closed_with(worse)).reason


async def test_data_of_unknown_and_closed_streams() -> None:
    reader = Reader()
    async with connected(reader) as nodes, peer(nodes) as bad:
        for seq in range(100):
            bad.datagram(1, seq)  # before the open: 64 are held, for a second
        held = await bad.stream(1, 0, b"", end=False)
        await anyio.sleep(0.5)
        session = nodes.server.context().sessions()[1]
        assert session.stats()["datagrams_dropped"] == 36
        await anyio.sleep(1)
        assert session.stats()["datagrams_dropped"] == 100
        with pytest.raises(StreamStopped):
            await held.write(b"x")
        for seq in range(10):
            bad.datagram(3, seq, bytes(1_000))
        bad.open(3, delivery="datagram")
        bad.frame(3, "", 4, b"\x0a")
        await anyio.sleep(0.1)
        assert len(reader.frames) == 10
        bad.datagram(3, 11)  # over
        bad.datagram(2, 1)  # of a stream that only we could have opened
        (await bad.stream(3, 0, b"", end=False)).reset(0)
        await anyio.sleep(2)
        assert session.stats()["datagrams_dropped"] == 102
        assert session.stats()["datagrams_bad"] == 0
        bad.open(5)  # reliable: it has no datagrams
        bad.datagram(5, 1)
        bad.open(7, delivery="datagram")  # and this one no streams
        stream = await bad.stream(7, 0, b"", end=False)
        await anyio.sleep(0.1)
        assert session.stats()["datagrams_bad"] == 1
        with pytest.raises(StreamStopped):
            await stream.write(b"x")


async def test_streams_that_are_never_opened_close_the_connection_at_last() -> None:
    async with connected(Reader()) as nodes, peer(nodes) as bad:
        with pytest.raises((ConnectionClosed, AssertionError)):
            for flow_id in range(1, 2_500):
                await bad.stream(2 * flow_id + 1, 0)
                if flow_id % 100 == 0:
                    await anyio.sleep(1.1)
        error = await closed_with(bad)
        assert (error.code, "streams that were never opened" in error.reason) == (Code.LIMIT_EXCEEDED, True)
        assert nodes.client.session.closed is None


@pytest.mark.parametrize("seed", range(4))
async def test_streams_of_all_kinds_at_once_leave_nothing_behind(seed: int) -> None:
    """Every stream ends in one of the ways there are; afterwards neither end holds a thing of it."""
    import random

    chance = random.Random(seed)
    ends: list[Callable[[StreamSender], Any]] = [
        lambda sender: sender.finish(),
        lambda sender: sender.abort(),
        lambda sender: sender.abort(4000, "x"),
    ]

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        left = chance.choice([0, 1, 5, 1_000])
        await anyio.sleep(chance.uniform(0, 0.5))
        async for _ in receiver:
            left -= 1
            if left <= 0:
                return

    async def use(nodes: Nodes) -> None:
        try:
            sender = await nodes.client.create_stream("audio", **chance.choice(EVERY))
            with anyio.move_on_after(chance.uniform(0.1, 1)):
                await push(sender, chance.randrange(100), pause=chance.choice([0, 0.01]))
            result = chance.choice(ends)(sender)
            if result is not None:
                await result
        except (StreamStopped, Overloaded):
            pass

    faults = MemoryFaults(loss=0.1, duplicates=0.1, jitter=0.3, seed=seed)
    async with connected(audio, transport=MemoryTransport(faults=faults)) as nodes:
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(use, nodes)
                await anyio.sleep(0.02)
        await anyio.sleep(10)
        assert nothing_is_left(nodes)
        assert nodes.client.session.closed is None
        assert not nodes.session._flows._given_up
