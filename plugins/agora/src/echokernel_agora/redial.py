"""When a client dials again, and how fast it may send: small values without a clock."""

from __future__ import annotations

import random

__all__ = ["Pace", "Redial"]

FLOOR = 0.05  # seconds: a router that has just died is not there sooner
FIRST = 0.8  # seconds: 500 clients of a router that restarts come spread, at most an eighth of them within 100 ms
FACTOR = 1.6
CAP = 4.0  # seconds: whoever waits is back within 5 s of the router, also where hundreds want to be
STABLE = 10.0  # seconds that a connection has to last for the next loss to begin from the start


class Redial:
    """Pauses with full jitter: each is random, between 50 ms and a bound that grows from 0.8 s to 4 s."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._bound = FIRST

    def pause(self) -> float:
        """Return how long to wait before the next try, in seconds."""
        pause = self._chance.uniform(FLOOR, self._bound)
        self._bound = min(CAP, self._bound * FACTOR)
        return pause

    def connected(self, seconds: float) -> None:
        """A connection has lasted so long."""
        if seconds >= STABLE:
            self._bound = FIRST


class Pace:
    """Frames and bytes per second, with a burst: a tenth below what the router takes by default, for acks and pings go too."""

    def __init__(
        self, frames: float = 900.0, burst: float = 1500.0, octets: float = 3.6 * 1024 * 1024, *, now: float = 0.0
    ) -> None:
        self._frames, self._burst, self._octets = frames, burst, octets
        self._frames_left, self._octets_left, self._since = burst, 2 * octets, now

    def pause(self, *, now: float) -> float:
        """Return how long to wait before a frame may be sent, in seconds."""
        passed, self._since = now - self._since, now
        self._frames_left = min(self._burst, self._frames_left + passed * self._frames)
        self._octets_left = min(2 * self._octets, self._octets_left + passed * self._octets)
        pause = max((1 - self._frames_left) / self._frames, -self._octets_left / self._octets)
        return pause if pause > 1e-6 else 0.0  # less is rounding

    def sent(self, octets: int) -> None:
        """A frame of so many bytes goes out."""
        self._frames_left -= 1
        self._octets_left -= octets

    def hold(self, seconds: float) -> None:
        """The router says that it takes nothing for so long."""
        self._frames_left = min(self._frames_left, 1 - seconds * self._frames)
