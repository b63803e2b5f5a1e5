"""What an :class:`~echokernel_agora.AgoraClient` raises: one class for each code of the router, below :class:`AgoraError`."""

from __future__ import annotations

from typing import ClassVar

from echokernel import EchoError
from echokernel_protocol.codes import Code

__all__ = [
    "AgoraError",
    "AlreadyRegistered",
    "BadRequest",
    "ConnectionLost",
    "CreditExceeded",
    "Forbidden",
    "IdInUse",
    "Loop",
    "NoSuchAgent",
    "NoSuchStream",
    "NotRegistered",
    "RateLimited",
    "ReceiverGone",
    "ReceiverSlow",
    "Replaced",
    "SenderGone",
    "StreamAborted",
    "StreamExists",
    "StreamIdle",
    "StreamRefused",
    "TooLarge",
    "TooManyStreams",
    "error_of",
    "lost",
]


class AgoraError(EchoError):
    """The router, or an agent behind it, refused something. ``reason`` is its code, as ``no_such_agent``.

    ``to``, ``stream_id`` and ``request_id`` say what it was about, where the router said so; ``retry_after`` is in seconds.
    """

    default_reason: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        to: str | None = None,
        stream_id: str | None = None,
        request_id: str | int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.to, self.stream_id, self.request_id, self.retry_after = to, stream_id, request_id, retry_after


class BadRequest(AgoraError):
    """A frame was none that the router understands."""

    default_reason, default_code = "bad_request", Code.INVALID_ARGUMENT


class NotRegistered(AgoraError):
    """The router does not know who sends."""

    default_reason, default_code = "not_registered", Code.FAILED_PRECONDITION


class AlreadyRegistered(AgoraError):
    """The connection belongs to another id."""

    default_reason, default_code = "already_registered", Code.FAILED_PRECONDITION


class IdInUse(AgoraError):
    """Another connection is this agent."""

    default_reason, default_code, default_retryable = "id_in_use", Code.ALREADY_EXISTS, True


class Forbidden(AgoraError):
    """The token does not allow it."""

    default_reason, default_code = "forbidden", Code.PERMISSION_DENIED


class NoSuchAgent(AgoraError):
    """Nobody is registered under this id; nothing was delivered."""

    default_reason, default_code = "no_such_agent", Code.NOT_FOUND


class NoSuchStream(AgoraError):
    """No stream of this id is open."""

    default_reason, default_code = "no_such_stream", Code.NOT_FOUND


class StreamExists(AgoraError):
    """A stream of this id to this agent is open already."""

    default_reason, default_code = "stream_exists", Code.ALREADY_EXISTS


class ReceiverGone(AgoraError):
    """The receiver left before everything had reached it."""

    default_reason, default_code, default_retryable = "receiver_gone", Code.UNAVAILABLE, True


class ReceiverSlow(AgoraError):
    """The receiver reads more slowly than it is sent to, and enough waits for it already."""

    default_reason, default_code, default_retryable = "receiver_slow", Code.RESOURCE_EXHAUSTED, True


class StreamRefused(AgoraError):
    """The receiver does not want the rest of the stream (``stream_stopped``)."""

    default_reason, default_code = "stream_stopped", Code.CANCELLED


class StreamIdle(AgoraError):
    """Nothing was sent on the stream for so long that the router ended it."""

    default_reason, default_code = "stream_idle", Code.DEADLINE_EXCEEDED


class TooManyStreams(AgoraError):
    """More streams than one agent may have open."""

    default_reason, default_code, default_retryable = "too_many_streams", Code.RESOURCE_EXHAUSTED, True


class RateLimited(AgoraError):
    """More frames or bytes per second than the router takes from one agent; ``retry_after`` says when it takes more."""

    default_reason, default_code, default_retryable = "rate_limited", Code.RESOURCE_EXHAUSTED, True


class CreditExceeded(AgoraError):
    """More was sent than there was credit for."""

    default_reason, default_code = "credit_exceeded", Code.RESOURCE_EXHAUSTED


class TooLarge(AgoraError):
    """A frame, a card or a list is larger than the router takes."""

    default_reason, default_code = "too_large", Code.INVALID_ARGUMENT


class Loop(AgoraError):
    """The same agents send each other messages in circles."""

    default_reason, default_code = "loop", Code.RESOURCE_EXHAUSTED


class SenderGone(AgoraError):
    """The sender of a stream left before its end: what came is not the whole."""

    default_reason, default_code = "sender_gone", Code.UNAVAILABLE


class StreamAborted(AgoraError):
    """The sender of a stream gave it up before its end: what came is not the whole. ``reason`` is what it said."""

    default_reason, default_code = "aborted", Code.ABORTED


class Replaced(AgoraError):
    """A newer connection took this id over (close code 4409). The client does not connect again."""

    default_reason, default_code = "replaced", Code.ABORTED


class ConnectionLost(AgoraError):
    """The router cannot be reached, or could not go on where the connection was lost.

    ``delivered``: False where what was to be sent has certainly not reached the router; None where it may have.
    """

    default_reason, default_code, default_retryable = "connection_lost", Code.UNAVAILABLE, True

    def __init__(self, message: str, *, delivered: bool | None = None) -> None:
        super().__init__(message)
        self.delivered = delivered
        if delivered is None:
            self.code, self.retryable = Code.OUTCOME_UNKNOWN, False


_CLASSES: dict[str, type[AgoraError]] = {
    kind.default_reason: kind for kind in AgoraError.__subclasses__() if kind is not ConnectionLost
}


def error_of(
    reason: str,
    message: str,
    *,
    kind: type[AgoraError] = AgoraError,
    to: str | None = None,
    stream_id: str | None = None,
    request_id: str | int | None = None,
    retry_ms: int | None = None,
) -> AgoraError:
    """Return the exception for a code of the router's; ``kind`` for one that has none of its own."""
    made = _CLASSES.get(reason, kind)
    text = f"{to}: {message}" if to else message
    return made(
        text or reason,
        reason=reason,
        to=to,
        stream_id=stream_id,
        request_id=request_id,
        retry_after=None if retry_ms is None else retry_ms / 1000,
    )


def lost(error: Exception, *, delivered: bool | None = None) -> AgoraError:
    """Return what somebody is told whose connection ended: a new exception, for each has a traceback of its own."""
    if isinstance(error, Replaced):
        return Replaced(str(error))
    what = "nothing was sent" if delivered is False else "what was sent may have been delivered"
    return ConnectionLost(f"{error}; {what}", delivered=delivered)
