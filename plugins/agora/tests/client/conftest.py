"""Clients on asyncio and trio against the real router, which has a thread and an event loop of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from echokernel_agora import AgoraServer, Router


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Lab:
    """A running router. ``cut`` loses its connections, ``restart`` it and all that it knew; both at once, without goodbyes."""

    def __init__(self, portal: BlockingPortal, settings: dict[str, Any]) -> None:
        self._portal, self._settings = portal, settings
        self._server: AgoraServer
        self.start("127.0.0.1:0")

    def start(self, listen: str) -> None:
        async def begin() -> None:
            self._server = AgoraServer(listen=listen, **self._settings)
            await self._server.start()

        self._portal.call(begin)
        self.url = self._server.url

    @property
    def router(self) -> Router:
        return self._server.router

    def cut(self) -> None:
        def all_of_them() -> None:
            assert self._server._hub is not None
            for each in list(self._server._hub.connections):
                each.abort("cut by a test")

        self._portal.call(all_of_them)

    def stop(self) -> None:
        self.cut()
        self._portal.call(self._server.stop)

    def restart(self) -> None:
        address = self._server.address
        self.stop()
        self.start(f"{address.host}:{address.port}")


Serve = Callable[..., AbstractAsyncContextManager[Lab]]


@pytest.fixture
def serve() -> Serve:
    """Return ``serve(**settings)`` of an AgoraServer: an async context manager whose value has ``url`` and ``router``."""

    @asynccontextmanager
    async def running(**settings: Any) -> AsyncIterator[Lab]:
        with start_blocking_portal("asyncio") as portal:
            lab = await anyio.to_thread.run_sync(Lab, portal, settings)
            try:
                yield lab
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(lab.stop)

    return running
