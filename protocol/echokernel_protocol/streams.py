"""What a transport stream begins with: its kind and prelude.

| kind | opened by | prelude, then |
|---|---|---|
| 0 channel | dialer, once, bidirectional | frames |
| 1 call | either, bidirectional | frames of one isolated or streaming request |
| 2 body | either, unidirectional | number of its channel frame; then that frame's raw payload |
| 3 flow | either, unidirectional | flow id, position of its first frame; then data frames |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import MAX_REQUEST_ID
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint


class StreamKind(IntEnum):
    """The first varint of every stream."""

    CHANNEL = 0
    CALL = 1
    BODY = 2
    FLOW = 3


_NUMBERS = {StreamKind.CHANNEL: 0, StreamKind.CALL: 0, StreamKind.BODY: 1, StreamKind.FLOW: 2}


class UnknownKind(ProtocolViolation):
    """A stream of a kind that this version does not know: it alone is refused."""

    def __init__(self, kind: int) -> None:
        super().__init__(f"stream kind {kind} is unknown; known are 0 to 3", code=Code.UNKNOWN_KIND)


@dataclass(frozen=True, slots=True)
class Prelude:
    """A stream's kind and the numbers behind it: body (number,), flow (flow id, position)."""

    kind: StreamKind
    numbers: tuple[int, ...] = ()

    def encode(self) -> bytes:
        return encode_varint(self.kind) + b"".join(map(encode_varint, self.numbers))


def take_prelude(data: bytes) -> tuple[Prelude, bytes] | None:
    """Return the prelude and the bytes behind it; None while it is incomplete. Raises ProtocolViolation, UnknownKind."""
    try:
        number, position = take_varint(data, 0)
        if number > max(StreamKind):
            raise UnknownKind(number)
        kind = StreamKind(number)
        numbers = []
        for _ in range(_NUMBERS[kind]):
            number, position = take_varint(data, position, maximum=MAX_REQUEST_ID)
            numbers.append(number)
        return Prelude(kind, tuple(numbers)), data[position:]
    except Truncated:
        return None
    except Malformed as error:
        raise ProtocolViolation(f"a stream's prelude is not valid: {error}") from error
