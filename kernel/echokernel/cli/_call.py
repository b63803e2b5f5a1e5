"""Send a request to a running node and print the result as JSON.

  echokernel call quic://127.0.0.1:4433 math.add '[10, 20]'

No payload is the unit value; several parameters are a JSON array. Bytes are printed as base64.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from echokernel.cli import DONE, USAGE, fail
from echokernel.cli._client import WrongUsage, add_client_arguments, add_payload_argument, payload, with_client

if TYPE_CHECKING:
    from echokernel.client import EchoClient


def configure(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.add_argument("method", metavar="METHOD", help="name of the RPC")
    add_payload_argument(parser)
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds until the request is given up; 0: never")
    parser.add_argument("--json", action="store_true", help='print {"result": …, "seconds": …}')


def run(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import print_json

    if arguments.timeout is not None and not 0 <= arguments.timeout < float("inf"):
        return fail(f"--timeout: {arguments.timeout:g} is not a number of seconds; 0 is no deadline", USAGE)
    try:
        value = payload(arguments)
    except WrongUsage as error:
        return fail(str(error), USAGE)

    async def use(client: EchoClient) -> int:
        started = time.perf_counter()
        result = await client.request(arguments.method, value, timeout=arguments.timeout)
        seconds = time.perf_counter() - started
        if arguments.json:
            print_json({"result": result, "seconds": round(seconds, 6)}, indent=None)
        else:
            print_json(result)
        return DONE

    return with_client(arguments, use)
