"""Ask a running node how it is: whether it takes new work, since when it runs, and how busy it is.

  echokernel health quic://127.0.0.1:4433

Exit code 0: it is well; 1: it drains, or does not answer.
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
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import count, duration, print_json

    async def use(client: EchoClient) -> int:
        health = await client.health()
        status = health.status.name.lower()
        if arguments.json:
            values = {"status": status, "uptime": health.uptime, "sessions": health.sessions}
            print_json({**values, "open_requests": health.open_requests}, indent=None)
        else:
            busy = f"{count(health.sessions, 'session')}, {count(health.open_requests, 'open request')}"
            print(f"{status}: up {duration(health.uptime)}, {busy}")
        return DONE if status == "ok" else FAILED

    return with_client(arguments, use)
