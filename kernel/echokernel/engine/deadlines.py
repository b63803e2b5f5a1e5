"""Many deadlines, few timers: a session's requests share one timer and a row of 20 ms buckets."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from echokernel.errors import InvalidArgument

if TYPE_CHECKING:
    from echokernel.tasks import TaskScope, Timer

GRAIN = 0.02  # seconds; a deadline fires at most this much late, and an idle session holds no timer

__all__ = ["Deadlines", "check_timeout"]


def check_timeout(method: str, timeout: float | None) -> None:
    """Raise InvalidArgument for what is no time to wait, in seconds."""
    if timeout is not None and not timeout >= 0:
        raise InvalidArgument(f"{method}: a timeout of {timeout} s; wanted 0 (no deadline) or more")


class Deadlines:
    """Calls ``expire(key)`` for every key whose time has come and that was not discarded before."""

    __slots__ = ("_buckets", "_expire", "_order", "_tasks", "_timer", "_timer_bucket")

    def __init__(self, tasks: TaskScope, expire: Callable[[int], object]) -> None:
        self._tasks = tasks
        self._expire = expire
        self._buckets: dict[int, set[int]] = {}
        self._order: list[int] = []
        self._timer: Timer | None = None
        self._timer_bucket = 0

    def add(self, when: float, key: int) -> int:
        """Let ``key`` expire at ``when``, in seconds of the task scope's clock; returns what :meth:`discard` wants."""
        bucket = int(when / GRAIN) + 1
        keys = self._buckets.get(bucket)
        if keys is None:
            keys = self._buckets[bucket] = set()
            heappush(self._order, bucket)
            if self._timer is None or bucket < self._timer_bucket:
                self._arm()
        keys.add(key)
        return bucket

    def discard(self, bucket: int, key: int) -> None:
        """Let ``key`` not expire; nothing happens when it has."""
        keys = self._buckets.get(bucket)
        if keys is not None:
            keys.discard(key)

    def close(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_bucket = self._order[0]
        self._timer = self._tasks.call_at(self._timer_bucket * GRAIN, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._tasks.now()
        while self._order and (self._order[0] - 1) * GRAIN <= now:
            for key in self._buckets.pop(heappop(self._order)):
                self._expire(key)
        # buckets that were emptied in the meantime need no timer
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heappop(self._order)]
        if self._order and self._timer is None:
            self._arm()
