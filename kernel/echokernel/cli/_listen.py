"""Connect to a running node and print the events that it sends, one per line: time, name, payload as JSON.

  echokernel listen quic://127.0.0.1:4433 chat.message --call chat.join '"lobby"'
  echokernel listen quic://127.0.0.1:4433 tick tock --count 10 --json

Ends with Ctrl-C or after --count events, with exit code 0; with 1 when the node goes away before.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from echokernel.cli import DONE, USAGE, fail
from echokernel.cli._asking import Asking, add_asking_arguments, while_asking
from echokernel.cli._client import WrongUsage, add_client_arguments, with_client
from echokernel.errors import SerializationError

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

    from echokernel.client import ClientBuilder, EchoClient
    from echokernel.session import Session

WAITING = 256  # events that wait to be printed; further ones wait at the node

_Event = tuple[float, str, Any]
"""When it came (seconds since 1970), its name, its payload."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.set_defaults(reads_anything=True)
    parser.add_argument("events", nargs="+", metavar="EVENT", help="names of the events")
    parser.add_argument("-n", "--count", type=int, metavar="N", help="end after so many events")
    add_asking_arguments(parser, "first, to subscribe")
    parser.add_argument("--json", action="store_true", help='one {"time": …, "event": …, "payload": …} per line')


def run(arguments: argparse.Namespace) -> int:
    import anyio

    if arguments.count is not None and arguments.count < 1:
        return fail(f"--count: {arguments.count} is no number of events to wait for", USAGE)
    try:
        asking = Asking(arguments)
    except WrongUsage as error:
        return fail(str(error), USAGE)
    send, receive = anyio.create_memory_object_stream[_Event](WAITING)

    def extend(builder: ClientBuilder) -> None:
        for name in dict.fromkeys(arguments.events):
            builder.add_event(_Taker(name, send.send))
        builder.on_disconnect(lambda context: send.close())

    async def use(client: EchoClient) -> int:
        await while_asking(asking, client, functools.partial(_print, client, receive, arguments))
        return DONE

    with send, receive:
        try:
            return with_client(arguments, use, extend)
        except KeyboardInterrupt:
            return DONE


class _Taker:
    """Takes events of one name, whatever they hold."""

    def __init__(self, name: str, put: Callable[[_Event], Awaitable[None]]) -> None:
        self.name = name
        self._put = put

    async def handle(self, session: Session, payload: bytes) -> None:
        try:
            value = session.serializer.codec(Any).decode(payload)
        except SerializationError:  # postcard, where the node speaks nothing else: its bytes do not say what they are
            value = payload.hex()
        await self._put((time.time(), self.name, value))


async def _print(client: EchoClient, events: MemoryObjectReceiveStream[_Event], arguments: argparse.Namespace) -> None:
    """Print events until there were enough. Raises the reason when the session ends before."""
    printed = 0
    async for event in events:
        print(line(event, as_json=arguments.json), flush=True)
        printed += 1
        if printed == arguments.count:
            return
    if client.session.closed is not None:
        raise client.session.closed


def line(event: _Event, *, as_json: bool) -> str:
    """Return how an event is printed."""
    from echokernel.cli._output import harmless, to_json

    when, name, payload = event
    if as_json:
        return to_json({"time": round(when, 6), "event": name, "payload": payload})
    clock = datetime.fromtimestamp(when).isoformat(sep=" ", timespec="milliseconds")
    return harmless(f"{clock}  {name}  {to_json(payload)}")
