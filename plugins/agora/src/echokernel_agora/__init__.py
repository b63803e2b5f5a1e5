"""A WebSocket router for AI agents, bridged to the sessions of the node; and a client for agents in Python."""

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
