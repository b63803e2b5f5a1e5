"""The nodes that a server has dialled: each connection lives in a task of its own, from the server's start to its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio

from echokernel.errors import EchoError

if TYPE_CHECKING:
    from echokernel.client import Connecting
    from echokernel.tasks import Future, Task, TaskScope

CLOSE_SECONDS = 4.0  # a client gives its own goodbye 3 s

logger = logging.getLogger("echokernel.server")

__all__ = ["Upstreams"]


class Upstreams:
    """Opens clients by name, and closes them together."""

    def __init__(self, clients: Mapping[str, Connecting]) -> None:
        self._clients = clients
        self._closing = anyio.Event()
        self._tasks: TaskScope | None = None
        self._trying: dict[str, Task] = {}
        self._open = 0
        self._all_closed = anyio.Event()

    async def start(self, tasks: TaskScope) -> None:
        """Connect them all. A client that connects again and again is not waited for; another one's error is raised."""
        self._tasks = tasks
        waited: list[Future[None]] = []
        for name, connecting in self._clients.items():
            opened: Future[None] = tasks.future()
            self._open += 1
            self._trying[name] = tasks.start(self._keep, name, connecting, opened, name=f"connect {name}")
            if not connecting.client.keeps_trying:
                waited.append(opened)
        for opened in waited:
            await opened

    async def _keep(self, name: str, connecting: Connecting, opened: Future[None]) -> None:
        try:
            async with connecting:
                del self._trying[name]
                if not opened.done():
                    opened.set_result(None)
                await self._closing.wait()
        except EchoError as error:
            if not connecting.client.keeps_trying and not opened.done():
                error.message = f"connection {name!r}: {error.message}"
                opened.set_exception(error)
            elif not self._closing.is_set():
                logger.error("connection %r: %s", name, error)
        finally:
            self._trying.pop(name, None)
            self._open -= 1
            if not self._open:
                self._all_closed.set()

    async def stop(self) -> None:
        """Close them all. Never raises."""
        self._closing.set()
        for task in self._trying.values():
            assert self._tasks is not None
            self._tasks.stop(task)
        if self._open:
            with anyio.move_on_after(CLOSE_SECONDS):
                await self._all_closed.wait()
