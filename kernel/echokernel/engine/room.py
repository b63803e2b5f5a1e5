"""Bytes that several parties share, each for as long as it holds something."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel.tasks import Future, TaskScope

__all__ = ["Room"]


class _Waiting:
    __slots__ = ("future", "granted", "size")

    def __init__(self, size: int, future: Future[None]) -> None:
        self.size = size
        self.future = future
        self.granted = False


class Room:
    """Room for ``limit`` bytes. Whoever takes some takes all that it needs at once, so nobody waits for others who wait, too.

    One alone gets its room however large it is.
    """

    def __init__(self, limit: int, tasks: TaskScope) -> None:
        self.used = 0
        """Bytes that are taken."""
        self._limit = limit
        self._tasks = tasks
        self._row: deque[_Waiting] = deque()

    async def take(self, size: int) -> None:
        """Wait, in the order of asking, until there is room for ``size`` bytes. Whoever took them gives them back."""
        if not self._row and self._fits(size):
            self.used += size
            return
        place = _Waiting(size, self._tasks.future())
        self._row.append(place)
        try:
            await place.future
        except BaseException:
            if place.granted:
                self.give(size)
            else:
                self._row.remove(place)
                self._let_in()  # the next one may need less
            raise

    def give(self, size: int) -> None:
        """Give ``size`` bytes back."""
        self.used -= size
        self._let_in()

    def _fits(self, size: int) -> bool:
        return not self.used or self.used + size <= self._limit

    def _let_in(self) -> None:
        while self._row and self._fits(self._row[0].size):
            place = self._row.popleft()
            place.granted = True
            self.used += place.size
            if not place.future.done():  # else its task was cancelled in this very turn, and gives the bytes back
                place.future.set_result(None)
