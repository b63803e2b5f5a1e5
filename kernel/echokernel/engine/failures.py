"""What a peer is told when something of ours fails: a code and a sentence, never a traceback or a path."""

from __future__ import annotations

import logging
import secrets
import traceback
from typing import TypeGuard

from echokernel.errors import ConfigError, EchoError, PluginError, SerializationError, TransportError
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo

logger = logging.getLogger("echokernel.handlers")

__all__ = ["describe_failure"]


def describe_failure(method: str, error: Exception, tracebacks: bool = False) -> bytes:
    """Return the ErrorInfo that the caller of ``method`` gets for ``error``, encoded. Never raises.

    An EchoError was meant for the caller and keeps its code, message and details. Anything else is a fault of the
    handler: the caller gets its class and a number under which this side's log has the rest. A mistake in this node's own
    configuration or plugins is such a fault, too: its message names files. ``tracebacks``: the caller gets those as well.
    """
    try:
        if tracebacks and not _is_meant(error):
            logger.error("%s failed", method, exc_info=error)
            text = "".join(traceback.format_exception(error))
            return ErrorInfo(Code.INTERNAL, f"{method} failed: {type(error).__name__}: {error}", text.encode()).encode()
        if isinstance(error, SerializationError):
            message = f"{method}: the result does not fit the handler's return type: {error}"
            return ErrorInfo(Code.INTERNAL, message).encode()
        if isinstance(error, TransportError):
            # it lost a connection of its own; the caller must not take that for the end of this one
            return ErrorInfo(Code.ABORTED, f"{method} lost a connection that it needs: {error}").encode()
        if _is_meant(error):
            return ErrorInfo(error.code, error.message, error.details).encode()
    except Exception as broken:  # a code, message or details that cannot travel
        logger.error("%s raised an error that cannot be sent: %s", method, broken)
    number = secrets.token_hex(4)
    logger.error("%s failed (error %s)", method, number, exc_info=error)
    return ErrorInfo(
        Code.INTERNAL, f"{method} failed: {type(error).__name__} (error {number} in the peer's log)"
    ).encode()


def _is_meant(error: Exception) -> TypeGuard[EchoError]:
    """Whether the caller may read what it says."""
    return isinstance(error, EchoError) and not isinstance(error, ConfigError | PluginError)
