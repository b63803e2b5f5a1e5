"""How much a connection may send, and how often two agents may send each other messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel_agora.agents import Agent, Peer
    from echokernel_agora.limits import Limits

__all__ = ["Rates", "Refused"]

MOST_PAIRS = 1024  # receivers for whom a sender's one-shot messages are counted


class Refused(Exception):
    """A frame that will not arrive, and why."""

    def __init__(self, code: str, message: str, *, retry_ms: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_ms = code, message, retry_ms


class Rates:
    """Judges by a bucket of frames and one of bytes for each connection, which it keeps in the :class:`Peer`."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._limits, self._monotonic = limits, monotonic

    def limited(self, peer: Peer, size: int, weight: float = 1.0) -> Refused | None:
        """Take a frame of ``size`` bytes, and of the work of ``weight`` frames, out of what a connection may send now.

        A refused frame says when to try again. Whoever does not wait gets a strike; strikes are forgiven at half of the rate,
        and too many of them close the connection: thrice the rate after ``rate_patience`` seconds, a flood at once.
        """
        limits, now = self._limits, self._monotonic()
        passed = now - peer.refilled_at
        frames, octets = self._left(peer, now)
        peer.refilled_at = now
        if peer.strikes:
            peer.strikes = max(0.0, peer.strikes - passed * limits.frame_rate / 2)
        if frames >= 1 and octets > 0:
            peer.frames_left, peer.bytes_left = frames - weight, octets - size
            return None
        peer.frames_left, peer.bytes_left = frames, octets
        if now < peer.retry_at:
            peer.strikes += max(1.0, weight, size * limits.frame_rate / limits.byte_rate)
        wait = self._refilled_in(frames, octets)
        peer.retry_at = now + wait
        if peer.strikes > limits.rate_patience * limits.frame_rate / 2:
            peer.outlet.close(
                1008, f"more than {limits.frame_rate:g} frames or {limits.byte_rate:g} bytes a second, again and again"
            )
        return Refused(
            "rate_limited",
            f"at most {limits.frame_rate:g} frames and {limits.byte_rate:g} bytes per second",
            retry_ms=max(1, math.ceil(wait * 1000)),
        )

    def pause(self, peer: Peer) -> float:
        """Return in how many seconds a connection may send a frame; 0: now."""
        frames, octets = self._left(peer, self._monotonic())
        return 0.0 if frames >= 1 and octets > 0 else max(0.001, self._refilled_in(frames, octets))

    def _left(self, peer: Peer, now: float) -> tuple[float, float]:
        limits, passed = self._limits, now - peer.refilled_at
        frames = min(peer.frames_left + passed * limits.frame_rate, limits.frame_burst)
        return frames, min(peer.bytes_left + passed * limits.byte_rate, 2 * limits.byte_rate)

    def _refilled_in(self, frames: float, octets: float) -> float:
        return max((1 - frames) / self._limits.frame_rate, -octets / self._limits.byte_rate)

    def within_pair(self, agent: Agent, target: Agent) -> None:
        """Count a message from one to the other. Raises Refused for the one too many of its minute."""
        most = self._limits.self_per_minute if target is agent else self._limits.pair_per_minute
        if not most:
            return
        now = self._monotonic()
        if agent.pairs is None:
            agent.pairs = {}
        count = agent.pairs.get(target.id)
        if count is None or now - count[0] >= 60:
            if len(agent.pairs) >= MOST_PAIRS:
                del agent.pairs[next(iter(agent.pairs))]
            count = agent.pairs[target.id] = [now, 0]
        if count[1] >= most:
            raise Refused(
                "loop",
                f"{most} messages within a minute to {'yourself' if target is agent else 'this agent'}; more are refused",
                retry_ms=max(1, round((count[0] + 60 - now) * 1000)),
            )
        count[1] += 1
