"""What crosses the bridge between the router and a session: messages as values, payloads and chunks as JSON texts.

A payload is never decoded on its way: it is ``bytes``, the JSON text as its sender wrote it. So is a chunk, a JSON string; a
JSON object in its place is the error that ends a stream before its end: ``{"code": "…", "message": "…"}``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from json.decoder import JSONDecoder
from typing import NoReturn

import msgspec
from msgspec import Raw

from echokernel import InvalidArgument, event, rpc

__all__ = [
    "AgentEntry",
    "AgentPage",
    "Closed",
    "Incoming",
    "ListQuery",
    "Notice",
    "Outgoing",
    "PresenceChange",
    "Registered",
    "Registration",
]


@dataclass(frozen=True, slots=True)
class Registration:
    """Who a session is. Again with the same id, it changes the rest."""

    id: str
    name: str
    endpoint: str | None = None
    capabilities: list[str] = field(default_factory=list)
    card: bytes | None = None
    """A JSON object that describes the agent."""
    watch: bool = False
    """Whether the session hears who comes and goes: events ``agora.presence``."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer."""

    id: str
    max_frame: int
    """The longest message or chunk that others can get, in bytes, as the frame that the router makes of it."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which agents, and how many of them."""

    limit: int | None = None
    cursor: str | None = None
    capability: str | None = None
    card: bool = False


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """One agent. ``transport`` and ``state`` are set where they are not ``ws`` and online."""

    id: str
    name: str
    endpoint: str | None
    registered_at: str
    capabilities: list[str]
    card: bytes | None
    state: str | None
    transport: str | None


@dataclass(frozen=True, slots=True)
class AgentPage:
    """Agents, the longest registered first; ``cursor`` asks for the next page, None behind the last one."""

    agents: list[AgentEntry]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message or reply to another agent, or the start of a stream of chunks."""

    to: str
    payload: bytes | None = None
    stream_id: str | None = None
    id: str | None = None
    request_id: bytes | None = None
    """JSON, a string or an integer, as ``b'"r1"'``."""
    hops: int | None = None
    reply: bool = False
    """Whether it answers something that came from there."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message or reply from another agent, or the start of its stream."""

    sender: str
    reply: bool
    payload: bytes | None
    stream_id: str | None
    id: str | None
    request_id: bytes | None
    hops: int | None


@dataclass(frozen=True, slots=True)
class Notice:
    """An error that no request waits for: of a message that was sent as an event, say."""

    code: str
    message: str
    to: str | None
    sender: str | None
    stream_id: str | None
    id: str | None
    request_id: bytes | None
    retry_ms: int | None


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """An agent came, changed, was lost or went: ``online``, ``changed``, ``offline``, ``gone``."""

    event: str
    agent: AgentEntry


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is no agent any more, with the meaning of a WebSocket's close code: 4409 replaced, 1013 slow, 1008 policy."""

    code: int
    reason: str


# What a session handles; it may have none of them. These are for the types: the node calls the peer's own.


@event("agora.message")
async def on_message(message: Incoming) -> None:
    """A message or reply of its own."""
    raise NotImplementedError


@rpc("agora.incoming")
async def on_stream(start: Incoming, chunks: AsyncIterator[bytes]) -> None:
    """A stream. Returning early, or raising, stops it: its sender is told."""
    raise NotImplementedError


@event("agora.error")
async def on_error(notice: Notice) -> None:
    """What became of something that was sent."""
    raise NotImplementedError


@event("agora.presence")
async def on_presence(change: PresenceChange) -> None:
    """Who comes and goes, for whoever asked."""
    raise NotImplementedError


@event("agora.closed")
async def on_closed(closed: Closed) -> None:
    """The end of the registration."""
    raise NotImplementedError


# --- texts -----------------------------------------------------------------------------------------------------------


def checked(text: bytes, what: str) -> bytes:
    """Return one JSON value's text as it is. Raises InvalidArgument for what is none, or more than one."""
    try:
        whole = text.decode()  # the router takes UTF-8 for granted
        try:
            msgspec.json.decode(text, type=Raw)
        except msgspec.DecodeError:
            _SCANNER.decode(whole)  # half a surrogate pair is JSON, too
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{what} is not JSON: {error}; wanted the text of one value, as b'{{\"a\": 1}}'"
        ) from None
    return text


class Reason(msgspec.Struct):
    """Why a stream ended before its end."""

    code: str
    message: str | None = None


_reason = msgspec.json.Decoder(Reason).decode


def checked_chunk(text: bytes) -> bytes:
    """Return a chunk, or the error that ends a stream. Raises InvalidArgument."""
    if text[:1] == b'"':
        return checked(text, "a chunk")
    try:
        _reason(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidArgument(
            f"a chunk is {text[:40]!r}; wanted the text of a JSON string, as b'\"word\"', or of an object with `code`"
        ) from None
    return text


def json_text(value: object, what: str = "the payload") -> bytes:
    """Return a value as JSON. Raises InvalidArgument."""
    if isinstance(value, Raw):
        return checked(bytes(value), what)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        try:
            return text.encode()
        except UnicodeEncodeError:  # half a surrogate pair travels as an escape
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} has no JSON: {error}; wanted dict, list, str, numbers, bool or None") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_SCANNER = JSONDecoder(parse_constant=_no_constant)
