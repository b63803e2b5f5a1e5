"""Cubic, NewReno and BBR: which one runs, and what BBR promises on a simulated bottleneck, in virtual time."""

from __future__ import annotations

import pytest
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.congestion.reno import RenoCongestionControl
from quic_helpers import connected
from simulated_link import SIZE, Clock, EnginePair, Flow, Link, megabits, one_link

from echokernel_quic import CongestionControl, QuicConfig
from echokernel_quic.bbr import Bbr, State
from echokernel_quic.factory import make_engine
from echokernel_quic.identity import self_signed_identity
from echokernel_quic.pacing import CoarsePacer, RatePacer
from echokernel_quic.trust import TrustPolicy

pytestmark = pytest.mark.slow

CLASSES = {
    CongestionControl.Cubic: (CubicCongestionControl, CoarsePacer),
    CongestionControl.NewReno: (RenoCongestionControl, CoarsePacer),
    CongestionControl.BBR: (Bbr, RatePacer),
}


def settle(*flows: Flow, until: float) -> None:
    """Run, and check what must hold at every moment of every run."""
    flows[0].clock.run(until)
    for flow in flows:
        assert flow.smallest_window >= 2 * SIZE
        assert flow.least_in_flight >= 0
        sent = sum(packet.sent_bytes for packet in flow.space.sent_packets.values())
        assert flow.control.bytes_in_flight == sent
        if isinstance(flow.control, Bbr):
            assert flow.control._meter.watched == len(flow.space.sent_packets)


# --- which one runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", CongestionControl)
def test_the_chosen_algorithm_runs_at_both_ends_with_a_state_of_its_own(algorithm: CongestionControl) -> None:
    config, identity = QuicConfig(congestion_control=algorithm), self_signed_identity()
    engines = [
        make_engine(config, policy=TrustPolicy(verify=False), reset_key=b"k", loopback=False),
        make_engine(config, policy=TrustPolicy(verify=False), reset_key=b"k", loopback=False),
        make_engine(
            config, identity=identity, reset_key=b"k", loopback=False, original_destination_connection_id=bytes(8)
        ),
    ]
    control, pacer = CLASSES[algorithm]
    assert [type(engine._loss._cc) for engine in engines] == [control] * 3
    assert [type(engine._loss._pacer) for engine in engines] == [pacer] * 3
    assert len({id(engine._loss._cc) for engine in engines}) == 3
    engines[0].connect(("192.0.2.1", 1), now=1.0)
    engines[0].transmit(1.0)
    engines[0]._loss._cc.on_persistent_congestion()
    assert [engine._loss.bytes_in_flight > 0 for engine in engines] == [True, False, False]
    assert engines[0].congestion_window < engines[1].congestion_window == engines[2].congestion_window


@pytest.mark.parametrize(("algorithm", "left"), [(CongestionControl.Cubic, 0.7), (CongestionControl.NewReno, 0.5)])
def test_one_loss_takes_what_its_algorithm_says(algorithm: CongestionControl, left: float) -> None:
    flow = Flow(one_link(rate=10, rtt=0.04, queue_time=10), algorithm.value)
    flow.clock.run(1.5)
    before = flow.control.bytes_in_flight if algorithm is CongestionControl.Cubic else flow.control.congestion_window
    flow.control.on_packets_lost(now=flow.clock.now, packets=[next(iter(flow.space.sent_packets.values()))])
    assert flow.control.congestion_window == pytest.approx(left * before, abs=2 * SIZE)


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", CongestionControl)
async def test_a_transfer_over_loopback(algorithm: CongestionControl) -> None:
    async with connected(QuicConfig(congestion_control=algorithm)) as pair:
        assert [type(end.engine._loss._cc) for end in (pair.client, pair.server)] == [CLASSES[algorithm][0]] * 2
        send, recv = await pair.client.open_bi_stream()
        pair.tasks.start(upload, send)
        back, arriving = await pair.server.accept_bi_stream()
        assert await arriving.read_to_end(3_000_000) == DATA
        await back.write(b"thanks")
        await back.finish()
        assert await recv.read_to_end(100) == b"thanks"


DATA = bytes(range(256)) * 8_000


async def upload(send: object) -> None:
    await send.write(DATA)  # type: ignore[attr-defined]
    await send.finish()  # type: ignore[attr-defined]


# --- random loss ----------------------------------------------------------------------------------------------------


def rate_with_loss(algorithm: str, loss: float, rtt: float = 0.04) -> float:
    flow = Flow(one_link(rate=10, rtt=rtt, queue_time=0.1, loss=loss), algorithm)
    settle(flow, until=14)
    return flow.rate(4, 14) / flow.link.rate


def test_one_percent_random_loss_collapses_newreno_and_not_bbr() -> None:
    assert rate_with_loss("reno", 0.0) > 0.95
    assert rate_with_loss("reno", 0.01) < 0.3
    assert rate_with_loss("cubic", 0.01) < 0.3
    assert rate_with_loss("bbr", 0.01) > 0.9


@pytest.mark.parametrize(("rtt", "loss"), [(0.01, 0.03), (0.04, 0.03), (0.1, 0.01)])
def test_bbr_holds_its_rate_on_shorter_longer_and_worse_paths(rtt: float, loss: float) -> None:
    assert rate_with_loss("bbr", loss, rtt) > 0.9


def test_bbr_holds_its_rate_when_acknowledgements_come_late_now_and_then() -> None:
    link = one_link(rate=10, rtt=0.01, queue_time=0.1, loss=0.01)
    link.jitter = 0.005
    flow = Flow(link, "bbr")
    settle(flow, until=14)
    assert flow.rate(4, 14) > 0.8 * link.rate


def test_two_whole_connections_show_the_same() -> None:
    rates = {}
    for algorithm in (CongestionControl.NewReno, CongestionControl.BBR):
        link = one_link(rate=10, rtt=0.04, queue_time=0.1, loss=0.01)
        pair = EnginePair(link, algorithm)
        link.clock.run(9)
        assert not pair.client.is_over
        rates[algorithm] = pair.rate(3, 9) / link.rate
    assert rates[CongestionControl.NewReno] < 0.3
    assert rates[CongestionControl.BBR] > 0.8  # of the link's bytes, headers included; these count the program's only


# --- delay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtt", [0.01, 0.04, 0.1])
def test_on_a_long_queue_bbr_adds_less_than_50_ms_and_uses_the_link(rtt: float) -> None:
    flow = Flow(one_link(rate=4, rtt=rtt, queue_time=0.2), "bbr")
    settle(flow, until=31)
    assert flow.link.added_delay(0.95, since=3) < 0.050
    assert flow.link.added_delay(0.99, since=3) < 0.050
    assert flow.rate(3, 31) > 0.95 * flow.link.rate


def test_newreno_and_cubic_fill_that_queue() -> None:
    for algorithm in ("reno", "cubic"):
        flow = Flow(one_link(rate=4, rtt=0.04, queue_time=0.2), algorithm)
        settle(flow, until=31)
        assert flow.link.added_delay(0.95, since=3) > 0.150


def test_two_whole_connections_add_as_little() -> None:
    link = one_link(rate=4, rtt=0.04, queue_time=0.2)
    pair = EnginePair(link, CongestionControl.BBR)
    link.clock.run(13)
    assert link.added_delay(0.95, since=3) < 0.050
    assert pair.rate(3, 13) > 0.85 * link.rate


# --- sharing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rtt", "starts"), [(0.04, (0, 0)), (0.04, (0, 5)), (0.04, (5, 0)), (0.02, (5, 0)), (0.1, (0, 5)), (0.1, (5, 0))]
)
def test_bbr_and_newreno_share_no_worse_than_two_to_one(rtt: float, starts: tuple[float, float]) -> None:
    link = one_link(rate=4, rtt=rtt, queue_time=0.2)
    bbr, reno = (Flow(link, name, start=start) for name, start in zip(("bbr", "reno"), starts, strict=True))
    settle(bbr, reno, until=91)
    ours, theirs = bbr.rate(16, 91), reno.rate(16, 91)
    assert 0.5 < ours / theirs < 2.0
    assert ours + theirs > 0.95 * link.rate


def test_two_bbr_share_too() -> None:
    link = one_link(rate=4, rtt=0.04, queue_time=0.2)
    first, second = Flow(link, "bbr"), Flow(link, "bbr", start=5)
    settle(first, second, until=61)
    assert 0.5 < first.rate(21, 61) / second.rate(21, 61) < 2.0
    assert link.added_delay(0.95, since=21) < 0.100


# --- programs that send little, paths that change -------------------------------------------------------------------


def test_a_program_that_sends_little_lowers_no_estimate() -> None:
    flow = Flow(one_link(rate=10, rtt=0.04, queue_time=0.2), "bbr")
    settle(flow, until=4)
    full = flow.control.rate
    assert full > 0.9 * flow.link.rate
    flow.greedy = False
    for tick in range(500):  # 4 packets every 20 ms: a fifth of the link
        flow.clock.at(4 + tick * 0.02, flow.offer, 4 * SIZE)
    settle(flow, until=14)
    assert flow.rate(5, 14) == pytest.approx(240_000, rel=0.05)
    assert flow.control.rate > 0.9 * full
    assert flow.control.state is not State.PROBE_RTT  # its own silence showed the path
    flow.greedy = True
    flow.transmit()
    settle(flow, until=16)
    assert flow.rate(14.2, 16) > 0.85 * flow.link.rate


def test_little_data_from_the_start_does_not_burst_and_does_not_slow_down_what_follows() -> None:
    flow = Flow(one_link(rate=10, rtt=0.04, queue_time=0.2), "bbr", greedy=False)
    for tick in range(1_000):
        flow.clock.at(1 + tick * 0.01, flow.offer, SIZE)
    settle(flow, until=11)
    assert flow.control.state is State.STARTUP
    first_window = 10 * SIZE / flow.control.min_rtt
    assert flow.control.pacing_rate == pytest.approx(first_window)  # bytes/s of a new connection, and not a burst
    flow.offer(500_000)
    flow.clock.run(12.5)
    assert flow.rate(11, 12.5) * 1.5 > 500_000


def test_after_a_silence_the_rate_is_still_known_and_nothing_bursts() -> None:
    flow = Flow(one_link(rate=10, rtt=0.04, queue_time=0.2), "bbr")
    settle(flow, until=5)
    flow.greedy = False
    settle(flow, until=25)
    assert flow.control.bytes_in_flight == 0
    flow.greedy = True
    flow.transmit()
    settle(flow, until=26)
    assert flow.rate(25.1, 26) > 0.85 * flow.link.rate
    assert flow.link.added_delay(1.0, since=25) < 0.025


def test_a_path_that_becomes_slower_and_faster() -> None:
    flow = Flow(one_link(rate=8, rtt=0.04, queue_time=0.2), "bbr")
    settle(flow, until=6)
    flow.link.rate = megabits(4)
    settle(flow, until=14)
    assert flow.rate(8, 14) > 0.9 * flow.link.rate
    assert flow.link.added_delay(0.95, since=9) < 0.050
    flow.link.rate = megabits(8)
    settle(flow, until=20)
    assert flow.rate(17, 20) > 0.9 * flow.link.rate


def test_a_path_that_becomes_longer_and_shorter() -> None:
    flow = Flow(one_link(rate=4, rtt=0.04, queue_time=0.2), "bbr")
    settle(flow, until=8)
    flow.link.delay = 0.06
    settle(flow, until=40)
    assert flow.control.min_rtt > 0.12  # at the latest after ten seconds
    assert flow.rate(30, 40) > 0.9 * flow.link.rate
    flow.link.delay = 0.01
    settle(flow, until=50)
    assert flow.control.min_rtt < 0.03
    assert flow.rate(42, 50) > 0.9 * flow.link.rate
    assert flow.link.added_delay(0.95, since=42) < 0.050


def test_the_shortest_round_trip_is_looked_at_every_ten_seconds_without_losing_the_rate() -> None:
    flow = Flow(one_link(rate=4, rtt=0.02, queue_time=0.2), "bbr")
    states: list[tuple[float, State]] = []
    while flow.clock.now < 35:
        settle(flow, until=flow.clock.now + 0.02)
        if not states or states[-1][1] is not flow.control.state:
            states.append((flow.clock.now, flow.control.state))
    assert [state for _, state in states[:3]] == [State.STARTUP, State.DRAIN, State.PROBE_BW]
    looks = [when for when, state in states if state is State.PROBE_RTT]
    assert 1 <= len(looks) <= 3
    assert flow.rate(5, 35) > 0.95 * flow.link.rate


def test_a_dark_path_comes_back() -> None:
    flow = Flow(one_link(rate=10, rtt=0.04, queue_time=0.1), "bbr")
    settle(flow, until=4)
    flow.link.loss = 1.0
    settle(flow, until=7)
    flow.link.loss = 0.0
    settle(flow, until=14)
    assert flow.rate(11, 14) > 0.85 * flow.link.rate


@pytest.mark.parametrize("seed", range(4))
def test_nothing_goes_below_zero_whatever_the_path_does(seed: int) -> None:
    link = Link(Clock(), rate=megabits(2), delay=0.01, queue=15_000, loss=0.0, seed=seed)
    flow = Flow(link, "bbr", greedy=bool(seed % 2))
    for step in range(40):
        flow.clock.at(1 + step / 4, flow.offer, link.random.randrange(40_000))
        link.rate = megabits(link.random.choice([0.1, 1, 20]))
        link.delay = link.random.choice([0.0, 0.005, 0.15])  # a shorter delay lets later packets overtake
        link.loss = link.random.choice([0.0, 0.1, 0.5, 1.0])
        settle(flow, until=1 + step / 4)
    flow.greedy, link.loss, link.rate = False, 0.0, megabits(10)
    flow.waiting = 0
    settle(flow, until=60)
    assert flow.control.bytes_in_flight == 0
    assert flow.control._meter.watched == 0
