"""What the tests of the listener share: a client that can say anything, and a pair of agents that must not notice it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from echokernel_agora import AgoraServer

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"  # RFC 6455's own example
SECONDS = 5.0  # to wait for anything

BACKENDS: list[Any] = [("asyncio", {})]
if importlib.util.find_spec("uvloop"):
    BACKENDS.append(("asyncio", {"use_uvloop": True}))


def names(backend: Any) -> str:
    return "uvloop" if backend[1] else "asyncio"


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True, length: int | None = None
) -> bytes:
    """Return a frame as a client sends it, right or wrong; ``length`` is what it claims."""
    size = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    return head + (MASK + masked(payload) if mask else payload)


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def text(value: Any) -> bytes:
    return frame(TEXT, json.dumps(value).encode())


def request(path: str = "/ws", headers: dict[str, str | None] | None = None, line: str | None = None) -> bytes:
    """Return a handshake; a header that is None is left out."""
    all_headers: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    lines = [
        line or f"GET {path} HTTP/1.1",
        *(f"{key}: {value}" for key, value in all_headers.items() if value is not None),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Raw:
    """A TCP connection to the router."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""

    @classmethod
    async def dial(cls, server: AgoraServer, **kwargs: Any) -> Raw:
        host = server.address.host
        return cls(*await asyncio.open_connection(host, server.address.port, limit=2**22, **kwargs))

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def dribble(self, data: bytes, step: int = 1) -> None:
        """Send in small pieces, each in a packet of its own, as far as one can have that."""
        for start in range(0, len(data), step):
            self.writer.write(data[start : start + step])
            await self.writer.drain()
            await asyncio.sleep(0)

    async def response(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(SECONDS):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
        lines = self.head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def frame(self) -> tuple[int, bytes]:
        """Return (opcode, payload) of the next frame; (-1, b"") at the end."""
        async with asyncio.timeout(SECONDS):
            try:
                head = await self.reader.readexactly(2)
                assert head[0] & 0xF0 == 0x80, "the router sends whole frames without reserved bits"
                assert head[1] < 128, "and does not mask them"
                size = head[1]
                if size > 125:
                    size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
                return head[0] & 0x0F, await self.reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return -1, b""

    async def json(self) -> Any:
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    async def closed(self) -> int | None:
        """Return the code with which the router closes, None for none at all; whatever comes before is skipped."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                assert await self.frame() == (-1, b""), "nothing comes behind a close"
                return int.from_bytes(payload[:2], "big") if payload else 1005
            if opcode == -1:
                return None

    async def body(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.read(-1)

    async def leave(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, OSError):
            pass

    async def __aenter__(self) -> Raw:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()


async def websocket(server: AgoraServer, path: str = "/ws", headers: dict[str, str | None] | None = None) -> Raw:
    """Return an open WebSocket."""
    raw = await Raw.dial(server)
    raw.send(request(path, headers))
    status, _ = await raw.response()
    assert status == 101, raw.head
    return raw


async def agent(server: AgoraServer, id: str, headers: dict[str, str | None] | None = None) -> Raw:
    raw = await websocket(server, headers=headers)
    raw.send(text({"type": "register", "id": id, "name": id}))
    answer = await raw.json()
    assert answer["type"] == "registered", answer
    return raw


class Pair:
    """Two well-behaved agents. ``exchange`` must go through, in order, whatever the others do."""

    def __init__(self, one: Raw, other: Raw) -> None:
        self.one, self.other = one, other
        self._next = 0

    async def exchange(self, count: int = 3) -> None:
        numbers = range(self._next, self._next + count)
        self._next += count
        self.one.send(*(text({"type": "send", "to": "pair-2", "payload": number}) for number in numbers))
        for number in numbers:
            assert await self.other.json() == {"type": "message", "from": "pair-1", "payload": number}


@asynccontextmanager
async def watched(**settings: Any) -> AsyncIterator[tuple[AgoraServer, Pair]]:
    """Run a server and a pair that has exchanged something at the beginning and does again at the end."""
    settings = {"listen": "127.0.0.1:0", **settings}
    async with AgoraServer(**settings) as server:
        async with await agent(server, "pair-1") as one, await agent(server, "pair-2") as other:
            pair = Pair(one, other)
            await pair.exchange()
            yield server, pair
            await pair.exchange()
        counters = server.router.snapshot()["counters"]
        done = (counters[name] for name in ("delivered", "stored", "errored", "queued"))
        assert counters["accepted"] == sum(done)


async def fetch(
    server: AgoraServer, path: str, headers: dict[str, str] | None = None, method: str = "GET", host: str = "localhost"
) -> tuple[int, dict[str, str], bytes]:
    """Return (status, headers, body) of a plain request."""
    async with await Raw.dial(server) as raw:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {host}",
            *(f"{key}: {value}" for key, value in (headers or {}).items()),
        ]
        raw.send("\r\n".join([*lines, "", ""]).encode())
        status, found = await raw.response()
        return status, found, await raw.body()


async def until(condition: Any, seconds: float = SECONDS) -> None:
    """Wait until ``condition()`` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def split_everywhere(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    return ((data[:index], data[index:]) for index in range(1, len(data)))
