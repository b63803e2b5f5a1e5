"""A bottleneck in virtual time, and senders on it that run aioquic's own loss recovery and the congestion control.

A :class:`Flow` is everything of a QUIC sender but streams and encryption: the packets are real ``QuicSentPacket``, the
recovery (loss detection, RTT, pacer, congestion control) is the connection's own class. An :class:`EnginePair` is two
whole connections, ten times slower. Nothing sleeps; a run is the same every time.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace

from echokernel_quic.config import CongestionControl, QuicConfig
from echokernel_quic.congestion import make_pacer, rate_control
from echokernel_quic.engine import Engine
from echokernel_quic.factory import make_engine
from echokernel_quic.identity import self_signed_identity
from echokernel_quic.trust import TrustPolicy

SIZE = 1200  # bytes of each packet
ACK_AFTER, ACK_DELAY = 8, 0.010  # as the engine acknowledges
ACK_RANGES = 32
PASS = 16  # packets of one transmit pass, as the engine's


class Clock:
    """What happens when: calls in the order of their times."""

    def __init__(self) -> None:
        self.now = 1.0
        self._count = 0
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._calls, (max(when, self.now), self._count, call, arguments))

    def run(self, until: float) -> None:
        calls = self._calls
        while calls and calls[0][0] <= until:
            self.now, _, call, arguments = heapq.heappop(calls)
            call(*arguments)
        self.now = until


class Link:
    """One direction with a rate, a queue that drops what does not fit, a delay, and random loss; the way back is free.

    ``rate``: bytes/s. ``queue``: bytes that may wait. ``delay``: seconds one way, each way. ``loss``: probability.
    ``jitter``: seconds on average that what comes back is late, exponentially distributed and in order.
    """

    jitter = 0.0

    def __init__(
        self, clock: Clock, *, rate: float, delay: float, queue: float, loss: float = 0.0, seed: int = 1
    ) -> None:
        self.clock, self.rate, self.delay, self.queue, self.loss = clock, rate, delay, queue, loss
        self.random = random.Random(seed)
        self.backlog = 0
        self.dropped = 0
        self.waits: list[tuple[float, float]] = []
        """(when, seconds in the queue) of each packet that came through."""
        self._back_at = 0.0
        self._waiting: deque[tuple[int, float, Callable[..., None], tuple[Any, ...]]] = deque()

    def send(self, size: int, arrive: Callable[..., None], *arguments: Any) -> None:
        if self.backlog + size > self.queue + SIZE:  # the packet on the wire does not wait
            self.dropped += 1
            return
        self.backlog += size
        self._waiting.append((size, self.clock.now, arrive, arguments))
        if len(self._waiting) == 1:
            self.clock.at(self.clock.now + size / self.rate, self._served)

    def back(self, arrive: Callable[..., None], *arguments: Any) -> None:
        late = self.random.expovariate(1 / self.jitter) if self.jitter else 0.0
        self._back_at = max(self._back_at, self.clock.now + self.delay + late)
        self.clock.at(self._back_at, arrive, *arguments)

    def _served(self) -> None:
        size, since, arrive, arguments = self._waiting.popleft()
        now = self.clock.now
        self.backlog -= size
        self.waits.append((now, max(0.0, now - since - size / self.rate)))
        if self._waiting:
            self.clock.at(now + self._waiting[0][0] / self.rate, self._served)
        if self.random.random() >= self.loss:
            self.clock.at(now + self.delay, arrive, *arguments)

    def added_delay(self, share: float, since: float) -> float:
        """Return the queueing delay, in seconds, that ``share`` (0..1) of the packets after ``since`` stayed below."""
        waits = sorted(wait for when, wait in self.waits if when >= since)
        return waits[int(share * (len(waits) - 1))]


def megabits(rate: float) -> float:
    """Return bytes/s."""
    return rate * 125_000


def one_link(*, rate: float, rtt: float, queue_time: float, loss: float = 0.0, seed: int = 1) -> Link:
    """``rate``: Mbit/s. ``queue_time``: seconds that a full queue takes to leave."""
    bytes_per_second = megabits(rate)
    queue = bytes_per_second * queue_time
    return Link(Clock(), rate=bytes_per_second, delay=rtt / 2, queue=queue, loss=loss, seed=seed)


class Flow:
    """A sender and its receiver. It sends for ever, or what :meth:`offer` gave it when ``greedy`` is false."""

    def __init__(
        self,
        link: Link,
        algorithm: str,
        *,
        start: float = 0.0,
        greedy: bool = True,
        grain: float = 0.001,
    ) -> None:
        self.link, self.clock, self.greedy, self.grain = link, link.clock, greedy, grain
        self.recovery = QuicPacketRecovery(
            congestion_control_algorithm=algorithm,
            initial_rtt=0.1,
            max_datagram_size=SIZE,
            peer_completed_address_validation=True,
            send_probe=self._probe,
        )
        self.recovery.handshake_confirmed = True
        self.recovery._pacer = make_pacer(self.recovery, SIZE, loopback=False)
        self.control: Any = self.recovery._cc
        self.space = QuicPacketSpace(is_application_data=True)
        self.recovery.spaces = [self.space]
        self.waiting = 0
        self.received: list[tuple[float, int]] = []
        self.acked: list[float] = []
        self.smallest_window = self.least_in_flight = 1 << 60
        self._number = 0
        self._probing = False
        self._wake_at: float | None = None
        self._seen = RangeSet()
        self._unacked = 0
        self._ack_at: float | None = None
        self._newest_at = 0.0
        self.clock.at(self.clock.now + start, self.transmit)

    def offer(self, size: int) -> None:
        """The program writes ``size`` bytes."""
        self.waiting += size
        self.transmit()

    def rate(self, since: float, until: float) -> float:
        """Return bytes/s that arrived in this time."""
        return sum(size for when, size in self.received if since <= when < until) / (until - since)

    # --- sender -----------------------------------------------------------------------------------------------------

    def transmit(self) -> None:
        now, control = self.clock.now, self.control
        while True:
            packets: list[QuicSentPacket] = []
            room = control.congestion_window - control.bytes_in_flight
            if self._probing:
                room = max(room, SIZE)
            pacing_at = None
            while len(packets) < PASS and room >= SIZE and (self.greedy or self.waiting > 0):
                pacing_at = self.recovery._pacer.next_send_time(now)
                if pacing_at is not None:
                    break
                packets.append(self._packet(now))
                room -= SIZE
                self.recovery._pacer.update_after_send(now)
            self._probing = False
            for packet in packets:
                self.recovery.on_packet_sent(packet=packet, space=self.space)
                self.link.send(SIZE, self._arrived, packet.packet_number)
            if len(packets) < PASS:
                break
        if pacing_at is None and not self.greedy and self.waiting <= 0 and room >= SIZE:
            wants_to_know = rate_control(self.recovery)
            if wants_to_know is not None:
                wants_to_know.on_out_of_data()
        self._check()
        self._arm(pacing_at)

    def _packet(self, now: float) -> QuicSentPacket:
        self._number += 1
        if not self.greedy:
            self.waiting -= SIZE
        return QuicSentPacket(
            epoch=tls.Epoch.ONE_RTT,
            in_flight=True,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=self._number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=SIZE,
        )

    def _probe(self) -> None:
        self._probing = True
        if not self.greedy:
            self.waiting += SIZE

    def _arm(self, pacing_at: float | None) -> None:
        times = [pacing_at, self.recovery.get_loss_detection_time(amplification_limited=False)]
        at = min((when for when in times if when is not None), default=None)
        if at is None:
            return
        at = max(at, self.clock.now) + 1e-6  # aioquic's loss timer needs it to be later, not equal
        if self.grain:
            at = (int(at / self.grain) + 1) * self.grain  # an event loop is late
        if self._wake_at is None or at < self._wake_at:
            self._wake_at = at
            self.clock.at(at, self._wake, at)

    def _wake(self, at: float) -> None:
        if self._wake_at != at:
            return
        self._wake_at = None
        loss_at = self.recovery.get_loss_detection_time(amplification_limited=False)
        if loss_at is not None and loss_at <= self.clock.now:
            self.recovery.on_loss_detection_timeout(now=self.clock.now)
            self._check()
        self.transmit()

    def _check(self) -> None:
        self.smallest_window = min(self.smallest_window, self.control.congestion_window)
        self.least_in_flight = min(self.least_in_flight, self.control.bytes_in_flight)

    # --- receiver ---------------------------------------------------------------------------------------------------

    def _arrived(self, number: int) -> None:
        now = self.clock.now
        self.received.append((now, SIZE))
        self._seen.add(number)
        self._newest_at = now
        while len(self._seen) > ACK_RANGES:
            self._seen.shift()
        self._unacked += 1
        if self._unacked >= ACK_AFTER:
            self._acknowledge()
        elif self._ack_at is None:
            self._ack_at = now + ACK_DELAY
            self.clock.at(self._ack_at, self._ack_due, self._ack_at)

    def _ack_due(self, at: float) -> None:
        if self._ack_at == at:
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._unacked, self._ack_at = 0, None
        delay = self.clock.now - self._newest_at
        self.link.back(self._hear, RangeSet(list(self._seen)), delay)

    def _hear(self, ranges: RangeSet, delay: float) -> None:
        self.recovery.on_ack_received(ack_rangeset=ranges, ack_delay=delay, now=self.clock.now, space=self.space)
        self._check()
        self.transmit()


class EnginePair:
    """A client that uploads for ever to a server that reads: two whole connections, packets and encryption included."""

    CLIENT, SERVER = ("192.0.2.1", 50_000), ("192.0.2.2", 4433)
    AHEAD = 128 * 1024  # bytes written and not acknowledged, as the connection's watermark would allow

    def __init__(self, link: Link, algorithm: CongestionControl) -> None:
        self.link, self.clock = link, link.clock
        self.config = QuicConfig(congestion_control=algorithm)
        self.identity = self_signed_identity()
        self.client = make_engine(
            self.config, policy=TrustPolicy(verify=False), server_name="localhost", reset_key=b"c", loopback=False
        )
        self.server: Engine | None = None
        self.received: list[tuple[float, int]] = []
        self._stream: Any = None
        self._wake_at: dict[Engine, float] = {}
        self.client.connect(self.SERVER, now=self.clock.now)
        self._pump(self.client)

    rate = Flow.rate

    def _pump(self, engine: Engine) -> None:
        now = self.clock.now
        if engine is self.client and engine.handshake_confirmed:
            if self._stream is None:
                engine.establish()
                self._stream = engine.open_stream(True)
            missing = self.AHEAD - len(self._stream.sender._buffer)
            if missing > self.AHEAD // 2:
                self._stream.sender.write(bytes(missing))
        while True:
            for data, _ in engine.transmit(now):
                if engine is self.client:
                    self.link.send(len(data), self._to_server, data)
                else:
                    self.link.back(self._to_client, data)
            if not engine.more_to_send:
                break
        at = engine.timer()
        if at is None or engine.is_over:
            return
        at = max(at, now) + 1e-6
        if at < self._wake_at.get(engine, at + 1):
            self._wake_at[engine] = at
            self.clock.at(at, self._wake, engine, at)

    def _wake(self, engine: Engine, at: float) -> None:
        if self._wake_at.get(engine) == at:
            del self._wake_at[engine]
            engine.on_timer(self.clock.now)
            self._pump(engine)

    def _to_client(self, data: bytes) -> None:
        self.client.receive_datagram(data, self.SERVER, self.clock.now)
        while self.client.next_event() is not None:
            pass
        self._pump(self.client)

    def _to_server(self, data: bytes) -> None:
        if self.server is None:
            self.server = make_engine(
                self.config,
                identity=self.identity,
                reset_key=b"s",
                loopback=False,
                original_destination_connection_id=data[6 : 6 + data[5]],
            )
        server = self.server
        server.receive_datagram(data, self.CLIENT, self.clock.now)
        while (event := server.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                if not self.received:
                    server.establish()
                self.received.append((self.clock.now, len(event.data)))
                stream = server.stream(event.stream_id)
                assert stream is not None
                server.track(stream)
                server.consume(stream, len(event.data))
        self._pump(server)
