"""One task that outlives the function that starts it: what a service needs, on asyncio and trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from echokernel.tasks import current_backend

__all__ = ["Background"]


class Background:
    """Runs ``function()`` from :meth:`start` to :meth:`stop`. It must not raise."""

    def __init__(self, function: Callable[[], Awaitable[None]]) -> None:
        self._function = function
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._task: object = None

    def start(self) -> None:
        """Start it; it belongs to the event loop, not to a nursery that has to be left where it was entered."""
        if current_backend() == "asyncio":
            import asyncio

            self._task = asyncio.create_task(self._run(), name="clocksync reference")
        else:
            import trio

            trio.lowlevel.spawn_system_task(self._run, name="clocksync reference")

    async def stop(self) -> None:
        """Cancel it and wait until it has ended."""
        self._scope.cancel()
        await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._function()
        finally:
            self._ended.set()
