"""What a handler may know of the message that it handles, beside its payload."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import anyio

from echokernel.engine import inherited
from echokernel.errors import InvalidArgument

__all__ = ["current_metadata", "current_trailers", "time_left"]

_NONE: Mapping[str, str] = MappingProxyType({})


def current_metadata() -> Mapping[str, str]:
    """Return the metadata of the message that is being handled; empty outside of handlers and where there is none.

    ``traceparent``, ``tracestate`` and ``baggage`` (W3C Trace Context, W3C Baggage) are passed on to whatever the handler
    sends; all other keys end here.
    """
    found = inherited.metadata.get()
    return _NONE if found is None else MappingProxyType(dict(found))


def current_trailers() -> dict[str, str]:
    """Return the texts that will travel with the end of the answer: put into it what is known only then.

    For handlers of streaming requests; the caller reads :attr:`StreamingCall.trailers`. Raises InvalidArgument elsewhere.
    """
    found = inherited.trailers.get()
    if found is None:
        raise InvalidArgument("trailers belong to the answer of a streaming request; none is being handled here")
    return found


def time_left() -> float | None:
    """Return the seconds that the request that is being handled has left; None where it has no deadline."""
    deadline = inherited.deadline.get()
    return None if deadline is None else max(0.0, deadline - anyio.current_time())
