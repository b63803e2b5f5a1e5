"""``echokernel agora send``: one message."""

from __future__ import annotations

import argparse
import sys

from echokernel.cli import DONE
from echokernel_agora.commands.shared import (
    add_id,
    add_timeout,
    connect,
    inert,
    json_line,
    parse_payload,
    run_action,
)
from echokernel_agora.commands.stream import print_chunks


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to", metavar="TO", help="the id of an agent")
    parser.add_argument("payload", metavar="JSON", help="the payload, sent as it is written; - reads it from stdin")
    parser.add_argument("--reply", action="store_true", help="wait for the reply and print its payload, or its chunks")
    parser.add_argument("--json", action="store_true", help="print what became of it as a JSON object")
    add_id(parser)
    add_timeout(parser, "the receipt, or the reply")


def run(arguments: argparse.Namespace) -> int:
    async def action() -> int:
        payload = parse_payload(sys.stdin.read() if arguments.payload == "-" else arguments.payload)
        async with connect(arguments) as client:
            if arguments.reply:
                reply = await client.request(arguments.to, payload)
                text = reply.payload_json.decode("utf-8", "replace")
                if arguments.json:
                    print(json_line({"from": reply.sender, "payload": reply.payload, "text": await reply.text()}))
                elif not reply.is_stream:
                    print(inert(text))
                else:
                    await print_chunks(reply.chunks())
            else:
                receipts = "receipt" in client.features
                status = await client.send(arguments.to, payload, confirm=receipts) or "sent"
                if arguments.json:
                    print(json_line({"to": arguments.to, "status": status}))
                elif status != "delivered":
                    print(f"{inert(arguments.to)}: {status}", file=sys.stderr)
        return DONE

    return run_action(action)
