"""From the program's event loop, whichever it is, into the thread that speaks mDNS, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio

from echokernel.tasks import current_backend

T = TypeVar("T")

__all__ = ["Bell", "run_in"]


class Bell:
    """Rung from any thread, heard in the loop that made it: many rings before it is heard are one."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        if current_backend() == "trio":
            import trio

            self._soon: Callable[[Callable[[], object]], object] = trio.lowlevel.current_trio_token().run_sync_soon
            self._over: type[Exception] = trio.RunFinishedError
        else:
            self._soon = asyncio.get_running_loop().call_soon_threadsafe
            self._over = RuntimeError  # the loop is closed

    def ring(self) -> None:
        try:
            self._soon(self._set)
        except self._over:
            pass  # nobody listens any more

    async def heard(self) -> None:
        """Wait for the next ring, or for one since the last time."""
        await self._event.wait()
        self._event = anyio.Event()

    def _set(self) -> None:
        self._event.set()


async def run_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in another thread's loop, and wait for its result here. Cancelled here, it is cancelled there."""
    bell = Bell()
    future: Future[T] = asyncio.run_coroutine_threadsafe(work, loop)
    future.add_done_callback(lambda _: bell.ring())
    try:
        while not future.done():
            await bell.heard()
    except BaseException:
        future.cancel()
        raise
    return future.result()
