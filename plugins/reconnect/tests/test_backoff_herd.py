"""Two thousand clients lose their server together. It is away for 5 s, and then takes 400 connections per second."""

from __future__ import annotations

import heapq
import random

import pytest

from echokernel import ReconnectPolicy, TransportError
from echokernel_reconnect import Backoff

CLIENTS = 2_000
DOWN = 5.0
PER_SECOND = 400
SLOT = 0.1
REFUSED = TransportError("nobody answers")


class EverySecond(ReconnectPolicy):
    def next_delay(self, attempt: int, error: Exception) -> float | None:
        return 1.0


def simulate(policies: list[ReconnectPolicy], clock: list[float]) -> tuple[float, float, float]:
    """Return the largest share of clients that tries within 100 ms once the server is up, and when 50 % and 99 % are back,
    in seconds after that.
    """
    tries: list[tuple[float, int, int]] = []

    def plan(client: int, attempt: int) -> None:
        delay = policies[client].next_delay(attempt, REFUSED)
        assert delay is not None
        heapq.heappush(tries, (clock[0] + delay, client, attempt))

    for client, policy in enumerate(policies):
        policy.connected()
        plan(client, 1)
    arrivals: dict[int, int] = {}
    accepted: dict[int, int] = {}
    back: list[float] = []
    while tries:
        clock[0], client, attempt = heapq.heappop(tries)
        slot = int(clock[0] / SLOT)
        if clock[0] >= DOWN:
            arrivals[slot] = arrivals.get(slot, 0) + 1
            if accepted.get(slot, 0) < PER_SECOND * SLOT:
                accepted[slot] = accepted.get(slot, 0) + 1
                back.append(clock[0] - DOWN)
                continue
        if clock[0] > 600:
            break
        plan(client, attempt + 1)
    back += [float("inf")] * (CLIENTS - len(back))
    return max(arrivals.values()) / CLIENTS, back[CLIENTS // 2], back[int(CLIENTS * 0.99)]


@pytest.mark.parametrize("seed", range(5))
def test_never_more_than_a_tenth_of_them_come_within_100_ms(seed: int) -> None:
    clock = [0.0]
    chance = random.Random(seed)
    policies: list[ReconnectPolicy] = [
        Backoff(chance=random.Random(chance.random()), clock=lambda: clock[0]) for _ in range(CLIENTS)
    ]
    peak, half, nearly_all = simulate(policies, clock)
    print(f"peak {peak:.1%} per 100 ms, 50 % back after {half:.1f} s, 99 % after {nearly_all:.1f} s")
    assert peak <= 0.10
    assert half < 6
    assert nearly_all < 15


def test_a_fixed_pause_brings_all_of_them_at_a_time() -> None:
    """What the bound above is worth: the simulation does tell a herd from a stream."""
    peak, _, nearly_all = simulate([EverySecond() for _ in range(CLIENTS)], [0.0])
    assert peak > 0.9
    assert nearly_all > 30
