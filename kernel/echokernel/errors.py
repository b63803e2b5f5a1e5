"""Every exception of echokernel: one tree below :class:`EchoError`.

::

    EchoError
    ├── SerializationError    a value does not fit its type, or bytes are not what they should be
    ├── ProtocolError         the peer broke a rule of the wire; its connection was closed
    ├── InvalidArgument       the caller's mistake: wrong arguments, a value over a limit
    ├── MethodNotFound        the peer has no such method
    ├── RequestTimeout        the deadline passed
    ├── RequestCancelled      the caller or the peer gave up
    ├── HandlerError          the remote handler failed
    ├── Unauthenticated       the peer does not know who we are
    ├── PermissionDenied      the peer knows, and refuses
    ├── Overloaded            a limit of the peer was reached; try later
    ├── TransportError        the network failed
    │   └── ConnectionClosed  this connection is over
    │       ├── OutcomeUnknown     and a request had left: it may or may not have run
    │       └── StreamClosed       this stream is over; the connection may go on
    │           ├── StreamReset    the peer gave up sending
    │           └── StreamStopped  the peer gave up receiving
    ├── ClockUnavailable      there is no shared time
    ├── ConfigError           the configuration is wrong
    └── PluginError           a plugin is missing, broken or in conflict
"""

from __future__ import annotations

from typing import ClassVar

from echokernel_protocol.codes import Code, code_name


class EchoError(Exception):
    """Base of all errors.

    ``code`` is the wire's number for it (:class:`echokernel_protocol.codes.Code`, or any number of a plugin or application);
    ``details`` are bytes that the peer's handler attached. ``retryable`` says whether trying again, unchanged, can help.
    """

    code: int = Code.UNKNOWN
    retryable: bool = False
    default_code: ClassVar[int] = Code.UNKNOWN
    default_retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, code: int | None = None, retryable: bool | None = None, details: bytes | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.details = details

    def __str__(self) -> str:
        return self.message


class SerializationError(EchoError):
    """A value could not be turned into bytes, or bytes into the value that was wanted."""

    default_code = Code.SERIALIZATION


class ProtocolError(EchoError):
    """The peer broke a rule of the wire. Its connection was closed; no other session notices."""

    default_code = Code.PROTOCOL_ERROR


class InvalidArgument(EchoError):
    """What the caller passed cannot be right, here or at the peer; trying again does not help."""

    default_code = Code.INVALID_ARGUMENT


class MethodNotFound(EchoError):
    """The peer has no method of that name and kind."""

    default_code = Code.UNIMPLEMENTED


class RequestTimeout(EchoError):
    """The request's deadline passed; the remote handler was told to stop."""

    default_code = Code.DEADLINE_EXCEEDED
    default_retryable = True


class RequestCancelled(EchoError):
    """The request was given up by its caller, or by the peer."""

    default_code = Code.CANCELLED


class HandlerError(EchoError):
    """The remote handler failed. ``code`` is what it chose, :attr:`Code.INTERNAL` where it chose nothing."""

    default_code = Code.INTERNAL


class Unauthenticated(EchoError):
    """The peer did not accept our credentials; nothing was run."""

    default_code = Code.UNAUTHENTICATED


class PermissionDenied(EchoError):
    """The peer knows who we are and does not allow this."""

    default_code = Code.PERMISSION_DENIED


class Overloaded(EchoError):
    """A limit was reached at the peer or here; nothing was run, and a later try can succeed."""

    default_code = Code.RESOURCE_EXHAUSTED
    default_retryable = True


class TransportError(EchoError):
    """The network, or the way to it, failed: nobody answers, a port is in use, a certificate is not trusted."""

    default_code = Code.UNAVAILABLE
    default_retryable = True


_UNWANTED = (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.INCOMPATIBLE)


class ConnectionClosed(TransportError):
    """The connection is over. ``code`` and ``reason`` are those of the close; ``by_peer`` says who ended it.

    Trying again can help, unless the peer said with its code that it does not want us.
    """

    default_code = Code.UNAVAILABLE

    def __init__(
        self,
        message: str = "",
        *,
        code: int = Code.UNAVAILABLE,
        reason: str = "",
        by_peer: bool = False,
        retryable: bool | None = None,
    ) -> None:
        if retryable is None:
            retryable = not (by_peer and code in _UNWANTED)
        if not message:
            who = "the peer" if by_peer else "this side"
            message = f"connection closed by {who} ({code_name(code)})" + (f": {reason}" if reason else "")
        super().__init__(message, code=code, retryable=retryable)
        self.reason = reason
        self.by_peer = by_peer


class OutcomeUnknown(ConnectionClosed):
    """The connection was lost after the request had left: the handler may or may not have run."""

    def __init__(self, method: str, cause: ConnectionClosed) -> None:
        super().__init__(
            f"{method}: the connection was lost before the answer came, so it may or may not have run ({cause})",
            code=Code.OUTCOME_UNKNOWN,
            reason=cause.reason,
            by_peer=cause.by_peer,
            retryable=False,
        )


class StreamClosed(ConnectionClosed):
    """This stream is over; its connection may well go on."""


class StreamReset(StreamClosed):
    """The peer gave up sending on this stream; what was read so far is not the whole."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message or f"the peer reset the stream ({code_name(code)})", code=code, by_peer=True)


class StreamStopped(StreamClosed):
    """The peer gave up receiving on this stream; what was written may not have been read."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the peer stopped reading the stream ({code_name(code)})", code=code, by_peer=True)


class ClockUnavailable(EchoError):
    """There is no shared time: no clock plugin here, or none at the peer, or it is not synchronised yet."""

    default_code = Code.FAILED_PRECONDITION


class ConfigError(EchoError):
    """The configuration is wrong; the message has one line for each mistake."""

    default_code = Code.FAILED_PRECONDITION


class PluginError(EchoError):
    """A plugin is missing, broken, or in conflict with another one."""

    default_code = Code.FAILED_PRECONDITION


_BY_CODE: dict[int, type[EchoError]] = {
    Code.CANCELLED: RequestCancelled,
    Code.INVALID_ARGUMENT: InvalidArgument,
    Code.DEADLINE_EXCEEDED: RequestTimeout,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.RESOURCE_EXHAUSTED: Overloaded,
    Code.UNIMPLEMENTED: MethodNotFound,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.PROTOCOL_ERROR: ProtocolError,
    Code.LIMIT_EXCEEDED: ProtocolError,
    Code.INCOMPATIBLE: ProtocolError,
    Code.SERIALIZATION: SerializationError,
}


def error_from_code(code: int, message: str, details: bytes | None = None) -> EchoError:
    """Return the exception for what a peer sent; a code without one of its own is a HandlerError that keeps it."""
    if code in (Code.UNAVAILABLE, Code.GOING_AWAY):
        return ConnectionClosed(message, code=code, by_peer=True)
    return _BY_CODE.get(code, HandlerError)(message, code=code, details=details)
