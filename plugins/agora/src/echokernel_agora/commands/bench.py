"""``echokernel agora bench``: pairs of agents in this process, and how the router carries what they send each other."""

from __future__ import annotations

import argparse
import math
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from echokernel.cli import DONE, FAILED
from echokernel_agora.commands.shared import WrongUsage, connect, json_line, run_action

if TYPE_CHECKING:
    from echokernel_agora.client import AgoraClient

SETTLE = 2.0  # seconds that the last messages may take


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, default=10, metavar="N", help="pairs of agents (10)")
    parser.add_argument(
        "--rate", type=float, default=100.0, metavar="N", help="messages per second and pair; 0: as many as go (100)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="how long (5)")
    parser.add_argument("--size", type=int, default=256, metavar="BYTES", help="size of a payload (256)")
    parser.add_argument("--json", action="store_true", help="one JSON object; latencies in milliseconds")


def run(arguments: argparse.Namespace) -> int:
    if arguments.pairs < 1 or arguments.seconds <= 0 or arguments.size < 1 or arguments.rate < 0:
        from echokernel.cli import USAGE, fail

        return fail("--pairs, --seconds and --size are more than 0, --rate is not negative", USAGE)

    async def action() -> int:
        result = await measure(arguments)
        if arguments.json:
            print(json_line(result))
        else:
            print(
                f"{result['pairs']} pairs, {result['size']} bytes: {result['sent']} sent, {result['received']} received "
                f"in {result['seconds']:.1f} s, {result['per_second']:,.0f} messages/s"
            )
            print(
                f"latency p50/p95/p99/max = {result['p50']:.3f}/{result['p95']:.3f}/{result['p99']:.3f}/{result['max']:.3f} ms"
            )
        return DONE if result["received"] == result["sent"] else FAILED

    return run_action(action)


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run."""
    import anyio

    run_id = secrets.token_hex(3)
    latencies: list[float] = []
    sent = [0]
    filler = "x" * max(0, arguments.size - 24)
    refused: list[Exception] = []
    expected, complete = [-1], anyio.Event()

    async def send(client: AgoraClient, to: str, began: float) -> None:
        number = 0
        while time.perf_counter() - began < arguments.seconds:
            await client.send(to, [time.perf_counter(), filler])
            sent[0] += 1
            number += 1
            if arguments.rate:
                await anyio.sleep(max(0.0, began + number / arguments.rate - time.perf_counter()))
            else:
                await anyio.lowlevel.checkpoint()

    async def receive(client: AgoraClient) -> None:
        async for message in client.messages():
            latencies.append(time.perf_counter() - message.payload[0])
            if len(latencies) == expected[0]:
                complete.set()

    async with AsyncExitStack() as stack:
        clients = []
        for number in range(arguments.pairs):
            for role in ("to", "from"):
                client = connect(arguments, id=f"bench-{run_id}-{number}-{role}", on_error=refused.append)
                clients.append(await stack.enter_async_context(client))
        async with anyio.create_task_group() as tasks:
            for client in clients[::2]:
                tasks.start_soon(receive, client)
            began = time.perf_counter()
            async with anyio.create_task_group() as senders:
                for receiver, sender in zip(clients[::2], clients[1::2], strict=True):
                    senders.start_soon(send, sender, receiver.id, began)
            expected[0] = sent[0]
            if len(latencies) < sent[0]:
                with anyio.move_on_after(SETTLE):
                    await complete.wait()
            seconds = time.perf_counter() - began
            tasks.cancel_scope.cancel()
    if not latencies:
        raise WrongUsage("no message arrived" + (f": {refused[0]}" if refused else ""))
    latencies.sort()
    figures = {name: nearest(latencies, rank) * 1000 for name, rank in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    return {
        "pairs": arguments.pairs,
        "size": arguments.size,
        "seconds": round(seconds, 3),
        "sent": sent[0],
        "received": len(latencies),
        "refused": len(refused),
        "per_second": round(len(latencies) / seconds, 1),
        **{name: round(value, 4) for name, value in figures.items()},
        "max": round(latencies[-1] * 1000, 4),
    }


def nearest(values: Sequence[float], rank: float) -> float:
    """Return the value of the nearest rank of sorted ``values``."""
    return values[max(0, math.ceil(rank * len(values)) - 1)]
