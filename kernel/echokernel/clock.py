"""What a clock is to a node: what stamps its streams, and what a clock plugin has to be."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from echokernel.errors import ClockUnavailable

if TYPE_CHECKING:
    from types import TracebackType

    from echokernel.flows import StreamReceiver
    from echokernel.session import Session
    from echokernel_protocol.timestamped import Timestamped

ClockStatus = Literal["unsynced", "syncing", "synced", "holdover", "stepped"]

__all__ = ["Clock", "ClockStatus", "OneWay", "Playout", "SystemClock", "TimeInterval"]


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """The shared time, and how sure it is: it lies between the two, in microseconds since 1970."""

    earliest_us: int
    latest_us: int
    status: ClockStatus


@dataclass(frozen=True, slots=True)
class OneWay:
    """How long a message takes each way, in seconds; each is right within ``error``."""

    out: float
    back: float
    error: float


class Playout(ABC):
    """Hands out the frames of a stream when their time has come: ``async with``, ``async for``."""

    def __aiter__(self) -> Playout:
        return self

    @abstractmethod
    async def __anext__(self) -> Timestamped[bytes]:
        """Wait until the next frame is due, and return it. Raises what the stream raises once all before it is played."""

    @abstractmethod
    async def aclose(self) -> None:
        """Want no more; the stream is closed."""

    @abstractmethod
    def stats(self) -> Mapping[str, int | float]:
        """Return counters of frames, and delays in milliseconds."""

    async def __aenter__(self) -> Playout:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class Clock(ABC):
    """A node's clock, ``context.clock``. Give it to a builder's ``clock(…)``; one object may serve a client and a server."""

    answers = True
    """Whether it answers the probes of others: the hello says so."""

    @abstractmethod
    def now_us(self) -> int:
        """Return the shared time in microseconds since 1970, as far as it is known. Goes back only by a step."""

    @property
    @abstractmethod
    def is_synced(self) -> bool:
        """Whether :meth:`now_us` is the shared time. Frames that are sent meanwhile are marked where it is not."""

    def interval(self) -> TimeInterval:
        """Return between which times it is for certain. Raises ClockUnavailable while nothing is certain."""
        raise ClockUnavailable("this clock knows no bound of its error")

    def one_way(self) -> OneWay | None:
        """Return what the newest exchange of probes took each way; None before the first, and where there are none."""
        return None

    def received(self, session: Session, payload: bytes) -> None:
        """Act on a ``$clock`` of the peer: see :mod:`echokernel_protocol.clock`. Called the moment it is read.

        Answer with :meth:`Session.send_clock`. Must be quick, and not raise, whatever is in it.
        """

    async def follow(self, session: Session) -> None:
        """Follow the clock of a node that this one has dialled. Runs beside the session, and is cancelled at its end."""

    def playout(self, stream: StreamReceiver, **options: Any) -> Playout:
        """Return what :meth:`StreamReceiver.playout` returns."""
        raise ClockUnavailable("this clock plays no streams")


class SystemClock(Clock):
    """The machine's own time of day, which nobody synchronises here: what a node has without a clock plugin."""

    answers = False

    def now_us(self) -> int:
        return time.time_ns() // 1000

    @property
    def is_synced(self) -> bool:
        return False

    def interval(self) -> TimeInterval:
        raise ClockUnavailable(_NONE)

    def playout(self, stream: StreamReceiver, **options: Any) -> Playout:
        raise ClockUnavailable(f"stream {stream.name!r}: playout needs a clock; {_NONE}")


_NONE = (
    "this node has no clock plugin: pip install 'echokernel[clocksync]' and .plugin(ClockSync()), "
    'or [service.clock] use = "clocksync"'
)
SYSTEM_CLOCK = SystemClock()
