"""The nodes that a server has dialled: each connection lives in a task of its own, from the server's start to its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio

from echokernel.errors import EchoError

if TYPE_CHECKING:
    from echokernel.client import Connecting
    from echokernel.tasks import Task, TaskScope

CLOSE_SECONDS = 4.0  # a client gives its own goodbye 3 s

logger = logging.getLogger("echokernel.server")

__all__ = ["Upstreams"]


class Upstreams:
    """Opens clients by name, and closes them together."""

    def __init__(self, clients: Mapping[str, Connecting]) -> None:
        self._clients = clients
        self._tasks: TaskScope | None = None
        self._trying: dict[str, Task] = {}
        self._waited = {name for name, connecting in clients.items() if not connecting.client.keeps_trying}
        """Those that the start waits for."""
        self._error: Exception | None = None
        self._changed = anyio.Event()
        self._closing = anyio.Event()
        self._running = 0

    async def start(self, tasks: TaskScope) -> None:
        """Connect them all. A client that connects again and again is not waited for; the first error of others is raised."""
        self._tasks = tasks
        for name, connecting in self._clients.items():
            self._trying[name] = tasks.start(self._keep, name, connecting, name=f"connect {name}")
        while self._waited and self._error is None:
            await self._next_change()
        if self._error is not None:
            raise self._error

    async def _keep(self, name: str, connecting: Connecting) -> None:
        self._running += 1
        try:
            async with connecting:
                self._trying.pop(name, None)
                self._waited.discard(name)
                self._change()
                await self._closing.wait()
        except Exception as error:
            if name in self._waited and self._error is None:
                if isinstance(error, EchoError):
                    error.message = f"connection {name!r}: {error.message}"
                self._error = error
            elif not self._closing.is_set():
                logger.error("connection %r: %s", name, error if isinstance(error, EchoError) else type(error).__name__)
        finally:
            self._trying.pop(name, None)
            self._running -= 1
            self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _next_change(self) -> None:
        await self._changed.wait()

    async def stop(self) -> None:
        """Close them all. Never raises."""
        self._closing.set()
        if self._tasks is not None:
            for task in self._trying.values():
                self._tasks.stop(task)
        with anyio.move_on_after(CLOSE_SECONDS):
            while self._running:
                await self._next_change()
