"""Senders of streams that are not simply written into one reliable stream.

A :class:`BufferedSender` keeps a few frames here, in the program's reach, and one task hands them to the transport: what is
in the transport's own buffers cannot be dropped any more when it gets old.
"""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from echokernel.engine.flow_options import BUFFER_BYTES
from echokernel.errors import EchoError, InvalidArgument, Overloaded, StreamStopped
from echokernel.flows import StreamSender
from echokernel_protocol.channel import ALL_POSITIONS
from echokernel_protocol.codes import Code
from echokernel_protocol.frames import MessageType, encode_frame
from echokernel_protocol.postcard import encode_varint
from echokernel_protocol.streams import Prelude, StreamKind
from echokernel_protocol.timestamped import MAX_U32, Timestamped

if TYPE_CHECKING:
    from echokernel.engine.flow_options import FlowOptions
    from echokernel.engine.flow_table import Flows
    from echokernel.session import Session
    from echokernel.tasks import Future, Task, Timer
    from echokernel.transport import SendStream

LIVE_BYTES: Final = (
    65_536  # not acknowledged, of a stream whose frames may be dropped: more would only grow old in there
)
AGING: Final = 256  # frames under way that are watched; one that old is hardly the one to save
STAMP_BYTES: Final = 28  # the most that type, method, flags, stamp and lengths take in a datagram, beside the flow's id
_NAMELESS = b"\x00\x00"

__all__ = ["DatagramSender", "PerFrameSender", "ReliableSender"]


class BufferedSender(StreamSender):
    """Frames wait in a buffer of frames; a task sends them."""

    def __init__(
        self,
        session: Session,
        flows: Flows,
        name: str,
        flow_id: int,
        options: FlowOptions,
        send: SendStream | None = None,
    ) -> None:
        super().__init__(session, flows, name, flow_id, send)
        self.delivery = options.delivery
        self._options = options
        self._waiting: deque[tuple[float, bytes, int]] = deque()  # when it came, its payload, bytes of data in it
        self._waiting_bytes = 0
        self._room: list[Future[None]] = []
        self._news: Future[None] | None = None
        self._over = False
        """Its END is put in, or it is given up."""
        flows.sending.add(self)
        self._task: Task = session._tasks.start(self._run, name=f"stream {name}")

    # --- in ----------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        await self._put(None, data)

    async def send_timestamped(self, frame: Timestamped[bytes]) -> None:
        await self._put(frame, frame.data)

    async def _put(self, frame: Timestamped[bytes] | None, data: bytes) -> None:
        payload = self._encode(frame or Timestamped(time.time_ns() // 1000, self._seq, data))
        if not self._fits(len(payload)):
            wanted = await self._make_room(len(payload))
            if frame is None:  # others may have sent while this one waited
                payload = self._encode(Timestamped(time.time_ns() // 1000, self._seq, data))
            self._seq = ((self._seq if frame is None else frame.seq) + 1) & MAX_U32
            if not wanted:
                return
        else:
            self._seq = ((self._seq if frame is None else frame.seq) + 1) & MAX_U32
        self._waiting.append((self._session._tasks.now(), payload, len(data)))
        self._waiting_bytes += len(payload)
        self._tell_task()

    def _fits(self, size: int) -> bool:
        waiting = len(self._waiting)
        return waiting < self._options.buffer and (self._waiting_bytes + size <= BUFFER_BYTES or not waiting)

    async def _make_room(self, size: int) -> bool:
        """Make or await room for a frame; False: it is the one to drop."""
        policy = self._options.on_full
        if policy == "wait":
            while not self._fits(size):
                await self._wait_room()
                self._check()
                self._drop_stale()
            return True
        await anyio.lowlevel.checkpoint()  # a program that never waits must let the sending task run
        self._check()
        self._drop_stale()
        if self._fits(size):
            return True
        if policy == "error":
            raise Overloaded(
                f"stream {self.name!r}: {len(self._waiting)} frames ({self._waiting_bytes:,} bytes) wait already; the "
                "receiver or the network is slower than this sender"
            )
        if policy == "drop_newest":
            self._dropped_full += 1
            return False
        while not self._fits(size):
            self._pop()
            self._dropped_full += 1
        return True

    async def _wait_room(self) -> None:
        future: Future[None] = self._session._tasks.future()
        self._room.append(future)
        max_age = self._options.max_age
        until = None if max_age is None else self._waiting[0][0] + max_age - self._session._tasks.now()
        with anyio.move_on_after(None if until is None else max(0.0, until)):
            await future

    # --- out ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while await self._some():
                await self._ready()
                self._drop_stale()
                if self._waiting:
                    came, payload, size = self._pop()
                    await self._write(came, payload)
                    self._sent += 1
                    self._bytes += size
                else:
                    self._not_needed()
            self._over = True
            await self._end()
        except EchoError as error:
            if isinstance(error, StreamStopped):
                await self._hear_reason()
            if self._error is None and not self._over:
                self._error = error
                self._clear(error.code)
        finally:
            self._flows.sending.discard(self)

    async def _some(self) -> bool:
        """Wait for a frame; False: there will be none."""
        while not self._waiting:
            if self._finished:
                return False
            self._news = self._session._tasks.future()
            await self._news
        return True

    def _pop(self) -> tuple[float, bytes, int]:
        entry = self._waiting.popleft()
        self._waiting_bytes -= len(entry[1])
        self._give_room()
        return entry

    def _drop_stale(self) -> None:
        max_age = self._options.max_age
        if max_age is not None:
            oldest = self._session._tasks.now() - max_age
            while self._waiting and self._waiting[0][0] <= oldest:
                self._pop()
                self._dropped_old += 1

    def _give_room(self) -> None:
        if self._room:
            waiting, self._room = self._room, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _tell_task(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    @abstractmethod
    async def _ready(self) -> None:
        """Wait until the carrier should get a frame."""

    def _not_needed(self) -> None:
        """What :meth:`_ready` prepared: the frame that it was for is stale."""

    @abstractmethod
    async def _write(self, came: float, payload: bytes) -> None:
        """Hand one frame over."""

    @abstractmethod
    async def _end(self) -> None:
        """Everything was handed over."""

    # --- the end -----------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        self._tell_task()

    def _stopped(self, error: EchoError) -> None:
        if self._error is None and not self._over:
            self._error = error
            self._drop(error.code)
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    def _drop(self, code: int) -> None:
        self._clear(code)
        self._flows.sending.discard(self)
        if self._told is None:  # else it waits for just this, and ends by itself
            self._session._tasks.stop(self._task)

    def _clear(self, code: int) -> None:
        self._over = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._give_room()
        super()._drop(code)


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
        self._stream.write_nowait(encode_frame(MessageType.STREAM, self.id, _NAMELESS, payload))

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
            stream.write_nowait(prelude + encode_frame(MessageType.STREAM, self.id, _NAMELESS, payload))
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
        return max(0, min(fits, self._session.peer.max_frame))

    async def send_timestamped(self, frame: Timestamped[bytes]) -> None:
        payload = self._encode(frame)
        data = encode_frame(MessageType.STREAM, self.id, _NAMELESS, payload)[4:]
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
