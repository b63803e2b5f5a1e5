"""When a silent peer is probed, and when it is dead. No IO: times are monotonic seconds, given by the caller."""

from __future__ import annotations

from enum import Enum

PROBES_NEEDED = 2  # unanswered ones before a peer can be dead
PROBE_INTERVAL = 0.4  # seconds between probes of a silent peer: one that is back is noticed within this time
HURRIED_INTERVAL = 0.2  # the same, when the network said that the peer's port is closed
STALL = 0.25  # seconds; a timer later than this means that we, not the peer, were absent

__all__ = ["KeepAlive", "Verdict"]


class Verdict(Enum):
    WAIT = "wait"
    PROBE = "probe"
    DEAD = "dead"


class KeepAlive:
    """Watches one peer. It is dead after ``limit`` seconds of silence with at least two unanswered probes.

    Probes start after ``first`` seconds of silence. With the defaults (limit 4.5 s, first 0.9 s for a dialer and 1.5 s
    for an acceptor) a blackout of 3 s survives, because the peer is probed every 0.4 s and answers within 4 s, and a
    dead peer is noticed within 5 s. Time in which our own event loop stood still does not count as the peer's silence.
    """

    __slots__ = ("_first", "_heard_at", "_hurried", "_limit", "_next", "_probes", "stalls")

    def __init__(self, *, limit: float, dialer: bool, now: float) -> None:
        self._limit = limit
        self._first = limit / 5 if dialer else limit / 3
        self._probes = 0
        self._hurried = False
        self._heard_at = now
        self._next = now + self._first
        self.stalls = 0

    @property
    def deadline(self) -> float:
        """When :meth:`handle_time` wants to be called."""
        return self._next

    @property
    def suspicious(self) -> bool:
        return self._probes > 0

    def heard(self, *, now: float) -> None:
        """A packet of the peer arrived, decrypted and new."""
        self._heard_at = now
        self._probes = 0
        self._hurried = False
        self._next = now + self._first

    def hurry(self, *, now: float) -> None:
        """The network says that nobody is there; anybody can forge that, so it only makes us ask sooner."""
        if not self._hurried:
            self._hurried = True
            self._next = min(self._next, now + HURRIED_INTERVAL)

    def handle_time(self, *, now: float) -> Verdict:
        if now < self._next:
            return Verdict.WAIT
        late = now - self._next
        if late > STALL:
            self.stalls += 1
            self._heard_at += late
        silence = now - self._heard_at
        if silence >= self._limit - 1e-3 and self._probes >= PROBES_NEEDED:
            return Verdict.DEAD
        self._probes += 1
        interval = HURRIED_INTERVAL if self._hurried else PROBE_INTERVAL
        self._next = now + interval
        if silence < self._limit:
            self._next = min(self._next, max(now + 0.05, self._heard_at + self._limit))
        return Verdict.PROBE
