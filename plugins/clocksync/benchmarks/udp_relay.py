"""A bad network in one process: UDP packets between clients and a server, late and lost, the same at every run."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

__all__ = ["Path", "Relay"]

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One direction, in seconds: a packet takes ``delay`` ± ``jitter``, and overtakes none. ``loss``: 0 to 1."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0


class Relay(asyncio.DatagramProtocol):
    """Stands between clients and ``server``: they send to :attr:`address`. Each client has a socket of its own behind it."""

    address: Address

    def __init__(self, server: Address, there: Path, back: Path, seed: int) -> None:
        self._server, self._there, self._back = server, there, back
        self._random = random.Random(seed)
        self._behind: dict[Address, asyncio.DatagramTransport] = {}
        self._opening: dict[Address, list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: dict[tuple[Address, bool], float] = {}
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, server: Address, there: Path, back: Path | None = None, *, seed: int = 1) -> Relay:
        """Open one on loopback; ``back`` is as ``there`` if it is not given."""
        transport, relay = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: cls(server, there, back or there, seed), local_addr=("127.0.0.1", 0)
        )
        relay.address = transport.get_extra_info("sockname")
        return relay

    def close(self) -> None:
        self._transport.close()
        for transport in self._behind.values():
            transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Address) -> None:
        if address in self._behind:
            self._forward(data, self._behind[address], None, self._there, (address, True))
        elif address in self._opening:
            self._opening[address].append(data)
        else:
            self._opening[address] = [data]
            task = self._loop.create_task(self._open_behind(address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open_behind(self, client: Address) -> None:
        transport, _ = await self._loop.create_datagram_endpoint(
            lambda: _Behind(self, client), remote_addr=self._server
        )
        self._behind[client] = transport
        for data in self._opening.pop(client):
            self._forward(data, transport, None, self._there, (client, True))

    def answer(self, data: bytes, client: Address) -> None:
        self._forward(data, self._transport, client, self._back, (client, False))

    def _forward(self, data: bytes, transport: Any, to: Address | None, path: Path, flow: tuple[Address, bool]) -> None:
        if self._random.random() < path.loss:
            return
        at = self._loop.time() + path.delay + self._random.uniform(-1, 1) * path.jitter
        at = self._last[flow] = max(at, self._last.get(flow, 0.0))
        self._loop.call_at(at, self._send, transport, data, to)

    @staticmethod
    def _send(transport: Any, data: bytes, to: Address | None) -> None:
        if not transport.is_closing():
            transport.sendto(data, to)


class _Behind(asyncio.DatagramProtocol):
    def __init__(self, relay: Relay, client: Address) -> None:
        self._relay, self._client = relay, client

    def datagram_received(self, data: bytes, address: Address) -> None:
        self._relay.answer(data, self._client)
