"""The codes of ErrorInfo, of stream resets and of connection closes: one table for all three.

1-16 mean what they mean in gRPC, 17-255 belong to the kernel, 256-4095 to plugins, 4096 and up to applications.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Why something ended. ``docs/wire.md`` says for each whether the handler can have run."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    PROTOCOL_ERROR = 17
    """The peer broke a rule of the wire; closes that connection and nothing else."""
    SERIALIZATION = 18
    """A payload is not what its serializer or its type says."""
    LIMIT_EXCEEDED = 19
    """The peer went over a limit that had been announced to it; closes the connection."""
    HELLO_TIMEOUT = 20
    """No hello within 5 s."""
    INCOMPATIBLE = 21
    """No serializer in common, or an unmet ``require``."""
    GOING_AWAY = 22
    """The node drains; nothing that follows is run."""
    UNKNOWN_KIND = 23
    """A stream of a kind this node does not know; that stream alone is refused."""
    TRUNCATED = 24
    """A stream ended within a frame, or without its END."""
    OUTCOME_UNKNOWN = 25
    """The connection was lost after the request left; the handler may or may not have run."""


def code_name(code: int) -> str:
    """Return the code's name in lower case, or ``code 4711`` for one without a name."""
    try:
        return Code(code).name.lower()
    except ValueError:
        return f"code {code}"
