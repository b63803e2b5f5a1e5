"""The first bytes of a stream that the peer opened: what kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.streams import Prelude, take_prelude

if TYPE_CHECKING:
    from echokernel.transport import RecvStream, SendStream

PRELUDE_SECONDS = 5.0
PRELUDE_BYTES = 32  # what is behind it stays with the peer until it is wanted

__all__ = ["read_prelude", "refuse_stream"]


async def read_prelude(recv: RecvStream) -> tuple[Prelude, bytes]:
    """Return a stream's prelude and the bytes behind it that came along.

    Raises ProtocolViolation, UnknownKind (one that is refused alone), TimeoutError after 5 s, StreamReset, ConnectionClosed.
    """
    data = b""
    with anyio.fail_after(PRELUDE_SECONDS):
        while (found := take_prelude(data)) is None:
            more = await recv.read(PRELUDE_BYTES)
            if not more:
                raise ProtocolViolation("a stream ended within its prelude", code=Code.TRUNCATED)
            data += more
    return found


def refuse_stream(recv: RecvStream, send: SendStream | None, code: int) -> None:
    """Want nothing of this stream; the session goes on."""
    recv.stop(code)
    if send is not None:
        send.reset(code)
