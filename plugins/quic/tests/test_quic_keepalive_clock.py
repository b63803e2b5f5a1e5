"""When a silent peer is probed and when it is dead, without waiting for it."""

from __future__ import annotations

import itertools

import pytest

from echokernel_quic.keepalive import KeepAlive, Verdict


def run(keepalive: KeepAlive, start: float, end: float, *, late: float = 0.0) -> list[tuple[float, Verdict]]:
    """Call at every deadline, with timers that are ``late`` by so many seconds."""
    seen = []
    now = start
    while True:
        now = max(now, keepalive.deadline + late)
        if now > end:
            return seen
        verdict = keepalive.handle_time(now=now)
        seen.append((now, verdict))
        if verdict is Verdict.DEAD:
            return seen


@pytest.mark.parametrize("dialer", [True, False])
def test_rule_05_a_dead_peer_is_noticed_within_five_seconds(dialer: bool) -> None:
    seen = run(KeepAlive(limit=4.5, dialer=dialer, now=0.0), 0.0, 10.0, late=0.01)
    assert seen[-1][1] is Verdict.DEAD
    assert 4.4 <= seen[-1][0] <= 4.7
    assert len(seen) >= 3


def test_rule_05_a_dialer_asks_within_a_second_and_then_every_half() -> None:
    seen = run(KeepAlive(limit=4.5, dialer=True, now=0.0), 0.0, 10.0)
    times = [at for at, _ in seen]
    assert times[0] == pytest.approx(0.9)
    assert max(b - a for a, b in itertools.pairwise(times)) <= 0.5


@pytest.mark.parametrize("dialer", [True, False])
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.6, 0.89])
def test_rule_05_a_blackout_of_three_seconds_survives(dialer: bool, offset: float) -> None:
    keepalive = KeepAlive(limit=4.5, dialer=dialer, now=0.0)
    dark_until = offset + 3.0
    now = 0.0
    while now < 8:
        now = keepalive.deadline
        verdict = keepalive.handle_time(now=now)
        assert verdict is not Verdict.DEAD
        if now > dark_until:
            keepalive.heard(now=now + 0.1)
            break


@pytest.mark.parametrize("stall", [0.5, 1.5, 10.0])
def test_rule_05_our_own_stall_is_not_the_peers_silence(stall: float) -> None:
    keepalive = KeepAlive(limit=4.5, dialer=True, now=0.0)
    assert keepalive.handle_time(now=0.9 + stall) is Verdict.PROBE
    assert keepalive.handle_time(now=0.9 + stall + 0.4) is Verdict.PROBE
    keepalive.heard(now=0.9 + stall + 0.41)
    assert not keepalive.suspicious
    assert keepalive.stalls == 1


def test_rule_05_two_probes_are_needed() -> None:
    keepalive = KeepAlive(limit=1.0, dialer=True, now=0.0)
    verdicts = [verdict for _, verdict in run(keepalive, 0.0, 5.0)]
    assert verdicts[-1] is Verdict.DEAD
    assert verdicts.count(Verdict.PROBE) >= 2


def test_a_closed_port_only_hurries() -> None:
    keepalive = KeepAlive(limit=4.5, dialer=True, now=0.0)
    keepalive.hurry(now=0.1)
    assert keepalive.deadline == pytest.approx(0.3)
    seen = run(keepalive, 0.1, 10.0)
    assert seen[-1][0] >= 4.4
