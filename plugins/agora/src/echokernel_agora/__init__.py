"""A WebSocket router for AI agents, bridged to the sessions of the node; and clients for agents in Python.

What is public is imported from here, and loaded when it is first used: the command line asks every plugin for its hooks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echokernel_agora.access import Token
    from echokernel_agora.agent import AgoraAgent
    from echokernel_agora.agents import Outlet, Peer
    from echokernel_agora.bridge import AgoraBridge
    from echokernel_agora.client import AgoraClient
    from echokernel_agora.errors import (
        AgoraError,
        AlreadyRegistered,
        BadRequest,
        ConnectionLost,
        CreditExceeded,
        Forbidden,
        IdInUse,
        Loop,
        NoSuchAgent,
        NoSuchStream,
        NotRegistered,
        RateLimited,
        ReceiverGone,
        ReceiverSlow,
        Replaced,
        SenderGone,
        StreamAborted,
        StreamExists,
        StreamIdle,
        StreamRefused,
        TooLarge,
        TooManyStreams,
    )
    from echokernel_agora.limits import Limits
    from echokernel_agora.messages import ChunkStream, Message, MessageStream, PresenceEvent, PresenceStream
    from echokernel_agora.principal import Principal
    from echokernel_agora.router import Router
    from echokernel_agora.server import AgoraServer
    from echokernel_agora.service import AgoraService

__all__ = [
    "AgoraAgent",
    "AgoraBridge",
    "AgoraClient",
    "AgoraError",
    "AgoraServer",
    "AgoraService",
    "AlreadyRegistered",
    "BadRequest",
    "ChunkStream",
    "ConnectionLost",
    "CreditExceeded",
    "Forbidden",
    "IdInUse",
    "Limits",
    "Loop",
    "Message",
    "MessageStream",
    "NoSuchAgent",
    "NoSuchStream",
    "NotRegistered",
    "Outlet",
    "Peer",
    "PresenceEvent",
    "PresenceStream",
    "Principal",
    "RateLimited",
    "ReceiverGone",
    "ReceiverSlow",
    "Replaced",
    "Router",
    "SenderGone",
    "StreamAborted",
    "StreamExists",
    "StreamIdle",
    "StreamRefused",
    "Token",
    "TooLarge",
    "TooManyStreams",
]

_MODULES = {
    "echokernel_agora.access": "Token",
    "echokernel_agora.agent": "AgoraAgent",
    "echokernel_agora.agents": "Outlet Peer",
    "echokernel_agora.bridge": "AgoraBridge",
    "echokernel_agora.client": "AgoraClient",
    "echokernel_agora.errors": (
        "AgoraError AlreadyRegistered BadRequest ConnectionLost CreditExceeded Forbidden "
        "IdInUse Loop NoSuchAgent NoSuchStream NotRegistered RateLimited "
        "ReceiverGone ReceiverSlow Replaced SenderGone StreamAborted StreamExists "
        "StreamIdle StreamRefused TooLarge TooManyStreams"
    ),
    "echokernel_agora.limits": "Limits",
    "echokernel_agora.messages": "ChunkStream Message MessageStream PresenceEvent PresenceStream",
    "echokernel_agora.principal": "Principal",
    "echokernel_agora.router": "Router",
    "echokernel_agora.server": "AgoraServer",
    "echokernel_agora.service": "AgoraService",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
