"""When the time is asked for, and what counts as an answer."""

from __future__ import annotations

from itertools import pairwise

from echokernel_clocksync.probes import ProbePlan, ProbeSettings
from echokernel_clocksync.timeline import RemoteTimeline, is_absurd
from echokernel_protocol.clock import ClockAnswer

S, MS = 10**9, 10**6


def run(plan: ProbePlan, seconds: int, gain: float, *, answer: bool = True) -> list[int]:
    """Ask whenever it is due, from ``plan.due`` on; return the times."""
    asked, end = [], plan.due + seconds * S
    while plan.due < end:
        now = plan.due
        asked.append(now)
        number = plan.ask(now)
        if answer:
            assert plan.answered(number, now + MS) == now
            plan.learned(gain)
        plan.pass_time(now)
    return asked


def test_a_burst_comes_first_and_then_the_pace_follows_what_there_is_to_learn() -> None:
    for gain, least, most in ((0.0, 7, 9), (100_000.0, 0.2, 0.3)):
        asked = run(ProbePlan(ProbeSettings(), 0), 120, gain)
        assert asked[:16] == [20 * MS * number for number in range(16)]
        pauses = [(after - before) / S for before, after in pairwise(asked)]
        assert 0.2 <= pauses[15] <= 0.4
        if not gain:  # long pauses end with two probes: the first one wakes both machines
            assert set(pauses[-9::2]) == {0.003} or set(pauses[-8::2]) == {0.003}
        pauses = [pause for pause in pauses if pause != 0.003]
        assert all(least <= pause <= most for pause in pauses[-3:])
        assert len(set(pauses[-10:])) > 1 or len(pauses) < 40, "never in step with what else happens each second"


def test_a_surprise_brings_another_burst() -> None:
    plan = ProbePlan(ProbeSettings(burst=5), 0)
    last = run(plan, 60, 0.0)[-1]
    plan.burst(last + MS)
    assert plan.due == last + 21 * MS
    asked = run(plan, 3, 0.0)
    assert [after - before for before, after in pairwise(asked)][:4] == [20 * MS] * 4


def test_only_answers_that_somebody_waits_for_count() -> None:
    plan = ProbePlan(ProbeSettings(), 0)
    number = plan.ask(0)
    assert plan.answered(number + 1, 5) is None
    assert plan.answered(number, 5) == 0
    assert plan.answered(number, 6) is None, "a second time"
    late = plan.ask(10)
    assert plan.answered(late, 6 * S) is None
    assert (plan.late, plan.lost, plan.waiting) == (1, 1, 0)


def test_silence_is_noticed_and_lost_probes_are_forgotten() -> None:
    plan = ProbePlan(ProbeSettings(), 0)
    run(plan, 60, 0.0)
    asked = run(plan, 20, 0.0, answer=False)
    assert plan.is_silent
    assert plan.waiting <= 6
    assert plan.lost >= len(asked) - 6 > 0
    plan.answered(plan.ask(plan.due), plan.due)
    assert not plan.is_silent


def test_what_waits_is_bounded_and_numbers_wrap() -> None:
    plan = ProbePlan(ProbeSettings(), 0, number=2**32 - 3)
    numbers = [plan.ask(at) for at in range(200)]
    assert numbers[:4] == [2**32 - 2, 2**32 - 1, 0, 1]
    assert (plan.waiting, plan.lost) == (64, 136)


def answer(sent: int, shared: int, bound: int = 0, epoch: int = 7) -> ClockAnswer:
    return ClockAnswer(1, sent, sent, shared, bound, 5, epoch)


def test_the_timeline_of_the_reference_is_its_clock_and_a_constant() -> None:
    timeline = RemoteTimeline()
    assert not timeline.take(answer(5 * S, 105 * S))
    assert (timeline.ahead(5 * S), timeline.ahead(500 * S), timeline.bound(500 * S), timeline.rate) == (
        100 * S,
        100 * S,
        0,
        0,
    )
    assert timeline.take(answer(6 * S, 106 * S, epoch=8))


def test_the_timeline_of_a_node_in_between_drifts_and_ages() -> None:
    timeline = RemoteTimeline()
    for second in range(10):
        timeline.take(answer(second * S, 100 * S + second * S + second * 40_000, bound=3 * MS))
    assert abs(timeline.rate - 40e-6) < 1e-9
    assert abs(timeline.ahead(20 * S) - (100 * S + 20 * 40_000)) < 5
    assert timeline.bound(10 * S) == 3 * MS + 200_000
    timeline.take(answer(11 * S, 211 * S, bound=3 * MS))
    assert timeline.rate == 100e-6, "as fast as a quartz may be, whatever it says"


def test_times_outside_of_two_centuries_are_absurd() -> None:
    year = 31_557_600 * S
    absurd = [is_absurd(round(years * year)) for years in (0, 49.9, 50.1, 229.9, 230.1, 580)]
    assert absurd == [True, True, False, False, True, True]
