"""The one module that starts, cancels and joins tasks, natively on asyncio (uvloop too) and trio.

anyio remains the vocabulary for everything that waits; only starting and ending tasks, timers and end-of-turn calls go
through a :class:`TaskScope`, because they happen once per message or per flush (measured, 2-core machine, Python 3.11:
anyio ``start_soon`` 27-33 µs, an asyncio task 3-5 µs, a trio task 7 µs).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")
logger = logging.getLogger("echokernel.tasks")

CANCEL_AGAIN = 1.0  # seconds; asyncio delivers a cancellation once, so one that a task swallowed is repeated
CLOSE_GRACE = 2.0  # seconds that closing a scope waits for cancelled tasks before it reports what still runs

__all__ = ["Future", "Task", "TaskScope", "Timer", "open_tasks"]


class Task(Protocol):
    """A running task. :meth:`TaskScope.stop` ends it."""

    def done(self) -> bool: ...


class Timer(Protocol):
    """A call that will be made later."""

    def cancel(self) -> None:
        """Do not make the call. Never raises, also after it was made."""


class Future(Protocol[T]):
    """A value that one task waits for: ``await future``. An asyncio future, or the like of it on trio."""

    def done(self) -> bool: ...

    def set_result(self, result: T, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...

    def __await__(self) -> Generator[Any, Any, T]: ...


class TaskScope(ABC):
    """Owns tasks, timers and file watches; none of them outlives it. Use ``async with open_tasks() as tasks``.

    An exception that escapes a task is logged, once, with the task's name; it ends that task and nothing else.
    """

    def __init__(self) -> None:
        self._last_calls: dict[_AtEnd, Callable[[], object]] = {}

    @abstractmethod
    def now(self) -> float:
        """Return monotonic seconds: the clock of :meth:`call_at`. Virtual where the event loop's clock is."""

    @abstractmethod
    def future(self) -> Future[Any]:
        """Return a future for one waiting task."""

    @abstractmethod
    def start(
        self,
        function: Callable[..., Awaitable[object]],
        *args: Any,
        name: str = "",
        context: contextvars.Context | None = None,
    ) -> Task:
        """Start ``function(*args)`` as a task, in ``context`` or a copy of the current one."""

    @abstractmethod
    def stop(self, task: Task) -> None:
        """Cancel a task of this scope, and again each second until it has ended. Never raises."""

    @abstractmethod
    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function(*args)`` when everything that is ready in this turn of the event loop has run."""

    @abstractmethod
    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> Timer:
        """Call ``function(*args)`` once :meth:`now` reaches ``when``."""

    @abstractmethod
    def watch_readable(self, sock: socket.socket, function: Callable[[], object]) -> Timer:
        """Call ``function`` whenever ``sock`` has something to read, until the returned watch is cancelled."""

    def at_end(self, function: Callable[[], object]) -> Timer:
        """Call ``function`` when the scope has closed: release there what only a timer or task would have released."""
        return _AtEnd(self._last_calls, function)

    @abstractmethod
    async def close(self) -> None:
        """Cancel everything and wait up to 2 s for it to end; report by name what still runs then. Never raises."""

    def _end(self) -> None:
        while self._last_calls:
            function = self._last_calls.popitem()[1]
            try:
                function()
            except Exception as error:
                _report_crash(getattr(function, "__qualname__", "at_end"), error)

    async def __aenter__(self) -> TaskScope:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _AtEnd:
    """A call when its scope has closed."""

    __slots__ = ("_calls",)

    def __init__(self, calls: dict[_AtEnd, Callable[[], object]], function: Callable[[], object]) -> None:
        self._calls = calls
        calls[self] = function

    def cancel(self) -> None:
        self._calls.pop(self, None)


def open_tasks() -> TaskScope:
    """Return a scope for the running event loop. On trio it has to be entered with ``async with``."""
    if current_backend() == "asyncio":
        return _AsyncioTasks()
    return _TrioTasks()


def current_backend() -> str:
    """Return ``asyncio`` or ``trio``; raises RuntimeError where no event loop runs."""
    if "trio" in sys.modules:
        import trio

        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return "trio"
    asyncio.get_running_loop()
    return "asyncio"


def _report_crash(name: str, error: BaseException) -> None:
    logger.error("task %s failed: %s", name, type(error).__name__, exc_info=error)


def _report_stuck(names: list[str]) -> None:
    logger.warning(
        "%d task(s) still run %.0f s after they were cancelled: %s",
        len(names),
        CLOSE_GRACE,
        ", ".join(sorted(names)[:8]),
    )


# --- asyncio --------------------------------------------------------------------------------------------------------


class _AsyncioTasks(TaskScope):
    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._watched: set[_AsyncioWatch] = set()
        self._closed = False
        self.now = self._loop.time  # type: ignore[method-assign]  # bound once: called per message
        self.future = self._loop.create_future  # type: ignore[method-assign]

    def now(self) -> float:
        return self._loop.time()

    def future(self) -> Future[Any]:
        return self._loop.create_future()

    def start(
        self,
        function: Callable[..., Awaitable[object]],
        *args: Any,
        name: str = "",
        context: contextvars.Context | None = None,
    ) -> Task:
        itself: list[asyncio.Task[None]] = []
        task = self._loop.create_task(
            self._run(itself, function, args), name=name or getattr(function, "__qualname__", "task"), context=context
        )
        itself.append(task)
        self._running.add(task)
        if self._closed:
            self.stop(task)
        return task

    async def _run(
        self,
        itself: list[asyncio.Task[None]],
        function: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
    ) -> None:
        try:
            await function(*args)
        except Exception as error:
            _report_crash(itself[0].get_name(), error)
        finally:
            self._running.discard(itself[0])

    def stop(self, task: Any) -> None:
        if not task.done():
            task.cancel()
            again = self._loop.call_later(CANCEL_AGAIN, self.stop, task)

            def ended(task: asyncio.Task[None]) -> None:
                again.cancel()
                self._running.discard(task)  # cancelled before its first step, it never reached its own ``finally``

            task.add_done_callback(ended)

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon(function, *args)

    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> Timer:
        return self._loop.call_at(when, function, *args)

    def watch_readable(self, sock: socket.socket, function: Callable[[], object]) -> Timer:
        watch = _AsyncioWatch(self._loop, self._watched, sock)
        try:
            self._loop.add_reader(sock, function)
        except NotImplementedError:  # Windows' proactor loop: anyio brings a selector thread
            return _Stopping(self, self.start(_watch_with_anyio, sock, function, name="watch_readable"))
        self._watched.add(watch)
        return watch

    async def close(self) -> None:
        self._closed = True
        for watch in list(self._watched):
            watch.cancel()
        me = asyncio.current_task()
        waiting = [task for task in self._running if task is not me]
        for task in waiting:
            self.stop(task)
        if waiting:
            with anyio.CancelScope(shield=True):
                _, pending = await asyncio.wait(waiting, timeout=CLOSE_GRACE)
            if pending:
                _report_stuck([task.get_name() for task in pending])
        self._end()


class _Stopping:
    """A watch that is a task."""

    def __init__(self, scope: TaskScope, task: Task) -> None:
        self._scope, self._task = scope, task

    def cancel(self) -> None:
        self._scope.stop(self._task)


class _AsyncioWatch:
    def __init__(self, loop: asyncio.AbstractEventLoop, watched: set[_AsyncioWatch], sock: socket.socket) -> None:
        self._loop, self._watched, self._sock = loop, watched, sock

    def cancel(self) -> None:
        if self in self._watched:
            self._watched.discard(self)
            self._loop.remove_reader(self._sock)


async def _watch_with_anyio(sock: socket.socket, function: Callable[[], object]) -> None:
    while True:
        await anyio.wait_readable(sock)
        function()


# --- trio -----------------------------------------------------------------------------------------------------------


class _TrioFuture(Generic[T]):
    __slots__ = ("_error", "_finished", "_task", "_value")

    def __init__(self) -> None:
        self._finished = False
        self._error: BaseException | None = None
        self._value: Any = None
        self._task: Any = None

    def done(self) -> bool:
        return self._finished

    def set_result(self, result: T, /) -> None:
        self._finish(result, None)

    def set_exception(self, exception: BaseException, /) -> None:
        self._finish(None, exception)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        if self._finished:
            raise RuntimeError("the future has a result already")
        self._finished, self._value, self._error = True, value, error
        if self._task is not None:
            import trio

            trio.lowlevel.reschedule(self._task)
            self._task = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        import trio

        if not self._finished:
            if self._task is not None:
                raise RuntimeError("another task waits for this future already")
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> Any:
                self._task = None
                self._finished = True  # like asyncio: a future whose waiter was cancelled takes no result
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]


class _TrioTask:
    __slots__ = ("ended", "name", "scope")

    def __init__(self, name: str) -> None:
        import trio

        self.name = name
        self.scope = trio.CancelScope()
        self.ended = False

    def done(self) -> bool:
        return self.ended

    def cancel(self) -> None:
        self.scope.cancel()


class _TrioTasks(TaskScope):
    def __init__(self) -> None:
        super().__init__()
        self._manager: Any = None
        self._nursery: Any = None
        self._running: set[_TrioTask] = set()
        self._ended: Any = None

    async def __aenter__(self) -> TaskScope:
        import trio

        self._token = trio.lowlevel.current_trio_token()
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
        self._nursery.cancel_scope.cancel()
        # the body's exception is not shown to the nursery, which would put it into a group
        await self._manager.__aexit__(None, None, None)

    def now(self) -> float:
        import trio

        return trio.current_time()

    def future(self) -> Future[Any]:
        return _TrioFuture()

    def start(
        self,
        function: Callable[..., Awaitable[object]],
        *args: Any,
        name: str = "",
        context: contextvars.Context | None = None,
    ) -> Any:
        if self._nursery is None:
            raise RuntimeError("on trio a TaskScope has to be entered: async with open_tasks() as tasks")
        handle = _TrioTask(name or getattr(function, "__qualname__", "task"))
        self._running.add(handle)
        if context is None:
            self._nursery.start_soon(self._run, handle, function, args, name=handle.name)
        else:
            context.run(self._nursery.start_soon, self._run, handle, function, args, name=handle.name)
        return handle

    async def _run(self, handle: _TrioTask, function: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            with handle.scope:
                await function(*args)
        except Exception as error:
            _report_crash(handle.name, error)
        finally:
            handle.ended = True
            self._running.discard(handle)
            if self._ended is not None and not self._running:
                self._ended.set()

    def stop(self, task: Any) -> None:
        task.cancel()

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        self._token.run_sync_soon(_guarded, function, args)

    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> Any:
        return self.start(self._call_later, when, function, args, name="timer")

    @staticmethod
    async def _call_later(when: float, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        import trio

        await trio.sleep_until(when)
        function(*args)

    def watch_readable(self, sock: socket.socket, function: Callable[[], object]) -> Any:
        return self.start(self._watch, sock, function, name="watch_readable")

    @staticmethod
    async def _watch(sock: socket.socket, function: Callable[[], object]) -> None:
        import trio

        while True:
            await trio.lowlevel.wait_readable(sock)
            function()

    async def close(self) -> None:
        import trio

        running = list(self._running)
        for handle in running:
            handle.cancel()
        if running:
            self._ended = trio.Event()
            with trio.move_on_after(CLOSE_GRACE, shield=True) as timer:
                await self._ended.wait()
            if timer.cancelled_caught:
                _report_stuck([handle.name for handle in self._running])
        self._end()


def _guarded(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except Exception as error:  # escaping here would end trio's whole run
        _report_crash(getattr(function, "__qualname__", "call_soon"), error)
