"""What has happened, in numbers. At every moment accepted = delivered + stored + errored + queued."""

from __future__ import annotations

from collections import Counter

__all__ = ["Counters"]


class Counters:
    """Counts of frames since the start. Stored and queued are no counters: the router counts what waits."""

    __slots__ = (
        "accepted",
        "accepted_by_type",
        "bad",
        "bytes_in",
        "bytes_out",
        "delivered",
        "errored",
        "errors",
        "registered",
        "replaced",
        "resumed",
        "slow",
    )

    def __init__(self) -> None:
        self.accepted = 0
        """Frames for another agent that were well formed."""
        self.accepted_by_type: Counter[str] = Counter()
        """The same, by type."""
        self.delivered = 0
        """Of them, those that were handed to the receiver's connection, or acknowledged by a receiver with ``resume``."""
        self.errored = 0
        """Of them, those that will never arrive; their senders were told, once for each message and each stream."""
        self.errors: Counter[str] = Counter()
        """Error frames, by code."""
        self.bad = 0
        """Texts that were no frames."""
        self.bytes_in = 0
        """Bytes of frames from clients."""
        self.bytes_out = 0
        """Bytes of relayed frames that were delivered."""
        self.registered = 0
        """Registrations, without updates."""
        self.replaced = 0
        """Connections that lost their id to a newer one."""
        self.resumed = 0
        """Sessions that went on after a lost connection."""
        self.slow = 0
        """Connections that were closed because they read too slowly."""
