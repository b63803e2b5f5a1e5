"""Services that could not be reached. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Suspects"]

MAX_SUSPECTS = 1_024  # as many as there are services in a table
FIRST_HOLD = 2.0  # seconds; a client that finds nothing else is back soon
LONGEST_HOLD = 60.0
FORGET = 300.0  # seconds without a new failure: the next one is a first one

Key = tuple[str, str]
"""Instance in lower case, boot."""


@dataclass(slots=True)
class _Suspicion:
    signature: object
    hold_until: float
    since: float
    times: int
    lifted: bool = False


class Suspects:
    """Remembers who could not be reached, until it is heard from again. Times are monotonic seconds.

    After a failure nothing lifts the suspicion for 2 s, doubled with each further failure up to 60 s, but a changed
    record: a server that still answers on mDNS and not on its port is not dialled in a circle. What is heard later lifts it.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Key, _Suspicion] = {}

    def __len__(self) -> int:
        return sum(not known.lifted for known in self._known.values())

    def add(self, key: Key, signature: object, *, now: float, hold: float | None = None) -> float:
        """Suspect a service that looked like ``signature``; returns until when nothing lifts it. ``hold``: seconds."""
        known = self._known.pop(key, None)
        times = known.times + 1 if known is not None and now - known.since < FORGET else 1
        if hold is None:
            hold = min(LONGEST_HOLD, FIRST_HOLD * 2 ** min(times - 1, 10))
        while len(self._known) >= MAX_SUSPECTS:
            del self._known[next(iter(self._known))]
        self._known[key] = _Suspicion(signature, now + hold, now, times)
        return now + hold

    def has(self, key: Key, signature: object, *, heard: float) -> bool:
        """Whether the service is suspect; ``heard``: when something came from it last."""
        known = self._known.get(key)
        if known is None or known.lifted:
            return False
        if known.signature != signature:
            self._known.pop(key, None)  # it is another one now
            return False
        known.lifted = heard >= known.hold_until
        return not known.lifted
