#!/usr/bin/env python3
"""10,000 requests at once on one session over loopback QUIC: how long they take, and how long a loop stands still.

    python3 dev.py python tests/benchmarks/concurrent_requests.py

Budget: less than 2 s, and no stall above 100 ms at either end. All requests are made in one turn of the client's loop; 1,024 of
them are open at a time (``max_requests``), the others wait. A stall is how much later than planned a timer of 1 ms fires. The
machine itself stops a process for a while now and then, the more so when others use it: printed beside each stall is the most
processor time between two looks, which is what the code can be blamed for. The best of the rounds is judged.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
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
        self.longest = self.busiest = 0.0
        self._cpu = 0.0
        self._loop = asyncio.get_running_loop()
        self._planned = 0.0
        self._look()

    def _look(self) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        if self._planned:
            self.longest = max(self.longest, now - self._planned)
            self.busiest = max(self.busiest, cpu - self._cpu)
        self._planned, self._cpu = now + 0.001, cpu
        self._loop.call_later(0.001, self._look)

    def take(self) -> tuple[float, float]:
        """Return the longest stall since the last call, and the most processor time between two looks, in ms."""
        taken = self.longest * 1e3, self.busiest * 1e3
        self.longest = self.busiest = 0.0
        return taken


def settle() -> None:
    """What ``echokernel run`` does when it serves, and docs/performance.md advises: collections leave alone what stays."""
    gc.collect()
    gc.freeze()


async def serve() -> None:
    stalls = Stalls()

    @rpc("bench.stall")
    async def stall(session: Session) -> tuple[float, float]:
        return stalls.take()

    builder = EchoServer.builder().bind("quic://127.0.0.1:0").add_rpc(echo).add_rpc(stall)
    async with builder.build() as server:
        settle()
        print(server.addresses[0], flush=True)
        await asyncio.Event().wait()


async def run(address: str, requests: int, rounds: int) -> None:
    """Make the requests and print what was measured, one JSON line."""
    found: list[dict[str, Any]] = []
    message = Message(bytes(32))
    async with EchoClient.connect(address) as client:
        stalls = Stalls()
        settle()
        for number in range(rounds + 1):
            await asyncio.sleep(0.3)
            stalls.take()
            await client.request("bench.stall")
            began, cpu = time.perf_counter(), time.process_time()
            answers = await asyncio.gather(
                *(client.request("bench.echo", message, returns=Message) for _ in range(requests))
            )
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            await asyncio.sleep(0.01)
            assert answers == [message] * requests
            there = await client.request("bench.stall", returns=tuple[float, float])
            if number:  # the first one warms up
                found.append({"seconds": took, "cpu": cpu, "client": stalls.take(), "server": there})
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
        (client, client_cpu), (there, there_cpu) = line["client"], line["server"]
        print(
            f"{options.requests:,} requests at once: {line['seconds']:.2f} s (client CPU {line['cpu']:.2f} s); longest stall: "
            f"client {client:.0f} ms (CPU {client_cpu:.0f}), server {there:.0f} ms (CPU {there_cpu:.0f})"
        )
    seconds = min(line["seconds"] for line in found)
    stall = min(max(line["client"][0], line["server"][0]) for line in found)
    print(f"best: {seconds:.2f} s (budget {BUDGET_SECONDS:g}), stall {stall:.0f} ms (budget {BUDGET_STALL_MS:g})")
    return 0 if (seconds < BUDGET_SECONDS and stall < BUDGET_STALL_MS) or options.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
