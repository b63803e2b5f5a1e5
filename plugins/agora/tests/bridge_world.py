"""A node with a bridge: sessions on one side, an agent that writes down what it gets on the other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from agora_world import Agent, World

from echokernel import EchoClient, EchoServer, InvalidArgument, Session, event, rpc
from echokernel.testing import JsonSerializer, MemoryTransport
from echokernel_agora import AgoraBridge, Limits, Router
from echokernel_agora.crossing import Closed, Incoming, Notice, PresenceChange

__all__ = ["BridgeWorld", "Guest", "until"]


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something is so."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)


class BridgeWorld(World):
    """A router in the time of the event loop."""

    def __init__(self, *, strict_seed: bool = False, **limits: Any) -> None:
        self.events = []
        self.router = Router(
            Limits(**limits),
            strict_seed=strict_seed,
            monotonic=anyio.current_time,
            on_event=lambda name, fields: self.events.append((name, dict(fields))),
        )
        self.bridge = AgoraBridge(self.router)
        self.transport = MemoryTransport()
        self.url = "memory://node:1"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[BridgeWorld]:
        server = EchoServer.builder().transport(self.transport).bind(self.url).serializer(JsonSerializer())
        async with server.plugin(self.bridge).build() as self.server:
            yield self
        self.check()
        assert not self.router.peers or all(isinstance(peer.outlet, Agent) for peer in self.router.peers)

    @asynccontextmanager
    async def guest(self, id: str = "", **about: Any) -> AsyncIterator[Guest]:
        """A session with handlers that write down what they get, registered if it has an id."""
        guest = Guest(self)
        builder = EchoClient.builder().transport(self.transport).serializer(JsonSerializer())
        for handler in guest.handlers:
            builder.add_handler(handler)
        async with builder.connect(self.url) as guest.client:
            if id:
                await guest.client.request("agora.register", {"id": id, "name": id.upper(), **about})
            yield guest


class Guest:
    """The other end of a session."""

    def __init__(self, world: BridgeWorld) -> None:
        self.world = world
        self.client: EchoClient
        self.messages: list[Incoming] = []
        self.streams: list[tuple[Incoming, list[bytes]]] = []
        self.notices: list[Notice] = []
        self.changes: list[PresenceChange] = []
        self.closed: list[Closed] = []
        self.ended: list[str] = []
        self.reading = anyio.Event()
        self.reading.set()
        self.refuse_after = -1

        @event("agora.message")
        async def message(message: Incoming) -> None:
            await self.reading.wait()
            self.messages.append(message)

        @rpc("agora.incoming")
        async def incoming(session: Session, start: Incoming, chunks: AsyncIterator[bytes]) -> None:
            got: list[bytes] = []
            self.streams.append((start, got))
            how = "cancelled"
            try:
                await self.reading.wait()
                async for chunk in chunks:
                    got.append(chunk)
                    if len(got) == self.refuse_after:
                        raise InvalidArgument("enough")
                    await self.reading.wait()
                how = "whole"
            finally:
                self.ended.append(how)

        @event("agora.error")
        async def error(notice: Notice) -> None:
            self.notices.append(notice)

        @event("agora.presence")
        async def presence(change: PresenceChange) -> None:
            self.changes.append(change)

        @event("agora.closed")
        async def closed(closed: Closed) -> None:
            self.closed.append(closed)

        self.handlers = (message, incoming, error, presence, closed)

    def stop_reading(self) -> None:
        self.reading = anyio.Event()

    async def send(self, to: str, payload: Any = None, **more: Any) -> str:
        text = None if payload is None else json.dumps(payload).encode()
        status: str = await self.client.request("agora.send", {"to": to, "payload": text, **more})
        return status

    def stream(self, to: str, stream_id: str, **more: Any) -> Any:
        return self.client.request_stream("agora.stream", {"to": to, "stream_id": stream_id, **more}, sends=True)
