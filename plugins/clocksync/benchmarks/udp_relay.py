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
