"""Receivers of streams whose frames travel each by itself: as streams of their own, or as datagrams.

Frames are handed out as they come. What the program does not read is bounded here: by count and bytes for datagrams, whose
oldest is dropped then; for frames with a stream of their own by leaving them unread, so that their sender waits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from echokernel.engine.flow_options import FRAMES_OPEN
from echokernel.errors import EchoError, InvalidArgument, ProtocolError, StreamReset
from echokernel.flows import StreamReceiver
from echokernel_protocol.channel import ALL_POSITIONS
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import FRAME_OVERHEAD, MessageType, decode_frame
from echokernel_protocol.timestamped import MAX_U32, Timestamped, decode_data

if TYPE_CHECKING:
    from echokernel.engine.flow_table import Flows
    from echokernel.session import Session
    from echokernel.tasks import Future, Timer
    from echokernel.transport import RecvStream

READY_BYTES: Final = 1_048_576  # read and not taken yet; 64 streams of a session hold at most 64 MiB
READY_DATAGRAMS: Final = 256  # frames; 5 s at 50 frames/s: whoever is that late wants the newest
GRACE: Final = 0.5  # seconds after END for what was overtaken; a frame that is later than that is lost
PATIENCE: Final = 5.0  # seconds after END where nothing may be lost: by then the transport has delivered, or is dead
REMEMBERED: Final = 1_024  # positions or stamps in which a duplicate is found

__all__ = ["DatagramReceiver", "LooseReceiver", "PerFrameReceiver"]


class LooseReceiver(StreamReceiver):
    """What both have in common: a queue, an account of what came, and an end that does not wait for what is lost."""

    _grace = GRACE
    _may_lose = True

    def __init__(self, session: Session, flows: Flows, name: str, flow_id: int, metadata: Mapping[str, str]) -> None:
        super().__init__(session, flows, name, flow_id, metadata)
        self._queue: deque[tuple[Timestamped[bytes], int]] = deque()  # frames with their positions
        self._queued_bytes = 0
        self._reordered = 0
        self._duplicate = 0
        self._dropped = 0
        self._known_lost = 0
        self._timer: Timer | None = None
        self._grace_over = False

    async def recv(self) -> Timestamped[bytes] | None:
        while not self._queue:
            if self._closed:
                raise InvalidArgument(f"stream {self.name!r} was closed here")
            if self._error is not None:
                raise self._error.with_traceback(None)
            if self._is_complete:
                return None
            if self._lost is not None and not self._on_its_way:
                if self._total is not None and self._may_lose:
                    return None  # what is missing cannot come any more
                raise self._lost.with_traceback(None)
            await self._wait()
        frame, position = self._queue.popleft()
        self._queued_bytes -= len(frame.data)
        self._was_taken(position)
        return frame

    @property
    def _is_complete(self) -> bool:
        if self._grace_over:
            return not self._on_its_way
        return self._total is not None and self._received + self._dropped + self._known_lost >= self._total

    @property
    def _on_its_way(self) -> bool:
        """Whether something is here that is not in the queue yet."""
        return False

    @property
    def taken(self) -> int:
        return self._received - len(self._queue)

    def stats(self) -> Mapping[str, int]:
        expected = self._span if self._total is None else self._total
        return {
            "received": self._received,
            "lost": max(0, expected - self._received - self._dropped),
            "reordered": self._reordered,
            "duplicate": self._duplicate,
            "dropped": self._dropped,
        }

    @property
    @abstractmethod
    def _span(self) -> int:
        """How many frames were sent, as far as those that came tell."""

    def _was_taken(self, position: int) -> None:
        """The program has this frame now."""

    def _put(self, frame: Timestamped[bytes], position: int) -> None:
        self._received += 1
        self._queue.append((frame, position))
        self._queued_bytes += len(frame.data)
        self._wake()

    def _ended(self, total: int) -> None:
        super()._ended(total)
        if not self._is_complete and not self._closed:
            tasks = self._session._tasks
            self._timer = tasks.call_at(tasks.now() + self._grace, self._end_grace)

    def _end_grace(self) -> None:
        self._grace_over = True
        self._wake()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._total is None and self._error is None:
            self._flows.stop(self.id)
        self._queue.clear()
        self._wake()


class PerFrameReceiver(LooseReceiver):
    """Frames on streams of their own. Each is read by the task that took its stream, as long as there is room."""

    delivery = "per_frame"

    def __init__(
        self,
        session: Session,
        flows: Flows,
        name: str,
        flow_id: int,
        metadata: Mapping[str, str],
        max_age: float | None,
        given_up: Sequence[int] = (),
    ) -> None:
        super().__init__(session, flows, name, flow_id, metadata)
        self._dropped = len(given_up)  # came too long before the stream was opened
        for position in given_up:
            flows.taken(flow_id, position)
        self._may_lose = max_age is not None
        self._grace = PATIENCE if max_age is None else GRACE + max_age
        self._reading: set[RecvStream] = set()
        self._room: list[Future[None]] = []
        self._seen: dict[int, None] = {}
        self._highest = -1
        self._names: dict[bytes, str] = {}
        self._longest = 4 + session.limits.max_frame + FRAME_OVERHEAD

    def _take_stream(self, position: int, recv: RecvStream, rest: bytes) -> Coroutine[Any, Any, None] | None:
        """A frame's stream is here. Returns what reads it, for a task; None: it is not wanted."""
        if self._closed or self._error is not None or self._grace_over:
            recv.stop(Code.CANCELLED)
        elif position in self._seen or position < self._highest - REMEMBERED:
            self._duplicate += 1
            recv.stop(Code.CANCELLED)
        else:
            self._seen[position] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
            if position < self._highest:
                self._reordered += 1
            self._highest = max(self._highest, position)
            if len(self._reading) + len(self._queue) < 2 * FRAMES_OPEN:
                self._reading.add(recv)
                return self._read_frame(position, recv, rest)
            self._dropped += 1  # its sender goes beyond the window
            recv.stop(Code.RESOURCE_EXHAUSTED)
            self._was_taken(position)
        return None

    async def _read_frame(self, position: int, recv: RecvStream, data: bytes) -> None:
        try:
            while self._queued_bytes >= READY_BYTES and not self._closed:
                future: Future[None] = self._session._tasks.future()
                self._room.append(future)
                await future
            while more := await recv.read():
                data += more
                if len(data) > self._longest:
                    raise ProtocolViolation(
                        f"a frame of the stream {self.name!r} is longer than {self._longest:,} bytes",
                        code=Code.LIMIT_EXCEEDED,
                    )
            frame = self._decode(data)
        except ProtocolViolation as violation:
            recv.stop(violation.code)
            self._session._violated(violation)
            self._fail(ProtocolError(str(violation), code=violation.code))
        except StreamReset:
            self._known_lost += 1  # its sender took it back: one frame, not the stream
        except EchoError:
            return  # stopped here, or the connection is lost; whoever waits learns it otherwise
        else:
            if not self._closed and self._error is None:
                self._put(frame, position)
        finally:
            self._reading.discard(recv)
            self._wake()

    def _decode(self, data: bytes) -> Timestamped[bytes]:
        if len(data) < 4 or int.from_bytes(data[:4], "big") != len(data) - 4:
            raise ProtocolViolation(
                f"a stream that should be one frame of {self.name!r} is not: {len(data):,} bytes", code=Code.TRUNCATED
            )
        message_type, flow_id, method, flags, payload = decode_frame(data, 4, len(data), self._names)
        if message_type != MessageType.STREAM or flow_id != self.id or method:
            raise ProtocolViolation(f"something other than its data on the stream {self.name!r}")
        return decode_data(flags, payload, self._synced)

    @property
    def _span(self) -> int:
        return self._highest + 1 - len(self._reading)

    def _was_taken(self, position: int) -> None:
        self._flows.taken(self.id, position)
        if self._room and self._queued_bytes < READY_BYTES:
            self._give_room()

    def _give_room(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _fail(self, error: EchoError) -> None:
        super()._fail(error)
        self._stop_reading()

    @property
    def _on_its_way(self) -> bool:
        return bool(self._reading)

    def _close(self) -> None:
        if not self._closed:
            super()._close()
            self._stop_reading()
            self._flows.taken(self.id, ALL_POSITIONS)  # its sender waits for none of them any more

    def _stop_reading(self) -> None:
        for recv in list(self._reading):
            recv.stop(Code.CANCELLED)
        self._give_room()


class DatagramReceiver(LooseReceiver):
    """Frames in datagrams: the oldest gives way when nobody reads."""

    delivery = "datagram"

    def __init__(self, session: Session, flows: Flows, name: str, flow_id: int, metadata: Mapping[str, str]) -> None:
        super().__init__(session, flows, name, flow_id, metadata)
        self._seen: dict[tuple[int, int], None] = {}
        self._first: int | None = None
        self._highest = 0  # counted from the first, so that it does not wrap

    def _take_frame(self, frame: Timestamped[bytes]) -> None:
        """A datagram's frame is here."""
        frame.synced &= self._synced
        if self._closed or self._error is not None or self._grace_over:
            return
        stamp = (frame.wall_time, frame.seq)
        if stamp in self._seen:
            self._duplicate += 1
            return
        self._seen[stamp] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._order(frame.seq)
        while self._queue and (
            len(self._queue) >= READY_DATAGRAMS or self._queued_bytes + len(frame.data) > READY_BYTES
        ):
            old, _ = self._queue.popleft()
            self._queued_bytes -= len(old.data)
            self._received -= 1
            self._dropped += 1
        self._put(frame, 0)

    def _take_stream(self, position: int, recv: RecvStream, rest: bytes) -> None:
        recv.stop(Code.PROTOCOL_ERROR)

    def _order(self, seq: int) -> None:
        if self._first is None:
            self._first = seq
            return
        step = (seq - self._first - self._highest) & MAX_U32
        if step < 1 << 31:  # RFC 1982: ahead by less than half of all numbers
            self._highest += step
        else:
            self._reordered += 1

    @property
    def _span(self) -> int:
        return 0 if self._first is None else self._highest + 1
