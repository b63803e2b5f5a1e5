"""``echokernel agora tail``: what is sent to an agent, as JSON lines in the shape of the frames."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from echokernel.cli import DONE
from echokernel_agora.commands.shared import connect, inert, json_line, run_action

if TYPE_CHECKING:
    from echokernel_agora.messages import Message


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="register as this agent")
    parser.add_argument("--name", help="what people read (the id)")
    parser.add_argument("--capability", action="append", default=[], metavar="NAME", help="what others may look for")
    parser.add_argument("-c", "--count", type=int, default=0, metavar="N", help="messages to wait for; 0: until Ctrl-C (0)")


def run(arguments: argparse.Namespace) -> int:
    import anyio

    async def action() -> int:
        async with connect(arguments, name=arguments.name, capabilities=arguments.capability) as client:
            seen = 0
            async with anyio.create_task_group() as tasks:
                async for message in client.messages():
                    show("message", message, payload=message.payload_json)
                    if message.is_stream:
                        tasks.start_soon(show_stream, message)
                    seen += 1
                    if seen == arguments.count:
                        break
        return DONE

    try:
        return run_action(action)
    except KeyboardInterrupt:
        return DONE


async def show_stream(message: Message) -> None:
    from echokernel_agora.errors import AgoraError

    try:
        async for chunk in message.chunks():
            show("message_chunk", message, chunk=chunk)
    except AgoraError as error:
        show("message_end", message, error={"code": error.reason, "message": str(error)})
    else:
        show("message_end", message)


def show(kind: str, message: Message, *, payload: bytes | None = None, **fields: Any) -> None:
    """Print a line of JSON; a payload is in it as the text that it was."""
    kind = kind.replace("message", "reply") if message.is_reply else kind
    line: dict[str, Any] = {"type": kind, "from": message.sender}
    if message.is_stream:
        line["stream_id"] = message.stream_id
        if kind in ("message", "reply"):
            line["stream"] = True
    if message.request_id is not None and kind in ("message", "reply"):
        line["request_id"] = message.request_id
    text = json_line(line | fields)
    if payload is not None:
        written = payload.decode().replace("\n", " ").replace("\r", " ") or "null"  # JSON has these between values only
        text = f'{text[:-1]}, "payload": {inert(written)}}}'
    print(text, flush=True)
