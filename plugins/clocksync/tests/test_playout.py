"""Playout between two nodes: frames at their time, in step, with an end that is the stream's, and no task left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from echokernel import (
    ClockUnavailable,
    ConnectionClosed,
    EchoClient,
    EchoServer,
    InvalidArgument,
    StreamReceiver,
    StreamReset,
    StreamStopped,
    Timestamped,
    stream,
)
from echokernel.testing import MemoryFaults, MemoryTransport, connected
from echokernel_clocksync.playout import Playout, PlayoutFrame

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from shared_time import EPOCH_US, SharedClock, monotonic_ns

pytestmark = pytest.mark.anyio

TICK = 0.002  # seconds; frames are sent by a loop that sleeps, and asyncio's timers round


class Room:
    """What plays: it keeps the frames, the statistics and how it ended."""

    def __init__(self, *, with_task: bool = True, **options: Any) -> None:
        self.with_task, self.options = with_task, options
        self.frames: list[PlayoutFrame] = []
        self.stats: Any = {}
        self.error: Exception | None = None
        self.pause = 0.0
        self.ended = False

        @stream("sound")
        async def play(stream: StreamReceiver) -> None:
            playout = stream.playout(**self.options)
            try:
                if self.with_task:
                    async with playout:
                        await self.listen(playout)
                else:
                    await self.listen(playout)
            except Exception as error:
                self.error = error
            self.stats, self.ended = playout.stats(), True

        self.handler = play

    async def listen(self, playout: Any) -> None:
        async for frame in playout:
            self.frames.append(frame)
            await anyio.sleep(self.pause)

    @property
    def lateness(self) -> float:
        return max(frame.lateness for frame in self.frames)


def nodes(*handlers: Any, clock: SharedClock | None = None, sender: SharedClock | None = None, **options: Any) -> Any:
    return connected(
        *handlers,
        server=EchoServer.builder().clock(clock or SharedClock()),
        client=EchoClient.builder().clock(sender or SharedClock()),
        **options,
    )


async def send(client: EchoClient, frames: int = 50, every: float = 0.02, **options: Any) -> None:
    async with await client.create_stream("sound", **options) as sender:
        for _ in range(frames):
            await sender.send(b"0123456789")
            await anyio.sleep(every)


async def send_one(client: EchoClient) -> None:
    """To a handler that takes none."""
    sender = await client.create_stream("sound")
    await sender.send(b"0123456789")


async def keep_sending(sender: Any) -> None:
    while True:
        await sender.send(bytes(1000))
        await anyio.sleep(0.02)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.01)


both = pytest.mark.parametrize("with_task", [True, False], ids=["async with", "async for"])


@both
async def test_frames_are_played_at_their_stamp_and_the_delay(with_task: bool) -> None:
    room = Room(with_task=with_task, delay=0.1)
    faults = MemoryFaults(jitter=0.06)
    async with nodes(room.handler, transport=MemoryTransport(faults=faults)) as running:
        await send(running.client, delivery="datagram")
        await until(lambda: room.ended)
    assert [frame.seq for frame in room.frames] == list(range(50))
    for frame in room.frames:
        assert frame.due_us == frame.wall_time + 100_000
        assert 0 <= frame.lateness < TICK
        assert 0 <= frame.arrived_us - frame.wall_time < 62_000
        assert frame.played_us - frame.played_ns // 1000 == EPOCH_US
        assert (frame.data, frame.synced, frame.late, frame.missing) == (b"0123456789", True, False, 0)
    assert (room.stats["received"], room.stats["played"], room.stats["buffered"], room.stats["synced"]) == (
        50,
        50,
        0,
        1,
    )
    assert room.stats["reordered"] > 5
    assert room.stats["current_delay_ms"] == 100
    assert 0 <= room.stats["min_owd_ms"] < 10
    assert 2 < room.stats["jitter_ms"] < 40


@both
async def test_the_adaptive_delay_settles_above_the_slowest(with_task: bool) -> None:
    room = Room(with_task=with_task)
    async with nodes(room.handler, transport=MemoryTransport(faults=MemoryFaults(jitter=0.06))) as running:
        await send(running.client, 600, delivery="datagram")
        await until(lambda: room.ended)
    assert room.stats["late"] <= 9
    assert 58 <= room.stats["current_delay_ms"] <= 64
    assert room.stats["played"] + room.stats["late"] == 600


async def test_receivers_with_one_delay_play_in_step() -> None:
    """One is behind a path of up to 80 ms; the clocks are 0.5 ms apart."""
    near, far = Room(delay=0.1), Room(delay=0.1)
    bad = MemoryTransport(faults=MemoryFaults(jitter=0.08))
    async with (
        nodes(near.handler) as first,
        nodes(far.handler, transport=bad, clock=SharedClock(error_us=-500)) as second,
        anyio.create_task_group() as tasks,
    ):
        one = await first.client.create_stream("sound", delivery="datagram")
        two = await second.client.create_stream("sound", delivery="datagram")
        for _ in range(100):
            await one.send(b"")
            await two.send(b"")
            await anyio.sleep(0.02)
        await one.finish()
        await two.finish()
        await until(lambda: near.ended and far.ended)
        tasks.cancel_scope.cancel()
    assert len(near.frames) == len(far.frames) == 100
    skews = [(b.played_ns - a.played_ns) / 1e6 for a, b in zip(near.frames, far.frames, strict=True)]
    assert all(0 <= skew < 2 for skew in skews), max(skews)


async def test_frames_of_a_sender_without_a_clock_are_played_by_their_distances() -> None:
    room = Room(delay=0.1)
    sender = SharedClock(error_us=-3_600_000_000, synced=False)
    faults = MemoryFaults(jitter=0.06)
    async with nodes(room.handler, sender=sender, transport=MemoryTransport(faults=faults)) as running:
        await send(running.client, 100, delivery="datagram")
        await until(lambda: room.ended)
    assert not room.frames[0].synced
    assert room.stats["synced"] == 0
    assert room.stats["late"] == 0
    assert room.stats["min_owd_ms"] == 0
    assert 99 <= room.stats["current_delay_ms"] <= 130
    gaps = [(after.played_us - before.played_us) / 1e3 for before, after in pairwise(room.frames)]
    assert all(16 < gap < 24 for gap in gaps)


async def test_a_stamp_is_believed_as_far_as_the_clocks_bound_goes() -> None:
    sender = SharedClock(error_us=2_500_000)
    for bound_us, dropped in ((1_000, 5), (3_000_000, 0)):
        room = Room(delay=0.0)
        async with nodes(room.handler, sender=sender, clock=SharedClock(bound_us=bound_us)) as running:
            await send(running.client, 5)
            await until(lambda room=room: room.ended)
        assert room.stats["far_future"] == dropped


@both
async def test_the_streams_end_comes_when_all_is_played(with_task: bool) -> None:
    room = Room(with_task=with_task, delay=1.0)
    async with nodes(room.handler) as running:
        await send(running.client, 10)
        assert not room.frames
        await until(lambda: room.ended)
    assert len(room.frames) == 10
    assert room.error is None


@both
async def test_an_abort_is_raised_when_all_is_played(with_task: bool) -> None:
    room = Room(with_task=with_task, delay=1.0)
    async with nodes(room.handler) as running:
        sender = await running.client.create_stream("sound", delivery="per_frame")
        await sender.send(b"0123456789")
        await anyio.sleep(0.1)
        sender.abort()
        await until(lambda: room.ended)
    assert len(room.frames) == 1
    assert isinstance(room.error, StreamReset)


@both
async def test_a_lost_connection_is_raised_when_all_is_played(with_task: bool) -> None:
    room = Room(with_task=with_task, delay=0.5)
    async with nodes(room.handler) as running:
        sender = await running.client.create_stream("sound", delivery="datagram")
        await sender.send(b"0123456789")
        await anyio.sleep(0.1)
        running.transport.connections[0][0].die()
        await until(lambda: room.ended)
        assert len(room.frames) == 1
        assert isinstance(room.error, ConnectionClosed)


@both
async def test_leaving_closes_the_stream_and_leaves_no_task(with_task: bool) -> None:
    left: list[int] = []

    @stream("sound")
    async def play(stream: StreamReceiver) -> None:
        playout = stream.playout(delay=0.05)
        if with_task:
            async with playout:
                async for frame in playout:
                    left.append(frame.seq)
                    break
        else:
            async with aclosing(playout):
                async for frame in playout:
                    left.append(frame.seq)
                    break
        with pytest.raises(InvalidArgument, match="was closed here"):
            await anext(playout)
        await playout.aclose()
        await anyio.sleep(5)

    async with nodes(play) as running:
        sender = await running.client.create_stream("sound")
        with anyio.fail_after(4), pytest.raises(StreamStopped):
            await keep_sending(sender)
    assert left == [0]


async def test_an_exception_inside_comes_out_bare() -> None:
    class Mine(Exception):
        pass

    caught: list[Exception] = []

    @stream("sound")
    async def play(stream: StreamReceiver) -> None:
        try:
            async with stream.playout() as playout:
                async for _ in playout:
                    raise Mine
        except Mine as error:
            caught.append(error)

    async with nodes(play) as running:
        await send_one(running.client)
        await until(lambda: caught)


async def test_closing_ends_a_wait_elsewhere() -> None:
    ended: list[Exception] = []

    @stream("sound")
    async def play(stream: StreamReceiver) -> None:
        async with stream.playout(delay=60) as playout, anyio.create_task_group() as tasks:

            async def listen() -> None:
                try:
                    await anext(playout)
                except InvalidArgument as error:
                    ended.append(error)

            tasks.start_soon(listen)
            await anyio.sleep(1)
            await playout.aclose()

    async with nodes(play) as running:
        await send(running.client, 3)
        await until(lambda: ended)


async def test_with_a_task_arrivals_are_known_whatever_the_program_does() -> None:
    with_task, without = Room(delay=0.1), Room(with_task=False, delay=0.1)
    for room in (with_task, without):
        room.pause = 0.15
        async with nodes(room.handler) as running:
            await send(running.client, 40, delivery="datagram")
            await until(lambda room=room: room.ended)
    assert with_task.stats["late"] == 0
    assert with_task.lateness > 1  # the program is slow, the frames were not
    assert without.stats["late"] > 20  # it looked too late, and skips what it cannot play in time
    assert without.lateness < with_task.lateness / 2


async def test_a_frame_that_is_due_earlier_wakes_the_player() -> None:
    room = Room(delay=0.5)
    async with nodes(room.handler) as running:
        sender = await running.client.create_stream("sound")
        now = SharedClock().now_us()
        await sender.send_timestamped(Timestamped(now + 800_000, 2, b"later"))
        await anyio.sleep(0.1)
        await sender.send_timestamped(Timestamped(now - 200_000, 1, b"sooner"))
        await anyio.sleep(0.3)
        assert [frame.data for frame in room.frames] == [b"sooner"]
        await sender.finish()
        await until(lambda: room.ended)
    assert [frame.data for frame in room.frames] == [b"sooner", b"later"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delay": -0.1}, "a delay of -0.1 s; wanted 0 or more"),
        ({"delay": float("nan")}, "a delay of nan s"),
        ({"max_delay": 0}, "a max_delay of 0 s; wanted more than 0"),
        ({"late": "later"}, 'late=\'later\'; wanted "drop" or "deliver"'),
        ({"max_frames": 0}, "room for 0 frames"),
    ],
)
async def test_options_that_cannot_be(options: Any, says: str) -> None:
    caught: list[Exception] = []

    @stream("sound")
    async def play(stream: StreamReceiver) -> None:
        try:
            stream.playout(**options)
        except InvalidArgument as error:
            caught.append(error)

    async with nodes(play) as running:
        await send_one(running.client)
        await until(lambda: caught)
    assert says in str(caught[0])
    assert "'sound'" in str(caught[0])


async def test_a_playout_is_entered_once() -> None:
    caught: list[Exception] = []

    @stream("sound")
    async def play(stream: StreamReceiver) -> None:
        async with stream.playout() as playout:
            try:
                await playout.__aenter__()
            except InvalidArgument as error:
                caught.append(error)

    async with nodes(play) as running:
        await send_one(running.client)
        await until(lambda: caught)
    assert "in use already" in str(caught[0])


async def test_a_clock_without_a_bound_is_one_second_sure() -> None:
    class Vague(SharedClock):
        def interval(self) -> Any:
            raise ClockUnavailable("nothing is certain")

    room = Room(delay=0.0)
    async with nodes(room.handler, clock=Vague(), sender=SharedClock(error_us=2_500_000)) as running:
        await send(running.client, 5)
        await until(lambda: room.ended)
    assert room.stats["far_future"] == 5


async def test_the_options_reach_the_buffer() -> None:
    room = Room(delay=5.0, max_frames=4)
    late = Room(delay=0.0, late="deliver")
    async with nodes(room.handler) as running:
        await send(running.client, 10)
        await until(lambda: room.ended)
    assert (room.stats["flushed"], room.stats["played"]) == (8, 2)
    assert room.frames[0].discontinuity
    async with nodes(late.handler, sender=SharedClock(error_us=-1_000_000)) as running:
        await send(running.client, 10)
        await until(lambda: late.ended)
    assert [frame.late for frame in late.frames] == [True] * 10
    assert (late.stats["late"], late.stats["dropped_late"]) == (10, 0)


async def test_clocks_that_were_read_apart_are_read_again() -> None:
    """The machine did something else for 50 ms between the two: that is no step of the shared clock."""

    class Interrupted(SharedClock):
        ahead = 0
        reads = 0

        def now_us(self) -> int:
            self.reads += 1
            if self.reads in (20, 40):
                self.ahead += 50_000_000
            return super().now_us() + self.ahead // 1000

        def playout(self, stream: StreamReceiver, **options: Any) -> Playout:
            return Playout(stream, self, monotonic_ns=lambda: monotonic_ns() + self.ahead, **options)

    room = Room(delay=5.0)
    async with nodes(room.handler, clock=Interrupted()) as running:
        await send(running.client, 50)
        await until(lambda: room.ended)
    assert room.stats["discontinuities"] == 0
    assert room.stats["played"] == 50
