#!/usr/bin/env python3
"""What the kernel and a codec cost per typed request, both ends together: one process, in-memory transport, uvloop.

    python3 dev.py python tests/benchmarks/kernel_cost.py

Budget: 22 µs at 64 in flight where the reference, packing a dict of four fields with msgpack's C extension, takes 0.53 µs.
The reference is measured in the same run, because the speed of a shared machine drifts by a factor of two.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
import timeit
from dataclasses import dataclass

from echokernel import EchoClient, EchoServer, Session, event, rpc
from echokernel.testing import MemoryTransport


@dataclass
class Message:
    data: bytes


@rpc("bench.echo")
async def echo(message: Message) -> Message:
    return message


handled = 0


@event("bench.event")
async def on_event(session: Session, message: Message) -> None:
    global handled
    handled += 1


def reference() -> float:
    """Return the µs that msgpack takes for a dict of four fields, at best."""
    import msgpack

    value = {"id": 1, "name": "hello", "x": 1.5, "data": bytes(32)}
    return min(timeit.repeat(lambda: msgpack.packb(value), number=3_000, repeat=5)) / 3_000 * 1e6


async def measure(rounds: int, seconds: float) -> None:
    from echokernel_msgpack import MsgpackSerializer

    transport = MemoryTransport()
    server = (
        EchoServer.builder()
        .bind("memory://bench:1")
        .transport(transport)
        .serializer(MsgpackSerializer())
        .add_rpc(echo)
        .add_event(on_event)
    )
    message = Message(bytes(32))
    async with server.build():
        builder = EchoClient.builder().transport(transport).serializer(MsgpackSerializer())
        async with builder.connect("memory://bench:1") as client:
            costs = []
            event_costs = []
            references = []
            for _ in range(rounds):
                done = 0
                end = time.perf_counter() + seconds

                async def work() -> None:
                    nonlocal done
                    while time.perf_counter() < end:  # noqa: B023
                        await client.request("bench.echo", message, returns=Message)
                        done += 1

                references.append(reference())
                began = time.process_time()
                await asyncio.gather(*(work() for _ in range(64)))
                costs.append((time.process_time() - began) / done * 1e6)
                before, began = handled, time.process_time()
                for _ in range(20_000):
                    await client.emit("bench.event", message)
                while handled < before + 20_000:
                    await asyncio.sleep(0)
                event_costs.append((time.process_time() - began) / 20_000 * 1e6)
    scaled = [cost / used * 0.53 for cost, used in zip(costs, references, strict=True)]
    print(
        f"request, 64 in flight: {statistics.median(costs):.1f} µs (best {min(costs):.1f}); "
        f"event: {statistics.median(event_costs):.1f} µs (best {min(event_costs):.1f}); both ends together\n"
        f"reference: {statistics.median(references):.2f} µs; a request on a machine where it takes 0.53: "
        f"{statistics.median(scaled):.1f} µs"
    )


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    uvloop.run(measure(options.rounds, options.seconds))


if __name__ == "__main__":
    main()
