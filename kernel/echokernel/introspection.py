"""What a node tells about itself: ``$describe``, ``$health`` and ``$taken``, answered like all other requests.

They are known to every session that has been accepted, stand in no table of handlers, and run through the middleware.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.lowlevel

from echokernel.context import ServerContext
from echokernel.errors import InvalidArgument, Overloaded, PermissionDenied, ProtocolError
from echokernel_protocol.describe import (
    DESCRIBE,
    HEALTH,
    TAKEN,
    DescribeRequest,
    Description,
    Health,
    HealthStatus,
    MethodKind,
    PluginDescription,
    decode_number,
)
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.postcard import encode_varint

if TYPE_CHECKING:
    from echokernel.engine.node import Node
    from echokernel.handlers import Runner
    from echokernel.session import Session

__all__ = ["KERNEL_METHODS", "About", "ask_description", "ask_health", "ask_taken"]

_KINDS = {"rpc": MethodKind.RPC, "event": MethodKind.EVENT, "stream": MethodKind.STREAM}
_MethodKey = tuple[MethodKind, str]
T = TypeVar("T")


@dataclass(slots=True)
class About:
    """What a node knows about itself, beside its handlers."""

    describes: bool = True
    """Whether ``$describe`` is answered."""
    plugins: tuple[PluginDescription, ...] = ()
    started: float = field(default_factory=time.monotonic)
    draining: bool = False
    methods: dict[_MethodKey, tuple[Any, bytes, bytes]] = field(default_factory=dict)
    """By kind and name: the handler that was described, and its description with and without schemas."""


# --- answering --------------------------------------------------------------------------------------------------------


async def _describe(session: Session, payload: bytes) -> bytes:
    node = session._node
    wanted = _decoded(DescribeRequest.decode, payload)
    if not node.about.describes:
        raise PermissionDenied("this node does not describe itself")
    methods = await _methods(node, set(wanted.names), schemas=wanted.schemas)
    from echokernel import __version__

    answer = Description(
        node=node.name,
        version=__version__,
        runtime=f"{_implementation()} {platform.python_version()}",
        serializers=tuple(serializer.name for serializer in node.serializers),
        plugins=node.about.plugins,
    ).join(methods)
    if len(answer) > session.peer.max_message:
        raise Overloaded(
            f"the description of {len(methods)} methods has {len(answer):,} bytes; the caller takes "
            f"{session.peer.max_message:,}. Ask without schemas, or for methods by name.",
            retryable=False,
        )
    return answer


async def _methods(node: Node, names: Collection[str], *, schemas: bool) -> list[bytes]:
    """Return the methods, encoded. One is described when it is asked for first, and again when its handler is another."""
    handlers: dict[_MethodKey, Any] = {
        (_KINDS[kind], name): handler for kind, name, handler in node.methods if not names or name in names
    }
    known = node.about.methods
    new = {key: handler for key, handler in handlers.items() if key not in known or known[key][0] is not handler}
    for key, handler in new.items():
        known[key] = handler, *_describe_one(key, handler)
        await anyio.lowlevel.checkpoint()  # a schema takes up to some milliseconds: others come first
    if len(known) > 2 * len(node.methods) + 64:  # handlers that are gone need no description
        for key in known.keys() - {(_KINDS[kind], name) for kind, name, _ in node.methods}:
            del known[key]
    return [known[key][1 if schemas else 2] for key in sorted(handlers) if key in known]  # one may have gone meanwhile


def _describe_one(key: _MethodKey, handler: Any) -> tuple[bytes, bytes]:
    from echokernel.signatures import describe_handler

    full = describe_handler(*key, handler)
    return full.encode(), replace(full, parameters="", items="", result="").encode()


def _implementation() -> str:
    name = platform.python_implementation()
    return "Python" if name == "CPython" else name


async def _health(session: Session, payload: bytes) -> bytes:
    if payload:
        raise InvalidArgument(f"{HEALTH} takes no payload; got {len(payload)} bytes")
    about, context = session._node.about, session._node.context
    sessions = context.sessions() if isinstance(context, ServerContext) else [session]
    return Health(
        status=HealthStatus.DRAINING if about.draining else HealthStatus.OK,
        uptime_ms=int((time.monotonic() - about.started) * 1000),
        sessions=len(sessions),
        open_requests=max(0, sum(each._channel.open_peer_calls for each in sessions) - 1),
    ).encode()


async def _taken(session: Session, payload: bytes) -> bytes:
    flow_id = _decoded(functools.partial(decode_number, what=f"a {TAKEN} request"), payload)
    return encode_varint(await session._flows.taken_streams.wait(flow_id))


def _decoded(decode: Callable[[bytes], T], payload: bytes) -> T:
    try:
        return decode(payload)
    except ProtocolViolation as violation:
        raise InvalidArgument(f"{violation}; its payload is postcard, slot 0") from None


KERNEL_METHODS: dict[str, tuple[Runner, ...]] = {DESCRIBE: (_describe,), HEALTH: (_health,), TAKEN: (_taken,)}
"""Requests that the kernel answers itself, all of them in slot 0."""


# --- asking -----------------------------------------------------------------------------------------------------------


async def ask_description(
    session: Session, names: Collection[str], *, schemas: bool, timeout: float | None
) -> Description:
    """Ask the peer what it can do; see :meth:`Session.describe`."""
    question = DescribeRequest(tuple(names), schemas).encode()
    return _answer(session, Description.decode, await session._calls.request_raw(DESCRIBE, question, timeout))


async def ask_health(session: Session, timeout: float | None) -> Health:
    """Ask the peer how it is; see :meth:`Session.health`."""
    return _answer(session, Health.decode, await session._calls.request_raw(HEALTH, b"", timeout))


async def ask_taken(session: Session, flow_id: int, timeout: float | None) -> int:
    """Ask how many frames of a stream of ours its receiver took, once it has ended."""
    answer = await session._calls.request_raw(TAKEN, encode_varint(flow_id), timeout)
    return _answer(session, functools.partial(decode_number, what=f"a {TAKEN} answer"), answer)


def _answer(session: Session, decode: Callable[[bytes], T], payload: bytes) -> T:
    try:
        return decode(payload)
    except ProtocolViolation as violation:
        session._violated(violation)
        raise ProtocolError(f"the peer's answer: {violation}", code=violation.code) from None
