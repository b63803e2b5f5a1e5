"""Asking a router without being an agent."""

from __future__ import annotations

import ssl

import anyio
import msgspec
from pydantic import TypeAdapter

from echokernel import RequestTimeout, TransportError
from echokernel.tasks import open_tasks
from echokernel_agora.conversation import Conversation, encoded
from echokernel_agora.link import Link, LinkClosed, parse_url
from echokernel_protocol.agora import RouterRecord

__all__ = ["list_agents"]

_RECORDS = TypeAdapter(list[RouterRecord])


async def list_agents(
    url: str,
    *,
    token: str | None = None,
    capability: str | None = None,
    cards: bool = False,
    timeout: float = 10.0,
    context: ssl.SSLContext | None = None,
) -> list[RouterRecord]:
    """Return who is registered, the oldest first, without registering anybody; all pages, within ``timeout`` seconds.

    Raises InvalidArgument, RequestTimeout, TransportError, Unauthenticated, PermissionDenied, AgoraError.
    """
    uri, records = parse_url(url), list[RouterRecord]()
    reader = Conversation({})
    fields = {"type": "list", "id": "l-1", "capability": capability, "card": cards or None}
    async with open_tasks() as tasks:
        with anyio.move_on_after(timeout):
            link = await Link.open(uri, tasks, token=token, context=context)
            try:
                while True:
                    link.write(encoded(fields))
                    page = None
                    while page is None:
                        for text in await link.receive():
                            got = reader.receive(text)
                            if got is not None and got.type == "error":
                                raise got.as_error()
                            page = got if got is not None and got.type == "agents" else page
                    records += _RECORDS.validate_json(bytes(msgspec.Raw(page.agents)))
                    if page.cursor is None:
                        break
                    fields["cursor"] = page.cursor
                written = anyio.Event()
                link.on_room = written.set
                link.say_goodbye()
                with anyio.move_on_after(1.0):
                    await written.wait()
                return records
            except LinkClosed as closed:
                raise TransportError(f"{uri.host}:{uri.port} closed the connection: {closed}") from closed
            finally:
                await link.release()
    raise RequestTimeout(f"{uri.host}:{uri.port} did not list its agents within {timeout:g} s")
