"""The two halves of a stream: watermarks for what is written, credit for what is read.

How a half ended is kept as a function that makes the exception: one that is raised again and again would keep the frames it
passed through, and they the stream, until the garbage collector comes by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from echokernel.errors import StreamClosed, StreamReset, StreamStopped
from echokernel.transport import RecvStream, SendStream
from echokernel_protocol.codes import Code
from echokernel_quic.waiters import Waiters

if TYPE_CHECKING:
    from aioquic.quic.stream import QuicStream

    from echokernel_quic.connection import QuicConnection

HIGH_WATER = 256 * 1024  # bytes not acknowledged, or not sent, from which writers wait
LOW_WATER = 128 * 1024  # … until so few are left: each wake-up lets them write for a while
MAX_CODE = 2**62 - 1
SMALL_CHUNKS = 64  # a peer that sends single bytes must not cost us an object for each

__all__ = ["QuicRecvStream", "QuicSendStream"]


def _checked_code(code: int) -> int:
    return min(max(int(code), 0), MAX_CODE)


class QuicSendStream(SendStream):
    """Sends on one stream."""

    __slots__ = ("_connection", "_ended", "_fails", "_full", "_on_stop", "_stopped", "_stream", "_waiters")

    def __init__(self, connection: QuicConnection, stream: QuicStream) -> None:
        self._connection = connection
        self._stream = stream
        self._fails: Callable[[], StreamClosed] | None = None
        self._ended = False
        self._full = False
        self._stopped = False
        self._on_stop: Callable[[], object] | None = None
        self._waiters = Waiters(connection.tasks)

    async def write(self, data: bytes) -> None:
        self._check()
        if self._full:
            await self.wait_room()
        self._queue(data)

    def write_nowait(self, data: bytes) -> None:
        self._queue(data)

    @property
    def room(self) -> int:
        return 0 if self._full else HIGH_WATER - len(self._stream.sender._buffer)

    async def wait_room(self, wanted: int = 1) -> None:
        self._check()
        while self._full or HIGH_WATER - len(self._stream.sender._buffer) < wanted:
            self._connection.full_streams.add(self)  # who wants more than low water leaves is woken again and again
            await self._waiters.wait()
            self._check()

    async def finish(self) -> None:
        if self._ended:
            return
        self._check()
        self._ended = True
        self._stream.sender.write(b"", end_stream=True)
        self._connection.schedule_flush()

    def reset(self, code: int) -> None:
        if self._fails is not None or self._connection.error is not None:
            return
        sender = self._stream.sender
        if sender.is_finished:
            return
        code = _checked_code(code)
        self._fails = partial(StreamClosed, f"this side reset the stream (code {code})", code=code)
        self._ended = True
        sender.reset(code)
        sender._buffer.clear()  # never sent again; the state itself stays until the peer acknowledged the reset
        self._wake()
        self._connection.schedule_flush()

    def on_stop(self, function: Callable[[], object]) -> None:
        if self._stopped:
            function()
        self._on_stop = function

    def prioritize(self) -> None:
        self._connection.engine.prioritize(self._stream.stream_id)  # type: ignore[arg-type]

    # --- what the connection does -----------------------------------------------------------------------------------

    def wake_below_low_water(self) -> bool:
        """Called when data was acknowledged. Return whether the writers were let on."""
        if len(self._stream.sender._buffer) > LOW_WATER:
            return False
        self._full = False
        self._waiters.wake_all()
        return True

    def stopped(self, code: int) -> None:
        """The peer sent STOP_SENDING; aioquic has reset the stream."""
        if self._fails is None:
            self._fails = partial(StreamStopped, code)
            self._stopped = True
            self._stream.sender._buffer.clear()
            self._wake()
            if self._on_stop is not None:
                self._on_stop()

    def connection_lost(self) -> None:
        self._wake()

    def _wake(self) -> None:
        self._full = False
        self._connection.full_streams.discard(self)
        self._waiters.wake_all()

    def _check(self) -> None:
        if self._fails is not None:
            raise self._fails()
        if self._connection.error is not None:
            raise self._connection.error
        if self._ended:
            raise StreamClosed("the stream was finished by this side; nothing can be written after that", code=Code.OK)

    def _queue(self, data: bytes) -> None:
        self._check()
        sender = self._stream.sender
        sender.write(data)
        if not self._full and len(sender._buffer) >= HIGH_WATER:
            self._full = True  # until low water: writers wait for one large wake-up instead of many small ones
            self._connection.full_streams.add(self)
        self._connection.schedule_flush()


class QuicRecvStream(RecvStream):
    """Receives on one stream."""

    __slots__ = ("_accepted", "_chunks", "_connection", "_end", "_fails", "_size", "_small", "_stream", "_waiters")

    def __init__(self, connection: QuicConnection, stream: QuicStream, *, accepted: bool) -> None:
        self._connection = connection
        self._stream = stream
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._small = 0
        self._end = False
        self._accepted = accepted
        self._fails: Callable[[], StreamClosed] | None = None
        self._waiters = Waiters(connection.tasks)

    async def read(self, max_bytes: int = 262_144) -> bytes:
        while not self._chunks:
            if self._fails is not None:
                raise self._fails()
            if self._end:
                return b""
            if self._connection.error is not None:
                raise self._connection.error
            await self._waiters.wait()
        data = self._take(max_bytes)
        self._connection.consumed(self._stream, len(data), at_end=self._end and not self._chunks)
        return data

    def stop(self, code: int) -> None:
        if self._fails is not None or self._connection.error is not None:
            return
        code = _checked_code(code)
        self._fails = partial(StreamClosed, f"this side stopped reading the stream (code {code})", code=code)
        dropped, self._size = self._size, 0
        self._chunks.clear()
        self._connection.stop_receiving(self._stream, code, dropped)
        self._waiters.wake_all()

    # --- what the connection does -----------------------------------------------------------------------------------

    def received(self, data: bytes, end: bool) -> None:
        if self._fails is not None:  # stopped: what still arrives counts as read
            self._connection.consumed(self._stream, len(data), at_end=end, more=False)
            return
        if data:
            self._append(data)
        if end:
            self._end = True
            self._release_if_done()
        self._waiters.wake_one()

    def was_reset(self, code: int) -> None:
        """What was not read is dropped: it was not the whole, and whoever reads has to know."""
        if self._fails is None:
            self._fails = partial(StreamReset, code)
        self._chunks.clear()
        self._size = 0
        self._end = True
        self._release_if_done()
        self._waiters.wake_all()

    def accepted(self) -> None:
        """The program has it now. Until then even an empty stream counts against the peer's limit of open ones."""
        self._accepted = True
        self._release_if_done()

    def _release_if_done(self) -> None:
        if self._end and self._accepted and not self._chunks:
            self._connection.consumed(self._stream, 0, at_end=True)

    def connection_lost(self) -> None:
        self._waiters.wake_all()

    def _append(self, data: bytes) -> None:
        chunks = self._chunks
        chunks.append(data)
        self._size += len(data)
        if len(data) >= 256:
            self._small = 0
            return
        self._small += 1
        if self._small >= SMALL_CHUNKS and len(chunks) >= SMALL_CHUNKS:
            joined = b"".join(reversed([chunks.pop() for _ in range(SMALL_CHUNKS)]))
            chunks.append(joined)
            self._small = 0

    def _take(self, max_bytes: int) -> bytes:
        chunks = self._chunks
        self._small = 0
        if self._size <= max_bytes:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self._size = 0
            return data
        parts: list[bytes] = []
        wanted = max(1, max_bytes)
        while wanted and chunks:
            chunk = chunks[0]
            if len(chunk) <= wanted:
                parts.append(chunks.popleft())
                wanted -= len(chunk)
            else:
                parts.append(chunk[:wanted])
                chunks[0] = chunk[wanted:]
                wanted = 0
        data = b"".join(parts)
        self._size -= len(data)
        return data
