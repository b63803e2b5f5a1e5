"""Clients against the real router: on a socket, behind the smallest listener there can be, on asyncio and trio."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from websockets.datastructures import Headers
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from echokernel_agora import Limits, Principal, Router

ROOM = 256 * 1024  # bytes that a connection takes before it says that it is full


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Outlet:
    """One connection of the lab, as the router sees it."""

    holds = False

    def __init__(self, lab: Lab, stream: SocketStream) -> None:
        self.lab, self.stream, self.protocol = lab, stream, ServerProtocol(max_size=1024 * 1024)
        self.out: list[bytes] = []
        self.waiting, self.full = 0, False
        self.wake = anyio.Event()
        self.peer: Any = None
        self.closes = False

    def write(self, frame: bytes) -> bool:
        if self.waiting > ROOM:
            self.full = True
            return False
        if self.protocol.state is State.OPEN:
            self.protocol.send_text(frame)
            self.flush()
        return True

    def close(self, code: int, reason: str) -> None:
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code, reason)
        self.closes = True
        self.flush()

    def taken(self) -> None:
        raise AssertionError("it holds nothing")

    def probe(self) -> None:
        self.protocol.send_ping(b"probe")
        self.flush()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            self.out.append(data)
            self.waiting += len(data)
        self.wake.set()

    async def write_all(self, scope: anyio.CancelScope) -> None:
        while True:
            await self.wake.wait()
            self.wake = anyio.Event()
            while self.out:
                data = self.out.pop(0)
                try:
                    if data:
                        await self.stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    scope.cancel()
                    return
                self.waiting -= len(data)
            if self.closes:
                with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    await self.stream.send_eof()
            if self.full:
                self.full = False
                self.lab.router.drain(self.peer)

    async def read_all(self) -> None:
        while True:
            try:
                data = await self.stream.receive(65536)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            self.protocol.receive_data(data)
            for event in self.protocol.events_received():
                if isinstance(event, Request):
                    self.shake_hands(event)
                elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    self.lab.router.receive(self.peer, bytes(event.data))
            self.flush()
            if self.protocol.state is State.CLOSED or self.protocol.close_expected():
                return

    def shake_hands(self, request: Request) -> None:
        if self.lab.token is not None and request.headers.get("Authorization") != f"Bearer {self.lab.token}":
            self.protocol.send_response(Response(401, "Unauthorized", Headers(), b"no token of this router"))
            return
        self.protocol.send_response(self.protocol.accept(request))
        if self.protocol.state is State.OPEN:
            self.peer = self.lab.router.attach(self, self.lab.principal, address="127.0.0.1")


class Lab:
    """A router on a socket. ``cut`` loses the connections, ``restart`` the router, too."""

    def __init__(self, token: str | None, limits: Limits | None, strict_seed: bool) -> None:
        self.token, self.limits, self.strict_seed = token, limits, strict_seed
        self.principal = Principal(name="lab", ids=("*",), operator=True, anonymous=token is None)
        self.router = self.make()
        self.outlets: set[Outlet] = set()
        self.scopes: dict[Outlet, anyio.CancelScope] = {}
        self.port = 0
        self.accepts = True

    def make(self) -> Router:
        return Router(self.limits, strict_seed=self.strict_seed)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def cut(self) -> None:
        for scope in list(self.scopes.values()):
            scope.cancel()

    def restart(self) -> None:
        self.router = self.make()
        self.cut()

    async def handle(self, stream: SocketStream) -> None:
        if not self.accepts:
            await anyio.aclose_forcefully(stream)
            return
        outlet = Outlet(self, stream)
        router = self.router
        async with anyio.create_task_group() as tasks:
            self.scopes[outlet] = tasks.cancel_scope
            tasks.start_soon(outlet.write_all, tasks.cancel_scope)
            try:
                await outlet.read_all()
                with anyio.move_on_after(0.2):
                    while outlet.out:
                        await anyio.sleep(0.005)
            except ProtocolError:
                pass
            finally:
                del self.scopes[outlet]
                if outlet.peer is not None:
                    router.detach(outlet.peer, resumable=outlet.protocol.close_code not in (1000, 1001))
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(stream)
                tasks.cancel_scope.cancel()


Serve = Callable[..., AbstractAsyncContextManager[Lab]]


@pytest.fixture
def serve() -> Serve:
    """Return ``serve(token=None, limits=None, strict_seed=False)``: a running router, with ``.url``."""

    @asynccontextmanager
    async def running(
        token: str | None = None, limits: Limits | None = None, strict_seed: bool = False
    ) -> AsyncIterator[Lab]:
        lab = Lab(token, limits, strict_seed)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        lab.port = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, lab.handle)
            try:
                yield lab
            finally:
                tasks.cancel_scope.cancel()

    return running
