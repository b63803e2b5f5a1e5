"""The parts of BBR by themselves: the delivery meter, the judge of losses, the pacer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from aioquic import tls
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket

from echokernel_quic import CongestionControl, QuicConfig
from echokernel_quic.bbr import MIN_PACKETS, Bbr
from echokernel_quic.delivery import DeliveryMeter, Sample
from echokernel_quic.factory import make_engine
from echokernel_quic.losses import LossJudge
from echokernel_quic.pacing import CoarsePacer, RatePacer
from echokernel_quic.trust import TrustPolicy

# --- the delivery meter ---------------------------------------------------------------------------------------------


def taken(meter: DeliveryMeter) -> Sample:
    sample = meter.take()
    assert sample is not None
    return sample


def test_a_rate_is_what_arrived_between_sending_and_acknowledgement() -> None:
    meter = DeliveryMeter()
    for number in range(10):  # 1,000 bytes every 10 ms, acknowledged 50 ms later
        meter.sent(number, 1_000, in_flight=number * 1_000, now=number * 0.01)
    rates = []
    for number in range(10):
        meter.acked(number, now=number * 0.01 + 0.05)
        rates.append(taken(meter).rate)
    assert rates[-1] == pytest.approx(10_000 / 0.14)  # the first window, with the silence before it
    for number in range(10, 30):
        meter.sent(number, 1_000, in_flight=5_000, now=number * 0.01 + 0.041)
        meter.acked(number - 5, now=number * 0.01 + 0.041) if number >= 15 else None
    assert taken(meter).rate == pytest.approx(100_000, rel=0.05)
    assert meter.take() is None


def test_acknowledgements_that_come_together_do_not_make_a_path_faster() -> None:
    meter = DeliveryMeter()
    for number in range(100):
        meter.sent(number, 1_000, in_flight=number * 1_000, now=number * 0.01)
    for number in range(100):
        meter.acked(number, now=1.04)  # a second's worth in one moment
    assert taken(meter).rate <= 1_000 / 0.01


def test_samples_of_an_idle_program_are_marked_until_all_of_it_arrived() -> None:
    meter = DeliveryMeter()
    meter.sent(1, 1_000, in_flight=0, now=0.0)
    meter.out_of_data(1_000)
    meter.sent(2, 1_000, in_flight=1_000, now=0.01)
    meter.acked(1, now=0.05)
    assert not taken(meter).limited
    meter.acked(2, now=0.06)
    assert taken(meter).limited
    assert not meter.limited
    meter.sent(3, 1_000, in_flight=0, now=1.0)
    meter.acked(3, now=1.05)
    sample = taken(meter)
    assert not sample.limited
    assert sample.rate == pytest.approx(20_000)  # the silence before it does not count


def test_packets_that_are_gone_or_unknown_are_forgotten() -> None:
    meter = DeliveryMeter()
    meter.sent(1, 1_000, in_flight=500, now=0.0)
    assert meter.gone(1) == 1_500
    assert meter.gone(1) == 0
    meter.acked(1, now=1.0)
    assert meter.take() is None
    assert (meter.delivered, meter.watched) == (0, 0)


# --- the judge of losses --------------------------------------------------------------------------------------------

EMPTY, QUEUED = 0.040, 0.080  # round trips of a path of 40 ms


def judge() -> LossJudge:
    made = LossJudge()
    assert not made.end_round(lost=0, packets=40, rtt=EMPTY, now=0.0)
    return made


def test_without_a_queue_losses_are_the_paths_own() -> None:
    it = judge()
    for number in range(200):
        assert not it.end_round(lost=number % 2, packets=40, rtt=EMPTY, now=number * 0.04)
    assert it.background == pytest.approx(1 / 80, rel=0.2)


def test_with_a_queue_one_loss_counts_and_so_it_does_a_round_later() -> None:
    it = judge()
    assert not it.end_round(lost=0, packets=40, rtt=QUEUED, now=0.1)
    assert it.end_round(lost=1, packets=40, rtt=QUEUED, now=0.2)
    assert it.end_round(lost=1, packets=40, rtt=EMPTY, now=0.3)
    assert not it.end_round(lost=1, packets=40, rtt=EMPTY, now=0.4)


def test_with_a_queue_as_many_losses_as_the_path_has_anyway_count_nothing() -> None:
    it = judge()
    for number in range(200):
        it.end_round(lost=2, packets=40, rtt=EMPTY, now=number * 0.04)
    assert it.background == pytest.approx(0.05, rel=0.1)
    assert not it.end_round(lost=4, packets=40, rtt=QUEUED, now=9.0)
    assert it.end_round(lost=5, packets=40, rtt=QUEUED, now=9.1)  # 2 expected, and 2 standard deviations of 1.4


def test_losses_of_a_fifth_without_a_queue_mean_that_somebody_polices_the_rate() -> None:
    it = judge()
    assert not it.end_round(lost=0, packets=10, rtt=EMPTY, now=0.1)
    assert not it.end_round(lost=10, packets=40, rtt=EMPTY, now=0.2)  # too few packets to say
    assert it.end_round(lost=3, packets=10, rtt=EMPTY, now=0.3)
    assert it.background == 0  # they are not the path's own


def test_the_shortest_round_trip_is_forgotten_after_a_minute_at_the_latest() -> None:
    it = judge()
    longer = [now for now in range(1, 100) if it.end_round(lost=1, packets=40, rtt=QUEUED, now=float(now))]
    assert longer == list(range(1, 61))


# --- the pacer ------------------------------------------------------------------------------------------------------


def sent_packet(number: int, size: int, now: float) -> QuicSentPacket:
    return QuicSentPacket(
        epoch=tls.Epoch.ONE_RTT,
        in_flight=True,
        is_ack_eliciting=True,
        is_crypto_packet=False,
        packet_number=number,
        packet_type=QuicPacketType.ONE_RTT,
        sent_time=now,
        sent_bytes=size,
    )


def paced(pacer: RatePacer | CoarsePacer, control: Bbr, *, size: int, late: float, seconds: float = 2.0) -> float:
    """Return bytes per second of a sender that always has packets of ``size``, woken ``late`` seconds after each time."""
    now, sent, number = 10.0, 0, 0
    while now < 10 + seconds:
        packets = []
        while (at := pacer.next_send_time(now)) is None:
            number += 1
            packets.append(sent_packet(number, size, now))
            pacer.update_after_send(now)
        for packet in packets:
            control.on_packet_sent(packet=packet)
            sent += size
        now = at + late
    return sent / seconds


@pytest.mark.parametrize("size", [1200, 300])
@pytest.mark.parametrize("late", [1e-6, 0.0007])
@pytest.mark.parametrize("rate", [50_000.0, 500_000.0, 5_000_000.0])
def test_the_rate_is_kept_whatever_the_timers_and_packets(rate: float, late: float, size: int) -> None:
    control = Bbr(max_datagram_size=1200)
    pacer = RatePacer(max_datagram_size=1200, control=control)
    assert pacer.next_send_time(9.99) is None  # no round trip measured: the first window goes at once
    control.pacing_rate = rate
    assert paced(pacer, control, size=size, late=late) == pytest.approx(rate, rel=0.05)


def test_aioquics_own_pacer_doubles_the_rate_when_timers_are_late() -> None:
    """Why there is one of our own. When this fails, look whether aioquic's will do now."""
    pacer = CoarsePacer(max_datagram_size=1200, enabled=True)
    pacer.update_rate(congestion_window=20_000, smoothed_rtt=0.04)
    assert paced(pacer, Bbr(max_datagram_size=1200), size=1200, late=1e-6) > 1.8 * 500_000


def test_what_was_built_counts_before_it_is_sent() -> None:
    control = Bbr(max_datagram_size=1200)
    control.pacing_rate = 500_000.0
    pacer = RatePacer(max_datagram_size=1200, control=control)
    assert pacer.next_send_time(10.0) is None
    for _ in range(2):
        pacer.update_after_send(10.0)
    assert pacer.next_send_time(10.0) == pytest.approx(10.001)


# --- in a connection ------------------------------------------------------------------------------------------------


def test_sizes_follow_the_datagram_size_of_the_path() -> None:
    config = QuicConfig(congestion_control=CongestionControl.BBR)
    engine = make_engine(config, policy=TrustPolicy(verify=False), reset_key=b"k", loopback=True)
    engine.use_datagram_size(16_384)
    engine._loss._cc.on_persistent_congestion()
    assert engine.congestion_window == MIN_PACKETS * 16_384


def test_the_benchmark_runs() -> None:
    path = Path(__file__).parent.parent / "benchmarks" / "congestion.py"
    done = subprocess.run([sys.executable, str(path), "--quick"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| BBR") >= 3
    assert "| 1.0% | 40 ms | " in done.stdout
