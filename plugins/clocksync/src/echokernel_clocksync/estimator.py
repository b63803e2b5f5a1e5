"""How far another clock is from ours: an estimate, and an interval that the truth cannot leave. No IO, no clock, no task."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from echokernel_clocksync.envelope import Envelope

__all__ = ["ClockEstimator", "Estimate", "EstimatorLimits", "Exchange", "Verdict"]

PPM = 1e-6
GOLDEN = 0.6180339887498949
QUIET, BUSY = 100_000.0, 400_000.0  # ns; of excess; as measured on 2 cores that others kept busy
HALVINGS = 22  # of 1,000 ppm: 0.03 ppm, below the wander of any quartz

Verdict = Literal["taken", "doubted", "step", "nonsense"]


class Exchange(NamedTuple):
    """One question and its answer, ns: ``sent`` and ``arrived`` on our clock, ``received`` and ``replied`` on the other one."""

    sent: int
    received: int
    replied: int
    arrived: int

    @property
    def round_trip(self) -> int:
        """Time on the way, ns: without the time that the other side took."""
        return (self.arrived - self.sent) - (self.replied - self.received)


class Estimate(NamedTuple):
    """Their clock minus ours, ns, at one moment: the best guess, and what is certain."""

    offset: int
    low: int
    high: int
    rate: float
    """By how much the offset grows per ns of ours: 1e-6 is 1 ppm."""

    @property
    def bound(self) -> int:
        """How far ``offset`` is from the truth at most, ns."""
        return max(self.high - self.offset, self.offset - self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorLimits:
    """What is assumed about clocks, and how much is remembered."""

    drift: float = 200 * PPM
    """How far the rate may be from the measured one. Two quartzes differ by less than 100 ppm; NTP may slew one by 500."""
    trusted_rate: float = 100 * PPM
    """A measured rate counts for the certain interval up to this, so it holds for every rate below, measured well or not."""
    wander: float = 3 * PPM
    """What an old measurement loses for the estimate per unit of time: good ones from before a congestion survive it."""
    likely_rate: float = 50 * PPM
    """One standard deviation of what is expected before anything is known."""
    largest_rate: float = 500 * PPM
    grain: int = 20_000
    """Added on both sides of the certain interval, ns: clocks of 1 µs resolution, rounding, wander within an exchange."""
    slack: int = 150_000
    """By how much the bound may exceed half of the best round trip, ns, before the estimate is moved instead."""
    bucket: int = 1_000_000_000
    horizon: int = 600_000_000_000
    learnt: int = 8
    """Exchanges after which what contradicts them hints at a step, even where it could be a queue."""


class ClockEstimator:
    """Their clock minus ours, from exchanges of four timestamps.

    Each exchange says two things that are true whatever the queues did: the offset is at most ``received - sent``, and at
    least ``replied - arrived``. The lowest of the one and the highest of the other, each from its own lucky packet, enclose
    it. The estimate is their middle, along the slope that leaves the widest gap; points lose by their age.

    The certain interval assumes nothing about queues or symmetry, only that clocks do not drift faster than ``limits`` say. An
    exchange outside of it means that a clock was set, or slept: three in a row are a step, and everything before is
    forgotten. So is a move of both edges by half a gap in three exchanges: packets can be late, but not early.
    """

    def __init__(self, limits: EstimatorLimits | None = None) -> None:
        self.limits = limits or EstimatorLimits()
        self.steps = 0
        self._forget()

    def _forget(self) -> None:
        limits = self.limits
        self._upper = Envelope(bucket=limits.bucket, horizon=limits.horizon)
        """Of their reading minus ours on the way there: the offset is below."""
        self._lower = Envelope(bucket=limits.bucket, horizon=limits.horizon)
        """The same on the way back with its sign turned: minus the offset is below."""
        self.exchanges = 0
        """Counted since the last step."""
        self.round_trip = 0
        """The shortest one since the last step, ns; 0 where there was none."""
        self.round_trip_at = 0
        self.newest = 0
        """Our time of the newest exchange that was taken, ns."""
        self._x0 = self._y0 = 0
        self._rate = 0.0
        self._line: tuple[float, float, float] | None = None
        self._excess: deque[float] = deque(maxlen=32)
        self._last: deque[_Recent] = deque(maxlen=6)

    def add(self, exchange: Exchange) -> Verdict:
        """Learn from an exchange. ``doubted``: it contradicts what is known and is not used unless two more do so too.

        ``step``: it was the third; what was known is forgotten. ``nonsense``: no two clocks could read that. Never raises.
        """
        round_trip = exchange.round_trip
        if exchange.replied < exchange.received or round_trip < -self.limits.grain:
            return "nonsense"
        if not self.exchanges:
            self._x0, self._y0 = exchange.arrived, exchange.received - exchange.sent
            self._take(exchange)
            return "taken"
        recent = self._look(exchange)
        self._last.append(recent)
        if kept := self._after_step():
            self.steps += 1
            self._forget()
            self._x0, self._y0 = kept[0].arrived, kept[0].received - kept[0].sent
            for entry in kept:
                self._take(entry)
            return "step"
        if recent.impossible:
            return "doubted"
        self._take(exchange)
        return "taken"

    def estimate(self, at: int) -> Estimate:
        """Return the offset at our time ``at``, ns. Raises IndexError before the first exchange."""
        if self._line is None:
            self._line = self._fit()
        x = float(at - self._x0)
        line_x, line_y, rate = self._line
        low, high = self._certain(x)
        if high < low:  # clocks did what they should not; the next exchanges tell
            low, high = high, low
        reach = self.round_trip / 2 + self.limits.drift * abs(at - self.round_trip_at) + self.limits.slack
        offset = line_y + rate * (x - line_x)
        offset = min(max(offset, high - reach, low), low + reach, high)
        y0 = self._y0
        return Estimate(y0 + round(offset), y0 + int(low // 1), y0 - int(-high // 1), rate)

    def _newest_x(self) -> float:
        return float(self.newest - self._x0)

    def _take(self, exchange: Exchange) -> None:
        limits = self.limits
        round_trip = max(0, exchange.round_trip)
        x = float(exchange.arrived - self._x0)
        out = float(exchange.received - exchange.sent - self._y0)
        back = float(exchange.arrived - exchange.replied + self._y0)
        self._upper.add(float(exchange.sent - self._x0), out, self._rate)
        self._lower.add(x, back, -self._rate)
        self.newest = exchange.arrived
        if not self.exchanges or round_trip <= self.round_trip or self.newest - self.round_trip_at > limits.horizon:
            self.round_trip, self.round_trip_at = round_trip, exchange.arrived
        self.exchanges += 1
        wander, rate = limits.wander, self._rate
        self._excess.append(out + back - self._upper.reach(x, rate + wander) - self._lower.reach(x, wander - rate))
        self._line = None

    def _certain(self, x: float) -> tuple[float, float]:
        limits = self.limits
        if self._line is None:
            self._line = self._fit()
        rate = min(max(self._rate, -limits.trusted_rate), limits.trusted_rate)
        newest = self._newest_x()
        past, x = min(0.0, x - newest), max(x, newest)  # the envelopes look to their right only
        spare = limits.grain - limits.drift * past
        high = self._upper.reach(x, rate + limits.drift) + rate * past + spare
        low = -self._lower.reach(x, limits.drift - rate) + rate * past - spare
        return low, high

    def _fit(self) -> tuple[float, float, float]:
        """Return a point of the line and its slope: in the middle of the widest gap between the two clouds."""
        limits, wander = self.limits, self.limits.wander
        x = self._newest_x()
        upper, lower = self._upper.reach, self._lower.reach
        # one lucky packet must not turn the line: what the gap may vary by chance weighs against what is likely of a quartz
        chance = 3 * max(10_000.0, self.likely_gain)

        def merit(rate: float) -> float:
            gap = upper(x, rate + wander) + lower(x, wander - rate)
            return gap / chance - 0.5 * (rate / limits.likely_rate) ** 2

        rate = self._rate = _highest(merit, -limits.largest_rate, limits.largest_rate)
        middle = (upper(x, rate + wander) - lower(x, wander - rate)) / 2
        return x, middle, rate

    @property
    def likely_gain(self) -> float:
        """By how much, about, the next exchange may be quicker than all before, ns: what there is still to learn."""
        return 2 * median(self._excess) / len(self._upper) if self._excess else 0.0

    def _look(self, exchange: Exchange) -> _Recent:
        """Compare an exchange with what is known, before it is taken."""
        x, sent_x = float(exchange.arrived - self._x0), float(exchange.sent - self._x0)
        high, low = self._certain(x)[1], self._certain(sent_x)[0]
        out = float(exchange.received - exchange.sent - self._y0)
        back = float(exchange.replied - exchange.arrived - self._y0)
        rate, doubt = self._rate, self._rate_doubt()
        upper_x, upper = self._upper.support(rate + doubt)
        lower_x, lower = self._lower.support(doubt - rate)
        # machines that are busy, or wake up, move both edges by some tenths of a millisecond as well
        waking = min(max(0.0, median(self._excess) - QUIET) / 2, BUSY)
        needed = max(self.round_trip / 4, 25_000.0) + 3 * self.likely_gain + waking
        return _Recent(
            exchange=exchange,
            impossible=back > high or out < low,
            x=x,
            out=out,
            back=back,
            learnt=self.exchanges,
            upper=upper + rate * (x - upper_x),
            lower=-lower + rate * (x - lower_x),
            upper_needed=needed + doubt * (x - upper_x),
            lower_needed=needed + doubt * (x - lower_x),
            rate=rate,
            doubt=doubt,
        )

    def _after_step(self) -> list[Exchange]:
        """Return the exchanges that came after a step, where the newest ones tell of one."""
        last = list(self._last)
        if len(last) >= 3 and all(entry.impossible for entry in last[-3:]):
            return [entry.exchange for entry in last[-3:]]
        for first in range(len(last) - 2):
            if last[first].learnt >= self.limits.learnt and (after := _both_moved(last[first:])):
                return [entry.exchange for entry in after]
        return []

    def _rate_doubt(self) -> float:
        """Return by how much the measured rate may be wrong: the steepest and the flattest line through the gap."""
        limits, wander, x, measured = self.limits, self.limits.wander, self._newest_x(), self._rate
        upper, lower = self._upper.reach, self._lower.reach

        def passes(rate: float) -> bool:
            return upper(x, rate + wander) + lower(x, wander - rate) >= 0

        if not passes(measured):
            return limits.drift  # the rate changed: nothing is known of the new one
        doubt = 0.0
        for sign in (-1, 1):
            inside, outside = 0.0, limits.drift
            for _ in range(8):
                middle = (inside + outside) / 2
                inside, outside = (middle, outside) if passes(measured + sign * middle) else (inside, middle)
            doubt = max(doubt, outside)
        return doubt


class _Recent(NamedTuple):
    """An exchange beside what was known before it: x and heights in ns from the estimator's origin."""

    exchange: Exchange
    impossible: bool
    x: float
    out: float
    back: float
    learnt: int
    upper: float
    """The best of the readings on the way there, as it would be now at the measured rate."""
    lower: float
    upper_needed: float
    """How far from it is no accident, and no drift."""
    lower_needed: float
    rate: float
    doubt: float


def _both_moved(since: list[_Recent]) -> list[_Recent]:
    """Return those of these exchanges that show, against what was known before the first, that a clock was set.

    A queue makes the way there longer and the readings on it higher, or the way back longer and those lower. A clock that was
    set moves both the same way: one beyond its best, which no queue can, and the other as far from its own.
    """
    before = since[0]
    out = [entry.out - before.upper - before.rate * (entry.x - before.x) for entry in since]
    back = [entry.back - before.lower - before.rate * (entry.x - before.x) for entry in since]
    drifted = before.doubt * (since[-1].x - before.x)
    upper, lower = before.upper_needed + drifted, before.lower_needed + drifted
    if min(out) > upper and max(back) > lower:
        shown = [height > lower for height in back]
    elif min(out) < -upper and max(back) < -lower:
        shown = [height < -upper for height in out]
    else:
        return []
    after = since[shown.index(True) :]
    return after if len(after) >= 2 else []  # one alone may be a clock that was read at a bad moment


def _highest(merit: Callable[[float], float], low: float, high: float) -> float:
    """Return where a concave function is highest, by golden section."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = merit(left), merit(right)
    for _ in range(HALVINGS):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = merit(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = merit(right)
    return (low + high) / 2
