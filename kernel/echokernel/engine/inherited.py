"""What a handler's task knows of the message that it serves, so that nested requests inherit from it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

deadline: ContextVar[float | None] = ContextVar("echokernel_deadline", default=None)
"""When the request that is being handled ends, in seconds of the event loop's clock; None: never."""

metadata: ContextVar[Mapping[str, str] | None] = ContextVar("echokernel_metadata", default=None)
"""The metadata of the message that is being handled; None: it has none."""
