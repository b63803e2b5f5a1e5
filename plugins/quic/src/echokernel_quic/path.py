"""Larger packets on a loopback path, where nothing between the two programs has to split them. No IO.

Loopback carries 64 KiB, and what a packet costs here hardly depends on its size. But what looks like loopback may be
a relay to a narrower path. So every connection starts with 1200 bytes, takes a larger size only after a padded packet
of that size was acknowledged, and goes back for good when the path then seems to lose them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echokernel_quic.engine import Engine

LOOPBACK_DATAGRAM_SIZE = 16_384
SUSPICIOUS_TIMEOUTS = 2  # probe timeouts in a row, after which the size is suspected

__all__ = ["LOOPBACK_DATAGRAM_SIZE", "PathSize"]


class PathSize:
    """One connection's search: asked at most once, answered once, given up at the first doubt."""

    __slots__ = ("_base", "_size", "_state")

    def __init__(self, *, base: int, size: int = LOOPBACK_DATAGRAM_SIZE) -> None:
        self._base = base
        self._size = size
        self._state = "new"

    def probe(self, engine: Engine, now: float) -> list[tuple[bytes, Any]]:
        """Return the padded packet, the first time."""
        if self._state != "new" or engine.is_over:
            return []
        self._state = "asked"
        return engine.probe_size(self._size, lambda arrived: self._answered(engine, arrived), now)

    def check(self, engine: Engine) -> None:
        """A timer of the engine fired."""
        if self._state != "failed" and engine.probe_timeouts >= SUSPICIOUS_TIMEOUTS:
            self.failed(engine)

    def failed(self, engine: Engine) -> None:
        """Packets of this size do not arrive: what is lost is sent again in small ones."""
        self._state = "failed"
        if engine.datagram_size > self._base:
            engine.use_datagram_size(self._base)

    def _answered(self, engine: Engine, arrived: bool) -> None:
        if self._state != "asked":
            return
        if arrived:
            self._state = "raised"
            engine.use_datagram_size(self._size)
        else:
            self._state = "failed"
