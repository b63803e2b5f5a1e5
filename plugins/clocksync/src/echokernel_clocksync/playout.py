"""Playout: the frames of a stream, each at its time on the shared clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio

import echokernel
from echokernel import ClockUnavailable, InvalidArgument, Timestamped
from echokernel.tasks import open_tasks
from echokernel_clocksync.delay import MAX_DELAY_US, AdaptiveDelay, DelayPolicy, FixedDelay
from echokernel_clocksync.playout_buffer import HORIZON_US, MAX_BYTES, MAX_FRAMES, Late, Played, PlayoutBuffer

if TYPE_CHECKING:
    from types import TracebackType

    from echokernel import Clock
    from echokernel.tasks import Future, Task, TaskScope

TORN_NS = 200_000  # two clocks that were read farther apart than this are read again: the machine was busy with others
MOMENT = 1e-6  # seconds; timers that are a rounding error early would wake up in vain
EARLY = 0.001  # seconds; asyncio rounds a wait up to milliseconds, and then epoll does so again

__all__ = ["Playout", "PlayoutFrame"]


class Source(Protocol):
    """What is played: a :class:`echokernel.StreamReceiver`."""

    @property
    def name(self) -> str: ...

    async def recv(self) -> Timestamped[bytes] | None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class PlayoutFrame(Timestamped[bytes]):
    """A frame whose time has come. Stamp, number and data are the sender's, unchanged.

    Times in ``_us`` are those of the node's clock, ``clock.now_us()``: comparable between machines once it is synchronised.
    Times in ``_ns`` are those of this machine's monotonic clock.
    """

    due_us: int = field(default=0, compare=False)
    """When it was to be played."""
    played_us: int = field(default=0, compare=False)
    """When it was handed out."""
    played_ns: int = field(default=0, compare=False)
    """The same moment on the monotonic clock."""
    arrived_us: int = field(default=0, compare=False)
    """When it came off the network."""
    arrived_ns: int = field(default=0, compare=False)
    late: bool = field(default=False, compare=False)
    """Whether it came after its time; such a frame is here only with ``late="deliver"``."""
    missing: int = field(default=0, compare=False)
    """How many frames before this one were not played: lost, or late."""
    discontinuity: bool = field(default=False, compare=False)
    """Whether something new begins: after a restart, a set clock, or a flushed buffer. Forget what came before."""

    @property
    def lateness(self) -> float:
        """Seconds between :attr:`due_us` and :attr:`played_us`."""
        return (self.played_us - self.due_us) / 1e6


class Playout(echokernel.Playout):
    """Frames of ``stream`` at stamp + delay on the shared clock, in order, none twice: ``async for frame in playout``.

    Use it with ``async with``: then a task of its own takes frames off the stream, so that their arrival is known whatever
    the program does meanwhile, and ends with the block. A bare ``async for`` has no task; it reads while it waits, and a
    frame counts as arrived when the loop comes back for it.

    ``delay``: seconds after the stamp, the same at all receivers that are to play in step. None adapts to the path: the
    delay that all but the slowest four of the last 300 frames needed. Where the sender or this node has no synchronised
    clock, both count from the quickest frame instead. ``max_delay``: by how many seconds the adaptive delay may exceed the
    quickest frame's; what takes longer is a peak, and is ignored. ``late``: what becomes of frames that come after their
    time, ``"drop"`` or ``"deliver"``, at once, as long as no later one was played. ``max_frames`` and ``max_bytes``: how much
    is held; one more flushes it. ``policy``: a policy of your own instead of ``delay`` and ``max_delay``. ``monotonic_ns``:
    the machine's clock.

    Raises InvalidArgument for options that cannot be. Iterating raises what the stream raises, once all that was held before
    is played.
    """

    def __init__(
        self,
        stream: Source,
        clock: Clock,
        *,
        delay: float | None = None,
        max_delay: float = MAX_DELAY_US / 1e6,
        late: Late = "drop",
        max_frames: int = MAX_FRAMES,
        max_bytes: int = MAX_BYTES,
        policy: DelayPolicy | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        _check(stream.name, delay, max_delay, late, max_frames, max_bytes)
        if policy is None:
            reach = round(max_delay * 1e6)
            if delay is None:
                policy = AdaptiveDelay(max_delay_us=reach)
            else:
                policy = FixedDelay(round(delay * 1e6), max_delay_us=reach)
        self.name = stream.name
        self._stream = stream
        self._clock = clock
        self._monotonic_ns = monotonic_ns
        self._buffer = PlayoutBuffer(policy, late=late, max_frames=max_frames, max_bytes=max_bytes)
        self._tasks: TaskScope | None = None
        self._pump: Task | None = None
        self._waiting: Future[None] | None = None
        self._waits_for: int | None = None
        self._is_over = False
        self._error: Exception | None = None
        self._closed = False

    def stats(self) -> Mapping[str, int | float]:
        """Return counters of frames, as :class:`Counters` explains them, and ``lost``, ``buffered``, ``buffered_bytes``.

        And in milliseconds: ``current_delay_ms`` and ``target_delay_ms``, ``min_owd_ms`` (the quickest frame's one-way delay),
        ``jitter_ms`` (RFC 3550). ``synced`` is 1 where frames are played by the shared clock; where it is 0, delays count
        from the quickest frame, and ``min_owd_ms`` is 0 because nobody knows it.
        """
        buffer, policy = self._buffer, self._buffer.policy
        low = policy.window.low if len(policy.window) else 0
        base = 0 if buffer.is_synced else low
        return {
            **asdict(buffer.counters),
            "lost": buffer.lost,
            "buffered": len(buffer),
            "buffered_bytes": buffer.size,
            "synced": int(buffer.is_synced),
            "current_delay_ms": (policy.delay - base) / 1e3,
            "target_delay_ms": (policy.target - base) / 1e3,
            "min_owd_ms": (low - base) / 1e3,
            "jitter_ms": buffer.jitter / 1e3,
        }

    async def __anext__(self) -> PlayoutFrame:
        while True:
            if self._closed:
                raise InvalidArgument(f"playout of {self.name!r} was closed here")
            now, offset = self._now()
            played = self._buffer.pop(now // 1000, offset)
            if played is not None:
                return _frame(played, now, offset)
            due = self._buffer.next_due()
            if due is None and self._is_over:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                raise StopAsyncIteration
            seconds = None if due is None else _pause(due - now // 1000)
            if self._pump is not None or self._is_over:
                await self._wait(due, seconds)
            else:
                await self._read(seconds)

    def _now(self) -> tuple[int, int]:
        """Return monotonic nanoseconds, and shared minus monotonic microseconds."""
        before = self._monotonic_ns()
        for _ in range(3):
            shared, after = self._clock.now_us(), self._monotonic_ns()
            if after - before <= TORN_NS:
                break
            before = after
        return after, shared - (before + after) // 2000

    def _take(self, frame: Timestamped[bytes]) -> None:
        now, offset = self._now()
        local = now // 1000
        horizon = HORIZON_US
        if frame.wall_time - local - offset > HORIZON_US:
            horizon = max(HORIZON_US, self._bound())
        is_held = self._buffer.put(
            (frame, now, offset),
            frame.wall_time,
            frame.seq,
            len(frame.data),
            now=local,
            offset=offset,
            stamped_shared=frame.synced,
            clock_synced=self._clock.is_synced,
            horizon=horizon,
        )
        due = self._buffer.next_due()
        if is_held and due is not None and (self._waits_for is None or due < self._waits_for):
            self._wake()

    def _bound(self) -> int:
        try:
            interval = self._clock.interval()
        except ClockUnavailable:
            return 0
        return (interval.latest_us - interval.earliest_us) // 2

    async def _read_next(self) -> None:
        try:
            frame = await self._stream.recv()
        except Exception as error:
            self._is_over, self._error = True, error
        else:
            if frame is None:
                self._is_over = True
            else:
                self._take(frame)

    async def _read(self, seconds: float | None) -> None:
        with anyio.move_on_after(seconds):  # recv loses nothing when it is cancelled
            await self._read_next()

    async def _keep_reading(self) -> None:
        while not self._is_over:
            await self._read_next()
        self._wake()

    async def _wait(self, due: int | None, seconds: float | None) -> None:
        if self._tasks is None:
            assert seconds is not None  # all is read, and something is held
            await anyio.sleep(seconds)
            return
        self._waits_for = due
        future: Future[None] = self._tasks.future()
        self._waiting = future
        timer = None if seconds is None else self._tasks.call_at(self._tasks.now() + seconds, self._wake)
        try:
            await future
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def aclose(self) -> None:
        """Want no more: what is held is dropped, and the stream is closed. A second call does nothing."""
        if not self._closed:
            self._closed = True
            if self._pump is not None and self._tasks is not None:
                self._tasks.stop(self._pump)
            self._wake()
            await self._stream.close()

    async def __aenter__(self) -> Playout:
        if self._tasks is not None:
            raise InvalidArgument(f"playout of {self.name!r} is in use already; make another one of another stream")
        tasks = self._tasks = open_tasks()
        await tasks.__aenter__()
        self._pump = tasks.start(self._keep_reading, name=f"playout of {self.name}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        try:
            await self.aclose()
        finally:
            await self._tasks.__aexit__(None, None, None)


def _pause(microseconds: int) -> float:
    """Return for how many seconds to wait: what is left after that is waited for once more."""
    seconds = max(0, microseconds) / 1e6 + MOMENT
    return seconds - EARLY if seconds > 2 * EARLY else seconds


def _frame(played: Played, now: int, offset: int) -> PlayoutFrame:
    frame, arrived_ns, arrived_offset = played.frame
    return PlayoutFrame(
        frame.wall_time,
        frame.seq,
        frame.data,
        frame.synced,
        due_us=played.due + offset,
        played_us=now // 1000 + offset,
        played_ns=now,
        arrived_us=arrived_ns // 1000 + arrived_offset,
        arrived_ns=arrived_ns,
        late=played.is_late,
        missing=played.missing,
        discontinuity=played.discontinuity,
    )


def _check(name: str, delay: float | None, max_delay: float, late: str, max_frames: int, max_bytes: int) -> None:
    wrong = ""
    if delay is not None and not (math.isfinite(delay) and delay >= 0):
        wrong = f"a delay of {delay} s; wanted 0 or more, or None for one that adapts"
    elif not (math.isfinite(max_delay) and max_delay > 0):
        wrong = f"a max_delay of {max_delay} s; wanted more than 0"
    elif late not in ("drop", "deliver"):
        wrong = f'late={late!r}; wanted "drop" or "deliver"'
    elif max_frames < 1 or max_bytes < 1:
        wrong = f"room for {max_frames} frames and {max_bytes} bytes; wanted at least one of each"
    if wrong:
        raise InvalidArgument(f"playout of {name!r}: {wrong}")
