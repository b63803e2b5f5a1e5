"""Plain functions in worker threads, whose number stays bounded also when their callers give up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from echokernel.tasks import current_backend

__all__ = ["run_in_thread"]


async def run_in_thread(call: Callable[[], Any]) -> Any:
    """Return ``call()``, run in a thread that takes one of the event loop's places for threads (40).

    A thread cannot be ended. When its caller is cancelled the place stays taken until the thread has ended by itself:
    asyncio's own cancellation would give it away at once, and a flood of short deadlines would start ever more threads.
    """
    limiter = anyio.to_thread.current_default_thread_limiter()
    holder = object()
    await limiter.acquire_on_behalf_of(holder)
    call_soon = _call_soon_threadsafe()
    lock = threading.Lock()
    state = "waiting"

    def run() -> Any:
        nonlocal state
        with lock:
            if state == "abandoned":
                return None
            state = "running"
        try:
            return call()
        finally:
            try:
                call_soon(limiter.release_on_behalf_of, holder)
            except RuntimeError:
                pass  # the event loop has ended, and with it the limit

    try:
        return await anyio.to_thread.run_sync(run, limiter=anyio.CapacityLimiter(1))
    except BaseException:
        with lock:
            if state == "waiting":  # it was cancelled before a thread took it, and never will be
                state = "abandoned"
                limiter.release_on_behalf_of(holder)
        raise


def _call_soon_threadsafe() -> Callable[..., object]:
    if current_backend() == "asyncio":
        return asyncio.get_running_loop().call_soon_threadsafe
    import trio

    token = trio.lowlevel.current_trio_token()

    def call_soon(function: Callable[..., object], *arguments: Any) -> None:
        token.run_sync_soon(function, *arguments)

    return call_soon
