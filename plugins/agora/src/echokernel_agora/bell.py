"""Tasks that wait for something to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel.tasks import Future, TaskScope

__all__ = ["Bell"]


class Bell:
    """Wakes whoever waits; what they wait for, they look up themselves."""

    __slots__ = ("_tasks", "_waiting")

    def __init__(self, tasks: TaskScope) -> None:
        self._tasks = tasks
        self._waiting: list[Future[None]] = []

    async def wait(self) -> None:
        """Return at the next :meth:`ring`."""
        future = self._tasks.future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def ring(self) -> None:
        """Wake everybody."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
