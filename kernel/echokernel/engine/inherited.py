"""What a handler's task knows of the call that it serves, so that nested requests inherit its deadline."""

from __future__ import annotations

from contextvars import ContextVar

deadline: ContextVar[float | None] = ContextVar("echokernel_deadline", default=None)
"""When the request that is being handled ends, in seconds of the event loop's clock; None: never."""
