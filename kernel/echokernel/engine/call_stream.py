"""The caller's end of a call that has a stream of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from echokernel.engine.deadlines import Deadlines
from echokernel.engine.parts import parts
from echokernel.errors import (
    InvalidArgument,
    ProtocolError,
    RequestTimeout,
    StreamReset,
    StreamStopped,
    error_from_code,
)
from echokernel_protocol.calls import CallFrame, CallReader, encode_call_frame
from echokernel_protocol.codes import Code, code_name
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import NAMELESS, SLOT_MASK, Flags, MessageType
from echokernel_protocol.streams import Prelude, StreamKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from echokernel.limits import Limits
    from echokernel.tasks import Future, TaskScope
    from echokernel.transport import RecvStream, SendStream
    from echokernel_protocol.hello import Hello

PRELUDE = Prelude(StreamKind.CALL).encode()

__all__ = ["CallStream", "Gate", "Opening"]


@dataclass(frozen=True, slots=True)
class Opening:
    """What a call begins with."""

    method: str
    head: bytes
    """Name and flags."""
    payload: bytes
    metadata: Mapping[str, str] | None = None


class Gate:
    """Lets so many in at a time, and the others in the order in which they came."""

    def __init__(self, limit: int, tasks: TaskScope) -> None:
        self._free = self._limit = limit
        self._tasks = tasks
        self._waiting: deque[Future[None]] = deque()
        self._failure: Exception | None = None
        self._deadlines = Deadlines(tasks, self._expire)
        self._by_key: dict[int, tuple[str, Future[None]]] = {}

    @property
    def inside(self) -> int:
        """How many are in."""
        return self._limit - self._free

    async def enter(self, method: str, until: float) -> None:
        """Wait for a place, and take it; ``until``: on the task scope's clock, 0 for as long as it takes.

        Raises RequestTimeout, and what :meth:`fail` was told.
        """
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._free > 0:
            self._free -= 1
            return
        future: Future[None] = self._tasks.future()
        self._waiting.append(future)
        key, bucket = id(future), 0
        if until:
            self._by_key[key] = method, future
            bucket = self._deadlines.add(until, key)
        try:
            await future
        except BaseException as error:
            if future in self._waiting:
                self._waiting.remove(future)
            elif self._failure is None and not isinstance(error, RequestTimeout):
                self.leave()  # the place had been given to this one already
            raise
        finally:
            if until:
                del self._by_key[key]
                self._deadlines.discard(bucket, key)

    def _expire(self, key: int) -> None:
        method, future = self._by_key[key]
        if not future.done():
            self._waiting.remove(future)
            future.set_exception(
                RequestTimeout(f"{method}: the peer gave no room for it within the deadline; nothing was sent")
            )

    def leave(self) -> None:
        """Give a place back."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._free += 1

    def fail(self, error: Exception) -> None:
        """Nobody gets in any more."""
        self._failure = error
        self._deadlines.close()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)


class CallStream:
    """One open call: items go out, answers come in."""

    __slots__ = (
        "_closed",
        "_finished",
        "_gate",
        "_reader",
        "_recv",
        "_send",
        "_slot",
        "_turn",
        "_violated",
        "id",
        "is_broken",
        "peer",
        "was_stopped",
    )

    def __init__(
        self,
        request_id: int,
        slot: int,
        send: SendStream,
        recv: RecvStream,
        gate: Gate,
        *,
        limits: Limits,
        peer: Hello,
        violated: Callable[[ProtocolViolation], None],
    ) -> None:
        self.id = request_id
        self.peer = peer
        self.was_stopped = False
        """Whether the handler wants no more items."""
        self.is_broken = False
        """Whether an item was given up when half of it was sent; nothing can follow it."""
        self._turn: anyio.Lock | None = None
        self._slot = slot
        self._send, self._recv = send, recv
        self._gate = gate
        self._violated = violated
        self._finished = False
        self._closed = False
        self._reader = CallReader(
            MessageType.RESPONSE,
            max_frame=limits.max_frame,
            max_message=limits.max_message,
            request_id=request_id,
            slot=slot & SLOT_MASK,
        )

    async def open(self, opening: Opening, metadata: bytes, *, ends: bool) -> None:
        """Write the call, and its END where nothing follows. Raises StreamStopped, ConnectionClosed."""
        data = PRELUDE + encode_call_frame(
            MessageType.REQUEST,
            self.id,
            opening.head,
            opening.payload,
            metadata=metadata,
            max_frame=self.peer.max_frame,
        )
        if ends:
            await self._write(data + self._end_frame())
            await self._send.finish()
            self._finished = True
        else:
            await self._write(data)

    async def send(self, payload: bytes) -> None:
        """Send one item. Raises StreamStopped, InvalidArgument, ConnectionClosed."""
        if len(payload) > self.peer.max_message:
            raise InvalidArgument(
                f"an item of {len(payload):,} bytes; the peer takes {self.peer.max_message:,}. Send it in parts."
            )
        data = encode_call_frame(
            MessageType.REQUEST, self.id, NAMELESS[self._slot], payload, max_frame=self.peer.max_frame
        )
        async with self._in_turn():
            if self._finished:
                raise InvalidArgument("the last item was sent already")
            try:
                await self._write(data)
            except StreamStopped:
                self.was_stopped = True
                raise

    async def finish(self) -> None:
        """Say that this was the last item. Cancelled while waiting, nothing was said."""
        async with self._in_turn():
            if not self._finished and not self._closed:
                try:
                    await self._write(self._end_frame())
                    await self._send.finish()
                except StreamStopped:
                    self.was_stopped = True  # it has answered without them
                self._finished = True

    def _in_turn(self) -> anyio.Lock:
        """A long item leaves in parts, and nothing may come between them."""
        if self._turn is None:
            self._turn = anyio.Lock(fast_acquire=True)
        return self._turn

    def _end_frame(self) -> bytes:
        return encode_call_frame(MessageType.REQUEST, self.id, NAMELESS[Flags.END], b"", max_frame=self.peer.max_frame)

    async def _write(self, data: bytes) -> None:
        begun = False
        try:
            for part in parts(data):
                await self._send.write(part)
                begun = True
        except Exception:
            raise
        except BaseException:  # cancelled
            self.is_broken = begun
            raise

    async def receive(self) -> list[CallFrame]:
        """Return answers, at least one frame. Raises what the handler's reset means, ProtocolError, ConnectionClosed."""
        try:
            if self._reader.has_more:
                return self._reader.receive(b"")
            while True:
                data = await self._recv.read()
                if not data:
                    self._reader.end_of_stream()
                    raise InvalidArgument("the call is over")
                if frames := self._reader.receive(data):
                    return frames
        except StreamReset as error:
            if error.code == Code.DEADLINE_EXCEEDED:
                raise RequestTimeout("the call was not over within its deadline; its handler was stopped") from None
            raise error_from_code(error.code, f"the peer ended the call ({code_name(error.code)})") from None
        except ProtocolViolation as violation:
            self._violated(violation)
            raise ProtocolError(f"the peer's answer: {violation}", code=violation.code) from None

    def close(self, code: int) -> None:
        """Be done with it: what is not over is given up, in both directions. Never raises."""
        if self._closed:
            return
        self._closed = True
        self._gate.leave()
        if not self._finished:
            self._send.reset(code)
        if not self._reader.ended:
            self._recv.stop(code)
            self._send.reset(code)
