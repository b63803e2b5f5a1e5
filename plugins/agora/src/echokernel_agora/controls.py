"""What the router says to a connection besides relayed frames, as a session reads it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw

from echokernel import EchoError, HandlerError, InvalidArgument, Overloaded, PermissionDenied
from echokernel_agora.crossing import AgentEntry, AgentPage, Notice
from echokernel_protocol.codes import Code

__all__ = ["Control", "entry", "page", "problem", "read_control"]


class Listed(msgspec.Struct):
    """An agent's record."""

    id: str
    name: str
    registered_at: str
    endpoint: str | None = None
    capabilities: list[str] = []
    card: Raw = Raw()
    state: str | None = None
    transport: str | None = None


class Control(msgspec.Struct, rename={"from_": "from"}):
    """Any of these frames, with the fields that it has."""

    type: str
    code: str = ""
    message: str = ""
    to: str | None = None
    from_: str | None = None
    stream_id: str | None = None
    id: str | None = None
    request_id: str | int | None = None
    retry_ms: int | None = None
    status: str = ""
    credit: int | None = None
    features: list[str] = []
    bytes: int = 0
    reply: bool = False
    agents: list[Listed] = []
    cursor: str | None = None
    event: str = ""
    agent: Listed | None = None


_decode = msgspec.json.Decoder(Control).decode


def read_control(frame: bytes) -> Control:
    """Return a frame of the router's."""
    try:
        return _decode(frame)
    except msgspec.DecodeError:  # half a surrogate pair in a card
        return msgspec.convert(_with_cards(json.loads(frame)), Control)


def _with_cards(fields: Any) -> Any:
    for record in (*fields.get("agents", ()), *filter(None, [fields.get("agent")])):
        if "card" in record:
            record["card"] = Raw(json.dumps(record["card"], separators=(",", ":")).encode())
    return fields


def entry(record: Listed) -> AgentEntry:
    """Return an agent's record as it crosses."""
    return AgentEntry(
        record.id,
        record.name,
        record.endpoint,
        record.registered_at,
        record.capabilities,
        bytes(record.card) if record.card else None,
        record.state,
        record.transport,
    )


def page(control: Control) -> AgentPage:
    """Return the answer to ``list``."""
    return AgentPage([entry(record) for record in control.agents], control.cursor)


def notice(control: Control) -> Notice:
    """Return an error for a session that waits for nothing."""
    return Notice(
        control.code,
        control.message,
        control.to,
        control.from_,
        control.stream_id,
        control.id,
        None if control.request_id is None else msgspec.json.encode(control.request_id),
        control.retry_ms,
    )


_ERRORS: dict[str, tuple[type[EchoError], Code]] = {
    "bad_request": (InvalidArgument, Code.INVALID_ARGUMENT),
    "too_large": (InvalidArgument, Code.INVALID_ARGUMENT),
    "forbidden": (PermissionDenied, Code.PERMISSION_DENIED),
    "not_registered": (HandlerError, Code.FAILED_PRECONDITION),
    "already_registered": (HandlerError, Code.FAILED_PRECONDITION),
    "no_such_agent": (HandlerError, Code.NOT_FOUND),
    "no_such_stream": (HandlerError, Code.NOT_FOUND),
    "id_in_use": (HandlerError, Code.ALREADY_EXISTS),
    "stream_exists": (HandlerError, Code.ALREADY_EXISTS),
    "receiver_gone": (HandlerError, Code.ABORTED),
    "stream_stopped": (HandlerError, Code.ABORTED),
    "stream_idle": (HandlerError, Code.ABORTED),
    "loop": (HandlerError, Code.ABORTED),
    "receiver_slow": (Overloaded, Code.RESOURCE_EXHAUSTED),
    "rate_limited": (Overloaded, Code.RESOURCE_EXHAUSTED),
    "too_many_streams": (Overloaded, Code.RESOURCE_EXHAUSTED),
    "credit_exceeded": (Overloaded, Code.RESOURCE_EXHAUSTED),
}
"""Codes of the router: what a session's request raises. ``docs/guide/agora-bridge.md`` has the table."""


def problem(control: Control) -> EchoError:
    """Return what a request raises; the details are a JSON object with the router's own code and what it was about."""
    kind, code = _ERRORS.get(control.code, (HandlerError, Code.UNKNOWN))
    about = {name: getattr(control, name) for name in ("to", "stream_id", "id", "request_id", "retry_ms")}
    about = {"code": control.code, "message": control.message, **about}
    details = msgspec.json.encode({name: value for name, value in about.items() if value is not None})
    return kind(f"{control.code}: {control.message}", code=code, details=details)
