"""A server and a client that talk, in one line of a test."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from echokernel.client import ClientBuilder, EchoClient
from echokernel.errors import SerializationError
from echokernel.serializer import Codec, Serializer
from echokernel.server import EchoServer, ServerBuilder
from echokernel.session import Session
from echokernel.testing.memory import MemoryTransport

__all__ = ["JsonSerializer", "Nodes", "connected"]


class JsonSerializer(Serializer):
    """JSON, checked against annotations: slow, readable, without dependencies beyond the kernel's. For tests."""

    name = "json"

    def __init__(self, name: str = "json") -> None:
        self.name = name
        self._codecs: dict[Any, Codec] = {}

    def codec(self, type: Any) -> Codec:
        """Return the codec for ``type``."""
        if type not in self._codecs:
            self._codecs[type] = self._make(type)
        return self._codecs[type]

    def _make(self, type: Any) -> Codec:
        from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

        try:
            adapter = TypeAdapter(type)
        except PydanticSchemaGenerationError as error:
            raise SerializationError(f"json cannot express {type!r}") from error

        def encode(value: Any) -> bytes:
            try:
                return bytes(adapter.dump_json(adapter.validate_python(value)))
            except (ValidationError, ValueError, TypeError) as error:
                raise SerializationError(f"a {value.__class__.__name__} is no {type!r}") from error

        def decode(data: bytes) -> Any:
            try:
                json.loads(data)
                return adapter.validate_json(data, strict=True)
            except (ValidationError, ValueError, RecursionError) as error:
                raise SerializationError(f"not a valid {type!r}") from error

        return Codec(encode, decode)


@dataclass(slots=True)
class Nodes:
    """A running server and a connected client."""

    server: EchoServer
    client: EchoClient
    transport: MemoryTransport

    @property
    def session(self) -> Session:
        """The server's session with the client."""
        return self.server.context().sessions()[0]


@asynccontextmanager
async def connected(
    *handlers: Any,
    server: ServerBuilder | None = None,
    client: ClientBuilder | None = None,
    client_handlers: Iterable[Any] = (),
    transport: MemoryTransport | None = None,
) -> AsyncIterator[Nodes]:
    """Run a server with ``handlers`` and a client on the in-memory transport; both close at the end.

    ``server`` and ``client``: builders with more than the defaults; they get transport, address and JSON where they have none.
    """
    transport = transport or MemoryTransport()
    server = (server or EchoServer.builder()).transport(transport).bind("memory://node:1").serializer(JsonSerializer())
    for handler in handlers:
        server.add_handler(handler)
    client = (client or EchoClient.builder()).transport(transport).serializer(JsonSerializer())
    for handler in client_handlers:
        client.add_handler(handler)
    async with server.build() as running, client.connect("memory://node:1") as dialled:
        yield Nodes(running, dialled, transport)
