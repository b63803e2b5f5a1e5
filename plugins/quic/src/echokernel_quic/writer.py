"""What goes into each packet: aioquic's writing half, with the channel first and credit only for what was read.

Like ``engine.py``, this touches private names of aioquic; ``tests/test_quic_aioquic_contract.py`` pins each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicNetworkPath,
    stream_is_client_initiated,
)
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.stream import QuicStream

from echokernel_quic.credit import StreamCredit

PASS_DATAGRAMS = 16  # per transmit pass: at most about 1 ms of this loop's time
PACKET_OVERHEAD = 30  # bytes of a 1-RTT packet around a datagram's payload, with 8-byte connection ids
RIDING_ACK = 4  # packets; from here on an ACK rides on data, and hardly ever needs a packet of its own
SMALLEST_FRAME_ROOM = 24  # less room than this in a packet is not worth another stream frame

__all__ = ["PACKET_OVERHEAD", "PacketWriter", "id_of"]


def id_of(stream: QuicStream) -> int:
    assert stream.stream_id is not None  # only CRYPTO streams have none
    return stream.stream_id


class PacketWriter(QuicConnection):
    """Writes 1-RTT packets; :class:`~echokernel_quic.engine.Engine` is the rest."""

    priority_stream: int | None = None
    more_to_send: bool = False
    """The last pass stopped at its limit of datagrams; the next one may follow at once."""
    datagrams_dropped: int = 0
    incoming: dict[int, StreamCredit]
    """Streams that we receive on and that are not read to their end."""
    on_streams_gone: Callable[[list[int]], None]
    """Called with the ids of streams that are over in both directions."""
    _gone_unread: set[int]
    _max_streams: int
    _ack_soon: bool = False
    _unacknowledged: int = 0

    def _allow_another(self, stream_id: int) -> None:
        """Let the peer open a stream for the one that is over, read and all (RFC 9000, section 4.6).

        aioquic does so when the peer ends a stream, read or not: empty ones could then pile up without a limit.
        """
        if stream_is_client_initiated(stream_id) != self._is_client:
            self._stream_limit(stream_id).value += 1

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
        buffer.push_uint_var(id_of(stream))
        buffer.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        """aioquic's packet loop with four changes.

        It looks through the streams once per pass instead of once per packet; it serves the prioritized stream first;
        datagrams share packets with streams instead of going before them; and it stops after 16 packets.
        """
        crypto = self._cryptos[tls.Epoch.ONE_RTT]
        if not crypto.send.is_valid():
            if self._cryptos[tls.Epoch.ZERO_RTT].send.is_valid():
                self._write_early(builder, now)
            return
        space = self._spaces[tls.Epoch.ONE_RTT]
        pacer = self._loss._pacer
        urgent, limits = self._sort_streams()
        first = self.priority_stream
        ready = deque(urgent)
        channel = next((stream for stream in ready if stream.stream_id == first), None) if first is not None else None
        if channel is not None:
            ready.remove(channel)
        if (self._ack_soon or self._unacknowledged >= RIDING_ACK) and urgent and space.ack_at is not None:
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

    def _write_early(self, builder: QuicPacketBuilder, now: float) -> None:
        """Write what a dialer sends before its handshake is complete: the first stream, nothing else (RFC 9001, 4.6)."""
        crypto = self._cryptos[tls.Epoch.ZERO_RTT]
        space = self._spaces[tls.Epoch.ONE_RTT]
        stream = self._streams.get(0)
        for _ in range(PASS_DATAGRAMS):
            if stream is None or stream.is_blocked or stream.sender.buffer_is_empty:
                return
            builder.start_packet(QuicPacketType.ZERO_RTT, crypto)
            self._write_stream(builder, space, stream)
            if builder.packet_is_empty:
                return
        self.more_to_send = True

    def _sort_streams(self) -> tuple[list[QuicStream], list[QuicStream]]:
        """Forget finished streams; return those with something to send, and those with credit to announce."""
        ready, limits = [], []
        finished: list[int] = []
        for stream in self._streams_queue:
            if stream.is_finished:
                stream_id = id_of(stream)
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
            if len(sender._pending) == 0 and not sender._pending_eof:
                sender.buffer_is_empty = True  # what aioquic would find out with another call
                return False
            if builder.remaining_flight_space == before:
                return False  # no credit
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
