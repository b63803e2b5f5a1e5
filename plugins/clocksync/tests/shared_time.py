"""A clock for tests of playout: it is what a test says, and goes with the event loop's time."""

from __future__ import annotations

from typing import Any

import anyio

from echokernel import Clock, StreamReceiver, TimeInterval
from echokernel_clocksync.playout import Playout

EPOCH_US = 1_700_000_000_000_000


def monotonic_ns() -> int:
    return round(anyio.current_time() * 1e9)


class SharedClock(Clock):
    """``error_us``: by how much it is ahead of the true time; ``bound_us``: what it says of its error."""

    answers = False

    def __init__(self, *, error_us: int = 0, synced: bool = True, bound_us: int = 1_000) -> None:
        self.error_us, self.synced, self.bound_us = error_us, synced, bound_us

    def now_us(self) -> int:
        return EPOCH_US + monotonic_ns() // 1000 + self.error_us

    @property
    def is_synced(self) -> bool:
        return self.synced

    def interval(self) -> TimeInterval:
        now = self.now_us()
        return TimeInterval(now - self.bound_us, now + self.bound_us, "synced" if self.synced else "unsynced")

    def playout(self, stream: StreamReceiver, **options: Any) -> Playout:
        return Playout(stream, self, monotonic_ns=monotonic_ns, **options)
