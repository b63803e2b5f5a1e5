"""Payloads that are too long for a frame: the frame keeps its place on the channel, the bytes travel beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel.engine.parts import parts
from echokernel.errors import ConnectionClosed, InvalidArgument, ProtocolError
from echokernel_protocol.channel import Announced
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.streams import Prelude, StreamKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from echokernel.engine.link import Link
    from echokernel.tasks import Future, TaskScope
    from echokernel.transport import RecvStream

MAX_UNWANTED = 1_024

__all__ = ["Bodies"]


class Bodies:
    """The body streams of one session, both ways."""

    def __init__(self, link: Link, tasks: TaskScope, violated: Callable[[ProtocolViolation], None]) -> None:
        self._link = link
        self._connection = link.connection
        self._tasks = tasks
        self._violated = violated
        self._arrived: dict[int, tuple[RecvStream, bytes]] = {}
        self._wanted: dict[int, Future[tuple[RecvStream, bytes]]] = {}
        self._unwanted: set[int] = set()
        self._failure: Exception | None = None
        self.sending = 0
        """Bodies of ours that are not handed to the transport yet."""

    # --- sending -----------------------------------------------------------------------------------------------

    def send(self, number: int, payload: bytes) -> None:
        """Send the body of our frame ``number`` beside the channel."""
        self.sending += 1
        self._link.beside += len(payload)
        self._tasks.start(self._send, number, payload, name=f"body {number}")

    async def _send(self, number: int, payload: bytes) -> None:
        try:
            stream = await self._connection.open_uni_stream()
            try:
                await stream.write(Prelude(StreamKind.BODY, (number,)).encode())
                for part in parts(payload):
                    await stream.write(part)
                await stream.finish()
            except BaseException:
                stream.reset(Code.CANCELLED)
                raise
        except ConnectionClosed:
            return  # the session ends, or the peer does not want it
        finally:
            self.sending -= 1
            self._link.body_left(len(payload))  # whole: until then the transport holds what it took

    # --- receiving ---------------------------------------------------------------------------------------------

    def arrived(self, number: int, stream: RecvStream, rest: bytes) -> None:
        """A body stream is here; its frame may have been, or may follow."""
        if number in self._unwanted:
            self._unwanted.discard(number)
            stream.stop(Code.CANCELLED)
            return
        waiting = self._wanted.pop(number, None)
        if waiting is None:
            if number in self._arrived:
                stream.stop(Code.PROTOCOL_ERROR)
                self._violated(ProtocolViolation(f"two bodies for frame {number}"))
                return
            self._arrived[number] = (stream, rest)  # unread: the peer's stream credit bounds what waits
        elif not waiting.done():
            waiting.set_result((stream, rest))
        else:
            stream.stop(Code.CANCELLED)

    def discard(self, announced: Announced) -> None:
        """Nobody wants this body."""
        entry = self._arrived.pop(announced.number, None)
        if entry is not None:
            entry[0].stop(Code.CANCELLED)
        elif len(self._unwanted) >= MAX_UNWANTED:
            self._violated(
                ProtocolViolation(f"{MAX_UNWANTED:,} bodies were announced and never sent", code=Code.LIMIT_EXCEEDED)
            )
        else:
            self._unwanted.add(announced.number)

    async def receive(self, announced: Announced) -> bytes:
        """Return the body of a frame. Raises ProtocolError when it is not what was announced, ConnectionClosed."""
        entry = self._arrived.pop(announced.number, None)
        if entry is None:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            future = self._wanted[announced.number] = self._tasks.future()
            try:
                entry = await future
            except BaseException:
                if self._wanted.pop(announced.number, None) is not None:
                    self.discard(announced)  # given up before it came
                raise
        stream, rest = entry
        try:
            data = rest + await stream.read_to_end(max(0, announced.length - len(rest)))
        except InvalidArgument:
            data = b""
        except BaseException:
            stream.stop(Code.CANCELLED)
            raise
        if len(data) != announced.length:
            error = ProtocolViolation(
                f"the body of frame {announced.number} is not the {announced.length:,} bytes that were announced",
                code=Code.TRUNCATED,
            )
            self._violated(error)
            raise ProtocolError(str(error), code=error.code)
        return data

    def fail(self, error: Exception) -> None:
        """The connection is over."""
        self._failure = error
        waiting, self._wanted = self._wanted, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
        self._arrived.clear()
