"""Send an event to a running node. Nothing comes back: 0 says that the event was sent, not that it was handled.

echokernel emit quic://127.0.0.1:4433 chat.message '"hello"'
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from echokernel.cli import DONE, USAGE, fail
from echokernel.cli._client import WrongUsage, add_client_arguments, add_payload_argument, payload, with_client

if TYPE_CHECKING:
    from echokernel.client import EchoClient


def configure(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.add_argument("event", metavar="EVENT", help="name of the event")
    add_payload_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        value = payload(arguments)
    except WrongUsage as error:
        return fail(str(error), USAGE)

    async def use(client: EchoClient) -> int:
        await client.emit(arguments.event, value)
        return DONE

    return with_client(arguments, use)
