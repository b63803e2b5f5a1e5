"""What a handler's task knows of the message that it serves, so that nested requests inherit from it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

deadline: ContextVar[float | None] = ContextVar("echokernel_deadline", default=None)
"""When the request that is being handled ends, in seconds of the event loop's clock; None: never."""

trailers: ContextVar[dict[str, str] | None] = ContextVar("echokernel_trailers", default=None)
"""What will travel with the end of the answer of the call that is being handled; None: it has no stream of its own."""

metadata: ContextVar[Mapping[str, str] | None] = ContextVar("echokernel_metadata", default=None)
"""The metadata of the message that is being handled; None: it has none."""
