"""Senders of streams that are not simply written into one reliable stream."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Final

from echokernel.engine.flow_buffer import BufferedSender
from echokernel.errors import InvalidArgument, StreamStopped
from echokernel.flows import StreamSender
from echokernel_protocol.channel import ALL_POSITIONS
from echokernel_protocol.codes import Code
from echokernel_protocol.postcard import encode_varint
from echokernel_protocol.streams import Prelude, StreamKind
from echokernel_protocol.timestamped import MAX_U32, UNSYNCED_BYTES, Timestamped

if TYPE_CHECKING:
    from echokernel.engine.flow_options import FlowOptions
    from echokernel.engine.flow_table import Flows
    from echokernel.session import Session
    from echokernel.tasks import Timer
    from echokernel.transport import SendStream

LIVE_BYTES: Final = (
    65_536  # not acknowledged, of a stream whose frames may be dropped: more would only grow old in there
)
AGING: Final = 256  # frames under way that are watched; one that old is hardly the one to save
STAMP_BYTES: Final = 28  # the most that type, method, flags, stamp and lengths take in a datagram, beside the flow's id

__all__ = ["DatagramSender", "PerFrameSender", "ReliableSender"]


class ReliableSender(BufferedSender):
    """One reliable stream that is kept short, so that what waits can still be dropped."""

    def __init__(
        self, session: Session, flows: Flows, name: str, flow_id: int, options: FlowOptions, send: SendStream
    ) -> None:
        self._stream = send
        self._wanted = max(1, send.room - LIVE_BYTES)
        super().__init__(session, flows, name, flow_id, options, send)

    async def _ready(self) -> None:
        await self._stream.wait_room(self._wanted)

    async def _write(self, came: float, payload: bytes) -> None:
        self._stream.write_nowait(payload)

    async def _end(self) -> None:
        self._flows.end(self.id, self._sent)
        await self._stream.finish()


class PerFrameSender(BufferedSender):
    """A stream of the transport for each frame: a lost packet delays one of them, and a stale one can be taken back."""

    def __init__(self, session: Session, flows: Flows, name: str, flow_id: int, options: FlowOptions) -> None:
        self._open: dict[int, SendStream] = {}  # by position: not taken by the receiver yet
        self._aging: deque[tuple[float, int, SendStream, int]] = (
            deque()
        )  # deadline, position, stream, its room when empty
        self._timer: Timer | None = None
        self._spare: SendStream | None = None
        super().__init__(session, flows, name, flow_id, options)

    async def _ready(self) -> None:
        flows = self._flows
        await flows.slots.take(self._open)
        try:
            self._spare = await self._session._connection.open_uni_stream()
        except BaseException:
            flows.slots.give()
            raise

    def _not_needed(self) -> None:
        if self._spare is not None:
            self._spare.reset(Code.CANCELLED)
            self._spare = None
            self._flows.slots.give()

    async def _write(self, came: float, payload: bytes) -> None:
        stream, self._spare = self._spare, None
        assert stream is not None
        position = self._sent
        self._open[position] = stream
        room = stream.room
        prelude = Prelude(StreamKind.FLOW, (self.id, position)).encode()
        try:
            stream.write_nowait(prelude + payload)
            await stream.finish()
        except StreamStopped:
            return  # the receiver did not want this one; of the others it speaks on the channel
        if self._options.max_age is not None:
            self._watch(came + self._options.max_age, position, stream, room)

    async def _end(self) -> None:
        self._flows.end(self.id, self._sent)
        if not self._open:
            self._flows.forget(self)

    def taken(self, position: int) -> None:
        """The receiver has taken this frame; ``ALL_POSITIONS``: it wants none of them."""
        if position == ALL_POSITIONS:
            for still_open in list(self._open):
                self._release(still_open)
        else:
            self._release(position)

    def _release(self, position: int) -> None:
        if self._open.pop(position, None) is not None:
            self._flows.slots.give()
            if self._over and not self._open:
                self._flows.forget(self)

    # --- age ---------------------------------------------------------------------------------------------------

    def _watch(self, deadline: float, position: int, stream: SendStream, room: int) -> None:
        aging = self._aging
        while aging and (len(aging) >= AGING or aging[0][2].room >= aging[0][3]):
            aging.popleft()
        aging.append((deadline, position, stream, room))
        if self._timer is None:
            self._timer = self._session._tasks.call_at(aging[0][0], self._take_back)

    def _take_back(self) -> None:
        """Reset the frames that are stale and have not arrived."""
        self._timer = None
        now = self._session._tasks.now()
        aging = self._aging
        while aging and aging[0][0] <= now:
            _, position, stream, room = aging.popleft()
            if stream.room < room:  # else all of it is acknowledged, though perhaps not read
                stream.reset(Code.CANCELLED)
                self._dropped_old += 1
                self._release(position)
        if aging:
            self._timer = self._session._tasks.call_at(aging[0][0], self._take_back)

    def _clear(self, code: int) -> None:
        super()._clear(code)
        self._not_needed()
        for stream in self._open.values():
            stream.reset(code)
        self.taken(ALL_POSITIONS)
        self.stop_watching()
        self._flows.forget(self)

    def stop_watching(self) -> None:
        """Nothing is taken back any more."""
        self._aging.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class DatagramSender(StreamSender):
    """A datagram for each frame, sent at once: no buffer, no task, and no promise that it arrives."""

    delivery = "datagram"

    def __init__(self, session: Session, flows: Flows, name: str, flow_id: int) -> None:
        super().__init__(session, flows, name, flow_id)
        self._limit = sys.maxsize  # it is the datagram that has one

    @property
    def max_frame(self) -> int:
        fits = self._session.max_datagram - STAMP_BYTES - len(encode_varint(self.id))
        if self._marks:
            fits -= UNSYNCED_BYTES
        return max(0, min(fits, self._session.peer.max_frame))

    async def send_timestamped(self, frame: Timestamped[bytes]) -> None:
        data = self._encode(frame)[4:]
        fits = self._session.max_datagram
        if len(data) > fits or len(frame.data) > self._session.peer.max_frame:
            raise InvalidArgument(
                f"stream {self.name!r}: a frame of {len(frame.data):,} bytes takes a datagram of {len(data):,}; {fits:,} fit "
                f'now. Send at most {self.max_frame:,} bytes at a time, or use delivery="per_frame".'
            )
        await self._session._datagrams.send(data)
        self._sent += 1
        self._bytes += len(frame.data)
        self._seq = (frame.seq + 1) & MAX_U32

    async def _finish(self) -> None:
        self._flows.end(self.id, self._sent)
