"""Streams for users: a named flow of timestamped frames with backpressure.

The classes here carry a flow on one reliable stream. What else there is (:mod:`echokernel.engine.flow_sending`,
:mod:`echokernel.engine.flow_receiving`) are subclasses, with the same methods.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal

import anyio

from echokernel.clock import SYSTEM_CLOCK
from echokernel.errors import (
    EchoError,
    InvalidArgument,
    ProtocolError,
    StreamClosed,
    StreamReset,
    StreamStopped,
    TransportError,
    error_from_code,
)
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import FRAME_OVERHEAD, FrameDecoder, MessageType
from echokernel_protocol.postcard import MAX_U64
from echokernel_protocol.timestamped import MAX_U32, Timestamped, decode_data, encode_data_frame

if TYPE_CHECKING:
    from types import TracebackType

    from echokernel.clock import Playout
    from echokernel.engine.flow_table import Flows
    from echokernel.session import Session
    from echokernel.tasks import Future
    from echokernel.transport import RecvStream, SendStream

Delivery = Literal["reliable", "per_frame", "datagram"]
OnFull = Literal["wait", "drop_oldest", "drop_newest", "error"]

__all__ = ["Delivery", "OnFull", "StreamReceiver", "StreamSender"]

REASON_SECONDS = 1.0


class StreamSender:
    """Sends one stream. ``async with`` finishes it, or aborts it when the body raises."""

    delivery: Delivery = "reliable"
    """How frames travel, as :meth:`Session.create_stream` was told."""

    def __init__(self, session: Session, flows: Flows, name: str, flow_id: int, send: SendStream | None = None) -> None:
        self.name = name
        self.id = flow_id
        self._session = session
        self._flows = flows
        self._carrier = send
        self._seq = 0
        self._sent = 0
        self._bytes = 0
        self._dropped_full = 0
        self._dropped_old = 0
        self._finished = False
        self._error: EchoError | None = None
        self._told: Future[None] | None = None
        self._limit = session.peer.max_frame
        self._clock = session._node.context.clock
        self._marks = self._clock is not SYSTEM_CLOCK  # else the open has said it of all frames

    @property
    def max_frame(self) -> int:
        """Bytes of data that one frame can carry as of now; the path of a datagram may change."""
        return self._limit

    def stats(self) -> Mapping[str, int]:
        """Return counters of frames: ``sent`` (handed to the transport), ``dropped_full`` (no room in the buffer),
        ``dropped_old`` (beyond ``max_age``); and ``bytes``, of the data sent.
        """
        return {
            "sent": self._sent,
            "dropped_full": self._dropped_full,
            "dropped_old": self._dropped_old,
            "bytes": self._bytes,
        }

    async def send(self, data: bytes) -> None:
        """Send one frame, stamped with the time of now: that of the node's clock, ``context.clock``.

        Waits while the receiver is more than a buffer behind, unless ``on_full`` says otherwise; a datagram never waits for
        the receiver. Raises StreamStopped when the receiver wants no more, MethodNotFound or another error when it refused
        the stream, ConnectionClosed, InvalidArgument for more than :attr:`max_frame`, Overloaded for a full buffer with
        ``on_full="error"``. Cancelled while waiting, nothing was sent.
        """
        await self.send_timestamped(self._stamped(data))

    def _stamped(self, data: bytes) -> Timestamped[bytes]:
        clock = self._clock
        return Timestamped(clock.now_us(), self._seq, data, clock.is_synced)

    async def send_timestamped(self, frame: Timestamped[bytes]) -> None:
        """Send one frame with a stamp of your own, in shared time unless it says not. Waits and raises as :meth:`send`."""
        encoded = self._encode(frame)
        assert self._carrier is not None
        try:
            await self._carrier.write(encoded)
        except StreamStopped as error:
            await self._hear_reason()
            raise self._error or error from None
        except EchoError:
            if self._error is not None:  # it was stopped while we waited, and reset here
                raise self._error from None
            raise
        self._sent += 1
        self._bytes += len(frame.data)
        self._seq = (frame.seq + 1) & MAX_U32

    def _check(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._finished:
            raise InvalidArgument(f"stream {self.name!r} is finished; create another one")

    def _encode(self, frame: Timestamped[bytes]) -> bytes:
        """Return the data frame, with its length before it."""
        self._check()
        if not 0 <= frame.wall_time <= MAX_U64 or not 0 <= frame.seq <= MAX_U32:
            raise InvalidArgument(
                f"stream {self.name!r}: a stamp of {frame.wall_time} µs, number {frame.seq}; wanted a u64 and a u32"
            )
        data = bytes(frame.data)
        if len(data) > self._limit:
            raise InvalidArgument(
                f"stream {self.name!r}: a frame of {len(data):,} bytes; the peer takes {self._limit:,}. Send it in parts."
            )
        synced = frame.synced or not self._marks
        return encode_data_frame(self.id, frame.wall_time, frame.seq, data, synced)

    async def finish(self) -> None:
        """Say that this was all. Does not wait for the receiver; frames in the buffer are still sent. A second call does
        nothing.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        if not self._finished:
            self._finished = True
            await self._finish()

    async def _finish(self) -> None:
        assert self._carrier is not None
        self._flows.end(self.id, self._sent)
        await self._carrier.finish()

    async def wait_taken(self, timeout: float | None = None) -> int:
        """Wait until the peer's handler of this stream has ended, and return how many frames it took.

        After :meth:`finish`, a number equal to :attr:`sent` says that all of them were taken. ``timeout``: seconds, 0
        for no deadline, None for the node's default. Raises what the stream was refused with, HandlerError when its
        handler failed, RequestTimeout, ConnectionClosed, MethodNotFound from a peer that keeps no count.
        """
        from echokernel.introspection import ask_taken

        return await ask_taken(self._session, self.id, timeout)

    @property
    def sent(self) -> int:
        """How many frames were sent."""
        return self._sent

    def abort(self, code: int = Code.CANCELLED, message: str = "the sender gave up") -> None:
        """End early: the receiver gets an error instead of the end. Nothing happens once the stream is finished."""
        if not self._finished and self._error is None:
            self._finished = True
            self._flows.abort(self.id, ErrorInfo(code, message))
            self._drop(code)

    def _drop(self, code: int) -> None:
        """What was not delivered yet will not be."""
        if self._carrier is not None:
            self._carrier.reset(code)

    async def _hear_reason(self) -> None:
        """The stream was stopped; the channel says why, perhaps a moment later."""
        if self._error is None and self._session.closed is None:
            self._told = self._session._tasks.future()
            with anyio.move_on_after(REASON_SECONDS):
                await self._told

    def _stopped(self, error: EchoError) -> None:
        if self._error is None and not self._finished:
            self._error = error
            self._drop(error.code)
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    async def __aenter__(self) -> StreamSender:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            await self.finish()
        else:
            self.abort()


class StreamReceiver:
    """Receives one stream: ``async for frame in stream``, or :meth:`recv`. What is not read stays with the sender.

    With ``delivery`` ``"per_frame"`` or ``"datagram"`` frames come as they arrive, and some may not: go by ``frame.seq``.
    """

    delivery: Delivery = "reliable"
    """How the sender lets the frames travel."""

    def __init__(
        self, session: Session, flows: Flows, name: str, flow_id: int, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.id = flow_id
        self.metadata: Mapping[str, str] = metadata or {}
        """What the sender said of the stream when it opened it."""
        self._session = session
        self._flows = flows
        self._synced = True
        self._recv: RecvStream | None = None
        self._decoder = FrameDecoder(session.limits.max_frame + FRAME_OVERHEAD)
        self._ready: list[Timestamped[bytes]] = []  # in reverse: the next one is the last
        self._received = 0
        self._total: int | None = None
        self._data_ended = False
        self._error: EchoError | None = None
        self._lost: EchoError | None = None
        self._closed = False
        self._waiting: Future[None] | None = None

    async def recv(self) -> Timestamped[bytes] | None:
        """Return the next frame, None after the last one.

        Raises StreamReset or the sender's error when it gave up, ConnectionClosed, ProtocolError for a cut stream. A stream
        whose frames may get lost ends when all are accounted for, or a while after its END: 0.5 s for datagrams; for
        ``per_frame`` 0.5 s beyond the sender's ``max_age``, 5 s where it has none.
        """
        while not self._ready:
            if self._closed:
                raise InvalidArgument(f"stream {self.name!r} was closed here")
            if self._error is not None:
                raise self._error.with_traceback(None)
            if self._data_ended or self._recv is None:
                if self._data_ended and self._total is not None:
                    if self._total != self._received:
                        raise ProtocolError(
                            f"stream {self.name!r} ended after {self._received} of {self._total} frames",
                            code=Code.TRUNCATED,
                        )
                    return None
                if self._total == 0:
                    return None  # nothing was sent, and the data stream may never come
                if self._lost is not None:
                    raise self._lost.with_traceback(None)
                await self._wait()
                continue
            try:
                data = await self._recv.read()
            except StreamReset as error:
                self._fail(error)
                continue
            if data:
                self._take(data)
            else:
                self._data_ended = True
        return self._ready.pop()

    @property
    def taken(self) -> int:
        """How many frames :meth:`recv` has returned."""
        return self._received - len(self._ready)

    def stats(self) -> Mapping[str, int]:
        """Return counters of frames: ``received``, ``lost``, ``reordered`` (came after a later one), ``duplicate`` (came
        again, and was left out), ``dropped`` (arrived, and nobody read them in time).

        ``lost`` goes by the gaps so far, and is exact once the stream has ended; on a reliable stream it stays 0.
        """
        return {"received": self._received, "lost": 0, "reordered": 0, "duplicate": 0, "dropped": 0}

    def _take(self, data: bytes) -> None:
        assert self._recv is not None
        try:
            frames = []
            for message_type, flow_id, method, flags, payload in self._decoder.feed(data):
                if message_type != MessageType.STREAM or flow_id != self.id or method:
                    raise ProtocolViolation(f"something other than its data on the stream {self.name!r}")
                frames.append(decode_data(flags, payload, self._synced))
        except ProtocolViolation as error:
            self._recv.stop(error.code)
            self._session._violated(error)
            self._fail(ProtocolError(str(error), code=error.code))
            return
        self._received += len(frames)
        frames.reverse()
        self._ready = frames

    def playout(self, **options: Any) -> Playout:
        """Return the frames when their time has come: ``async with stream.playout(delay=0.1) as frames``, ``async for``.

        A clock plugin does it, with options of its own: ``delay`` in seconds after the stamp, for instance. Raises
        ClockUnavailable on a node without one.
        """
        return self._session._node.context.clock.playout(self, **options)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Want no more: the sender gets StreamStopped. Nothing happens after the end, or a second time."""
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not (self._data_ended and self._total is not None):
            if self._recv is not None and self._error is None:
                self._recv.stop(Code.CANCELLED)
            self._flows.stop(self.id)
        self._wake()

    def __aiter__(self) -> StreamReceiver:
        return self

    async def __anext__(self) -> Timestamped[bytes]:
        frame = await self.recv()
        if frame is None:
            raise StopAsyncIteration
        return frame

    # --- what the session tells ---------------------------------------------------------------------------------

    def _take_stream(self, position: int, recv: RecvStream, rest: bytes) -> Coroutine[Any, Any, None] | None:
        """A data stream is here. Returns what a task has to do for it, if anything."""
        self._attach(recv, rest)
        return None

    def _attach(self, recv: RecvStream, rest: bytes) -> None:
        if self._recv is not None or self._closed:
            recv.stop(Code.CANCELLED)
            return
        self._recv = recv
        if rest:
            self._take(rest)
        self._wake()

    def _ended(self, total: int) -> None:
        self._total = total
        self._wake()

    def _aborted(self, error: ErrorInfo) -> None:
        if error.code == Code.CANCELLED:
            self._fail(StreamReset(error.code, error.message))
        else:
            self._fail(error_from_code(error.code, error.message, error.details))

    def _lose(self, error: EchoError) -> None:
        """The connection is over. What has arrived can still be read, to its end if that has arrived too."""
        self._lost = error
        self._wake()

    def _fail(self, error: EchoError) -> None:
        # the sender's own words come on the channel, its reset on the stream: whichever is first is kept, unless it is bare
        if self._error is None or (isinstance(self._error, StreamClosed) and not isinstance(error, TransportError)):
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _wait(self) -> None:
        self._waiting = self._session._tasks.future()
        await self._waiting
