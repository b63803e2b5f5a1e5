"""echokernel: a microkernel for real-time messaging between Python programs."""

from echokernel.addresses import Address
from echokernel.client import ClientBuilder, ClientPlugin, EchoClient
from echokernel.context import ClientContext, ServerContext
from echokernel.discovery import Advertiser, Discovery, ServiceInfo
from echokernel.errors import (
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
from echokernel.middleware import Middleware
from echokernel.reconnect import ReconnectPolicy
from echokernel.registry import Registry
from echokernel.serializer import Codec, Serializer
from echokernel.server import EchoServer, ServerBuilder, ServerPlugin
from echokernel.session import Session, SessionId, SessionInfo
from echokernel.transport import Connection, Listener, PeerIdentity, RecvStream, SendStream, Transport
from echokernel_protocol.frames import Frame, Header, MessageType
from echokernel_protocol.timestamped import Timestamped

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Advertiser",
    "ClientBuilder",
    "ClientContext",
    "ClientPlugin",
    "Codec",
    "ConfigError",
    "Connection",
    "ConnectionClosed",
    "Discovery",
    "EchoClient",
    "EchoError",
    "EchoServer",
    "EventHandler",
    "Frame",
    "HandlerError",
    "Header",
    "InvalidArgument",
    "Limits",
    "Listener",
    "MessageType",
    "MethodNotFound",
    "Middleware",
    "OutcomeUnknown",
    "Overloaded",
    "PeerIdentity",
    "PermissionDenied",
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
    "Timestamped",
    "Transport",
    "TransportError",
    "Unauthenticated",
    "event",
    "hookimpl",
    "rpc",
    "stream",
]
