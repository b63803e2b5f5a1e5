"""One reference that is followed, and everything that it may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_clocksync.follower import Follower
from echokernel_clocksync.probes import ProbeSettings
from echokernel_protocol.clock import ClockAnswer

S, MS = 10**9, 10**6
NOON = 1_800_000_000 * S


class Reference:
    """Answers each probe after 1 ms each way; what it says can be changed."""

    def __init__(self) -> None:
        self.ahead, self.base, self.epoch, self.shared, self.synced, self.bound = 50 * S, 1, 2, NOON, True, 0

    def answer(self, number: int, at: int) -> ClockAnswer:
        theirs = at + self.ahead
        return ClockAnswer(number, theirs, theirs, self.shared + theirs, self.bound, self.base, self.epoch, self.synced)

    def ask(self, follower: Follower, seconds: float) -> list[str]:
        """Let time pass; return what the follower made of each answer."""
        news, plan = [], follower.plan
        end = plan.due + round(seconds * S)
        while plan.due < end:
            now = plan.due
            number = plan.ask(now)
            news.append(follower.take(self.answer(number, now + MS), now + 2 * MS))
            follower.pass_time(now + 2 * MS)
            plan = follower.plan
        return news


def test_it_settles_with_the_burst_and_knows_the_time() -> None:
    follower, reference = Follower(ProbeSettings(), 0), Reference()
    assert set(reference.ask(follower, 1.0)) == {"better"}
    assert follower.settled
    now = follower.plan.due
    assert follower.line(now).shared == pytest.approx(NOON + 50 * S + now, abs=1_000)
    low, high = follower.certain(now)
    assert low <= NOON + 50 * S + now <= high
    assert high - low == pytest.approx(2 * MS + 40_000 + 2 * 200e-6 * (now - follower.estimator.newest), rel=0.01)


def test_a_clock_that_is_set_is_a_step_and_what_comes_after_is_led_there_at_once() -> None:
    follower, reference = Follower(ProbeSettings(), 0), Reference()
    reference.ask(follower, 10.0)
    reference.ahead += 5 * MS
    began = follower.plan.due
    assert reference.ask(follower, 0.07)[:3] == ["nothing", "nothing", "stepped"], "nobody waits for the next second"
    assert follower.unsteady
    assert follower.plan.due - began < 100 * MS
    news = ["nothing", "nothing", "stepped", *reference.ask(follower, 30.0)]
    assert [news.index(kind) for kind in ("nothing", "stepped")] == [0, 2]
    assert news.count("stepped") == 2
    assert not follower.unsteady
    assert follower.counts["steps"] == 1


def test_another_epoch_is_a_step_of_the_timeline_alone() -> None:
    follower, reference = Follower(ProbeSettings(), 0), Reference()
    reference.ask(follower, 10.0)
    reference.epoch, reference.shared = 3, NOON + S
    known = follower.estimator.exchanges
    assert reference.ask(follower, 10.0)[0] == "stepped"
    assert follower.estimator.exchanges > known, "how the clocks run is still known"
    now = follower.plan.due
    assert follower.line(now).shared == pytest.approx(NOON + 51 * S + now, abs=1_000)


def test_another_base_is_another_reference() -> None:
    follower, reference = Follower(ProbeSettings(), 0), Reference()
    reference.ask(follower, 10.0)
    reference.base, reference.ahead = 9, 7 * S
    reference.ask(follower, 1.0)
    assert (follower.counts["restarts"], follower.counts["steps"]) == (1, 0)
    assert follower.line(follower.plan.due).shared == pytest.approx(NOON + 7 * S + follower.plan.due, abs=1_000)


def test_what_is_absurd_or_not_synchronised_is_not_followed_until_it_is() -> None:
    follower, reference = Follower(ProbeSettings(), 0), Reference()
    reference.shared = 0
    assert set(reference.ask(follower, 1.0)) == {"nothing"}
    assert (follower.is_absurd, follower.settled) == (True, False)
    assert "not between 2020 and 2200" in follower.trouble
    reference.shared, reference.synced = NOON, False
    assert set(reference.ask(follower, 1.0)) == {"nothing"}
    assert (follower.is_absurd, follower.settled) == (False, False)
    assert "follows another node itself" in follower.trouble
    reference.synced = True
    reference.ask(follower, 1.0)
    assert (follower.settled, follower.trouble) == (True, "")


def test_another_connection_brings_another_burst_and_what_was_lost_is_counted() -> None:
    follower, reference = Follower(ProbeSettings(), 0), Reference()
    reference.ask(follower, 60.0)
    asked = follower.stats()["probes"]
    unanswered = follower.plan.ask(follower.plan.due)
    follower.connect(100 * S)
    assert follower.plan.burst_left == 16
    assert (follower.stats()["probes"], follower.stats()["lost"]) == (asked + 1, 1)
    assert follower.take(reference.answer(unanswered, 100 * S), 100 * S) == "nothing"
    assert follower.counts["unknown"] == 1
    assert follower.plan.ask(100 * S) == unanswered + 1


def test_bounds_of_the_reference_are_added() -> None:
    follower, reference = Follower(ProbeSettings(), 0), Reference()
    reference.bound = 3 * MS
    reference.ask(follower, 1.0)
    now = follower.estimator.newest
    low, high = follower.certain(now)
    assert high - low == pytest.approx(2 * MS + 40_000 + 6 * MS, rel=0.01)
    later = follower.certain(now + S)
    assert (later[1] - later[0]) - (high - low) == pytest.approx(4 * 200_000, rel=0.01)


U64 = st.integers(0, 2**64 - 1)
answers = st.builds(
    ClockAnswer,
    number=st.integers(0, 6),
    received_ns=U64,
    sent_ns=U64,
    shared_ns=U64 | st.integers(NOON, NOON + S),
    bound_ns=U64,
    base=st.integers(1, 2),
    epoch=st.integers(1, 2),
    synced=st.booleans(),
)


@given(st.lists(answers, max_size=30))
def test_no_answer_makes_it_raise(said: list[ClockAnswer]) -> None:
    follower, now = Follower(ProbeSettings(burst=3), 0), 0
    for answer in said:
        now += 10 * MS
        if now >= follower.plan.due:
            follower.plan.ask(now)
        follower.take(answer, now)
        follower.pass_time(now)
        if follower.timeline.epoch is not None and follower.estimator.exchanges:
            low, high = follower.certain(now)
            assert low <= follower.line(now).at(now) <= high
