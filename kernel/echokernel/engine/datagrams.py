"""Datagrams of one session: one frame each, which may be lost, doubled or overtaken. They use no credit and get no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from echokernel.engine.codecs import own_head
from echokernel.engine.flow_table import Fate
from echokernel.errors import ConnectionClosed, InvalidArgument
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import SLOT_MASK, Flags, Frame, Header, MessageType, decode_frame, encode_frame
from echokernel_protocol.link import CLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echokernel.engine.calls import Calls
    from echokernel.engine.clock_frames import ClockFrames
    from echokernel.engine.codecs import Codecs
    from echokernel.engine.flow_table import Flows
    from echokernel.engine.serving import Serving
    from echokernel.transport import Connection

PACE = 16  # datagrams sent before others run: a transport sends about as many at a time, and drops the oldest of 256
READ_BEFORE_YIELD = 64  # datagrams taken in one go: about 0.5 ms

_EVENT, _STREAM = int(MessageType.EVENT), int(MessageType.STREAM)
_METADATA = int(Flags.METADATA)

__all__ = ["Datagrams", "drop_waiting"]


class Datagrams:
    """Sends and receives them. A bad one is dropped and counted; it never costs the session."""

    __slots__ = (
        "_calls",
        "_clock",
        "_codecs",
        "_connection",
        "_flows",
        "_names",
        "_put_since_yield",
        "_serving",
        "bad",
        "dropped",
        "received",
        "sent",
    )

    def __init__(
        self, connection: Connection, codecs: Codecs, calls: Calls, serving: Serving, flows: Flows, clock: ClockFrames
    ) -> None:
        self._connection = connection
        self._codecs = codecs
        self._calls = calls
        self._serving = serving
        self._flows = flows
        self._clock = clock
        self._names: dict[bytes, str] = {}
        self._put_since_yield = 0
        self.sent = 0
        self.received = 0
        self.bad = 0
        """Received, and not exactly one frame of those that may travel in a datagram."""
        self.dropped = 0
        """Received, and there was no room, or no stream that they belong to any more."""

    def stats(self) -> Mapping[str, int]:
        """Return the counters."""
        return {
            "datagrams_sent": self.sent,
            "datagrams_received": self.received,
            "datagrams_bad": self.bad,
            "datagrams_dropped": self.dropped,
        }

    # --- out ---------------------------------------------------------------------------------------------------

    def encode(self, event: str, value: Any) -> bytes:
        """Return the datagram of an event. Raises SerializationError, InvalidArgument for a bad name."""
        payload = self._codecs.encode(value)
        return encode_frame(_EVENT, 0, own_head(self._codecs, event), payload)[4:]  # no length before it

    async def emit(self, event: str, value: Any, fallback: bool, metadata: Mapping[str, str] | None) -> None:
        """Send an event as a datagram, through the middleware of this end; see :meth:`Session.emit`."""
        payload = self._codecs.encode(value)
        outgoing = self._calls.outgoing
        if outgoing is None:
            await self._emit_payload(event, payload, fallback, metadata)
            return

        async def innermost(frame: Frame) -> None:
            await self._emit_payload(frame.header.method, frame.payload, fallback, frame.metadata)

        header = Header(MessageType.EVENT, 0, event, own_head(self._codecs, event)[-1])
        await outgoing(innermost)(Frame(header, payload, dict(metadata or {})))

    async def _emit_payload(
        self, event: str, payload: bytes, fallback: bool, metadata: Mapping[str, str] | None
    ) -> None:
        head = own_head(self._codecs, event)
        data = encode_frame(_EVENT, 0, head, payload)[4:]
        fits = self._connection.max_datagram
        if len(data) <= fits and not (metadata and fallback):
            if metadata:
                raise InvalidArgument(
                    f"{event}: metadata does not travel in datagrams; send it reliably (fallback=True does so), or without"
                )
            if self._calls.stopped is not None:
                raise self._calls.stopped.with_traceback(None)
            await self.send(data)
        elif fallback:
            await self._calls.emit_payload(event, head, payload, metadata)
        else:
            room = f"{fits:,} bytes fit in one now" if fits else "this connection has none"
            raise InvalidArgument(
                f"{event}: an event of {len(data):,} bytes as a datagram; {room}. Send it reliably (fallback=True does so "
                "where it does not fit), or less of it."
            )

    async def send(self, data: bytes) -> None:
        """Hand one datagram to the transport, and let others run now and then."""
        self._connection.send_datagram(data)
        self.sent += 1
        self._put_since_yield += 1
        if self._put_since_yield >= PACE:
            self._put_since_yield = 0
            await anyio.lowlevel.checkpoint()

    # --- in ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take what arrives. Runs as long as the session."""
        connection = self._connection
        count = 0
        try:
            while True:
                self.take(await connection.recv_datagram())
                count += 1
                if count >= READ_BEFORE_YIELD:
                    count = 0
                    await anyio.lowlevel.checkpoint()
        except ConnectionClosed:
            return

    def take(self, data: bytes) -> None:
        """Act on one datagram. Never raises, whatever is in it."""
        self.received += 1
        try:
            message_type, request_id, method, flags, payload = decode_frame(data, 0, len(data), self._names)
        except ProtocolViolation:
            self.bad += 1
            return
        fate = Fate.BAD
        if message_type == _EVENT:
            if method == CLOCK and not request_id and not flags:
                self._clock.take(payload)
                return
            if method and not request_id and not flags & ~SLOT_MASK:
                fate = Fate.TAKEN if self._serving.on_datagram(method, flags, payload) else Fate.DROPPED
        elif message_type == _STREAM and not method and not flags & ~_METADATA:
            fate = self._flows.take_datagram(request_id, flags, payload)
        if fate is Fate.BAD:
            self.bad += 1
        elif fate is Fate.DROPPED:
            self.dropped += 1


async def drop_waiting(connection: Connection) -> None:
    """Drop the datagrams that have arrived so far: nobody had said hello. Returns at once. Raises ConnectionClosed."""
    if connection.max_datagram:
        with anyio.move_on_after(0):
            while True:
                await connection.recv_datagram()
