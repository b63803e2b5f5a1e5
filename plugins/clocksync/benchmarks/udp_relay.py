<<<<<<< HEAD
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
=======
"""A bad network between one client and one server: a process that passes UDP packets on, late, or not at all.

``python udp_relay.py PORT_OF_THE_SERVER OUT BACK`` prints its own port. OUT and BACK say what happens on the way to it and
from it: ``delay=50,jitter=10,loss=1`` (ms, ms, per cent), ``gamma=1.5`` (ms, scale of a tail), ``rate=8,queue=200`` (Mbit/s,
ms of packets that wait; further ones are dropped). Seeded: a run can be repeated.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import socket
import sys
import time


class Direction:
    """What happens to packets one way."""

    def __init__(self, text: str, seed: int) -> None:
        values = {"delay": 0.0, "jitter": 0.0, "gamma": 0.0, "loss": 0.0, "rate": 0.0, "queue": 200.0}
        for part in filter(None, text.split(",")):
            name, _, number = part.partition("=")
            if name not in values:
                raise SystemExit(f"{name!r} is none of {', '.join(values)}")
            values[name] = float(number)
        self.values, self.chance, self.free = values, random.Random(seed), 0.0

    def leaves_at(self, now: float, size: int) -> float | None:
        """Return when a packet of ``size`` bytes that comes now goes on; None: never."""
        values, chance = self.values, self.chance
        if chance.random() * 100 < values["loss"]:
            return None
        start = now
        if values["rate"]:
            start = max(now, self.free)
            if (start - now) * 1e3 > values["queue"]:
                return None
            start = self.free = start + size * 8 / (values["rate"] * 1e6)
        wait = values["delay"] + chance.uniform(-1, 1) * values["jitter"]
        if values["gamma"]:
            wait += chance.gammavariate(1.2, values["gamma"])
        return start + max(0.0, wait) / 1e3


def main() -> None:
    out, back = Direction(sys.argv[2], 1), Direction(sys.argv[3], 2)
    front, rear = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (front, rear):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.setblocking(False)
    front.bind(("127.0.0.1", 0))
    rear.connect(("127.0.0.1", int(sys.argv[1])))
    print(front.getsockname()[1], flush=True)
    waiting: list[tuple[float, int, bool, bytes]] = []
    client, number = None, 0
    while os.getppid() != 1:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to_server, data = heapq.heappop(waiting)
            try:
                if to_server:
                    rear.send(data)
                elif client is not None:
                    front.sendto(data, client)
            except OSError:
                pass  # a full buffer is a lost packet
        pause = max(0.0, min(waiting[0][0] - time.monotonic(), 0.5)) if waiting else 0.5
        for sock in select.select([front, rear], [], [], pause)[0]:
            for _ in range(64):
                try:
                    data, sender = sock.recvfrom(2048)
                except OSError:
                    break
                to_server = sock is front
                client = sender if to_server else client
                leaves = (out if to_server else back).leaves_at(time.monotonic(), len(data))
                if leaves is not None:
                    number += 1
                    heapq.heappush(waiting, (leaves, number, to_server, data))


if __name__ == "__main__":
    main()
>>>>>>> work-clock
