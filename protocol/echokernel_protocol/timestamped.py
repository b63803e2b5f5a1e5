"""Timestamped: what travels in a stream's data frames. ``wall_time: u64 µs · seq: u32 · data: bytes``.

A frame whose stamp comes from a clock that is not synchronised has the flag METADATA and a Map with ``$unsynced`` before that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import NAMELESS, Flags, MessageType, encode_frame
from echokernel_protocol.maps import encode_map, take_map
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint

T = TypeVar("T")
MAX_U32: Final = (1 << 32) - 1
UNSYNCED: Final = "$unsynced"
"""Key of a data frame's Map, or of the Map that opens a stream: of all its frames."""
_UNSYNCED_MAP: Final = encode_map({UNSYNCED: ""})
_SYNCED_HEAD: Final = NAMELESS[0]
_UNSYNCED_HEAD: Final = NAMELESS[Flags.METADATA]
UNSYNCED_BYTES: Final = len(_UNSYNCED_MAP)
"""By which such a frame is longer."""


@dataclass(slots=True)
class Timestamped(Generic[T]):
    """One frame of a stream."""

    wall_time: int
    """Microseconds since 1970 on the sender's clock, or on the shared one where clocks are synchronised."""
    seq: int
    """Counts the stream's frames from 0; wraps after 2^32 - 1."""
    data: T
    synced: bool = field(default=True, compare=False)
    """Whether ``wall_time`` is the shared time; else it is whatever the sender's own clock showed."""


def encode_timestamped(wall_time: int, seq: int, data: bytes) -> bytes:
    """Return the wire form."""
    return encode_varint(wall_time) + encode_varint(seq) + encode_varint(len(data)) + data


def encode_data_frame(flow_id: int, wall_time: int, seq: int, data: bytes, synced: bool = True) -> bytes:
    """Return the data frame of a stream, with its length before it."""
    payload = encode_timestamped(wall_time, seq, data)
    if synced:
        return encode_frame(MessageType.STREAM, flow_id, _SYNCED_HEAD, payload)
    return encode_frame(MessageType.STREAM, flow_id, _UNSYNCED_HEAD, _UNSYNCED_MAP + payload)


def decode_data(flags: int, payload: bytes, synced: bool = True) -> Timestamped[bytes]:
    """Return what the payload of a data frame with these ``flags`` holds; ``synced``: what the stream's open says.

    Raises ProtocolViolation.
    """
    if not flags:
        return decode_timestamped(payload, synced)
    if flags != Flags.METADATA:
        raise ProtocolViolation(f"stream data with the flags {flags:#04x}")
    entries, position = take_map(payload)
    return decode_timestamped(payload[position:], synced and UNSYNCED not in entries)


def decode_timestamped(payload: bytes, synced: bool = True) -> Timestamped[bytes]:
    """Return what ``payload`` holds, exactly. Raises ProtocolViolation."""
    try:
        wall_time, position = take_varint(payload, 0)
        seq, position = take_varint(payload, position, maximum=MAX_U32)
        length, position = take_varint(payload, position)
    except (Truncated, Malformed) as error:
        raise ProtocolViolation(f"stream data has an invalid stamp: {error}") from error
    if position + length != len(payload):
        raise ProtocolViolation("stream data does not end where its frame ends")
    return Timestamped(wall_time, seq, payload[position:], synced)
