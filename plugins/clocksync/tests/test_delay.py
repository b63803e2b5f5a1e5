"""Delay policies: the quantile of a sliding window, up at once, down slowly, and never far."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from echokernel_clocksync.delay import AdaptiveDelay, FixedDelay, TransitWindow

MS = 1_000


def fed(policy: AdaptiveDelay | FixedDelay, *transits: int) -> int:
    for transit in transits:
        policy.add(transit)
    return policy.delay


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=60), st.integers(1, 20), st.floats(0, 1))
def test_a_window_knows_the_quantiles_of_its_last_values(values: list[int], size: int, share: float) -> None:
    window = TransitWindow(size)
    for value in values:
        window.add(value)
    last = sorted(values[-size:])
    assert len(window) == len(last)
    assert window.low == last[0]
    found = window.quantile(share)
    assert sum(value <= found for value in last) >= math.ceil(share * len(last))
    assert found in last


def test_a_slower_path_is_followed_at_once() -> None:
    policy = AdaptiveDelay(guard_us=2 * MS)
    assert fed(policy, 30 * MS) == 32 * MS
    assert fed(policy, 70 * MS) == 72 * MS


def test_a_quicker_path_is_followed_by_half_a_millisecond_per_frame() -> None:
    policy = AdaptiveDelay(window=10, guard_us=0, release_us=500)
    assert fed(policy, 60 * MS, *[30 * MS] * 9) == 60 * MS  # the slow one is within the last ten still
    assert fed(policy, 30 * MS) == 60 * MS - 500
    assert fed(policy, *[30 * MS] * 100) == 30 * MS


def test_four_of_three_hundred_may_be_slower() -> None:
    policy = AdaptiveDelay(guard_us=0)
    assert fed(policy, *[30 * MS] * 296, 90 * MS, 91 * MS, 92 * MS, 93 * MS) == 30 * MS
    assert fed(policy, 94 * MS) == 90 * MS


def test_the_delay_stays_within_reach_of_the_quickest_frame() -> None:
    policy = AdaptiveDelay(max_delay_us=50 * MS)
    assert fed(policy, 30 * MS, *[80 * MS] * 20) == 80 * MS
    assert policy.is_strange(80 * MS + 1)
    assert policy.is_strange(-20 * MS - 1)
    assert not policy.is_strange(80 * MS)


def test_a_clock_that_is_set_moves_the_delay_along() -> None:
    policy = AdaptiveDelay()
    before = fed(policy, 30 * MS, 40 * MS)
    policy.shift(-(10**9))
    assert policy.delay == before - 10**9
    assert policy.window.low == 30 * MS - 10**9


def test_a_fixed_delay_counts_from_the_stamp_where_clocks_agree() -> None:
    policy = FixedDelay(100 * MS)
    policy.absolute = True
    assert fed(policy, 30 * MS, 90 * MS, 10 * MS) == 100 * MS


def test_a_fixed_delay_counts_from_the_quickest_frame_where_they_do_not() -> None:
    policy = FixedDelay(100 * MS)
    far = -(10**12)  # the sender's clock is eleven days ahead
    assert fed(policy, far + 30 * MS) == far + 130 * MS
    assert fed(policy, far + 29 * MS) == far + 130 * MS - 500


def test_a_fixed_delay_comes_to_its_own_slowly_once_clocks_agree() -> None:
    policy = FixedDelay(100 * MS)
    fed(policy, 30 * MS)
    policy.absolute = True
    assert fed(policy, 30 * MS) == 130 * MS - 500
    assert fed(policy, *[30 * MS] * 59) == 100 * MS


def test_a_fixed_delay_that_is_far_off_is_taken_at_once() -> None:
    policy = FixedDelay(100 * MS)
    fed(policy, 5_000 * MS)
    policy.absolute = True
    assert fed(policy, 30 * MS) == 100 * MS


def test_what_is_promised_to_other_receivers_does_not_follow_the_path() -> None:
    policy = FixedDelay(100 * MS)
    policy.absolute = True
    fed(policy, 30 * MS)
    assert policy.relevel(500 * MS) == 0
    assert policy.delay == 100 * MS
    policy.absolute = False
    assert policy.relevel(500 * MS) == 500 * MS
