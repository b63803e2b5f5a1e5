"""Answers that a listener gives without keeping anything: pure functions from bytes to bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder

from echokernel_quic.engine import CID_LENGTH, reset_token

VERSIONS = (int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2))
MIN_RESET = 21  # bytes: 5 that look like a short header, 16 of token (RFC 9000, section 10.3)
MAX_RESET = 42

__all__ = ["VERSIONS", "Budget", "connection_id_of", "refusal", "stateless_reset"]


def connection_id_of(datagram: bytes) -> bytes | None:
    """Return the connection id that a datagram is addressed to; None for what is no QUIC packet."""
    size = len(datagram)
    if size < 1 + CID_LENGTH:
        return None
    if datagram[0] & 0x80:
        length = datagram[5]
        return datagram[6 : 6 + length] if length <= 20 and size >= 6 + length else None
    return datagram[1 : 1 + CID_LENGTH] if datagram[0] & 0x40 else None


def stateless_reset(key: bytes, trigger: bytes) -> bytes | None:
    """Return a reset for a packet of a connection that we do not know; None where the answer could not be shorter.

    Shorter than its trigger, so that two such answers can never keep each other alive.
    """
    size = min(len(trigger) - 1, MAX_RESET)
    if size < MIN_RESET:
        return None
    noise = bytearray(os.urandom(size - 16))
    noise[0] = 0x40 | (noise[0] & 0x3F)
    return bytes(noise) + reset_token(key, trigger[1 : 1 + CID_LENGTH])


def refusal(version: int, source_cid: bytes, destination_cid: bytes, error_code: QuicErrorCode) -> bytes:
    """Return an Initial packet that closes a connection which was never made."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=source_cid, is_client=False, version=version)
    builder = QuicPacketBuilder(
        host_cid=source_cid, is_client=False, max_datagram_size=1200, peer_cid=destination_cid, version=version
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buffer = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY)
    buffer.push_uint_var(error_code)
    buffer.push_uint_var(QuicFrameType.PADDING)
    buffer.push_uint_var(0)
    datagrams, _ = builder.flush()
    return datagrams[0]


@dataclass(slots=True)
class Budget:
    """So many answers per second to strangers, and a burst of as many."""

    rate: float
    left: float = 0.0
    _at: float | None = None

    def take(self, now: float) -> bool:
        """Return whether one more may be given."""
        if self._at is None:
            self.left = self.rate
        else:
            self.left = min(self.rate, self.left + (now - self._at) * self.rate)
        self._at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True
