"""aioquic's connection with the corrections that rules 2, 3, 5, 6 and 13 need. No IO: bytes and times are arguments.

Private names of aioquic are used here and in ``trust.py``; ``tests/test_quic_aioquic_contract.py`` pins each of them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    QuicReceiveContext,
    stream_is_unidirectional,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.stream import QuicStream
from aioquic.tls import SessionTicket

from echokernel_quic import trust
from echokernel_quic.clients import ClientPolicy
from echokernel_quic.congestion import make_pacer, rate_control
from echokernel_quic.credit import CHANNEL_WINDOW_MAX, STRANGER_WINDOW, STREAM_WINDOW, Credit, StreamCredit
from echokernel_quic.tickets import Issued
from echokernel_quic.trust import CheckedContext, TrustPolicy
from echokernel_quic.writer import PACKET_OVERHEAD, PacketWriter, id_of

ACK_DELAY = 0.010  # seconds; aioquic's 1 ms costs a bare ACK for nearly every message
PROBE_AT_LEAST = 0.025  # seconds; a probe timeout counts from the last packet and includes the peer's ACK delay
ACK_PACKETS = 8  # packets after which the sender hears from us at once: its window and watermark wait for it
KEY_UPDATE_PACKETS = 2**22  # half of what AES-GCM allows one key (RFC 9001, section 6.6)
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


# Epochs are keys of dictionaries that are asked 30 times a packet; Enum hashes them by name, in Python. Each exists once.
tls.Epoch.__hash__ = object.__hash__  # type: ignore[method-assign]


class Engine(PacketWriter):
    """One connection's protocol."""

    tls: CheckedContext

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        reset_key: bytes,
        policy: TrustPolicy | ClientPolicy | None,
        max_streams: int,
        loopback: bool,
        keep_ticket: Callable[[SessionTicket], None] | None = None,
        issued: Issued | None = None,
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
            session_ticket_fetcher=None if issued is None else self._take_ticket,
            session_ticket_handler=keep_ticket if issued is None else self._issue_ticket,
        )
        self._issued = issued
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
        self._loss._pacer = make_pacer(self._loss, configuration.max_datagram_size, loopback=loopback)
        self._rate_control = rate_control(self._loss)

        self.credit = Credit()
        self.incoming: dict[int, StreamCredit] = {}
        self.on_streams_gone: Callable[[list[int]], None] = lambda stream_ids: None
        self._gone_unread: set[int] = set()
        self.packets_received = 0
        self.packets_sent = 0
        self.key_updates = 0
        self.key_update_packets = KEY_UPDATE_PACKETS
        self.confirmed_close = False
        """The peer answered our CONNECTION_CLOSE with its own: there is no need to repeat it."""
        self._packets_at_update = 0
        self._unacknowledged = 0
        self._ack_now = False
        self._ack_soon = False

    # --- what the connection asks -----------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the connection is closing, draining or terminated."""
        return self._state in END_STATES

    @property
    def termination(self) -> ConnectionTerminated | None:
        """Why it ends; known at once, where aioquic's event waits for three probe timeouts."""
        return self._close_event

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def bytes_sent(self) -> int:
        """On the path in use."""
        return self._network_paths[0].bytes_sent if self._network_paths else 0

    @property
    def handshake_complete(self) -> bool:
        return self._handshake_complete

    @property
    def handshake_confirmed(self) -> bool:
        return self._handshake_confirmed

    @property
    def offers_early_data(self) -> bool:
        """Whether a dialer may send before its handshake is complete; the acceptor may turn it down."""
        return not self._handshake_complete and self._cryptos[tls.Epoch.ZERO_RTT].send.is_valid()

    @property
    def takes_early_data(self) -> bool:
        """Whether an acceptor reads what is sent before the handshake is complete."""
        return not self._handshake_complete and not self._is_client and self.tls.early_data_accepted

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

    def wants_timer_before(self, when: float, now: float) -> bool:
        """Whether :meth:`timer` could be earlier than ``when``; a cheap look that errs towards yes."""
        if not self._handshake_confirmed or when > now + PROBE_AT_LEAST or self._pacing_at is not None:
            return True
        space = self._spaces[tls.Epoch.ONE_RTT]
        return (space.ack_at is not None and space.ack_at < when) or (
            space.loss_time is not None and space.loss_time < when
        )

    def on_timer(self, now: float) -> None:
        if self._close_at is not None:
            self.handle_timer(now)

    def is_reset(self, datagram: bytes) -> bool:
        """Whether these bytes are the peer's stateless reset: it restarted and knows this connection no more."""
        token = datagram[-16:]
        known = [self._peer_cid, *self._peer_cid_available]
        return any(
            [  # noqa: C419  # all are compared, so that the time says nothing
                hmac.compare_digest(token, entry.stateless_reset_token)
                for entry in known
                if entry.stateless_reset_token
            ]
        )

    # --- streams ----------------------------------------------------------------------------------------------------

    def may_open(self, unidirectional: bool) -> int:
        """How many more streams of this kind the peer lets us open now."""
        limit = self._remote_max_streams_uni if unidirectional else self._remote_max_streams_bidi
        return limit - self.get_next_available_stream_id(unidirectional) // 4

    def open_stream(self, unidirectional: bool) -> QuicStream:
        stream = self._get_or_create_stream_for_send(self.get_next_available_stream_id(unidirectional))
        if not unidirectional:
            self.track(stream)
        return stream

    def stream(self, stream_id: int) -> QuicStream | None:
        return self._streams.get(stream_id)

    def track(self, stream: QuicStream) -> StreamCredit:
        """Begin to account for what is received on this stream."""
        entry = self.incoming.get(id_of(stream))
        if entry is None:
            entry = self.incoming[id_of(stream)] = StreamCredit()
            self.credit.add(entry)
            self._raise_connection_limit()  # its window must not come out of the others'
        return entry

    def consume(self, stream: QuicStream, size: int, *, more: bool = True, now: float = 0.0) -> bool:
        """The program took ``size`` bytes. Return whether there is now credit to announce."""
        entry = self.incoming.get(id_of(stream))
        if entry is None:
            return False
        receiver = stream.receiver
        open_ended = more and receiver._final_size is None
        raised = self.credit.consume(
            entry, size, receiver.highest_offset, open_ended=open_ended, now=now, round_trip=self.rtt
        )
        if raised:
            stream.max_stream_data_local = entry.limit
        return self._raise_connection_limit() or raised

    def end_receiving(self, stream: QuicStream) -> bool:
        """No more will be read from this stream: end of data, reset. Return whether there is credit to announce."""
        stream_id = id_of(stream)
        entry = self.incoming.pop(stream_id, None)
        if entry is not None:
            self.credit.end(entry, stream.receiver.highest_offset)
        if stream_id in self._gone_unread:
            self._gone_unread.discard(stream_id)
            self._allow_another(stream_id)
            self._raise_connection_limit()
            return True
        return self._raise_connection_limit()

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

    # --- packets ----------------------------------------------------------------------------------------------------

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

    def has_news(self, now: float) -> bool:
        """Whether a pass could send something now, or would forget finished streams. If not, the next timer will do.

        A batch that brought data for the program is mostly answered by the program within the same turn of the loop:
        the pass that this saves would have been one of two.
        """
        if (
            not self._handshake_confirmed
            or self.is_over
            or self.more_to_send
            or self._ack_now
            or self._unacknowledged >= ACK_PACKETS
            or self._close_pending
            or self._ping_pending
            or self._probe_pending
            or self._datagrams_pending
            or self._handshake_done_pending
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or len(self._network_paths) > 1
        ):
            return True
        path = self._network_paths[0]
        ack_at = self._spaces[tls.Epoch.ONE_RTT].ack_at
        if not path.is_validated or path.remote_challenges or (ack_at is not None and ack_at <= now):
            return True
        for limit in (self._local_max_data, self._local_max_streams_bidi, self._local_max_streams_uni):
            if limit.value != limit.sent:
                return True
        if not all(entry.was_sent for entry in self._host_cids):
            return True
        return not self._crypto_streams[tls.Epoch.ONE_RTT].sender.buffer_is_empty or any(
            stream.is_finished
            or stream.receiver.stop_pending
            or stream.sender.reset_pending
            or stream.max_stream_data_local_sent != stream.max_stream_data_local
            or not (stream.sender.buffer_is_empty or stream.is_blocked)
            for stream in self._streams_queue
        )

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
        if (
            self._rate_control is not None
            and self._pacing_at is None
            and not self.more_to_send
            and self._loss.bytes_in_flight + self._max_datagram_size <= self._loss.congestion_window
        ):
            self._rate_control.on_out_of_data()
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
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]  # all algorithms have it

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

    # --- corrections of aioquic -------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        trust.install(self, self._policy, self._configuration.alpn_protocols or [], self._configuration.server_name)

    def _take_ticket(self, ticket: bytes) -> SessionTicket | None:
        assert self._issued is not None
        return self._issued.take(ticket, self.tls.alpn_negotiated)

    def _issue_ticket(self, ticket: SessionTicket) -> None:
        assert self._issued is not None
        self._issued.put(ticket, self.tls.alpn_negotiated)

    def _connect(self, now: float) -> None:
        """Begin, or begin again after a retry, for which aioquic drops its packet spaces with all that was sent early."""
        if self._spaces:
            self._resend_early(now)
        super()._connect(now)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        complete = self._handshake_complete
        super()._handle_crypto_frame(context, frame_type, buf)
        if self._is_client and self._handshake_complete and not complete and not self.tls.early_data_accepted:
            self._resend_early(context.time)

    def _resend_early(self, now: float) -> None:
        """What was sent early was not read: it is sent again, and that it was lost says nothing about the path."""
        space = self._spaces[tls.Epoch.ONE_RTT]
        early = [packet for packet in space.sent_packets.values() if packet.packet_type is QuicPacketType.ZERO_RTT]
        if early:
            self._loss._on_packets_lost(congestion_event=False, now=now, packets=early, space=space)

    def _confirm_handshake(self) -> None:
        """Let go of what only the handshake needed: half of an idle connection's memory, and the keys."""
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


def is_unidirectional(stream_id: int) -> bool:
    return stream_is_unidirectional(stream_id)
