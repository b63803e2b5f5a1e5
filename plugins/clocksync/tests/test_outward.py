"""The outward clock: it never goes back, is led gently, and steps where that would take too long."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_clocksync.outward import Line, OutwardClock

S, MS = 10**9, 10**6


def test_small_corrections_are_slewed() -> None:
    clock = OutwardClock(Line(0, 100 * S), slew=500e-6)
    assert clock.steer(Line(S, 101 * S + 5 * MS), S) == 0
    assert clock.shared(S) == 101 * S
    assert clock.shared(3 * S) == 103 * S + MS  # 500 µs for each second
    assert clock.lag(3 * S) == -4 * MS
    assert clock.shared(11 * S) == 111 * S + 5 * MS
    assert clock.shared(60 * S) == 160 * S + 5 * MS
    assert clock.lag(60 * S) == 0
    assert clock.steer(Line(60 * S, 160 * S), 60 * S) == 0
    assert clock.shared(61 * S) == 161 * S + 5 * MS - MS // 2


def test_large_ones_and_those_after_a_step_are_made_at_once() -> None:
    clock = OutwardClock(Line(0, 100 * S), slew=500e-6)
    assert clock.steer(Line(S, 101 * S + 10 * MS), S) == 0
    assert clock.steer(Line(2 * S, 102 * S - 12 * MS), 2 * S) == -12 * MS - MS // 2
    assert clock.shared(2 * S) == 102 * S - 12 * MS
    assert clock.steer(Line(2 * S, 102 * S), 2 * S, jump=True) == 12 * MS
    assert clock.steer(Line(2 * S, 102 * S + 5), 2 * S, jump=True) == 5
    assert clock.lag(2 * S) == 0


corrections = st.lists(
    st.tuples(st.integers(1, 10 * S), st.integers(-9 * MS, 9 * MS), st.floats(-300e-6, 300e-6)), max_size=20
)


@given(corrections, st.integers(1, 10**5))
def test_it_never_goes_back_and_its_rate_is_bounded(made: list[tuple[int, int, float]], ppm: int) -> None:
    clock, now = OutwardClock(Line(0, 100 * S), slew=ppm * 1e-6), 0
    for pause, off, rate in made:
        read = [clock.shared(now + pause * part // 5) for part in range(6)]
        passed = [after - before for before, after in pairwise(read)]
        most = pause / 5 * (1 + ppm * 1e-6 + 300e-6) + 3
        assert all(0 <= each <= most for each in passed)
        now += pause
        before = clock.shared(now)
        clock.steer(Line(now, clock.line.at(now) + off, rate), now)
        step = abs(clock.shared(now) - before)
        assert step == 0 or step > 10 * MS


@given(corrections, st.integers(-3_600 * S, 3_600 * S))
def test_a_shared_time_is_found_again(made: list[tuple[int, int, float]], distance: int) -> None:
    clock, now = OutwardClock(Line(0, 1_800_000_000 * S), slew=500e-6), 0
    for pause, off, rate in made:
        now += pause
        clock.steer(Line(now, clock.line.at(now) + off, rate), now)
    wanted = clock.shared(now) + distance
    assert clock.shared(clock.local(wanted)) == pytest.approx(wanted, abs=1)
