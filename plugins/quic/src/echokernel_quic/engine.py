"""aioquic's connection with the corrections that rules 2, 3, 5, 6 and 13 need. No IO: bytes and times are arguments.

All private names of aioquic are used here and in ``trust.py``; ``tests/test_quic_aioquic_contract.py`` pins each of them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    END_STATES,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicNetworkPath,
    QuicReceiveContext,
    stream_is_client_initiated,
    stream_is_unidirectional,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStream

from echokernel_quic import trust
from echokernel_quic.credit import CHANNEL_WINDOW_MAX, STRANGER_WINDOW, STREAM_WINDOW, Credit, StreamCredit
from echokernel_quic.trust import CheckedContext, TrustPolicy

ACK_DELAY = 0.010  # seconds; aioquic's 1 ms costs a bare ACK for nearly every message
ACK_PACKETS = 8  # packets after which the sender hears from us at once: its window and watermark wait for it
PASS_DATAGRAMS = 16  # per transmit pass: at most about 1 ms of this loop's time
KEY_UPDATE_PACKETS = 2**22  # half of what AES-GCM allows one key (RFC 9001, section 6.6)
PACKET_OVERHEAD = 30  # bytes of a 1-RTT packet around a datagram's payload, with 8-byte connection ids
SMALLEST_FRAME_ROOM = 24  # less room than this in a packet is not worth another stream frame
TIMER_GRAIN = 0.002  # seconds; event loops cannot wait for less than a millisecond, so pacing sends that much ahead
CID_LENGTH = 8

__all__ = ["Engine", "reset_token"]


def reset_token(key: bytes, connection_id: bytes) -> bytes:
    """Return the stateless reset token of a connection id: the same after a restart, unguessable without the key."""
    return hmac.digest(key, connection_id, hashlib.sha256)[:16]


class _Silence:
    """In place of aioquic's log, which copies what peers say and takes its time for every packet."""

    def debug(self, *_: object) -> None: ...

    info = warning = error = debug


_NOTHING_TO_WRITE = Buffer(capacity=0)  # shared: after the handshake, TLS without tickets has nothing to say
_EPOCHS: dict[frozenset[tls.Epoch], frozenset[tls.Epoch]] = {}


class _CoarsePacer(QuicPacketPacer):
    """Lets through in a burst what belongs to one grain of the event loop's timers."""

    def __init__(self, *, max_datagram_size: int, enabled: bool) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._enabled = enabled

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        if self._enabled:
            super().update_rate(congestion_window, smoothed_rtt)
            self.bucket_max = max(self.bucket_max, TIMER_GRAIN)


class Engine(QuicConnection):
    """One connection's protocol."""

    tls: CheckedContext

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        reset_key: bytes,
        policy: TrustPolicy | None,
        max_streams: int,
        loopback: bool,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        configuration.max_data = STRANGER_WINDOW
        configuration.max_stream_data = STREAM_WINDOW
        configuration.connection_id_length = CID_LENGTH
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        if not logging.getLogger("quic").isEnabledFor(logging.DEBUG):
            self._logger = self._loss._logger = _Silence()  # type: ignore[assignment]
        handlers: dict[int, tuple[Any, frozenset[tls.Epoch]]] = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        for frame_type, (handler, epochs) in handlers.items():  # 33 sets for each connection, three of them different
            handlers[frame_type] = (handler, _EPOCHS.setdefault(epochs, epochs))
        self._reset_key = reset_key
        self._policy = policy
        self._ack_delay = ACK_DELAY
        self._max_streams = max_streams
        for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
            limit.value = limit.sent = max_streams
        if not self._is_client:
            self._host_cids[0].stateless_reset_token = reset_token(reset_key, self.host_cid)
        self._loss._pacer = _CoarsePacer(max_datagram_size=configuration.max_datagram_size, enabled=not loopback)

        self.credit = Credit()
        self.incoming: dict[int, StreamCredit] = {}
        self.priority_stream: int | None = None
        self.on_streams_gone: Callable[[list[int]], None] = lambda stream_ids: None
        self._gone_unread: set[int] = set()
        self.packets_received = 0
        self.packets_sent = 0
        self.datagrams_dropped = 0
        self.key_updates = 0
        self.key_update_packets = KEY_UPDATE_PACKETS
        self.more_to_send = False
        """The last pass stopped at its limit of datagrams; the next one may follow at once."""
        self.confirmed_close = False
        """The peer answered our CONNECTION_CLOSE with its own: there is no need to repeat it."""
        self._packets_at_update = 0
        self._unacknowledged = 0
        self._ack_now = False
        self._ack_soon = False

    # --- what the connection asks ----------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the connection is closing, draining or terminated."""
        return self._state in END_STATES

    @property
    def termination(self) -> ConnectionTerminated | None:
        """Why it ends; known at once, where aioquic's event waits for three probe timeouts."""
        return self._close_event

    @property
    def handshake_complete(self) -> bool:
        return self._handshake_complete

    @property
    def handshake_confirmed(self) -> bool:
        return self._handshake_confirmed

    @property
    def host_cids(self) -> list[bytes]:
        return [entry.cid for entry in self._host_cids]

    @property
    def rtt(self) -> float:
        return self._loss._rtt_smoothed

    @property
    def congestion_window(self) -> int:
        return self._loss.congestion_window

    @property
    def probe_timeouts(self) -> int:
        """Probe timeouts in a row: above 2 the path is likely broken."""
        return self._loss._pto_count

    @property
    def datagram_size(self) -> int:
        return self._max_datagram_size

    @property
    def max_datagram(self) -> int:
        """Payload of the largest DATAGRAM frame that the peer takes and a packet carries; 0: none."""
        remote = self._remote_max_datagram_frame_size
        if not remote:
            return 0
        return max(0, min(remote - 3, self._max_datagram_size - PACKET_OVERHEAD))

    def timer(self) -> float | None:
        """When :meth:`handle_timer` wants to be called."""
        if self._close_at is None:  # before the first packet, and after the end
            return None
        return self.get_timer()

    def on_timer(self, now: float) -> None:
        if self._close_at is not None:
            self.handle_timer(now)

    def is_reset(self, datagram: bytes) -> bool:
        """Whether these bytes are the peer's stateless reset: it restarted and knows this connection no more."""
        token = datagram[-16:]
        known = [self._peer_cid, *self._peer_cid_available]
        return any(
            [hmac.compare_digest(token, entry.stateless_reset_token) for entry in known if entry.stateless_reset_token]
        )

    # --- streams ---------------------------------------------------------------------------------------------------

    def can_open(self, unidirectional: bool) -> bool:
        """Whether the peer lets us open one more stream of this kind."""
        limit = self._remote_max_streams_uni if unidirectional else self._remote_max_streams_bidi
        return self.get_next_available_stream_id(unidirectional) // 4 < limit

    def open_stream(self, unidirectional: bool) -> QuicStream:
        stream = self._get_or_create_stream_for_send(self.get_next_available_stream_id(unidirectional))
        if not unidirectional:
            self.track(stream)
        return stream

    def stream(self, stream_id: int) -> QuicStream | None:
        return self._streams.get(stream_id)

    def track(self, stream: QuicStream) -> StreamCredit:
        """Begin to account for what is received on this stream."""
        entry = self.incoming.get(_id(stream))
        if entry is None:
            entry = self.incoming[_id(stream)] = StreamCredit()
            self.credit.add(entry)
            self._raise_connection_limit()  # its window must not come out of the others'
        return entry

    def consume(self, stream: QuicStream, size: int, *, more: bool = True) -> bool:
        """The program took ``size`` bytes. Return whether there is now credit to announce."""
        entry = self.incoming.get(_id(stream))
        if entry is None:
            return False
        receiver = stream.receiver
        open_ended = more and receiver._final_size is None
        raised = self.credit.consume(entry, size, receiver.highest_offset, open_ended=open_ended)
        if raised:
            stream.max_stream_data_local = entry.limit
        return self._raise_connection_limit() or raised

    def end_receiving(self, stream: QuicStream) -> bool:
        """No more bytes will be read from this stream: end of data, reset. Return whether there is credit to announce."""
        stream_id = _id(stream)
        entry = self.incoming.pop(stream_id, None)
        if entry is not None:
            self.credit.end(entry, stream.receiver.highest_offset)
        if stream_id in self._gone_unread:
            self._gone_unread.discard(stream_id)
            self._allow_another(stream_id)
            self._raise_connection_limit()
            return True
        return self._raise_connection_limit()

    def _allow_another(self, stream_id: int) -> None:
        """Let the peer open a stream for the one that is over, read and all (RFC 9000, section 4.6).

        aioquic does so when the peer ends a stream, read or not: empty ones could then pile up without a limit.
        """
        if stream_is_client_initiated(stream_id) != self._is_client:
            self._stream_limit(stream_id).value += 1

    def prioritize(self, stream_id: int) -> None:
        self.priority_stream = stream_id
        if entry := self.incoming.get(stream_id):
            entry.largest_window = CHANNEL_WINDOW_MAX

    def establish(self) -> bool:
        self.credit.establish()
        return self._raise_connection_limit()

    def unacknowledged(self) -> bool:
        """Whether anything that was written has not been acknowledged by the peer, or not been sent."""
        if self._datagrams_pending:
            return True
        for stream in self._streams.values():
            sender = stream.sender
            if sender.is_finished or sender._reset_error_code is not None:
                continue
            if sender._buffer or sender._buffer_fin is not None:
                return True
        return False

    def _raise_connection_limit(self) -> bool:
        if self.credit.due():
            self._local_max_data.value = self.credit.limit
            return True
        return False

    # --- packets ---------------------------------------------------------------------------------------------------

    def ping(self, uid: int) -> None:
        self.send_ping(uid)

    def probe(self) -> None:
        """Have the peer answer, whatever the congestion window says."""
        self._send_probe()

    def send_datagram(self, data: bytes, limit: int) -> None:
        """Queue a datagram; the oldest of ``limit`` waiting ones is dropped for it."""
        if len(self._datagrams_pending) >= limit:
            self._datagrams_pending.popleft()
            self.datagrams_dropped += 1
        self._datagrams_pending.append(data)

    def transmit(self, now: float) -> list[tuple[bytes, Any]]:
        """Return the datagrams of one pass, each with its address."""
        self.more_to_send = False
        if self._close_at is None and not self._is_client:
            return []
        if self._packet_number - self._packets_at_update >= self.key_update_packets and self._handshake_confirmed:
            self._packets_at_update = self._packet_number
            self.key_updates += 1
            self.request_key_update()
        if (self._ack_now or self._unacknowledged >= ACK_PACKETS) and not self.is_over:
            space = self._spaces[tls.Epoch.ONE_RTT]
            if space.ack_at is not None:
                space.ack_at = now
        datagrams = self.datagrams_to_send(now)
        self.packets_sent += len(datagrams)
        return datagrams

    def probe_size(self, size: int, answer: Callable[[bool], None], now: float) -> list[tuple[bytes, Any]]:
        """Return a packet padded to ``size`` bytes, and call ``answer`` when it was acknowledged or lost."""
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version or 1,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
        buffer = builder.start_frame(QuicFrameType.PING, handler=self._on_probe_size_delivery, handler_args=(answer,))
        buffer.push_bytes(bytes(builder.remaining_buffer_space))
        path = self._network_paths[0]
        return self._flush_builder(builder=builder, network_path=path, peer_cid=self._peer_cid.cid, now=now)

    def use_datagram_size(self, size: int) -> None:
        """Build packets of up to ``size`` bytes from now on."""
        self._max_datagram_size = size
        self._loss._pacer._max_datagram_size = size
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]  # both algorithms have it

    def closing_answer(self, now: float) -> list[tuple[bytes, Any]]:
        """Return one CONNECTION_CLOSE for a peer that closed, which tells it that it was heard (RFC 9000, 10.2.2)."""
        crypto = self._cryptos.get(tls.Epoch.ONE_RTT)
        if crypto is None or not crypto.send.is_valid():
            return []
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=1200,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version or 1,
        )
        try:
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            self._write_connection_close_frame(
                builder=builder, epoch=tls.Epoch.ONE_RTT, error_code=0, frame_type=None, reason_phrase=""
            )
        except QuicPacketBuilderStop:
            return []
        datagrams, _ = builder.flush()
        self._packet_number = builder.packet_number
        return [(datagram, self._network_paths[0].addr) for datagram in datagrams]

    def hear_closing_answer(self, datagram: bytes) -> bool:
        """Whether this packet, which arrived after our CONNECTION_CLOSE, carries one of the peer's."""
        crypto = self._cryptos.get(tls.Epoch.ONE_RTT)
        if crypto is None or not crypto.recv.is_valid() or len(datagram) < 26 or datagram[0] & 0x80:
            return False
        try:
            expected = self._spaces[tls.Epoch.ONE_RTT].expected_packet_number
            _, payload, _ = crypto.decrypt_packet(datagram, 1 + CID_LENGTH, expected)
        except Exception:  # not from the peer, whatever it is
            return False
        self.confirmed_close = payload[:1] in (b"\x1c", b"\x1d")
        return self.confirmed_close

    # --- corrections of aioquic --------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        trust.install(self, self._policy, self._configuration.alpn_protocols or [], self._configuration.server_name)

    def _confirm_handshake(self) -> None:
        """The handshake is over: let go of what only it needed, half of an idle connection's memory, and of its keys."""
        super()._confirm_handshake()
        self._crypto_buffers = dict.fromkeys(self._crypto_buffers, _NOTHING_TO_WRITE)
        self.tls.forget_handshake_keys()

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for entry in self._host_cids:
            if not entry.was_sent:
                entry.stateless_reset_token = reset_token(self._reset_key, entry.cid)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self.packets_received += 1
        result = super()._payload_received(context, plain, crypto_frame_required)
        if result[0]:
            self._unacknowledged += 1
        return result

    def _handle_ping_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_ping_frame(context, frame_type, buf)
        self._ack_now = True  # somebody measures, or doubts that we live

    def _handle_padding_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As in aioquic, but not byte by byte: a padded packet would cost half a millisecond."""
        rest = buf.data_slice(buf.tell(), buf.capacity).lstrip(b"\0")
        buf.seek(buf.capacity - len(rest))

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_stream_frame(context, frame_type, buf)
        if frame_type & 1:
            self._ack_soon = True  # the peer keeps the stream, and its place among the open ones, until it knows

    def _write_ack_frame(self, builder: QuicPacketBuilder, space: Any, now: float) -> None:
        super()._write_ack_frame(builder, space, now)
        if space.is_application_data:
            self._ack_now = self._ack_soon = False
            self._unacknowledged = 0

    def _on_probe_size_delivery(self, delivery: QuicDeliveryState, answer: Callable[[bool], None]) -> None:
        answer(delivery is QuicDeliveryState.ACKED)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: Any) -> None:
        """Announce credit that was raised by consumption; aioquic would double it whenever half is used."""
        data = self._local_max_data
        few = max(1, self._max_streams // 4)
        for limit in (data, self._local_max_streams_bidi, self._local_max_streams_uni):
            held = limit.value - limit.sent
            if not held or (limit is not data and held < few <= limit.sent - limit.used):
                continue  # a few more streams are no news to a peer that may open many
            buffer = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buffer.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream) -> None:
        receiver = stream.receiver
        if receiver._final_size is not None or receiver._stop_error_code is not None:
            stream.max_stream_data_local_sent = stream.max_stream_data_local
            return
        buffer = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buffer.push_uint_var(_id(stream))
        buffer.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        """aioquic's packet loop with four changes.

        It looks through the streams once per pass instead of once per packet; it serves the prioritized stream first;
        datagrams share packets with streams instead of going before them; and it stops after 16 packets.
        There is no 0-RTT.
        """
        crypto = self._cryptos[tls.Epoch.ONE_RTT]
        if not crypto.send.is_valid():
            return
        space = self._spaces[tls.Epoch.ONE_RTT]
        pacer = self._loss._pacer
        urgent, limits = self._sort_streams()
        first = self.priority_stream
        ready = deque(urgent)
        channel = next((stream for stream in ready if stream.stream_id == first), None) if first is not None else None
        if channel is not None:
            ready.remove(channel)
        if self._ack_soon and urgent and space.ack_at is not None:
            space.ack_at = now  # with data that leaves anyway

        for count in range(PASS_DATAGRAMS + 1):
            if count == PASS_DATAGRAMS:
                self.more_to_send = True
                break
            if space.ack_at is None or space.ack_at > now:
                self._pacing_at = pacer.next_send_time(now=now)
                if self._pacing_at is not None:
                    break
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            if space.ack_at is not None and space.ack_at <= now:
                self._write_ack_frame(builder=builder, space=space, now=now)
            if self._handshake_complete:
                self._write_control(builder, network_path, space, now)
            while limits:
                self._write_stream_limits(builder=builder, space=space, stream=limits[-1])
                limits.pop()
            if self._ping_pending:
                self._write_ping_frame(builder, self._ping_pending)
                self._ping_pending.clear()
            if self._probe_pending:
                self._write_ping_frame(builder, comment="probe")
                self._probe_pending = False
            crypto_stream = self._crypto_streams[tls.Epoch.ONE_RTT]
            if not crypto_stream.sender.buffer_is_empty:
                self._write_crypto_frame(builder=builder, space=space, stream=crypto_stream)

            # The channel goes first; datagrams and the other streams take turns, so that none of them starves.
            turn = builder.packet_number & 3
            if turn == 3:
                self._write_datagrams(builder)
            if channel is not None and not self._write_stream(builder, space, channel):
                channel = None
            if turn & 1 == 0:
                self._write_datagrams(builder)
            self._write_streams(builder, space, ready)
            self._write_datagrams(builder)
            if builder.packet_is_empty:
                break
            pacer.update_after_send(now=now)
            if channel is None and not ready and not self._datagrams_pending:
                break

    def _sort_streams(self) -> tuple[list[QuicStream], list[QuicStream]]:
        """Forget finished streams; return those with something to send, and those with credit to announce."""
        ready, limits = [], []
        finished: list[int] = []
        for stream in self._streams_queue:
            if stream.is_finished:
                stream_id = _id(stream)
                finished.append(stream_id)
                del self._streams[stream_id]
                if stream_id in self.incoming:
                    self._gone_unread.add(stream_id)
                else:
                    self._allow_another(stream_id)
                continue
            sender = stream.sender
            if (
                stream.receiver.stop_pending
                or sender.reset_pending
                or not (sender.buffer_is_empty or stream.is_blocked)
            ):
                ready.append(stream)
            if stream.max_stream_data_local_sent != stream.max_stream_data_local:
                limits.append(stream)
        if finished:
            self._streams_queue = [stream for stream in self._streams_queue if stream.stream_id in self._streams]
            self.on_streams_gone(finished)
        return ready, limits

    def _write_control(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, space: Any, now: float) -> None:
        if not (network_path.is_validated or network_path.local_challenge_sent):
            self._write_path_challenge_frame(builder=builder, network_path=network_path)
            if network_path.validation_deadline is None:  # RFC 9000, section 8.2.4
                timeout = max(self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt)
                network_path.validation_deadline = now + 3 * timeout
        if self._handshake_done_pending:
            self._write_handshake_done_frame(builder=builder)
            self._handshake_done_pending = False
        while network_path.remote_challenges:
            self._write_path_response_frame(builder=builder, challenge=network_path.remote_challenges[0])
            network_path.remote_challenges.popleft()
        for entry in self._host_cids:
            if not entry.was_sent:
                self._write_new_connection_id_frame(builder=builder, connection_id=entry)
        while self._retire_connection_ids:
            self._write_retire_connection_id_frame(builder=builder, sequence_number=self._retire_connection_ids[0])
            self._retire_connection_ids.pop(0)
        self._write_connection_limits(builder=builder, space=space)

    def _write_stream(self, builder: QuicPacketBuilder, space: Any, stream: QuicStream) -> bool:
        """Put what fits of one stream into the packet. Return whether it has more to send in this pass."""
        if stream.receiver.stop_pending:
            self._write_stop_sending_frame(builder=builder, stream=stream)
        if stream.sender.reset_pending:
            self._write_reset_stream_frame(builder=builder, stream=stream)
            return False
        if stream.is_blocked or stream.sender.buffer_is_empty:
            return False
        while builder.remaining_flight_space >= SMALLEST_FRAME_ROOM:
            sender = stream.sender
            before = builder.remaining_flight_space
            credit = self._remote_max_data - self._remote_max_data_used
            limit = min(sender.highest_offset + credit, stream.max_stream_data_remote)
            self._remote_max_data_used += self._write_stream_frame(
                builder=builder, space=space, stream=stream, max_offset=limit
            )
            if builder.remaining_flight_space == before:
                return False  # nothing left, or no credit
        return not stream.sender.buffer_is_empty

    def _write_streams(self, builder: QuicPacketBuilder, space: Any, ready: deque[QuicStream]) -> None:
        """Fill the packet from the streams in turn; the one that filled it goes to the end."""
        for _ in range(len(ready)):
            if self._write_stream(builder, space, ready[0]):
                ready.rotate(-1)
                return
            ready.popleft()
            if builder.remaining_flight_space < SMALLEST_FRAME_ROOM:
                return

    def _write_datagrams(self, builder: QuicPacketBuilder) -> None:
        pending = self._datagrams_pending
        while pending:
            data = pending[0]
            if len(data) > self._max_datagram_size - PACKET_OVERHEAD:  # fitted before packets became smaller
                pending.popleft()
                self.datagrams_dropped += 1
                continue
            try:
                self._write_datagram_frame(builder=builder, data=data, frame_type=QuicFrameType.DATAGRAM_WITH_LENGTH)
            except QuicPacketBuilderStop:
                return
            pending.popleft()


def _id(stream: QuicStream) -> int:
    assert stream.stream_id is not None  # only CRYPTO streams have none
    return stream.stream_id


def is_unidirectional(stream_id: int) -> bool:
    return stream_is_unidirectional(stream_id)
