"""Frames: the unit of the wire, and the incremental decoder.

::

    Header = message_type: varint · request_id: u64 · method: str · flags: u8
    Frame  = Header · payload: bytes
    stream = kind: varint · prelude · (u32 big-endian length · Frame)…

All integers are postcard varints, except ``flags``, one plain byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.maps import encode_map, take_map
from echokernel_protocol.postcard import Malformed, Truncated, encode_bytes, encode_varint, take_varint

MAX_REQUEST_ID: Final = (1 << 53) - 1
MAX_METHOD: Final = 128
FRAME_OVERHEAD: Final = 1024
"""What a frame may be longer than ``max_frame``: its header, and the stamp of stream data, never count."""

_METHOD = re.compile(r"[A-Za-z0-9_.$/-]{1,128}")
_LENGTH = Struct(">I")
_HEAD_0 = Struct(">IB").pack
_HEAD_1 = Struct(">IBB").pack
_HEAD_2 = Struct(">IBBB").pack
_HEAD_3 = Struct(">IBBBB").pack
_HEAD_3_READ = Struct(">IBBBB").unpack_from
_SHORTEST = 9  # bytes of a frame with its length: one each for type, id, method's length, flags, payload's length
_ONE_BYTE = [bytes((value,)) for value in range(128)]
_KNOWN_NAMES = 1024  # names remembered as checked; a peer that invents more is checked each time


class MessageType(IntEnum):
    """What a frame is."""

    REQUEST = 0
    RESPONSE = 1
    EVENT = 2
    STREAM = 3


class Flags(IntFlag):
    """The bits of ``flags``. 0x80 must be 0; 0x30 is the serializer's slot."""

    NONE = 0
    ERROR = 0x01
    CANCEL = 0x02
    END = 0x04
    METADATA = 0x08
    BODY = 0x40


SLOT_MASK: Final = 0x30
SLOT_SHIFT: Final = 4
KIND_MASK: Final = 0x07
"""ERROR, CANCEL and END: at most one of them is set, and it says what kind of its type the frame is."""

# (message type, flags & KIND_MASK): everything that may travel. docs/wire.md draws its table from this one.
LEGAL: Final = frozenset(
    {
        (MessageType.REQUEST, 0),
        (MessageType.REQUEST, Flags.END),
        (MessageType.REQUEST, Flags.CANCEL),
        (MessageType.RESPONSE, 0),
        (MessageType.RESPONSE, Flags.END),
        (MessageType.RESPONSE, Flags.ERROR),
        (MessageType.EVENT, 0),
        (MessageType.STREAM, 0),
        (MessageType.STREAM, Flags.END),
        (MessageType.STREAM, Flags.CANCEL),
        (MessageType.STREAM, Flags.ERROR),
    }
)

# The same table as one list, looked up for every frame: [message_type << 8 | flags].
_LEGAL_BYTES: Final = [
    flags & 0x80 == 0 and (message_type, flags & KIND_MASK) in LEGAL
    for message_type in range(4)
    for flags in range(256)
]

RawFrame = tuple[int, int, str, int, bytes]
"""A frame on the hot path: message type, request id, method, flags, payload."""


@dataclass(slots=True)
class Header:
    """Where a frame belongs."""

    message_type: MessageType
    request_id: int
    """0 for events; otherwise odd from the dialer, even from the acceptor, below 2^53."""
    method: str
    """Name of the RPC, event or stream; empty after an id's first frame."""
    flags: int = 0

    @property
    def slot(self) -> int:
        """The serializer's slot, 0 to 3; 0 is raw bytes."""
        return (self.flags & SLOT_MASK) >> SLOT_SHIFT


@dataclass(slots=True)
class Frame:
    """Header and payload; metadata stands apart here, and at the beginning of the payload on the wire."""

    header: Header
    payload: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Short texts by name; where there are some, the frame travels with METADATA."""

    def encode(self) -> bytes:
        """Return the frame as postcard, without the length that stands before it on a stream.

        Raises ValueError for more metadata than 64 entries or 8 KiB.
        """
        header, payload, flags = self.header, self.payload, self.header.flags
        if self.metadata:
            payload, flags = encode_map(self.metadata) + payload, flags | Flags.METADATA
        return encode_frame(header.message_type, header.request_id, encode_method(header.method, flags), payload)[4:]

    @classmethod
    def decode(cls, data: bytes) -> Frame:
        """Return the frame that ``data`` holds, exactly. Raises ProtocolViolation."""
        return cls.from_raw(decode_frame(data, 0, len(data), {}))

    @classmethod
    def from_raw(cls, raw: RawFrame) -> Frame:
        """Return what a decoder found as a Frame. Raises ProtocolViolation when its metadata is no Map."""
        message_type, request_id, method, flags, payload = raw
        metadata: Mapping[str, str] = {}
        if flags & Flags.METADATA:
            metadata, start = take_map(payload)
            payload, flags = payload[start:], flags & ~Flags.METADATA
        return cls(Header(MessageType(message_type), request_id, method, flags), payload, metadata)

    def __repr__(self) -> str:  # a payload never reaches a log line
        header = self.header
        return (
            f"<Frame {header.message_type.name} id={header.request_id} method={header.method!r} "
            f"flags={header.flags:#04x} payload={len(self.payload)} bytes>"
        )


def check_method(method: str) -> None:
    """Raise ValueError unless ``method`` is 1 to 128 characters of ``[A-Za-z0-9_.$/-]``."""
    if not _METHOD.fullmatch(method):
        raise ValueError(f"method name {method[:150]!r}: wanted 1 to {MAX_METHOD} characters of A-Z a-z 0-9 _ . $ / -")


def encode_method(method: str, flags: int = 0) -> bytes:
    """Return the second half of a header, ``method · flags``; made once per method and kept."""
    name = method.encode("ascii")
    return encode_varint(len(name)) + name + bytes((flags,))


def encode_frame(message_type: int, request_id: int, method_and_flags: bytes, payload: bytes) -> bytes:
    """Return one frame as it stands on a stream, its length before it."""
    size = len(payload)
    tail = method_and_flags + (_ONE_BYTE[size] if size < 128 else encode_varint(size)) + payload
    # length, type and id in one call: this runs once per message at either end
    if request_id < 128:
        return _HEAD_1(2 + len(tail), message_type, request_id) + tail
    if request_id < 16_384:
        return _HEAD_2(3 + len(tail), message_type, request_id & 127 | 128, request_id >> 7) + tail
    if request_id < 2_097_152:
        return (
            _HEAD_3(4 + len(tail), message_type, request_id & 127 | 128, request_id >> 7 & 127 | 128, request_id >> 14)
            + tail
        )
    id_bytes = encode_varint(request_id)
    return _HEAD_0(1 + len(id_bytes) + len(tail), message_type) + id_bytes + tail


def decode_frame(data: bytes, start: int, end: int, names: dict[bytes, str]) -> RawFrame:
    """Return the frame in ``data[start:end]``. ``names`` remembers checked names. Raises ProtocolViolation."""
    decoder = FrameDecoder(end - start)
    decoder.names = names
    frames = decoder.feed(_LENGTH.pack(end - start) + data[start:end])
    if len(frames) != 1:
        raise ProtocolViolation("a frame is shorter than its header says")
    return frames[0]


def _check_name(raw: bytes, length: int, names: dict[bytes, str]) -> str:
    if length > MAX_METHOD:
        raise ProtocolViolation(f"a method name of {length} bytes; the limit is {MAX_METHOD}", code=Code.LIMIT_EXCEEDED)
    if len(raw) != length:
        raise Truncated
    try:
        method = raw.decode("ascii")
        if method:
            check_method(method)
    except ValueError as error:
        raise ProtocolViolation("a method name has characters other than A-Z a-z 0-9 _ . $ / -") from error
    if len(names) < _KNOWN_NAMES:
        names[raw] = method
    return method


NAMELESS: Final = tuple(bytes((0, flags)) for flags in range(256))
"""The second half of the header of every frame behind an id's first one, by flags: an empty method, and the flags."""


class FrameDecoder:
    """Bytes of one stream in, frames out. Holds at most one frame's bytes and what arrived behind it.

    ``limit`` is the longest frame accepted, in bytes; its length is judged before its bytes are waited for.
    """

    __slots__ = ("_chunks", "_needed", "_size", "_start", "limit", "names", "one_at_a_time")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.names: dict[bytes, str] = {}
        """Method names that were checked."""
        self.one_at_a_time = False
        """Return at most one frame from each call; ``feed(b"")`` goes on."""
        self._chunks: list[bytes] = []
        self._start = 0  # bytes of the first chunk that were returned: not cut off once for every frame
        self._size = 0
        self._needed = 4

    @property
    def is_empty(self) -> bool:
        """Whether every byte so far belongs to a frame that was returned; else the stream cannot end here."""
        return self._size == 0

    def feed(self, data: bytes) -> list[RawFrame]:
        """Return the frames that ``data`` completes. Raises ProtocolViolation; the stream is then beyond repair."""
        start = 0
        size = self._size + len(data)
        if self._chunks:
            if data:
                if self._start:
                    self._chunks[0] = self._chunks[0][self._start :]
                    self._start = 0
                self._chunks.append(data)
            elif self._start and size < self._needed:
                self._chunks[0], self._start = self._chunks[0][self._start :], 0
            self._size = size
            if size < self._needed:
                return []
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks = []
            if self._start:
                start, self._start = self._start, 0
                size += start
        frames: list[RawFrame] = []
        try:
            position = self._decode(data, start, size, frames)
        except (Truncated, IndexError) as error:
            raise ProtocolViolation("a frame is shorter than its header says") from error
        except Malformed as error:
            raise ProtocolViolation(f"a frame's header is not valid: {error}") from error
        self._size = size - position
        if position < size:
            if self.one_at_a_time and frames:
                self._start = position
                self._chunks.append(data)
            else:
                self._chunks.append(data[position:] if position else data)
        return frames

    def take(self, size: int) -> bytes:
        """Take up to ``size`` raw bytes that arrived behind the last frame: what no frame is around. One at a time only."""
        data = b"".join(self._chunks)
        start, end = self._start, self._start + size
        self._chunks, self._start = ([data], end) if end < len(data) else ([], 0)
        self._size = max(0, len(data) - end)
        return data[start:end]

    def _decode(self, data: bytes, position: int, size: int, frames: list[RawFrame]) -> int:
        """Append the complete frames; return where the rest begins.

        The numbers of nearly all frames have one to three bytes and are read here, without a call: this loop runs for
        every message at either end. A header that runs beyond its frame is found out by where its payload would end.
        """
        names = self.names
        limit = self.limit
        head = _HEAD_3_READ
        while size - position >= _SHORTEST:
            length, message_type, request_id, second, third = head(data, position)
            end: int = position + 4 + length
            if end > size or length > limit:
                break
            if message_type > 3:
                _explain(message_type, 0)
            if request_id < 128:
                at = position + 6
            elif second < 128:
                request_id += (second << 7) - 128
                at = position + 7
            elif third < 128:
                request_id += (second << 7) + (third << 14) - 16_512
                at = position + 8
            else:
                request_id, at = take_varint(data, position + 5, maximum=MAX_REQUEST_ID)
            length = data[at]
            at += 1
            method = ""
            if length:
                if length > 127:
                    length, at = take_varint(data, at - 1)
                raw = data[at : at + length]
                method = names.get(raw) or _check_name(raw, length, names)
                at += length
            flags = data[at]
            length = data[at + 1]
            at += 2
            if length > 127:
                length, at = take_varint(data, at - 1)
            if at + length != end or not _LEGAL_BYTES[message_type << 8 | flags]:
                _explain(message_type, flags)
            frames.append((message_type, request_id, method, flags, data[at:end]))
            position = end
            if self.one_at_a_time:
                self._needed = 4
                return position
        self._needed = 4
        if size - position >= 4:
            (length,) = _LENGTH.unpack_from(data, position)
            if length > self.limit:
                raise ProtocolViolation(
                    f"a frame of {length:,} bytes; the limit here is {self.limit:,}", code=Code.LIMIT_EXCEEDED
                )
            if length < _SHORTEST - 4:
                raise ProtocolViolation("a frame is shorter than its header says")
            self._needed = 4 + length
        return position


def _explain(message_type: int, flags: int) -> None:
    if message_type > 3:
        raise ProtocolViolation(f"message type {message_type} is unknown; known are 0 to 3")
    if not _LEGAL_BYTES[message_type << 8 | flags]:
        raise ProtocolViolation(
            f"flags {flags:#04x} mean nothing on a {MessageType(message_type).name.lower()} frame of this version"
        )
    raise ProtocolViolation("a frame's payload does not end where the frame ends")


def encode_frame_on_stream(frame: Frame) -> bytes:
    """Return ``frame`` with its length before it."""
    data = frame.encode()
    return _LENGTH.pack(len(data)) + data


__all__ = [
    "FRAME_OVERHEAD",
    "KIND_MASK",
    "LEGAL",
    "MAX_METHOD",
    "MAX_REQUEST_ID",
    "NAMELESS",
    "SLOT_MASK",
    "SLOT_SHIFT",
    "Flags",
    "Frame",
    "FrameDecoder",
    "Header",
    "MessageType",
    "RawFrame",
    "check_method",
    "decode_frame",
    "encode_bytes",
    "encode_frame",
    "encode_frame_on_stream",
    "encode_method",
]
