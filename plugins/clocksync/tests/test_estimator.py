"""The estimator alone, in simulated time: what it says, what it is certain of, and what it takes for a step."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_clocksync.envelope import Envelope
from echokernel_clocksync.estimator import ClockEstimator, EstimatorLimits, Exchange
from echokernel_clocksync.simulation import PATHS, Query, SimulatedLink

MS = 1_000_000
P99 = {
    "lan": 0.05,
    "wifi": 1.0,
    "25±5 ms": 1.5,
    "50±10 ms": 3.0,
    "asymmetric jitter": 3.0,
    "asymmetric gamma": 1.5,
    "congestion": 3.0,
    "congestion, 20 ms": 4.0,
}
"""ms, with drifts up to 90 ppm and one probe a second, from the end of the burst on; real ones follow four times as often."""


def errors_ms(queries: list[Query]) -> list[float]:
    return sorted(abs(query.error) / MS for query in queries)


@pytest.mark.parametrize("name", PATHS)
def test_the_certain_interval_covers_the_truth_and_is_never_too_wide(name: str) -> None:
    errors: list[float] = []
    for seed in range(12):
        link = SimulatedLink(PATHS[name], seed=seed, drift=(seed - 6) * 15e-6)
        queries = [query for _, query in link.run(90)]
        assert all(query.is_covered for query in queries)
        assert all(query.bound <= query.allowed for query in queries)
        assert link.noticed == []
        errors += errors_ms(queries)
    if name in P99:
        assert sorted(errors)[int(len(errors) * 0.99)] <= P99[name]
    else:
        assert statistics.median(errors) == pytest.approx(15, abs=1)  # half of the asymmetry: nothing can see that


@pytest.mark.parametrize("name", ["lan", "wifi", "50±10 ms", "congestion"])
def test_an_hour_without_a_step_has_none(name: str) -> None:
    link = SimulatedLink(PATHS[name], seed=99)
    queries = [query for _, query in link.run(3_600)]
    assert link.noticed == []
    assert all(query.is_covered and query.bound <= query.allowed for query in queries)
    assert len(link.estimator._upper) + len(link.estimator._lower) <= 2 * (48 + 660 + 1)


@pytest.mark.parametrize("name", ["lan", "25±5 ms", "50±10 ms", "asymmetric jitter"])
@pytest.mark.parametrize("halves", [-30.0, -2.2, -1.1, 1.1, 2.2, 30.0])
def test_a_step_of_half_a_round_trip_is_noticed_by_the_third_answer(name: str, halves: float) -> None:
    path = PATHS[name]
    for seed in range(6):
        chance = SimulatedLink(path, seed=7)._chance
        half = statistics.median(path.out(chance, 0) + path.back(chance, 0) for _ in range(400)) / 2
        link = SimulatedLink(path, seed=100 + seed, steps=[(60.0, half * halves)])
        answers, after = 0, []
        for number, (_, query) in enumerate(link.run(130)):
            if link.noticed:
                after.append(query)
            elif query.at > 60.4 and number % 2 == 0:
                answers += 1
        assert len(link.noticed) == 1
        assert answers <= 3
        assert all(query.is_covered for query in after)


def test_our_estimate_of_the_rate_settles() -> None:
    for drift in (-80e-6, 0.0, 40e-6):
        link = SimulatedLink(PATHS["wifi"], seed=3, drift=drift)
        list(link.run(300))
        now = 10**12 + 300 * 10**9
        assert link.estimator.estimate(now).rate == pytest.approx(drift, abs=5e-6)


def test_the_first_exchange_gives_an_estimate() -> None:
    estimator = ClockEstimator()
    with pytest.raises(IndexError):
        estimator.estimate(0)
    assert estimator.add(Exchange(100_000, 5_223_500, 5_223_600, 300_100)) == "taken"
    found = estimator.estimate(300_100)
    assert found.offset == pytest.approx((5_123_500 + 4_923_500) / 2, abs=100)
    assert (found.high - found.low) / 2 == pytest.approx(100_000 + 20_000, abs=100)
    assert found.low <= 4_923_500
    assert found.high >= 5_123_500
    assert estimator.estimate(10**9).bound == pytest.approx(found.bound + 200_000, abs=100)
    assert estimator.estimate(-(10**9)).bound == pytest.approx(found.bound + 200_000, abs=200)


def test_one_contradiction_is_doubted_and_forgotten() -> None:
    link = SimulatedLink(PATHS["lan"], seed=1)
    list(link.run(30))
    at = 10**12 + 31 * 10**9
    before = link.estimator.estimate(at)
    liar = Exchange(at - 200_000, at + before.offset + 10**9, at + before.offset + 10**9, at)
    assert link.estimator.add(liar) == "doubted"
    assert link.estimator.estimate(at) == before
    for late in (1, 2):
        honest = Exchange(at, at + before.offset + 90_000, at + before.offset + 90_000, at + 180_000 + late)
        assert link.estimator.add(honest) == "taken"
    assert link.estimator.steps == 0


def test_three_contradictions_are_a_step_however_little_is_known() -> None:
    estimator, verdicts = ClockEstimator(), []
    for number in range(6):
        at, offset = number * 20 * MS, 10**9 if number < 3 else 10**9 + 3 * MS
        verdicts.append(estimator.add(Exchange(at, at + offset + MS, at + offset + MS, at + 2 * MS)))
    assert verdicts == ["taken", "taken", "taken", "doubted", "doubted", "step"]
    found = estimator.estimate(200 * MS)
    assert found.low <= 10**9 + 3 * MS <= found.high


@pytest.mark.parametrize(
    "nonsense",
    [
        Exchange(10, 20, 19, 30),
        Exchange(10**9, 20, 30, 10),
        Exchange(0, 0, 10**6, 10**5),
        Exchange(0, 2**64 - 1, 0, 10),
        Exchange(0, 0, 2**64 - 1, 10),
    ],
)
def test_what_no_clocks_can_show_is_nonsense(nonsense: Exchange) -> None:
    estimator = ClockEstimator()
    assert estimator.add(nonsense) == "nonsense"
    assert estimator.exchanges == 0


U64 = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(U64, U64, U64, U64) | st.tuples(*[st.integers(0, 1_000_000)] * 4), max_size=40))
def test_no_answer_makes_it_raise(timestamps: list[tuple[int, int, int, int]]) -> None:
    estimator = ClockEstimator()
    for sent, received, replied, arrived in timestamps:
        verdict = estimator.add(Exchange(sent, received, replied, arrived))
        assert verdict in ("taken", "doubted", "step", "nonsense")
        if estimator.exchanges:
            found = estimator.estimate(arrived)
            assert found.low <= found.offset <= found.high
            assert found.bound >= 0


delays = st.tuples(st.integers(0, 30 * MS), st.integers(0, 30 * MS), st.integers(1, 3_000 * MS))


@given(st.lists(delays, min_size=1, max_size=120), st.integers(-100, 100), st.integers(-(10**12), 10**12))
def test_whatever_the_queues_do_the_truth_is_covered(path: list[tuple[int, int, int]], ppm: int, offset: int) -> None:
    estimator, now, best = ClockEstimator(), 10**13, 0

    def theirs(at: int) -> int:
        return at + 10**13 + offset + (at - 10**13) * ppm // 10**6

    for out, back, pause in path:
        now += pause
        sent, arrived = now, now + out + back
        verdict = estimator.add(Exchange(sent, theirs(sent + out), theirs(sent + out), arrived))
        assert verdict in ("taken", "step")
        now = arrived
        for later in (now, now + 10**9):
            found, truth = estimator.estimate(later), theirs(later) - later
            assert found.low <= truth <= found.high
            best = estimator.round_trip // 2 + (later - estimator.round_trip_at) // 5_000
            assert found.bound <= best + 200_000


points = st.lists(st.tuples(st.integers(0, 10**6), st.integers(-(10**6), 10**6)), min_size=1, max_size=40)


@given(points, st.floats(-3, 3))
def test_the_envelope_is_the_lowest_of_its_points(cloud: list[tuple[int, int]], slope: float) -> None:
    envelope = Envelope(bucket=1.0, horizon=1e12)
    for x, y in cloud:
        envelope.add(float(x), float(y), 0.0)
    lowest = min(y + slope * (2e6 - x) for x, y in cloud)
    assert envelope.reach(2e6, slope) == pytest.approx(lowest, abs=1e-3)
    x, y = envelope.support(slope)
    assert (x, y) in cloud


def test_the_envelope_forgets_and_thins() -> None:
    envelope = Envelope(bucket=10.0, horizon=1_000.0)
    for x in range(5_000):
        envelope.add(float(x), float(x % 7), 0.0)
    assert len(envelope) <= 48 + 110 + 1
    assert envelope.reach(5_000.0, 0.0) == 0.0
    envelope.add(20_000.0, 5.0, 0.0)
    assert len(envelope) == 1
    assert envelope.reach(20_000.0, 0.0) == 5.0


def test_limits_are_a_choice() -> None:
    wide = ClockEstimator(EstimatorLimits(drift=600e-6))
    wide.add(Exchange(0, 100, 100, 200))
    assert wide.estimate(10**9 + 200).high == pytest.approx(100 + 600_000 + 20_000 - 100, abs=500)
