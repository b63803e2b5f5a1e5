"""One connection: the engine's events become streams, datagrams and errors; what is written becomes packets."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode

from echokernel.errors import ConnectionClosed, InvalidArgument
from echokernel.tasks import TaskScope, Timer
from echokernel.transport import Connection, PeerIdentity
from echokernel_protocol.codes import Code
from echokernel_quic.engine import Engine, is_unidirectional
from echokernel_quic.keepalive import KeepAlive, Verdict
from echokernel_quic.path import PathSize
from echokernel_quic.streams import QuicRecvStream, QuicSendStream
from echokernel_quic.tickets import MAX_PER_SERVER, MAX_REMEMBERED, Resumable
from echokernel_quic.trust import CERTIFICATE_ALERTS, identity_of, refused_certificate
from echokernel_quic.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.quic.stream import QuicStream
    from aioquic.tls import SessionTicket

    from echokernel_quic.udp import Datagram, SendResult

MAX_OWN_STREAMS = 256  # live ones that we opened: each costs a little for every packet
DATAGRAM_QUEUE = 256  # each way; an old datagram is worth less than a new one
REASON_SIZE = 256  # bytes; more may not fit the packet, and then nothing is sent at all
GOODBYE_REPEATS = (0.1, 0.2, 0.3)  # seconds after the first CONNECTION_CLOSE
GOODBYE_GRACE = 0.1  # seconds; later than this the timer that ends the goodbyes is not coming any more
GOODBYE_ANSWERS = 16  # packets of a peer that has not heard of the end are answered this often
RETRY_SEND = 0.001  # seconds; the socket's buffer was full
WORTH_A_PROBE = 2
TIMER_SLACK = 0.001  # seconds; uvloop's timers may be this early

logger = logging.getLogger("echokernel.quic")

__all__ = ["Endpoint", "QuicConnection"]


class Endpoint(Protocol):
    """What a connection needs of the socket that it lives on."""

    def send(self, datagrams: list[Datagram]) -> SendResult | None: ...

    def add_route(self, connection_id: bytes, connection: QuicConnection) -> None: ...

    def drop_route(self, connection_id: bytes) -> None: ...

    def early_data_arrived(self, connection: QuicConnection) -> None:
        """An acceptor's: the peer's first stream is here, and the handshake is not complete."""

    def handshake_completed(self, connection: QuicConnection) -> None: ...

    def connection_lost(self, connection: QuicConnection) -> None:
        """It failed or was closed; its last packets may still come and go."""

    def forget(self, connection: QuicConnection) -> None:
        """Nothing more is to be sent or received."""


class QuicConnection(Connection):
    """A connection of either end, from its first packet on."""

    def __init__(
        self,
        engine: Engine,
        endpoint: Endpoint,
        tasks: TaskScope,
        *,
        dialer: bool,
        keepalive: float,
        handshake_deadline: float,
    ) -> None:
        now = tasks.now()
        self.engine = engine
        self.tasks = tasks
        self.error: ConnectionClosed | None = None
        """Why it is over; everything raises this from then on."""
        self.ready = False
        """The handshake is complete."""
        self.was_early = False
        """It was handed to the program before the handshake was complete."""
        self.resumable: Resumable | None = None
        """A dialer's: what it resumes with."""
        self.on_ticket: Callable[[Resumable], None] | None = None
        """A dialer's: keeps tickets for the next connection."""
        self.explain: Callable[[ConnectionClosed], ConnectionClosed] | None = None
        """A dialer's: says why an early connection did not become complete."""
        self.full_streams: set[QuicSendStream] = set()
        """Streams that are above their high water and not yet below the low one."""
        self._endpoint = endpoint
        self._keepalive = KeepAlive(limit=keepalive, dialer=dialer, now=now)
        self._path: PathSize | None = None
        self._handshake_deadline: float | None = handshake_deadline
        self._identity: PeerIdentity | None = None
        self._tickets: list[SessionTicket] = []
        self._to_remember: bytes | None = None
        self._streams_opened = self._streams_accepted = 0
        self._send: dict[int, QuicSendStream] = {}
        self._recv: dict[int, QuicRecvStream] = {}
        self._own_streams = 0
        self._bi_queue: deque[tuple[QuicSendStream, QuicRecvStream]] = deque()
        self._uni_queue: deque[QuicRecvStream] = deque()
        self._datagrams: deque[bytes] = deque()
        self._datagrams_lost = 0
        self._bi_waiters, self._uni_waiters, self._datagram_waiters = Waiters(tasks), Waiters(tasks), Waiters(tasks)
        self._openers = {False: Waiters(tasks), True: Waiters(tasks)}
        self._ready_waiters = Waiters(tasks)
        self._end_waiters, self._drain_waiters, self._goodbye_waiters = Waiters(tasks), Waiters(tasks), Waiters(tasks)
        self._pings: dict[int, Any] = {}
        self._ping_id = 0
        self._packets_seen = 0
        self._dirty = False
        self._flush_planned = False
        self._backlog: list[Datagram] = []
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._closing = False
        self._closed_here: ConnectionClosed | None = None
        self._goodbye: list[Datagram] = []
        self._goodbye_answers = 0
        self._forgotten = False
        engine.on_streams_gone = self._streams_gone

    # --- Connection -------------------------------------------------------------------------------------------------

    @property
    def peer_addr(self) -> tuple[str, int]:
        address = self.engine.get_peer_address()
        return (address[0], address[1]) if address else ("", 0)

    @property
    def peer_identity(self) -> PeerIdentity | None:
        return self._identity

    @property
    def early(self) -> bool:
        return self.was_early and not self.ready

    async def confirmed(self) -> None:
        while not self.ready:
            self._check()
            await self._ready_waiters.wait()
        self._check()

    @property
    def remembered(self) -> bytes | None:
        return self.resumable.remembered if self.early and self.resumable is not None else None

    def remember(self, data: bytes) -> None:
        if len(data) <= MAX_REMEMBERED:
            self._to_remember = bytes(data)
            self._keep_tickets()

    @property
    def max_datagram(self) -> int:
        return self.engine.max_datagram

    async def open_bi_stream(self) -> tuple[QuicSendStream, QuicRecvStream]:
        if self.early and self.engine.is_client and self._streams_opened:
            await self.confirmed()  # only the first stream travels early
        self._streams_opened += 1
        stream = await self._open(unidirectional=False)
        return self._add_send(stream), self._add_recv(stream, accepted=True)

    async def open_uni_stream(self) -> QuicSendStream:
        if self.early and self.engine.is_client:
            await self.confirmed()
        return self._add_send(await self._open(unidirectional=True))

    async def accept_bi_stream(self) -> tuple[QuicSendStream, QuicRecvStream]:
        if self.early and self._streams_accepted:
            await self.confirmed()
        self._streams_accepted += 1
        while not self._bi_queue:
            self._check()
            await self._bi_waiters.wait()
        self._check()
        send, recv = self._bi_queue.popleft()
        recv.accepted()
        return send, recv

    async def accept_uni_stream(self) -> QuicRecvStream:
        if self.early:
            await self.confirmed()
        while not self._uni_queue:
            self._check()
            await self._uni_waiters.wait()
        self._check()
        recv = self._uni_queue.popleft()
        recv.accepted()
        return recv

    def send_datagram(self, data: bytes) -> None:
        self._check()
        limit = self.engine.max_datagram
        if len(data) > limit:
            remedy = "use a stream" if limit else "the peer takes no datagrams at all: use a stream"
            raise InvalidArgument(f"a datagram of {len(data):,} bytes is longer than the {limit:,} that fit; {remedy}")
        self.engine.send_datagram(bytes(data), DATAGRAM_QUEUE)
        self.schedule_flush()

    async def recv_datagram(self) -> bytes:
        if self.early:
            await self.confirmed()
        while not self._datagrams:
            self._check()
            await self._datagram_waiters.wait()
        return self._datagrams.popleft()

    async def ping(self) -> float:
        self._check()
        self._ping_id += 1
        uid, answer = self._ping_id, self.tasks.future()
        began = time.perf_counter()  # uvloop's own clock moves in milliseconds
        self._pings[uid] = answer
        self.engine.ping(uid)
        self.schedule_flush()
        try:
            await answer
        finally:
            self._pings.pop(uid, None)
        self._check()
        return time.perf_counter() - began

    def flush(self) -> None:
        if self._dirty:
            self._transmit()

    def established(self) -> None:
        if self.error is None and self.engine.establish():
            self.schedule_flush()

    async def wait_closed(self) -> Exception:
        while self.error is None:
            await self._end_waiters.wait()
        return self.error

    async def close(self, code: int = 0, reason: str = "", *, drain: float = 2.0) -> None:
        if self._closing:
            await self.wait_closed()
            return
        self._closing = True
        try:
            if drain > 0:
                await self._drain(drain)
        finally:
            self._close_now(code, reason)  # also when the caller was cancelled: the peer should know
        with anyio.move_on_after(GOODBYE_REPEATS[-1] + GOODBYE_GRACE):
            while self._goodbye and not self._forgotten:
                await self._goodbye_waiters.wait()
        if self._goodbye:
            self._forget()  # on trio a scope that was cancelled has lost its timers

    def stats(self) -> Mapping[str, int | float]:
        return {
            "packets_sent": self.engine.packets_sent,
            "packets_received": self.engine.packets_received,
            "bytes_sent": self.engine.bytes_sent,
            "rtt": self.engine.rtt,
            "congestion_window": self.engine.congestion_window,
            "datagram_size": self.engine.datagram_size,
            "datagrams_dropped": self.engine.datagrams_dropped + self._datagrams_lost,
            "streams": len(self._send) + len(self._recv),
            "key_updates": self.engine.key_updates,
            "stalls": self._keepalive.stalls,
        }

    # --- what streams ask -------------------------------------------------------------------------------------------

    def schedule_flush(self) -> None:
        """Send at the end of this turn of the event loop: all that is written in it leaves together."""
        self._dirty = True
        if not self._flush_planned:
            self._flush_planned = True
            self.tasks.call_soon(self._planned_flush)

    def consumed(self, stream: QuicStream, size: int, *, at_end: bool, more: bool = True) -> None:
        """The program read ``size`` bytes; ``at_end``: they were the last ones."""
        due = size > 0 and self.engine.consume(stream, size, more=more, now=self.tasks.now())
        if at_end:
            due = self.engine.end_receiving(stream) or due
        if due and self.error is None:
            self.schedule_flush()

    def stop_receiving(self, stream: QuicStream, code: int, dropped: int) -> None:
        at_end = stream.receiver.is_finished
        if not at_end:
            stream.receiver.stop(code)
            self.schedule_flush()
        self.consumed(stream, dropped, at_end=at_end, more=False)

    # --- what the endpoint does -------------------------------------------------------------------------------------

    def feed(self, data: bytes, address: Any, now: float) -> None:
        """Take one datagram; :meth:`batch_done` follows."""
        if self.error is not None:
            self._answer_late(data)
            return
        try:
            self.engine.receive_datagram(data, address, now)
        except Exception as error:
            self._broken(error)

    def batch_done(self, now: float) -> None:
        """All datagrams that had arrived were fed: act on them, then send once."""
        if self.error is not None:
            return
        engine = self.engine
        if engine.packets_received != self._packets_seen:
            self._packets_seen = engine.packets_received
            self._keepalive.heard(now=now)
        try:
            while (event := engine.next_event()) is not None:
                self._handle_event(event)
        except Exception as error:
            self._broken(error)
            return
        if engine.is_over:
            self._over(now)
            return
        if self._bi_queue and not self.ready and not self.was_early and engine.takes_early_data:
            self.was_early = True
            self._endpoint.early_data_arrived(self)
        self._wake_writers()
        if self._drain_waiters and not engine.unacknowledged():
            self._drain_waiters.wake_all()
        if engine.has_news(now):
            self.schedule_flush()
        else:
            if self._openers[False] or self._openers[True]:
                self._wake_openers()
            self._arm(now)

    def refused(self, now: float) -> None:
        """The network says that nobody is at the peer's port."""
        self._keepalive.hurry(now=now)
        self._arm(now)

    def start(self) -> None:
        """Send the first packets and begin to watch the time."""
        if self.engine.offers_early_data and self.resumable is not None and self.resumable.remembered:
            self.was_early = True
            self.schedule_flush()  # what is written in this turn travels with them
        else:
            self._transmit()

    def new_ticket(self, ticket: SessionTicket) -> None:
        """A dialer's: the server gave a ticket. It is kept once the kernel has said what to remember with it."""
        if self.engine.tls._certificate_request is None:  # else it asked who we are, which no ticket would answer
            self._tickets = [*self._tickets, ticket][-MAX_PER_SERVER:]
            self._keep_tickets()

    def _keep_tickets(self) -> None:
        if self.on_ticket is None or self._to_remember is None or not self.ready:
            return
        now = time.monotonic()
        resumed = self.resumable is not None and self.engine.tls.session_resumed
        checked = self.resumable.checked if resumed and self.resumable is not None else now
        for ticket in self._tickets:
            self.on_ticket(Resumable(ticket, checked, now, self._identity, self._to_remember))
        self._tickets = []

    def lost(self, error: ConnectionClosed) -> None:
        """It is over: everybody who waits learns why. Nothing is sent."""
        if self.error is not None:
            return
        if self.explain is not None and not self.ready and error is not self._closed_here:
            error = self.explain(error)
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._backlog.clear()
        for send in self._send.values():
            send.connection_lost()
        for recv in self._recv.values():
            recv.connection_lost()
        waiting = [self._bi_waiters, self._uni_waiters, self._datagram_waiters, *self._openers.values()]
        for waiters in (*waiting, self._ready_waiters, self._end_waiters, self._drain_waiters):
            waiters.wake_all()
        for answer in self._pings.values():
            if not answer.done():
                answer.set_result(None)
        self._bi_queue.clear()
        self._uni_queue.clear()
        self._datagrams.clear()
        self._endpoint.connection_lost(self)

    def reset_by_peer(self) -> None:
        """The peer's stateless reset arrived."""
        self.lost(
            ConnectionClosed(
                "the peer was restarted and does not know this connection any more",
                reason="stateless reset",
                by_peer=True,
            )
        )
        self._forget()

    # --- opening ----------------------------------------------------------------------------------------------------

    async def _open(self, *, unidirectional: bool) -> QuicStream:
        waiters = self._openers[unidirectional]
        self._check_open()
        if waiters or not self._may_open(unidirectional):
            while True:
                await waiters.wait()
                self._check_open()
                if self._may_open(unidirectional):
                    break
        self._own_streams += 1
        return self.engine.open_stream(unidirectional)  # no await between the check and this: no id is ever lost

    def _may_open(self, unidirectional: bool) -> bool:
        return self._own_streams < MAX_OWN_STREAMS and self.engine.may_open(unidirectional) > 0

    def _wake_openers(self) -> None:
        for unidirectional, waiters in self._openers.items():
            if waiters and self._may_open(unidirectional):
                for _ in range(min(self.engine.may_open(unidirectional), MAX_OWN_STREAMS - self._own_streams)):
                    waiters.wake_one()

    def _check_open(self) -> None:
        self._check()
        if self._closing:
            raise ConnectionClosed("the connection is being closed by this side", code=Code.GOING_AWAY)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _add_send(self, stream: QuicStream) -> QuicSendStream:
        assert stream.stream_id is not None
        send = self._send[stream.stream_id] = QuicSendStream(self, stream)
        return send

    def _add_recv(self, stream: QuicStream, *, accepted: bool) -> QuicRecvStream:
        assert stream.stream_id is not None
        recv = self._recv[stream.stream_id] = QuicRecvStream(self, stream, accepted=accepted)
        return recv

    # --- events -----------------------------------------------------------------------------------------------------

    def _handle_event(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            recv = self._recv.get(event.stream_id) or self._appeared(event.stream_id)
            if recv is not None:
                recv.received(event.data, event.end_stream)
        elif isinstance(event, events.DatagramFrameReceived):
            if len(self._datagrams) >= DATAGRAM_QUEUE:
                self._datagrams.popleft()
                self._datagrams_lost += 1
            self._datagrams.append(event.data)
            self._datagram_waiters.wake_one()
        elif isinstance(event, events.StreamReset):
            recv = self._recv.get(event.stream_id) or self._appeared(event.stream_id)
            if recv is not None:
                recv.was_reset(event.error_code)
        elif isinstance(event, events.StopSendingReceived):
            if event.stream_id not in self._send:
                self._appeared(event.stream_id)
            if (send := self._send.get(event.stream_id)) is not None:
                send.stopped(event.error_code)
        elif isinstance(event, events.PingAcknowledged):
            answer = self._pings.get(event.uid)
            if answer is not None and not answer.done():
                answer.set_result(None)
        elif isinstance(event, events.HandshakeCompleted):
            self._handshake_completed()
        elif isinstance(event, events.ConnectionIdIssued):
            self._endpoint.add_route(event.connection_id, self)
        elif isinstance(event, events.ConnectionIdRetired):
            self._endpoint.drop_route(event.connection_id)

    def _appeared(self, stream_id: int) -> QuicRecvStream | None:
        """The peer opened this stream."""
        stream = self.engine.stream(stream_id)
        if stream is None or (stream_id & 1 == 0) == self.engine.is_client:
            return None
        self.engine.track(stream)
        recv = self._add_recv(stream, accepted=False)
        if is_unidirectional(stream_id):
            self._uni_queue.append(recv)
            self._uni_waiters.wake_one()
        else:
            self._bi_queue.append((self._add_send(stream), recv))
            self._bi_waiters.wake_one()
        return recv

    def _handshake_completed(self) -> None:
        self.ready = True
        self._handshake_deadline = None
        certificate = self.engine.tls.peer_certificate
        policy = self.engine.tls.policy
        if certificate is not None and policy is not None and policy.verify:
            self._identity = identity_of(certificate)
        elif self.resumable is not None and self.engine.tls.session_resumed:
            self._identity = self.resumable.identity
        self._endpoint.handshake_completed(self)
        self._ready_waiters.wake_all()
        self._keep_tickets()

    def watch_path(self, path: PathSize) -> None:
        """Try larger packets, and go back when they get lost."""
        self._path = path

    def _streams_gone(self, stream_ids: list[int]) -> None:
        for stream_id in stream_ids:
            self._send.pop(stream_id, None)
            self._recv.pop(stream_id, None)
            if (stream_id & 1 == 0) == self.engine.is_client:
                self._own_streams -= 1

    def _wake_writers(self) -> None:
        if self.full_streams:
            self.full_streams = {stream for stream in self.full_streams if not stream.wake_below_low_water()}

    # --- sending ----------------------------------------------------------------------------------------------------

    def _planned_flush(self) -> None:
        self._flush_planned = False
        if self._dirty:
            self._transmit()

    def _transmit(self) -> None:
        self._dirty = False
        if self.error is not None or self._backlog:
            return
        now = self.tasks.now()
        engine = self.engine
        try:
            datagrams = engine.transmit(now)
            if self._path is not None and len(datagrams) >= WORTH_A_PROBE and engine.handshake_confirmed:
                datagrams += self._path.probe(engine, now)
        except Exception as error:
            self._broken(error)
            return
        if datagrams:
            self._put(datagrams, now)
        if engine.is_over:
            self._goodbye = datagrams
            self._over(now)
            return
        if self._openers[False] or self._openers[True]:
            self._wake_openers()
        if engine.more_to_send:
            self.schedule_flush()
        self._arm(now)

    def _put(self, datagrams: list[Datagram], now: float) -> None:
        result = self._endpoint.send(datagrams)
        if result is None:
            return
        if result.refused:
            self._keepalive.hurry(now=now)
        if result.too_long and self._path is not None:
            self._path.failed(self.engine)
        if result.left:
            self._backlog = result.left
            self.tasks.call_at(now + RETRY_SEND, self._retry_backlog)

    def _retry_backlog(self) -> None:
        backlog, self._backlog = self._backlog, []
        if self.error is None:
            self._put(backlog, self.tasks.now())
            self.schedule_flush()

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self, now: float) -> None:
        """One timer; it is moved only to be earlier. One that comes too early finds nothing to do and is set again."""
        if self.error is not None:
            return
        if self._timer is not None and not self.engine.wants_timer_before(self._timer_at, now):
            return
        when = self._keepalive.deadline
        if self._handshake_deadline is not None and self._handshake_deadline < when:
            when = self._handshake_deadline
        engine_at = self.engine.timer()
        if engine_at is not None and engine_at < when:
            when = engine_at
        if self._timer is not None:
            if when >= self._timer_at:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self.tasks.call_at(when, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self.error is not None:
            return
        now = self.tasks.now()
        try:
            self._handle_time(now)
        except Exception as error:
            self._broken(error)

    def _handle_time(self, now: float) -> None:
        engine = self.engine
        if self._handshake_deadline is not None and now >= self._handshake_deadline:
            self.lost(ConnectionClosed("the handshake was not completed in time", code=Code.DEADLINE_EXCEEDED))
            self._forget()
            return
        verdict = self._keepalive.handle_time(now=now)
        if verdict is Verdict.DEAD and self.ready:
            self.lost(ConnectionClosed("the peer is silent: no packet of it arrived for too long", by_peer=True))
            self._forget()
            return
        if verdict is Verdict.PROBE and self.ready:
            engine.probe()
        engine_at = engine.timer()
        if engine_at is not None and engine_at <= now + TIMER_SLACK:
            engine.on_timer(max(now, engine_at + 1e-6))
            if self._path is not None:
                self._path.check(engine)
        while (event := engine.next_event()) is not None:
            self._handle_event(event)
        if engine.is_over:
            self._over(now)
            return
        self._transmit()

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _drain(self, limit: float) -> None:
        """Wait until the peer has acknowledged all that was written, at most ``limit`` seconds."""
        deadline = self.tasks.now() + limit
        timer = self.tasks.call_at(deadline, self._drain_waiters.wake_all)
        try:
            while self.error is None and self.engine.unacknowledged() and self.tasks.now() < deadline:
                self.schedule_flush()
                await self._drain_waiters.wait()
        finally:
            timer.cancel()

    def _close_now(self, code: int, reason: str) -> None:
        if self.error is not None:
            return
        text = reason.encode("utf-8", "replace")[:REASON_SIZE].decode("utf-8", "ignore")
        self._closed_here = ConnectionClosed(code=code, reason=text, by_peer=False)
        self.engine.close(error_code=min(max(int(code), 0), 2**62 - 1), reason_phrase=text)
        self._backlog.clear()
        self._transmit()
        if self.error is None:  # nothing could be sent, not even the goodbye
            self.lost(self._closed_here)
            self._forget()

    def _over(self, now: float) -> None:
        """The engine left its connected state: by our CONNECTION_CLOSE, which was just sent, or by the peer's."""
        ended_by_peer = not self._goodbye
        if not self.ready and not ended_by_peer and (objection := getattr(self.engine.tls, "objection", None)):
            logger.info("client %s:%s refused: %s", *self.peer_addr, objection)
        self.lost(self._closed_here or self._explain(ended_by_peer))
        if ended_by_peer:
            answer = self.engine.closing_answer(now)
            if answer:
                self._endpoint.send(answer)
            self.tasks.call_at(now + GOODBYE_REPEATS[-1], self._forget)
            return
        for delay in GOODBYE_REPEATS[:-1]:
            self.tasks.call_at(now + delay, self._repeat_goodbye)
        self.tasks.call_at(now + GOODBYE_REPEATS[-1], self._last_goodbye)

    def _explain(self, by_peer: bool) -> ConnectionClosed:
        why = self.engine.termination
        if why is None:
            return ConnectionClosed("the connection ended", by_peer=by_peer)
        reason = "".join(c if c.isprintable() else "?" for c in why.reason_phrase[:REASON_SIZE])
        if why.frame_type is None:
            return ConnectionClosed(code=why.error_code, reason=reason, by_peer=by_peer)
        if why.error_code == QuicErrorCode.INTERNAL_ERROR and reason == "Idle timeout":
            return ConnectionClosed("the peer is silent: no packet of it arrived for too long", by_peer=True)
        if by_peer and self.ready and why.error_code in CERTIFICATE_ALERTS and self.engine.is_client:
            said = refused_certificate(self.engine.tls.certificate, reason)
            return ConnectionClosed(said, code=Code.UNAUTHENTICATED, reason=said, by_peer=True, retryable=False)
        if why.error_code == QuicErrorCode.APPLICATION_ERROR:
            return ConnectionClosed("the peer closed the connection before it was complete", by_peer=by_peer)
        who = "the peer" if by_peer else "this side"
        return ConnectionClosed(
            f"{who} ended the connection with QUIC error {why.error_code:#x}: {reason or 'no reason given'}",
            code=Code.PROTOCOL_ERROR,
            reason=reason,
            by_peer=by_peer,
        )

    def _repeat_goodbye(self) -> None:
        if self._goodbye and not self._forgotten:
            self._endpoint.send(self._goodbye)

    def _last_goodbye(self) -> None:
        self._repeat_goodbye()
        self._forget()

    def _answer_late(self, data: bytes) -> None:
        if not self._goodbye or self._forgotten:
            return
        if self.engine.hear_closing_answer(data):
            self._forget()
        elif self._goodbye_answers < GOODBYE_ANSWERS:
            self._goodbye_answers += 1
            self._endpoint.send(self._goodbye)

    def _forget(self) -> None:
        if not self._forgotten:
            self._forgotten = True
            self._goodbye = []
            self._goodbye_waiters.wake_all()
            self._endpoint.forget(self)

    def _broken(self, error: Exception) -> None:
        """A bug, ours or aioquic's: it costs this connection and nothing else."""
        if self.error is None:
            logger.error("connection with %s failed inside: %s", self.peer_addr, type(error).__name__, exc_info=error)
            closed = ConnectionClosed(f"the connection failed inside: {type(error).__name__}", code=Code.INTERNAL)
            closed.__cause__ = error
            self.lost(closed)
            self._forget()
