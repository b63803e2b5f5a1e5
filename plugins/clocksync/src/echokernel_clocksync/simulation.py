"""Paths and clocks in virtual time only: the truth is known, and an hour takes a second. For tests and benchmarks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from echokernel_clocksync.estimator import ClockEstimator, Exchange, Verdict

__all__ = ["PATHS", "Path", "Query", "SimulatedLink"]

Delay = Callable[[random.Random, float], float]
"""Seconds that a packet takes, given a source of chance and the time at which it leaves."""


def uniform(base: float, spread: float) -> Delay:
    return lambda chance, _: base + chance.uniform(-spread, spread)


def gamma(base: float, scale: float) -> Delay:
    return lambda chance, _: base + chance.gammavariate(1.2, scale)


def queueing(base: float, spread: float, queue: float, start: float, end: float) -> Delay:
    """From ``start`` to ``end`` a queue of ``queue`` seconds builds up within 2 s; 1 packet in 20 finds it shorter."""

    def delay(chance: random.Random, at: float) -> float:
        seconds = base + chance.uniform(0, spread)
        if start < at < end:
            least = 0.0 if chance.random() < 0.05 else 0.5
            seconds += queue * min(1.0, (at - start) / 2) * chance.uniform(least, 1)
        return seconds

    return delay


@dataclass(frozen=True, slots=True)
class Path:
    """How long packets take on the way there and back, and the share of them that is lost."""

    out: Delay
    back: Delay
    loss: float = 0.0


PATHS = {
    "lan": Path(gamma(80e-6, 15e-6), gamma(80e-6, 15e-6)),
    "wifi": Path(gamma(1e-3, 1.5e-3), gamma(1e-3, 1.5e-3), 0.01),
    "25±5 ms": Path(uniform(25e-3, 5e-3), uniform(25e-3, 5e-3), 0.01),
    "50±10 ms": Path(uniform(50e-3, 10e-3), uniform(50e-3, 10e-3), 0.01),
    "asymmetric jitter": Path(uniform(60e-3, 20e-3), uniform(41e-3, 1e-3), 0.01),
    "asymmetric gamma": Path(gamma(2e-3, 3e-3), gamma(2e-3, 1e-3), 0.02),
    "asymmetric base": Path(uniform(50e-3, 1e-3), uniform(20e-3, 1e-3), 0.01),
    "congestion": Path(queueing(0.5e-3, 1e-3, 0.2, 20, 50), gamma(0.5e-3, 0.3e-3), 0.01),
    "congestion, 20 ms": Path(queueing(17e-3, 6e-3, 0.3, 20, 50), uniform(20e-3, 3e-3), 0.005),
}
"""By name. The names end up in the guide's table."""


@dataclass(slots=True)
class Query:
    """What the estimator said at one moment, and what is true; ns."""

    at: float
    """Seconds since the start."""
    error: int
    low: int
    high: int
    bound: int
    allowed: int
    """Half of the shortest round trip, 200 ppm of its age and 0.2 ms: no bound may be wider."""

    @property
    def is_covered(self) -> bool:
        """Whether the truth is in the certain interval, and as near as the bound says."""
        return self.low <= 0 <= self.high and abs(self.error) <= self.bound


@dataclass
class SimulatedLink:
    """Our clock, theirs, and a path between them. ``drift``, ``wander`` (per root of a second): of theirs, to ours."""

    path: Path
    seed: int = 0
    drift: float = 40e-6
    wander: float = 0.1e-6
    interval: float = 1.0
    burst: int = 16
    steps: Sequence[tuple[float, float]] = ()
    """When their clock is set, and by how much; seconds, in order."""
    estimator: ClockEstimator = field(default_factory=ClockEstimator)
    noticed: list[float] = field(default_factory=list)
    """When the estimator noticed a step, seconds."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._offset, self._rate, self._at = 123.456e9, self.drift, 0.0
        self._set = list(self.steps)

    def run(self, seconds: float) -> Iterator[tuple[Verdict, Query]]:
        """Exchange probes until ``seconds`` have passed; yields the verdict on each, and queries between it and the next."""
        at, number = 0.0, 0
        while at < seconds:
            pause = 0.02 if number < self.burst - 1 else self.interval
            number += 1
            verdict = self._exchange(at)
            if verdict == "step":
                self.noticed.append(at)
            if verdict is not None and number >= self.burst:
                for share in (0.4, 0.9):
                    yield verdict, self._query(at + pause * share)
            at += pause

    def _exchange(self, at: float) -> Verdict | None:
        path, chance = self.path, self._chance
        if chance.random() < path.loss or chance.random() < path.loss:
            return None
        received = at + path.out(chance, at)
        replied = received + 50e-6
        arrived = replied + path.back(chance, replied)
        offset = self._truth(received)
        return self.estimator.add(
            Exchange(_ns(at), _ns(received) + offset, _ns(replied) + self._truth(replied), _ns(arrived))
        )

    def _query(self, at: float) -> Query:
        now = _ns(at)
        found, truth = self.estimator.estimate(now), self._truth(at)
        age = now - self.estimator.round_trip_at
        allowed = self.estimator.round_trip // 2 + int(age * 200e-6) + 200_000
        return Query(at, found.offset - truth, found.low - truth, found.high - truth, found.bound, allowed)

    def _truth(self, at: float) -> int:
        passed = max(0.0, at - self._at)
        self._rate += self._chance.gauss(0, self.wander) * passed**0.5
        self._offset += self._rate * passed * 1e9
        self._at = max(self._at, at)
        while self._set and at >= self._set[0][0]:
            self._offset += self._set.pop(0)[1] * 1e9
        return round(self._offset)


def _ns(seconds: float) -> int:
    return 10**12 + round(seconds * 1e9)
