"""The policy as a value: bounds, limits, resets. No loop, no network."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel import ConnectionClosed, InvalidArgument
from echokernel_reconnect import Backoff

LOST = ConnectionClosed()


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Highest(random.Random):
    """Always the longest pause."""

    def uniform(self, a: float, b: float) -> float:
        return b


def bounds(policy: Backoff, count: int, start: int = 1) -> list[float]:
    return [round(policy.next_delay(attempt, LOST) or 0, 6) for attempt in range(start, start + count)]


def test_the_first_try_comes_at_once_and_the_bound_doubles_up_to_the_cap() -> None:
    policy = Backoff(chance=Highest(), clock=Clock())
    policy.connected()
    assert bounds(policy, 11) == [0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]


@given(
    first=st.floats(0, 10),
    base=st.floats(0.001, 10),
    factor=st.floats(1, 10),
    cap=st.floats(0.001, 100),
    seed=st.integers(),
    tries=st.integers(1, 200),
)
def test_a_pause_is_never_negative_nor_above_its_bound(
    first: float, base: float, factor: float, cap: float, seed: int, tries: int
) -> None:
    policy = Backoff(first=first, base=base, factor=factor, cap=cap, chance=random.Random(seed), clock=Clock())
    for attempt in range(1, tries + 1):
        delay = policy.next_delay(attempt, LOST)
        assert delay is not None
        bound = first if attempt == 1 else min(cap, base * factor ** min(attempt - 2, 300))
        assert 0 <= delay <= bound * (1 + 1e-9)


@given(limit=st.integers(1, 50))
def test_it_gives_up_after_so_many_tries(limit: int) -> None:
    policy = Backoff(max_tries=limit, clock=Clock())
    policy.connected()
    delays = [policy.next_delay(attempt, LOST) for attempt in range(1, limit + 3)]
    assert None not in delays[:limit]
    assert delays[limit:] == [None, None]


@given(seconds=st.floats(0.5, 300), seed=st.integers())
def test_no_try_begins_later_than_max_seconds_after_the_loss(seconds: float, seed: int) -> None:
    clock = Clock()
    policy = Backoff(max_seconds=seconds, chance=random.Random(seed), clock=clock)
    policy.connected()
    clock.now = 1_000.0
    for attempt in range(1, 10_000):
        delay = policy.next_delay(attempt, LOST)
        if delay is None:
            break
        clock.now += delay
        assert clock.now - 1_000.0 <= seconds + 1e-6
    else:
        pytest.fail("it never gave up")


def test_only_a_session_that_lasts_begins_anew() -> None:
    clock = Clock()
    policy = Backoff(chance=Highest(), clock=clock)
    policy.connected()
    clock.now += 60
    assert bounds(policy, 3) == [0.1, 0.1, 0.2]
    policy.connected()
    clock.now += 9.9
    assert bounds(policy, 2) == [0.4, 0.8], "it was accepted and dropped: no rush"
    policy.connected()
    clock.now += 10
    assert bounds(policy, 2) == [0.1, 0.1]


def test_two_clients_do_not_pause_alike() -> None:
    assert bounds(Backoff(clock=Clock()), 8) != bounds(Backoff(clock=Clock()), 8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": -1},
        {"base": 0},
        {"factor": 0.5},
        {"cap": 0},
        {"cap": float("inf")},
        {"stable": float("nan")},
        {"max_tries": 0},
        {"max_tries": -1},
        {"max_seconds": 0},
        {"dial_timeout": 0},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(InvalidArgument, match=rf"{name}=.*wanted"):
        Backoff(**wrong)
