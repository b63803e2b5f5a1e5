"""The payloads of link frames: ``$ack``, ``$ping``, ``$goaway``. They are not counted and go before counted frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import MAX_REQUEST_ID
from echokernel_protocol.maps import encode_map, take_map
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint

HELLO: Final = "$hello"
ACK: Final = "$ack"
PING: Final = "$ping"
GOAWAY: Final = "$goaway"
CLOCK: Final = "$clock"
LINK_FRAMES: Final = frozenset({HELLO, ACK, PING, GOAWAY, CLOCK})


@dataclass(frozen=True, slots=True)
class Ack:
    """``received · event_limit · [missing body number] · [flow id, position]``, cumulative."""

    received: int
    """Counted channel frames received in this session."""
    event_limit: int
    """Bytes of events that the other end may have sent so far."""
    missing: tuple[int, ...] = ()
    positions: tuple[tuple[int, int], ...] = ()

    def encode(self) -> bytes:
        parts = [self.received, self.event_limit, len(self.missing), *self.missing, len(self.positions)]
        parts += [number for pair in self.positions for number in pair]
        return b"".join(map(encode_varint, parts))

    @classmethod
    def decode(cls, payload: bytes) -> Ack:
        """Return what ``payload`` holds. Raises ProtocolViolation."""
        try:
            received, at = take_varint(payload, 0)
            event_limit, at = take_varint(payload, at)
            count, at = take_varint(payload, at, maximum=len(payload))
            missing = []
            for _ in range(count):
                number, at = take_varint(payload, at)
                missing.append(number)
            count, at = take_varint(payload, at, maximum=len(payload))
            positions = []
            for _ in range(count):
                flow, at = take_varint(payload, at)
                position, at = take_varint(payload, at)
                positions.append((flow, position))
        except (Truncated, Malformed) as error:
            raise ProtocolViolation("an $ack is not valid") from error
        if at != len(payload):
            raise ProtocolViolation("an $ack has bytes after its end")
        return cls(received, event_limit, tuple(missing), tuple(positions))


@dataclass(frozen=True, slots=True)
class GoAway:
    """A Map: the peer's ids above ``last`` are never run."""

    last: int = MAX_REQUEST_ID
    code: int = 0
    retry_after: int = 0
    """Milliseconds after which another try makes sense; 0: unknown."""
    reason: str = ""

    def encode(self) -> bytes:
        return encode_map(
            {
                "last": str(self.last),
                "code": str(self.code),
                "retry_after": str(self.retry_after),
                "reason": self.reason,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> GoAway:
        """Return what ``payload`` holds; unknown keys are ignored. Raises ProtocolViolation."""
        entries, end = take_map(payload)
        try:
            if end != len(payload):
                raise ValueError
            last, code, retry_after = (int(entries.get(key, default)) for key, default in _GOAWAY_NUMBERS)
            if min(last, code, retry_after) < 0:
                raise ValueError
        except ValueError as error:
            raise ProtocolViolation("a $goaway is not valid") from error
        return cls(last, code, retry_after, entries.get("reason", ""))


_GOAWAY_NUMBERS: Final = (("last", str(MAX_REQUEST_ID)), ("code", "0"), ("retry_after", "0"))
