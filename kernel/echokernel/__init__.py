"""echokernel: a microkernel for real-time messaging between Python programs.

Everything public can be imported from here. It is loaded when it is first used, so that ``echokernel --help`` and a
plugin that needs one name do not pay for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echokernel.addresses import Address
    from echokernel.calling import Caller
    from echokernel.client import ClientBuilder, ClientPlugin, EchoClient
    from echokernel.clock import Clock, OneWay, Playout, TimeInterval
    from echokernel.context import ClientContext, ServerContext
    from echokernel.discovery import Advertiser, Advertising, Discovery, ServiceEvent, ServiceInfo
    from echokernel.engine.broadcast import BroadcastPolicy
    from echokernel.errors import (
        ClockUnavailable,
        ConfigError,
        ConnectionClosed,
        EchoError,
        HandlerError,
        InvalidArgument,
        MethodNotFound,
        OutcomeUnknown,
        Overloaded,
        PermissionDenied,
        PluginError,
        ProtocolError,
        RequestCancelled,
        RequestTimeout,
        SerializationError,
        StreamClosed,
        StreamReset,
        StreamStopped,
        TransportError,
        Unauthenticated,
    )
    from echokernel.flows import StreamReceiver, StreamSender
    from echokernel.handlers import EventHandler, RpcHandler, StreamHandler, event, rpc, stream
    from echokernel.hookspecs import hookimpl
    from echokernel.limits import Limits
    from echokernel.metadata import current_metadata, current_trailers, time_left
    from echokernel.middleware import Middleware
    from echokernel.reconnect import ReconnectPolicy
    from echokernel.registry import Registry
    from echokernel.serializer import Codec, Serializer
    from echokernel.server import EchoServer, ServerBuilder, ServerPlugin
    from echokernel.session import Session, SessionId, SessionInfo
    from echokernel.streaming import StreamingCall
    from echokernel.transport import Connection, Listener, PeerIdentity, RecvStream, SendStream, Transport
    from echokernel.types import F32, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128, Char, Length, USize
    from echokernel_protocol.describe import (
        Description,
        Health,
        HealthStatus,
        MethodDescription,
        MethodKind,
        PluginDescription,
    )
    from echokernel_protocol.frames import Frame, Header, MessageType
    from echokernel_protocol.timestamped import Timestamped

__version__ = "0.1.0"

__all__ = [
    "F32",
    "I8",
    "I16",
    "I32",
    "I64",
    "I128",
    "U8",
    "U16",
    "U32",
    "U64",
    "U128",
    "Address",
    "Advertiser",
    "Advertising",
    "BroadcastPolicy",
    "Caller",
    "Char",
    "ClientBuilder",
    "ClientContext",
    "ClientPlugin",
    "Clock",
    "ClockUnavailable",
    "Codec",
    "ConfigError",
    "Connection",
    "ConnectionClosed",
    "Description",
    "Discovery",
    "EchoClient",
    "EchoError",
    "EchoServer",
    "EventHandler",
    "Frame",
    "HandlerError",
    "Header",
    "Health",
    "HealthStatus",
    "InvalidArgument",
    "Length",
    "Limits",
    "Listener",
    "MessageType",
    "MethodDescription",
    "MethodKind",
    "MethodNotFound",
    "Middleware",
    "OneWay",
    "OutcomeUnknown",
    "Overloaded",
    "PeerIdentity",
    "PermissionDenied",
    "Playout",
    "PluginDescription",
    "PluginError",
    "ProtocolError",
    "ReconnectPolicy",
    "RecvStream",
    "Registry",
    "RequestCancelled",
    "RequestTimeout",
    "RpcHandler",
    "SendStream",
    "SerializationError",
    "Serializer",
    "ServerBuilder",
    "ServerContext",
    "ServerPlugin",
    "ServiceEvent",
    "ServiceInfo",
    "Session",
    "SessionId",
    "SessionInfo",
    "StreamClosed",
    "StreamHandler",
    "StreamReceiver",
    "StreamReset",
    "StreamSender",
    "StreamStopped",
    "StreamingCall",
    "TimeInterval",
    "Timestamped",
    "Transport",
    "TransportError",
    "USize",
    "Unauthenticated",
    "current_metadata",
    "current_trailers",
    "event",
    "hookimpl",
    "rpc",
    "stream",
    "time_left",
]

_MODULES = {
    "echokernel.addresses": "Address",
    "echokernel.calling": "Caller",
    "echokernel.client": "ClientBuilder ClientPlugin EchoClient",
    "echokernel.clock": "Clock OneWay Playout TimeInterval",
    "echokernel.context": "ClientContext ServerContext",
    "echokernel.discovery": "Advertiser Advertising Discovery ServiceEvent ServiceInfo",
    "echokernel.engine.broadcast": "BroadcastPolicy",
    "echokernel.errors": (
        "ClockUnavailable ConfigError ConnectionClosed EchoError HandlerError InvalidArgument MethodNotFound OutcomeUnknown "
        "Overloaded PermissionDenied PluginError ProtocolError RequestCancelled RequestTimeout SerializationError StreamClosed "
        "StreamReset StreamStopped TransportError Unauthenticated"
    ),
    "echokernel.flows": "StreamReceiver StreamSender",
    "echokernel.handlers": "EventHandler RpcHandler StreamHandler event rpc stream",
    "echokernel.hookspecs": "hookimpl",
    "echokernel.limits": "Limits",
    "echokernel.metadata": "current_metadata current_trailers time_left",
    "echokernel.middleware": "Middleware",
    "echokernel.reconnect": "ReconnectPolicy",
    "echokernel.registry": "Registry",
    "echokernel.serializer": "Codec Serializer",
    "echokernel.server": "EchoServer ServerBuilder ServerPlugin",
    "echokernel.session": "Session SessionId SessionInfo",
    "echokernel.streaming": "StreamingCall",
    "echokernel.transport": "Connection Listener PeerIdentity RecvStream SendStream Transport",
    "echokernel.types": "Char F32 I128 I16 I32 I64 I8 Length U128 U16 U32 U64 U8 USize",
    "echokernel_protocol.describe": ("Description Health HealthStatus MethodDescription MethodKind PluginDescription"),
    "echokernel_protocol.frames": "Frame Header MessageType",
    "echokernel_protocol.timestamped": "Timestamped",
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
