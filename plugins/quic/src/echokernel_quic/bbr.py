"""BBR: send at the rate that the path delivers, keep as much in flight as it carries, and let no queue grow.

The model is that of version 1 (highest delivery rate of ten rounds, shortest round trip of ten seconds, gains around
one), with what later versions added and we measured to matter: a bound on the bytes in flight that losses lower, half a
path's worth in flight while the round trip is measured, samples of an idle program that lower nothing. Sources:
draft-cardwell-iccrg-bbr-congestion-control-00 (version 1) and -02 (version 2), draft-ietf-ccwg-bbr (version 3), and
Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14(5), 2016.

What differs from all of them is the answer to losses (``losses.py``): those of a bad path are left alone, those of a
full queue halve the bound, which then grows by a packet a round, as NewReno's window would. The figures that the
constants were chosen by come from ``benchmarks/congestion.py``.

No clock and no IO: aioquic calls the hooks, times are arguments in seconds, sizes and windows bytes, rates bytes/s.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum

from aioquic.quic.congestion.base import K_INITIAL_WINDOW, QuicCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

from echokernel_quic.delivery import DeliveryMeter, Sample
from echokernel_quic.losses import QUEUE_FACTOR, QUEUE_TIME, LossJudge

STARTUP_GAIN = 2 / math.log(2)  # the smallest that doubles the delivery rate every round
PROBE_UP, PROBE_DOWN = 1.25, 0.75  # a quarter more for a round trip, then as much less: the queue goes as it came
CRUISE_PHASES = 6  # shortest round trips at the measured rate between two probes
WINDOW_GAIN = 1.75  # late acknowledgements must not stop us; with 2 we took up to 2.3 times NewReno's share
MARGIN = 0.99  # of the measured rate: what the meter overrates would otherwise stay in the queue for ever
RATE_ROUNDS = 10  # one probing cycle and a little
FULL_GROWTH, FULL_ROUNDS = 1.25, 3  # the path is full when the rate grew by less than this for so many rounds
MIN_RTT_SECONDS = 10.0
PROBE_RTT_SECONDS = 0.2
PROBE_RTT_GAIN = 0.5  # of the path's worth; a queue of our own is gone after a round of that
MIN_PACKETS = 4
ACK_PACKETS_LEAST, ACK_PACKETS_MOST = 3, 16  # room for acknowledgements that come together
LOSS_FACTOR = 0.5  # what losses leave of the bound; 0.7 took more than twice NewReno's share in short queues
REGAIN_ROUNDS = 32  # the bound is back after so many rounds at the latest, where a packet a round would be too slow
STARTUP_LOSSES, STARTUP_LOSS_SHARE = 6, 0.2  # packets and share of a round that end STARTUP: the rate was overrun
RTT_SAMPLES = 5  # that losses are judged by: the quickest of one or two may be slow without any queue
SETTLE_ROUNDS = 3  # after STARTUP, in which losses are still its own
LEAST_RATE = 2  # packets per second

__all__ = ["Bbr", "State"]


class State(Enum):
    STARTUP = "startup"
    """The rate doubles every round, until it does not."""
    DRAIN = "drain"
    """The queue that STARTUP made is left to go."""
    PROBE_BW = "probe_bw"
    """A little faster, a little slower, and six round trips at the measured rate."""
    PROBE_RTT = "probe_rtt"
    """Little in flight for 200 ms, to see the path without our queue."""


class Bbr(QuicCongestionControl):
    """One connection's congestion control. :class:`~echokernel_quic.pacing.RatePacer` keeps to its rate."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._max_datagram_size = max_datagram_size
        self.state = State.STARTUP
        self.pacing_rate: float | None = None
        """Bytes per second; None before the first round trip was measured: the first window goes at once."""
        self.rate = 0.0
        """What the path delivers: the best of the last rounds, in bytes per second."""
        self.min_rtt = math.inf
        """Seconds."""
        self.inflight_bound = math.inf
        """Bytes in flight that losses have left us."""
        self.on_bytes_sent: Callable[[int], None] = lambda size: None
        self._meter = DeliveryMeter()
        self._judge = LossJudge()
        self._ack_at: float | None = None
        self._rtt = 0.0
        self._min_rtt_at = -math.inf
        # rounds: one ends when a packet is acknowledged that was sent after the last one ended
        self._round = 0
        self._round_end = 0
        self._rates: deque[tuple[int, float]] = deque()
        self._acks: deque[tuple[int, float]] = deque()
        # since losses were judged
        self._lost = 0
        self._lost_at_in_flight = 0
        self._judged = 0
        self._quickest = math.inf
        self._rtts = 0
        # STARTUP
        self._full = False
        self._full_rate = 0.0
        self._flat_rounds = 0
        self._limited_rounds = 0
        self._full_round = 0
        # PROBE_BW
        self._gain = STARTUP_GAIN
        self._phase = 0
        self._phase_at = 0.0
        self._regain = 0.0
        # PROBE_RTT
        self._probe_rtt_until: float | None = None
        self._probe_rtt_round = 0
        self._window_before = 0

    # --- what aioquic tells -----------------------------------------------------------------------------------------

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        self._end_of_ack()
        assert packet.sent_time is not None
        if self.bytes_in_flight <= 0 and self._meter.limited and self.state is State.PROBE_BW:
            self.pacing_rate = self._paced(1.0)  # after a silence there is no queue to empty, and none to be made
        size = packet.sent_bytes
        self._meter.sent(packet.packet_number, size, in_flight=self.bytes_in_flight, now=packet.sent_time)
        self.bytes_in_flight += size
        self.on_bytes_sent(size)

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        if self._ack_at is not None and self._ack_at != now:
            self._end_of_ack()
        self._ack_at = now
        self.bytes_in_flight -= packet.sent_bytes
        self._meter.acked(packet.packet_number, now=now)

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        self._rtt = max(rtt, 1e-6)
        self._quickest = min(self._quickest, self._rtt)
        self._rtts += 1
        self._end_of_ack()

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        self._end_of_ack()
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            self._lost += 1
            self._lost_at_in_flight = self._meter.gone(packet.packet_number)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            self._meter.gone(packet.packet_number)

    def on_persistent_congestion(self) -> None:
        """The path was dead for a while. The rate is remembered, the window opens again as acknowledgements come."""
        self.congestion_window = self._least_window

    def on_out_of_data(self) -> None:
        """The connection could send more and has nothing: until what is in flight arrived, rates are the program's."""
        self._end_of_ack()
        self._meter.out_of_data(self.bytes_in_flight)

    def get_log_data(self) -> dict[str, object]:
        return {**super().get_log_data(), "bbr-state": self.state.value, "bbr-rate": int(self.rate)}

    # --- the model of the path --------------------------------------------------------------------------------------

    @property
    def _least_window(self) -> int:
        return MIN_PACKETS * self._max_datagram_size

    def _path(self, gain: float) -> float:
        """Return ``gain`` times what the path holds without a queue, in bytes."""
        if self.min_rtt == math.inf or not self.rate:
            return gain * self.congestion_window
        return gain * self.rate * self.min_rtt

    def _paced(self, gain: float) -> float:
        return max(gain * self.rate * (MARGIN if self._full else 1.0), LEAST_RATE * self._max_datagram_size)

    def _end_of_ack(self) -> None:
        """Learn from the packets that one acknowledgement named. aioquic does not say when it is at its end."""
        now, self._ack_at = self._ack_at, None
        if now is None or (sample := self._meter.take()) is None:
            return
        if sample.prior_delivered >= self._round_end:
            self._end_of_round(sample, now)
        if sample.rate and (not sample.limited or sample.rate >= self.rate):
            self.rate = _highest(self._rates, self._round, sample.rate)
        _highest(self._acks, self._round, sample.acked)
        if self.state is State.STARTUP and self._full:
            self.state, self._gain = State.DRAIN, 1 / STARTUP_GAIN
        if self.state is State.DRAIN and self.bytes_in_flight <= self._path(1.0):
            self._cruise(now)
        elif self.state is State.PROBE_BW:
            self._probe_rate(now)
        self._probe_min_rtt(sample, now)
        self._set_rate()
        self._set_window(sample)

    def _end_of_round(self, sample: Sample, now: float) -> None:
        self._round += 1
        self._round_end = self._meter.delivered
        lowered = (not self._full or self._rtts >= RTT_SAMPLES) and self._judge_losses(sample, now)
        if self.inflight_bound < math.inf and not lowered:
            self.inflight_bound += max(self._regain, self._max_datagram_size)
            if self.inflight_bound > self._window_for(WINDOW_GAIN):
                self.inflight_bound = math.inf

    def _judge_losses(self, sample: Sample, now: float) -> bool:
        """Look at what was lost since the last time: in one round, or a few on a short path. Return whether it matters."""
        lost, delivered, quickest = self._lost, self._meter.delivered - self._judged, self._quickest
        self._lost, self._judged, self._quickest, self._rtts = 0, self._meter.delivered, math.inf, 0
        packets = lost + max(1, round(delivered / self._max_datagram_size))
        if not self._full:
            self._judge_startup(sample, lost, packets, quickest)
            return False
        if self._round <= self._full_round + SETTLE_ROUNDS:
            return False  # what is lost now was sent by STARTUP, which has learnt it
        if not self._judge.end_round(lost=lost, packets=packets, rtt=quickest, now=now):
            return False
        self._lower_bound(now)
        return True

    def _judge_startup(self, sample: Sample, lost: int, packets: int, quickest: float) -> None:
        """STARTUP ends when the path is full: it delivers no more, and we are not short of data or have made a queue.

        When the program is what limits us, we wait with little more than it needs. Its next large message finds the
        rate of a new connection at least, and doubles it from there.
        """
        if self.rate >= FULL_GROWTH * self._full_rate:
            self._full_rate, self._flat_rounds, self._limited_rounds = self.rate, 0, 0
        elif sample.limited and quickest <= QUEUE_FACTOR * self.min_rtt + QUEUE_TIME:
            self._limited_rounds += 1
        else:
            self._flat_rounds, self._limited_rounds = self._flat_rounds + 1, 0
        overrun = lost >= STARTUP_LOSSES and lost > STARTUP_LOSS_SHARE * packets
        self._full = self._flat_rounds >= FULL_ROUNDS or overrun
        self._full_round = self._round
        self._gain = PROBE_UP if self._waits else STARTUP_GAIN

    @property
    def _waits(self) -> bool:
        """In STARTUP, for a program that has little to send."""
        return not self._full and self._limited_rounds >= FULL_ROUNDS

    def _lower_bound(self, now: float) -> None:
        in_flight = min(self._lost_at_in_flight or self.bytes_in_flight, self.inflight_bound)
        self.inflight_bound = max(LOSS_FACTOR * in_flight, self._least_window)
        self._regain = (in_flight - self.inflight_bound) / REGAIN_ROUNDS
        if self.state is State.PROBE_BW and self._gain == PROBE_UP:
            self._next_phase(now)

    # --- the states -------------------------------------------------------------------------------------------------

    def _cruise(self, now: float) -> None:
        """Begin PROBE_BW at any of its quiet phases; what was delivered so far is as good as dice."""
        self.state = State.PROBE_BW
        self._phase = 1 + self._meter.delivered // self._max_datagram_size % CRUISE_PHASES
        self._next_phase(now)

    def _next_phase(self, now: float) -> None:
        self._phase = (self._phase + 1) % (2 + CRUISE_PHASES)
        self._phase_at = now
        self._gain = (PROBE_UP, PROBE_DOWN)[self._phase] if self._phase < 2 else 1.0

    def _probe_rate(self, now: float) -> None:
        over = now - self._phase_at > self.min_rtt
        if self._gain == PROBE_UP:  # until the quarter more is in flight: a rate that grows keeps us probing
            over = over and (self._lost > 0 or self.bytes_in_flight >= self._path(PROBE_UP))
        elif self._gain == PROBE_DOWN:
            over = over or self.bytes_in_flight <= self._path(1.0)
        if over:
            self._next_phase(now)

    def _probe_min_rtt(self, sample: Sample, now: float) -> None:
        expired = now > self._min_rtt_at + MIN_RTT_SECONDS
        if self._rtt and (self._rtt <= self.min_rtt or expired):
            self.min_rtt, self._min_rtt_at = self._rtt, now
            if expired and self._full and not sample.limited and self.state is not State.PROBE_RTT:
                self.state, self._gain = State.PROBE_RTT, 1.0
                self._probe_rtt_until, self._window_before = None, self.congestion_window
        if self.state is not State.PROBE_RTT:
            return
        self._meter.out_of_data(self.bytes_in_flight)  # it is us who send little: the path did not become slower
        if self._probe_rtt_until is None:
            if self.bytes_in_flight <= self._probe_rtt_window():
                self._probe_rtt_until, self._probe_rtt_round = now + PROBE_RTT_SECONDS, self._round
        elif now >= self._probe_rtt_until and self._round > self._probe_rtt_round:
            self._min_rtt_at = now
            self.congestion_window = max(self.congestion_window, self._window_before)
            self._cruise(now)

    # --- what follows from it ---------------------------------------------------------------------------------------

    def _set_rate(self) -> None:
        if self.pacing_rate is None:
            if self._rtt:
                self.pacing_rate = STARTUP_GAIN * self.congestion_window / max(self._rtt, 0.001)
            return
        rate = self._paced(self._gain)
        if self._waits:
            self.pacing_rate = max(rate, K_INITIAL_WINDOW * self._max_datagram_size / max(self.min_rtt, 0.001))
        elif self._full or rate > self.pacing_rate:
            self.pacing_rate = rate

    def _window_for(self, gain: float) -> float:
        size = self._max_datagram_size
        together = 2 * self._acks[0][1] if self._acks else 0
        return self._path(gain) + min(max(together, ACK_PACKETS_LEAST * size), ACK_PACKETS_MOST * size)

    def _probe_rtt_window(self) -> float:
        return max(self._path(PROBE_RTT_GAIN), self._least_window)

    def _set_window(self, sample: Sample) -> None:
        window: float = self.congestion_window
        if self._full or self._waits:
            window = min(window + sample.acked, self._window_for(WINDOW_GAIN))
        elif window < self._window_for(STARTUP_GAIN):
            window += sample.acked
        window = min(window, self.inflight_bound)
        if self.state is State.PROBE_RTT:
            window = min(window, self._probe_rtt_window())
        self.congestion_window = int(max(window, self._least_window))


def _highest(values: deque[tuple[int, float]], now: int, value: float) -> float:
    """Add ``value`` in round ``now``; return the highest of the last rounds. The deque falls from the left."""
    while values and values[-1][1] <= value:
        values.pop()
    values.append((now, value))
    while values[0][0] <= now - RATE_ROUNDS:
        values.popleft()
    return values[0][1]
