"""The first bytes of a stream that the peer opened: what kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.streams import Prelude, take_prelude

if TYPE_CHECKING:
    from echokernel.transport import RecvStream, SendStream

PRELUDE_SECONDS = 5.0
PRELUDE_BYTES = 32  # what is behind it stays with the peer until it is wanted

__all__ = ["PRELUDE_SECONDS", "read_prelude", "refuse_stream"]


async def read_prelude(recv: RecvStream, at_once: int = PRELUDE_BYTES) -> tuple[Prelude, bytes]:
    """Return a stream's prelude and the bytes behind it that came along; ``at_once``: how many may.

    The caller gives it ``PRELUDE_SECONDS``. Raises ProtocolViolation, UnknownKind (one that is refused alone), StreamReset,
    ConnectionClosed.
    """
    data = b""
    while (found := take_prelude(data)) is None:
        more = await recv.read(at_once)
        if not more:
            raise ProtocolViolation("a stream ended within its prelude", code=Code.TRUNCATED)
        data += more
    return found


def refuse_stream(recv: RecvStream, send: SendStream | None, code: int) -> None:
    """Want nothing of this stream; the session goes on."""
    recv.stop(code)
    if send is not None:
        send.reset(code)
