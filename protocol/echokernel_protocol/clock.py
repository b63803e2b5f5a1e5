"""``$clock``: two nodes compare their clocks. A probe asks, its answer has four times; all of them are nanoseconds.

``ClockProbe = varint 0 · number: u32`` and ``ClockAnswer = varint 1 · number: u32 · received: u64 · sent: u64 · shared: u64 ·
bound: u64 · base: u64 · epoch: u64 · synced: u8``, each the payload of an Event without flags, in a datagram or on the channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint
from echokernel_protocol.timestamped import MAX_U32

CLOCK_FEATURE: Final = "clock"
"""In the hello of a node that answers probes."""
_PROBE, _ANSWER = 0, 1

__all__ = ["CLOCK_FEATURE", "ClockAnswer", "ClockProbe", "decode_clock"]


@dataclass(frozen=True, slots=True)
class ClockProbe:
    """What time is it with you?"""

    number: int
    """u32, chosen by who asks."""

    def encode(self) -> bytes:
        return encode_varint(_PROBE) + encode_varint(self.number)


@dataclass(frozen=True, slots=True)
class ClockAnswer:
    """What its sender's clocks showed. Nothing in it depends on who asks."""

    number: int
    """The probe's."""
    received_ns: int
    """The answering node's monotonic clock when the probe came."""
    sent_ns: int
    """The same clock when this answer left."""
    shared_ns: int
    """Since 1970: the time that the answering node shares, at ``sent_ns``."""
    bound_ns: int
    """By how much ``shared_ns`` may differ from the time of the node that all follow; 0 from that node itself."""
    base: int
    """u64: names the monotonic clock; a new one with each start of the node."""
    epoch: int
    """u64: names the shared timeline, and is handed on from the node that all follow. A new one: the timeline stepped."""
    synced: bool = True
    """Whether ``shared_ns`` can be relied on at all."""

    def encode(self) -> bytes:
        numbers = (
            _ANSWER,
            self.number,
            self.received_ns,
            self.sent_ns,
            self.shared_ns,
            self.bound_ns,
            self.base,
            self.epoch,
        )
        return b"".join(map(encode_varint, numbers)) + bytes((self.synced,))


def decode_clock(payload: bytes) -> ClockProbe | ClockAnswer | None:
    """Return what ``payload`` holds; None for a kind that is not known here. Raises ProtocolViolation."""
    try:
        kind, position = take_varint(payload, 0)
        if kind not in (_PROBE, _ANSWER):
            return None
        number, position = take_varint(payload, position, maximum=MAX_U32)
        if kind == _PROBE:
            found: ClockProbe | ClockAnswer = ClockProbe(number)
        else:
            times = []
            for _ in range(6):
                value, position = take_varint(payload, position)
                times.append(value)
            synced, position = take_varint(payload, position, maximum=1)
            received, sent, shared, bound, base, epoch = times
            found = ClockAnswer(number, received, sent, shared, bound, base, epoch, synced == 1)
    except (Truncated, Malformed) as error:
        raise ProtocolViolation("a $clock is not valid") from error
    if position != len(payload):
        raise ProtocolViolation("a $clock has bytes after its end")
    return found
