"""Long data is written in parts: a stream takes each when it has room, and never holds more than its watermark twice."""

from __future__ import annotations

from collections.abc import Iterator

PART = 65_536  # bytes

__all__ = ["parts"]


def parts(data: bytes) -> Iterator[bytes]:
    """Yield ``data`` in parts of 64 KiB; short data as it is."""
    if len(data) <= PART:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(data), PART):
        yield bytes(view[start : start + PART])
