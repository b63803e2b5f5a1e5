"""Send a file to a running node as a stream, or receive a stream from it into a file. `-` is stdin, or stdout.

  echokernel stream quic://127.0.0.1:4433 upload --send video.mp4
  tar c photos | echokernel stream quic://127.0.0.1:4433 backup --send -
  echokernel stream quic://127.0.0.1:4433 download --receive video.mp4 --call files.get '"video.mp4"'

Sending succeeds when the node's handler has taken every frame. A received file appears under its name when it is complete:
a transfer that is cut leaves none. Exit code 1: cut, refused, or not all of it taken.
"""

from __future__ import annotations

import argparse
import functools
import sys
from typing import TYPE_CHECKING, Any

from echokernel.cli import DONE, FAILED, USAGE, fail
from echokernel.cli._asking import Asking, add_asking_arguments, while_asking
from echokernel.cli._client import WrongUsage, add_client_arguments, with_client

if TYPE_CHECKING:
    import anyio

    from echokernel.cli._files import Source, Target
    from echokernel.cli._progress import Progress
    from echokernel.client import ClientBuilder, EchoClient
    from echokernel.flows import StreamReceiver, StreamSender

CHUNK = 65_536


def configure(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.add_argument("name", metavar="NAME", help="name of the stream")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--send", metavar="FILE", help="send this file; -: stdin")
    way.add_argument("--receive", metavar="FILE", help="write what the node sends; -: stdout")
    parser.add_argument("--chunk", type=int, default=CHUNK, metavar="BYTES", help=f"most bytes of a frame ({CHUNK})")
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")
    parser.add_argument(
        "--timeout",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds to wait for the node: until it has taken all, or opens the stream; 0: for ever (default)",
    )
    add_asking_arguments(parser, "to be sent the stream")
    parser.add_argument("--json", action="store_true", help="the result as JSON; on stderr with --receive -")


def run(arguments: argparse.Namespace) -> int:
    try:
        if not 0 <= arguments.timeout < float("inf"):
            raise WrongUsage(f"--timeout: {arguments.timeout:g} is not a number of seconds; 0 is no limit")
        if arguments.chunk < 1:
            raise WrongUsage(f"--chunk: {arguments.chunk} is no number of bytes")
        return _send(arguments) if arguments.send is not None else _receive(arguments)
    except WrongUsage as error:
        return fail(str(error), USAGE)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        return fail(f"{arguments.send or arguments.receive}: {error.strerror or error}", FAILED)


# --- sending ----------------------------------------------------------------------------------------------------------


def _send(arguments: argparse.Namespace) -> int:
    from echokernel.cli._files import Source
    from echokernel.cli._progress import Progress

    if arguments.call or arguments.emit:
        raise WrongUsage("--call and --emit are for --receive; use echokernel call, echokernel emit")
    source = Source(arguments.send)
    progress = Progress(source.total)

    async def use(client: EchoClient) -> int:
        progress.start()
        async with await client.create_stream(arguments.name) as sender:
            await _pour(source, sender, min(arguments.chunk, client.session.peer.max_frame), progress)
        taken = await _taken(sender, arguments.timeout)
        progress.clear()
        if taken is not None and taken < sender.sent:
            return fail(f"the node took {taken} of {sender.sent} frames, and wanted no more", FAILED)
        _report(arguments, progress, "sent", sys.stdout, taken=taken)
        return DONE

    try:
        return with_client(arguments, use)
    finally:
        progress.clear()
        source.close()


async def _pour(source: Source, sender: StreamSender, chunk: int, progress: Progress) -> None:
    while data := await source.read(chunk):
        await sender.send(data)
        progress.add(len(data))


async def _taken(sender: StreamSender, timeout: float) -> int | None:
    """Return how many frames the node took; None where it cannot say."""
    from echokernel.errors import MethodNotFound
    from echokernel_protocol.describe import TAKEN

    try:
        return await sender.wait_taken(timeout)
    except MethodNotFound as error:
        if TAKEN not in str(error):
            raise  # the stream is what there is none of
        print("the node does not say what it took; the stream was sent as a whole", file=sys.stderr)
        return None


# --- receiving --------------------------------------------------------------------------------------------------------


class _Incoming:
    """The stream that the node opens, from the handler that gets it to the command that wants it."""

    def __init__(self, over: anyio.Event, here: anyio.Event) -> None:
        self.over, self.here = over, here
        self.stream: StreamReceiver | None = None

    async def take(self, stream: StreamReceiver) -> None:
        if self.stream is None:
            self.stream = stream
            self.here.set()
            await self.over.wait()  # a stream ends with its handler; another one of the name is turned away


def _receive(arguments: argparse.Namespace) -> int:
    import anyio

    from echokernel.cli._files import Target

    asking = Asking(arguments)
    incoming = _Incoming(anyio.Event(), anyio.Event())
    target = Target(arguments.receive, force=arguments.force)

    def extend(builder: ClientBuilder) -> None:
        from echokernel.handlers import stream

        async def take(stream: StreamReceiver) -> None:
            await incoming.take(stream)

        builder.add_stream(stream(arguments.name)(take))
        builder.on_disconnect(lambda context: incoming.here.set())

    async def use(client: EchoClient) -> int:
        try:
            await while_asking(asking, client, functools.partial(_take, client, incoming, target, arguments))
        finally:
            incoming.over.set()
        return DONE

    try:
        return with_client(arguments, use, extend)
    finally:
        target.close()


async def _take(client: EchoClient, incoming: _Incoming, target: Target, arguments: argparse.Namespace) -> None:
    """Wait for the stream and write it. Raises what cuts it."""
    import anyio

    from echokernel.cli._output import size
    from echokernel.cli._progress import Progress
    from echokernel.errors import EchoError, RequestTimeout

    with anyio.move_on_after(arguments.timeout or None):
        await incoming.here.wait()
    stream = incoming.stream
    if stream is None:
        if client.session.closed is not None:
            raise client.session.closed
        raise RequestTimeout(f"the node opened no stream {arguments.name!r} within {arguments.timeout:g} s")
    progress = Progress(None)
    try:
        async for frame in stream:
            await target.write(frame.data)
            progress.add(len(frame.data))
        target.finish()
    except EchoError as error:
        if target.name != "-":
            error.message += f"; {size(progress.done)} had come, and {target.name} was not written"
        raise
    finally:
        progress.clear()
    _report(arguments, progress, "received", sys.stderr if target.name == "-" else sys.stdout)


# --- both -------------------------------------------------------------------------------------------------------------


def _report(arguments: argparse.Namespace, progress: Progress, verb: str, out: Any, **more: int | None) -> None:
    from echokernel.cli._output import count, duration, size, to_json

    seconds = progress.seconds
    rate = progress.done / seconds if seconds else 0.0
    if arguments.json:
        values: dict[str, Any] = {"stream": arguments.name, "bytes": progress.done, "frames": progress.frames, **more}
        print(to_json({**values, "seconds": round(seconds, 6), "bytes_per_second": round(rate)}), file=out)
        return
    print(
        f"{verb} {count(progress.done, 'byte')} in {count(progress.frames, 'frame')}, {duration(seconds)}, {size(rate)}/s",
        file=out,
    )
