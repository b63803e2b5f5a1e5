"""When to try again: at once, and then later and later, never all clients at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio

from echokernel import InvalidArgument, ReconnectPolicy

__all__ = ["Backoff"]


class Backoff(ReconnectPolicy):
    """Exponential backoff with full jitter: each pause is random, from 0 to a bound that grows.

    The first pause is at most ``first`` seconds, so that a short outage is short and a thousand clients do not come in the
    same millisecond; the next ones are at most ``base``, ``base * factor``, ``base * factor**2``, … and never above ``cap``.
    ``stable``: seconds that a session has to last for the next loss to begin from the start; a server that accepts and drops
    its clients is not run down. ``max_tries``: since the last such session; ``max_seconds``: no try begins so long after the
    loss; None: no limit. ``dial_timeout``: seconds that one try may take.

    ``chance`` and ``clock`` are for tests: a ``random.Random``, and what returns seconds; by default those of the event loop.
    Raises InvalidArgument for what is out of bounds. Full jitter: Marc Brooker, "Exponential Backoff And Jitter", 2015.
    """

    def __init__(
        self,
        *,
        first: float = 0.1,
        base: float = 0.1,
        factor: float = 2.0,
        cap: float = 10.0,
        stable: float = 10.0,
        max_tries: int | None = None,
        max_seconds: float | None = None,
        dial_timeout: float = 10.0,
        chance: random.Random | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        for name, value, least in (("first", first, 0), ("factor", factor, 1), ("stable", stable, 0)):
            if not least <= value < float("inf"):
                raise InvalidArgument(f"Backoff({name}={value}): wanted {least} or more")
        positive = {"base": base, "cap": cap, "dial_timeout": dial_timeout}
        positive |= {"max_tries": max_tries or 1, "max_seconds": 1.0 if max_seconds is None else max_seconds}
        for name, value in positive.items():
            if not 0 < value < float("inf"):
                raise InvalidArgument(f"Backoff({name}={value}): wanted more than 0")
        if max_tries is not None and max_tries < 1:
            raise InvalidArgument(f"Backoff(max_tries={max_tries}): wanted 1 or more, or None for no limit")
        self.dial_timeout = dial_timeout
        self._first, self._base, self._factor, self._cap = first, base, factor, cap
        self._stable = stable
        self._max_tries, self._max_seconds = max_tries, max_seconds
        self._chance = chance or random.Random()
        self._clock = clock or anyio.current_time
        self._tries = 0
        """Since the last stable session."""
        self._bound = 0.0
        self._lost_at = 0.0
        self._connected_at: float | None = None

    def __repr__(self) -> str:
        return f"<Backoff, {self._tries} tries>"

    def next_delay(self, attempt: int, error: Exception) -> float | None:
        """Return a random pause below the bound of this try; None when there were enough."""
        now = self._clock()
        if self._connected_at is not None:  # it is the first try since a session was lost
            if now - self._connected_at >= self._stable:
                self._tries = 0
            self._connected_at = None
            self._lost_at = now
        elif not self._tries:
            self._lost_at = now
        if self._max_tries is not None and self._tries >= self._max_tries:
            return None
        self._tries += 1
        if self._tries == 1:
            self._bound = self._first
        elif self._tries == 2:
            self._bound = min(self._cap, self._base)
        else:
            self._bound = min(self._cap, self._bound * self._factor)
        delay = self._chance.uniform(0.0, self._bound)
        if self._max_seconds is not None and now + delay - self._lost_at > self._max_seconds:
            return None
        return delay

    def connected(self) -> None:
        """From now on the session's age counts."""
        self._connected_at = self._clock()
