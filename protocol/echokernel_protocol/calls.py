"""One direction of a call's own stream, as a value: bytes in, frames out. No socket, no clock, no task.

The caller's half is Request frames: the call, then items, then END. The handler's half is Response frames: items (one, for a
request with a single answer), then END with trailers, or ERROR. A payload that is too long for a frame has BODY, and its
bytes follow at once on the same stream, behind the frame: no other stream is needed where one exists for this call alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import (
    FRAME_OVERHEAD,
    KIND_MASK,
    SLOT_MASK,
    Flags,
    FrameDecoder,
    MessageType,
    RawFrame,
    encode_frame,
)
from echokernel_protocol.maps import take_map
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint

_END, _ERROR, _METADATA, _BODY = (int(flag) for flag in (Flags.END, Flags.ERROR, Flags.METADATA, Flags.BODY))
_KINDS: Final = {MessageType.REQUEST: (0, _END), MessageType.RESPONSE: (0, _END, _ERROR)}

AT_ONCE: Final = 64
"""Messages that one call of :meth:`CallReader.receive` returns at most."""

__all__ = ["AT_ONCE", "CallFrame", "CallReader", "encode_call_frame"]


@dataclass(slots=True)
class CallFrame:
    """One frame of a call, its body included."""

    request_id: int
    method: str
    """Of the call itself; empty on everything behind it."""
    flags: int
    payload: bytes
    metadata: dict[str, str] = field(default_factory=dict)
    """Of the call, or the trailers of the END."""

    @property
    def kind(self) -> int:
        """0, END or ERROR."""
        return self.flags & KIND_MASK


def encode_call_frame(
    message_type: int,
    request_id: int,
    method_and_flags: bytes,
    payload: bytes,
    *,
    metadata: bytes = b"",
    max_frame: int,
) -> bytes:
    """Return a frame for a call's stream, with its body behind it where ``payload`` is too long for ``max_frame``.

    ``method_and_flags``: as :func:`~echokernel_protocol.frames.encode_method` makes it, without METADATA and BODY.
    ``metadata``: an encoded Map, empty for none.
    """
    head = method_and_flags
    flags = head[-1] | (_METADATA if metadata else 0)
    if len(metadata) + len(payload) <= max_frame:
        if metadata:
            head = head[:-1] + bytes((flags,))
        return encode_frame(message_type, request_id, head, metadata + payload)
    head = head[:-1] + bytes((flags | _BODY,))
    return encode_frame(message_type, request_id, head, metadata + encode_varint(len(payload))) + payload


class CallReader:
    """Reads one half. Turns at most 64 messages at a time into objects, and leaves what arrived behind them bytes: tiny items
    cost twenty times as much as objects.

    ``max_frame`` and ``max_message`` are this end's limits, in bytes. ``request_id`` and ``slot`` are what the frames have to
    say: None for the caller's half, whose first frame decides them.
    """

    def __init__(
        self,
        message_type: MessageType,
        *,
        max_frame: int,
        max_message: int,
        request_id: int | None = None,
        slot: int | None = None,
    ) -> None:
        self.ended = False
        """Whether END or ERROR is here; nothing may follow it."""
        self.has_more = False
        """Whether messages that have arrived wait: ``receive(b"")`` returns them."""
        self.missing = 0
        """Bytes that an announced body still lacks."""
        self.request_id = request_id
        self.slot = slot
        self._message_type = message_type
        self._max_message = max_message
        self._decoder = FrameDecoder(max_frame + FRAME_OVERHEAD)
        self._decoder.one_at_a_time = True
        self._is_first = message_type is MessageType.REQUEST
        self._body: CallFrame | None = None
        self._parts: list[bytes] = []

    def receive(self, data: bytes) -> list[CallFrame]:
        """Take the stream's bytes; return up to 64 messages that they complete, in order. Raises ProtocolViolation."""
        result: list[CallFrame] = []
        self.has_more = False
        if self._body is not None:
            data = self._fill(data, result)
            if self._body is not None:
                return result
        frames = self._decoder.feed(data)
        while frames:
            frame = self._judge(frames[0])
            if frame.flags & _BODY:
                self._announce(frame)
                self._fill(self._decoder.take(self.missing), result)
                if self.missing:
                    break
            else:
                self._complete(frame, result)
            if len(result) >= AT_ONCE:
                self.has_more = not self._decoder.is_empty
                return result
            frames = self._decoder.feed(b"")
        return result

    def end_of_stream(self) -> None:
        """The stream has ended. Raises ProtocolViolation unless the half was complete: a bare end is a truncation."""
        if not self.ended or self._body is not None or not self._decoder.is_empty:
            raise ProtocolViolation("a call's stream ended without its END", code=Code.TRUNCATED)

    def _judge(self, raw: RawFrame) -> CallFrame:
        message_type, request_id, method, flags, payload = raw
        kind = flags & KIND_MASK
        if self.ended:
            raise ProtocolViolation("a call's stream goes on behind its end")
        if message_type != self._message_type or kind not in _KINDS[self._message_type]:
            raise ProtocolViolation(f"a frame of type {message_type} with flags {flags:#04x} on a call's stream")
        if self._is_first:
            if kind or not method or request_id == 0:
                raise ProtocolViolation("a call's stream begins with something other than a request")
            self._is_first = False
            self.request_id, self.slot = request_id, flags & SLOT_MASK
        elif method or request_id != self.request_id:
            raise ProtocolViolation(f"a frame of id {request_id} on the stream of call {self.request_id}")
        elif kind == 0 and flags & SLOT_MASK != self.slot:
            raise ProtocolViolation("an item of another serializer than its call")
        metadata: dict[str, str] = {}
        if flags & _METADATA:
            if not method and not (self._message_type is MessageType.RESPONSE and kind == _END):
                raise ProtocolViolation("metadata belongs to the call and to the end of its answer")
            metadata, start = take_map(payload)
            payload = payload[start:]
        if kind == _END and payload:
            raise ProtocolViolation("an END has no value")
        return CallFrame(request_id, method, flags, payload, metadata)

    def _announce(self, frame: CallFrame) -> None:
        try:
            length, end = take_varint(frame.payload, 0)
        except (Truncated, Malformed) as error:
            raise ProtocolViolation("a BODY frame without the body's length") from error
        if end != len(frame.payload) or frame.kind == _END:
            raise ProtocolViolation("a BODY frame with more than the body's length")
        if length > self._max_message:
            raise ProtocolViolation(
                f"a message of {length:,} bytes; the limit here is {self._max_message:,}", code=Code.LIMIT_EXCEEDED
            )
        self._body, self.missing = frame, length

    def _fill(self, data: bytes, result: list[CallFrame]) -> bytes:
        """Give the waiting body its bytes; return what is left of them."""
        assert self._body is not None
        part, rest = data[: self.missing], data[self.missing :]
        self._parts.append(part)
        self.missing -= len(part)
        if not self.missing:
            frame, self._body = self._body, None
            frame.payload, frame.flags = b"".join(self._parts), frame.flags & ~_BODY
            self._parts = []
            if rest and frame.kind:
                raise ProtocolViolation("a call's stream goes on behind its end")
            self._complete(frame, result)
        return rest

    def _complete(self, frame: CallFrame, result: list[CallFrame]) -> None:
        result.append(frame)
        if frame.kind:
            self.ended = True
            if not self._decoder.is_empty:
                raise ProtocolViolation("a call's stream goes on behind its end")
