"""``echokernel agora stream``: stdin in chunks, and the reply as it comes."""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from echokernel.cli import DONE
from echokernel_agora.commands.shared import (
    add_id,
    add_timeout,
    connect,
    inert,
    parse_payload,
    run_action,
)

if TYPE_CHECKING:
    from echokernel_agora.messages import ChunkStream, MessageStream

CHUNK = 16 * 1024  # bytes of stdin at most in one chunk: a quarter of what may be under way to a receiver


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to", metavar="TO", help="the id of an agent")
    parser.add_argument("--payload", metavar="JSON", help="goes before the chunks, for an agent that wants to know more")
    parser.add_argument(
        "--lines", action="store_true", help="one chunk for each line; otherwise what comes at a time, up to 16 KiB"
    )
    parser.add_argument("--no-reply", action="store_true", help="wait for the receipt only, not for a reply")
    add_id(parser)
    add_timeout(parser, "the beginning of the reply")


def run(arguments: argparse.Namespace) -> int:
    import anyio

    from echokernel import RequestTimeout
    from echokernel_agora.conversation import ABSENT

    async def action() -> int:
        payload = ABSENT if arguments.payload is None else parse_payload(arguments.payload)
        wants_reply = not arguments.no_reply
        async with connect(arguments) as client:
            receipts = "receipt" in client.features
            stream = client.stream(arguments.to, payload, confirm=receipts and not wants_reply, reply=wants_reply)
            if not wants_reply:
                await feed(stream, arguments.lines)
                return DONE
            async with anyio.create_task_group() as tasks:
                waits = anyio.CancelScope()  # its time begins when everything was sent

                async def talk() -> None:
                    await feed(stream, arguments.lines)
                    waits.deadline = anyio.current_time() + arguments.timeout

                tasks.start_soon(talk)
                with waits:
                    reply = await stream.reply(timeout=float("inf"))
                if waits.cancelled_caught:
                    raise RequestTimeout(f"{arguments.to} did not answer within {arguments.timeout:g} s")
                if reply.is_stream:
                    await print_chunks(reply.chunks())
                else:
                    print(inert(reply.payload_json.decode("utf-8", "replace")))
        return DONE

    return run_action(action)


async def feed(stream: MessageStream, by_line: bool) -> None:
    """Send stdin on a stream."""
    async with stream:
        async for chunk in stdin_chunks(by_line):
            await stream.send(chunk)


async def stdin_chunks(by_line: bool) -> AsyncIterator[str]:
    """Yield what comes on stdin; what is not UTF-8 becomes replacement characters."""
    import anyio

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    left, descriptor = "", sys.stdin.fileno()
    while True:
        # not sys.stdin.read: its lock would be held by a thread that nobody waits for when the program ends
        data = await anyio.to_thread.run_sync(os.read, descriptor, CHUNK, abandon_on_cancel=True)
        text = left + decoder.decode(data, final=not data)
        left = ""
        if by_line:
            *lines, left = text.split("\n")
            for line in lines:
                yield line + "\n"
            if data:
                continue
            text = left
        if text:
            yield text
        if not data:
            return


async def print_chunks(chunks: ChunkStream) -> None:
    """Print chunks as they come; as they are into a pipe, harmless on a terminal."""
    plain, last = not sys.stdout.isatty(), "\n"
    async for chunk in chunks:
        sys.stdout.write(chunk.encode("utf-8", "replace").decode() if plain else inert(chunk))
        sys.stdout.flush()
        last = chunk[-1:] or last
    if last != "\n" and not plain:
        print()
