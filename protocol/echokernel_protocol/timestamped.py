"""Timestamped: what travels in a stream's data frames. ``wall_time: u64 µs · seq: u32 · data: bytes``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint

T = TypeVar("T")
MAX_U32: Final = (1 << 32) - 1


@dataclass(slots=True)
class Timestamped(Generic[T]):
    """One frame of a stream."""

    wall_time: int
    """Microseconds since 1970 on the sender's clock, or on the shared one where clocks are synchronised."""
    seq: int
    """Counts the stream's frames from 0; wraps after 2^32 - 1."""
    data: T


def encode_timestamped(wall_time: int, seq: int, data: bytes) -> bytes:
    """Return the wire form."""
    return encode_varint(wall_time) + encode_varint(seq) + encode_varint(len(data)) + data


def decode_timestamped(payload: bytes) -> Timestamped[bytes]:
    """Return what ``payload`` holds, exactly. Raises ProtocolViolation."""
    try:
        wall_time, position = take_varint(payload, 0)
        seq, position = take_varint(payload, position, maximum=MAX_U32)
        length, position = take_varint(payload, position)
    except (Truncated, Malformed) as error:
        raise ProtocolViolation(f"stream data has an invalid stamp: {error}") from error
    if position + length != len(payload):
        raise ProtocolViolation("stream data does not end where its frame ends")
    return Timestamped(wall_time, seq, payload[position:])
