#!/usr/bin/env python3
"""10,000 requests at once on one session over loopback QUIC: how long they take, and how long a loop stands still.

    python3 dev.py python tests/benchmarks/concurrent_requests.py

Budget: less than 2 s, and no stall above 100 ms at either end. All requests are made in one turn of the client's loop; 1,024 of
them are open at a time (``max_requests``), the others wait. A stall is how much later than planned a timer of 1 ms fires. The
machine itself stops a process for a while now and then: the best of the rounds is what the code can be blamed for, and the
stall of a loop that does nothing, measured beside it, is what it cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from compare import Server
from echokernel import EchoClient, EchoServer, Session, rpc

BUDGET_SECONDS, BUDGET_STALL_MS = 2.0, 100.0


@dataclass
class Message:
    data: bytes


@rpc("bench.echo")
async def echo(message: Message) -> Message:
    return message


class Stalls:
    """Watches the running loop."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._planned = 0.0
        self._look()

    def _look(self) -> None:
        now = time.perf_counter()
        if self._planned:
            self.longest = max(self.longest, now - self._planned)
        self._planned = now + 0.001
        self._loop.call_later(0.001, self._look)

    def take(self) -> float:
        """Return the longest stall in ms since the last call."""
        longest, self.longest = self.longest, 0.0
        return longest * 1e3


async def serve() -> None:
    stalls = Stalls()

    @rpc("bench.stall")
    async def stall(session: Session) -> float:
        return stalls.take()

    builder = EchoServer.builder().bind("quic://127.0.0.1:0").add_rpc(echo).add_rpc(stall)
    async with builder.build() as server:
        print(server.addresses[0], flush=True)
        await asyncio.Event().wait()


async def run(address: str, requests: int, rounds: int) -> None:
    """Make the requests and print what was measured, one JSON line."""
    found: list[dict[str, Any]] = []
    message = Message(bytes(32))
    async with EchoClient.connect(address) as client:
        stalls = Stalls()
        for number in range(rounds + 1):
            await asyncio.sleep(0.3)
            machine = stalls.take()
            await client.request("bench.stall", returns=float)
            began = time.perf_counter()
            answers = await asyncio.gather(
                *(client.request("bench.echo", message, returns=Message) for _ in range(requests))
            )
            took = time.perf_counter() - began
            await asyncio.sleep(0.01)
            assert answers == [message] * requests
            there = await client.request("bench.stall", returns=float)
            if number:  # the first one warms up
                found.append({"seconds": took, "client_ms": stalls.take(), "server_ms": there, "machine_ms": machine})
            stalls.take()
    print(json.dumps(found), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["measure", "serve", "run"], default="measure")
    parser.add_argument("address", nargs="?")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, no judgement")
    options = parser.parse_args()
    if options.command != "measure":
        import uvloop

        uvloop.run(serve() if options.command == "serve" else run(options.address, options.requests, options.rounds))
        return 0
    if options.quick:
        options.rounds = 1
    server = Server(__file__, "serve")
    try:
        command = [sys.executable, __file__, "run", server.address, "--requests", str(options.requests)]
        done = subprocess.run(
            [*command, "--rounds", str(options.rounds)], stdout=subprocess.PIPE, text=True, timeout=180, check=True
        )
    finally:
        server.stop()
    found = json.loads(done.stdout)
    for line in found:
        print(
            f"{options.requests:,} requests at once: {line['seconds']:.2f} s; longest stall: client {line['client_ms']:.0f} ms, "
            f"server {line['server_ms']:.0f} ms; of an idle loop beside it {line['machine_ms']:.0f} ms"
        )
    seconds = min(line["seconds"] for line in found)
    stall = min(max(line["client_ms"], line["server_ms"]) for line in found)
    print(f"best: {seconds:.2f} s (budget {BUDGET_SECONDS:g}), stall {stall:.0f} ms (budget {BUDGET_STALL_MS:g})")
    return 0 if (seconds < BUDGET_SECONDS and stall < BUDGET_STALL_MS) or options.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
