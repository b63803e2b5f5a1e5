"""What the node that we follow shares, as a function of its own monotonic clock. No IO, no clock, no task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel_protocol.clock import ClockAnswer

__all__ = ["RemoteTimeline", "is_absurd"]

YEAR_2020, YEAR_2200 = 1_577_836_800_000_000_000, 7_258_118_400_000_000_000
DRIFT = 200e-6
LIKELY_RATE = 100e-6
SPAN = 1_000_000_000  # ns; over less, the rate of a line through two answers says little


def is_absurd(shared_ns: int) -> bool:
    """Whether a node that says so has no idea of the time: its clock was never set, or it lies."""
    return not YEAR_2020 <= shared_ns <= YEAR_2200


class RemoteTimeline:
    """Their shared time, from their answers.

    For the node that all follow it is their clock plus a constant. For one that follows another itself it drifts: the newest
    answers say how fast, and what they vouch for ages by 200 ppm.
    """

    __slots__ = ("_bound", "_line", "_rate", "_rate_since", "epoch")

    def __init__(self) -> None:
        self._line = self._rate_since = (0, 0)
        self._rate = 0.0
        self._bound = 0
        self.epoch: int | None = None
        """Of the newest answer; None before the first."""

    def take(self, answer: ClockAnswer) -> bool:
        """Learn from an answer. Returns whether the timeline is another one than before."""
        new = self.epoch is not None and answer.epoch != self.epoch
        at, ahead = self._line = answer.sent_ns, answer.shared_ns - answer.sent_ns
        self._bound = answer.bound_ns
        since, ahead_then = self._rate_since
        if new or self.epoch is None or not answer.bound_ns:
            self._rate, self._rate_since = 0.0, self._line
        elif at - since >= SPAN:
            self._rate = min(max((ahead - ahead_then) / (at - since), -LIKELY_RATE), LIKELY_RATE)
            self._rate_since = self._line
        self.epoch = answer.epoch
        return new

    def ahead(self, theirs: int) -> int:
        """Return their shared time minus their clock when that showed ``theirs``, ns."""
        at, ahead = self._line
        return ahead + round(self._rate * (theirs - at))

    @property
    def rate(self) -> float:
        """By how much the shared time gains on their clock."""
        return self._rate

    def bound(self, theirs: int) -> int:
        """Return by how much that may be wrong at most, ns."""
        return self._bound + round(DRIFT * abs(theirs - self._line[0])) if self._bound else 0
