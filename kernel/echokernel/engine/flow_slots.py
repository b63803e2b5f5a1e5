"""How many streams of the transport the ``per_frame`` flows of a session may use at a time."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING

from echokernel.engine.flow_options import ALL_FRAMES_OPEN, FRAMES_OPEN

if TYPE_CHECKING:
    from echokernel.tasks import Future, TaskScope

__all__ = ["FrameSlots"]


class FrameSlots:
    """Each flow may have 64, and no more than twice what is left.

    So flows that nobody reads never take all: the next flow still gets some, and so do bodies and other streams.
    """

    __slots__ = ("_tasks", "_waiting", "used")

    def __init__(self, tasks: TaskScope) -> None:
        self._tasks = tasks
        self._waiting: list[Future[None]] = []
        self.used = 0

    async def take(self, own: Sized) -> None:
        """Wait until a flow may have one more than its ``own``, and take it."""
        while len(own) >= min(FRAMES_OPEN, 2 * (ALL_FRAMES_OPEN - self.used)):
            future: Future[None] = self._tasks.future()
            self._waiting.append(future)
            await future
        self.used += 1

    def give(self) -> None:
        """One is free again."""
        self.used -= 1
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
