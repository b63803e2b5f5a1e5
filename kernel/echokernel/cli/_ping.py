"""Measure the round trip to a running node, from kernel to kernel.

Prints one line per ping and a summary; Ctrl-C ends it with the summary.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from echokernel.cli import DONE, FAILED
from echokernel.cli._client import add_client_arguments, with_client

if TYPE_CHECKING:
    from echokernel.client import EchoClient


def configure(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.add_argument("-c", "--count", type=int, default=4, metavar="N", help="pings to send (4); 0: until Ctrl-C")
    parser.add_argument("-i", "--interval", type=float, default=1.0, metavar="S", help="seconds between them (1)")
    parser.add_argument("--json", action="store_true", help="only the summary, as JSON")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import print_json

    times: list[float] = []

    async def use(client: EchoClient) -> int:
        import anyio

        while True:
            seconds = await client.ping()
            times.append(seconds)
            if not arguments.json:
                print(f"{arguments.url}: ping {len(times)}: {seconds * 1000:.3f} ms", flush=True)
            if len(times) == arguments.count:
                return DONE
            await anyio.sleep(arguments.interval)

    try:
        code = with_client(arguments, use)
    except KeyboardInterrupt:
        code = DONE if times else FAILED
    if times and arguments.json:
        summary = {"min": min(times), "avg": sum(times) / len(times), "max": max(times)}
        print_json({"pings": len(times), **{key: round(value, 6) for key, value in summary.items()}}, indent=None)
    elif times:
        low, mean, high = (1000 * value for value in (min(times), sum(times) / len(times), max(times)))
        print(f"{len(times)} pings: min/avg/max = {low:.3f}/{mean:.3f}/{high:.3f} ms")
    return code
