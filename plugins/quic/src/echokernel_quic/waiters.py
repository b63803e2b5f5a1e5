"""Tasks that wait until something changes, without a lock or an anyio object per message."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel.tasks import Future, TaskScope

__all__ = ["Waiters"]


class Waiters:
    """A queue of tasks. Whoever is woken looks again at what it waited for: the change may be gone already."""

    __slots__ = ("_queue", "_tasks")

    def __init__(self, tasks: TaskScope) -> None:
        self._tasks = tasks
        self._queue: deque[Future[None]] | None = None  # most never have one, and a thousand connections have thousands

    def __bool__(self) -> bool:
        return bool(self._queue)

    async def wait(self) -> None:
        """Wait to be woken. Cancelled after it was woken, the task passes that on to the next one."""
        future: Future[None] = self._tasks.future()
        if self._queue is None:
            self._queue = deque()
        queue = self._queue
        queue.append(future)
        try:
            await future
        except BaseException:
            try:
                queue.remove(future)
            except ValueError:  # it was woken, too late to take what it waited for
                self.wake_one()
            raise

    def wake_one(self) -> None:
        queue = self._queue
        while queue:
            future = queue.popleft()
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        queue = self._queue
        while queue:
            future = queue.popleft()
            if not future.done():
                future.set_result(None)
