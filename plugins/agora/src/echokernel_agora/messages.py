"""What an :class:`~echokernel_agora.AgoraClient` hands to a program: messages that came, and streams in both directions."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from msgspec import Raw

from echokernel import EchoError, InvalidArgument, SerializationError
from echokernel_agora.bell import Bell
from echokernel_agora.conversation import ABSENT, value_of
from echokernel_agora.frames import request_id_of

if TYPE_CHECKING:
    from echokernel_agora.conversation import Got
    from echokernel_agora.engine import Engine
    from echokernel_agora.errors import AgoraError
    from echokernel_protocol.agora import RouterRecord

__all__ = ["Asked", "ChunkStream", "Message", "MessageStream", "PresenceEvent", "PresenceStream", "Unread"]

GOODBYE_SECONDS = 2.0  # for the end of a stream whose sender was cancelled


class PresenceEvent(NamedTuple):
    """``event``: ``online changed offline gone``; or ``missed``, with no agent, after a lost connection."""

    event: str
    agent: RouterRecord | None


class Unread:
    """What came and was not taken by the program: frames and bytes, of one stream or of everything."""

    __slots__ = ("frames", "octets", "whole")

    def __init__(self, whole: Unread | None = None) -> None:
        self.frames = self.octets = 0
        self.whole = whole

    def add(self, frames: int, octets: int) -> None:
        self.frames += frames
        self.octets += octets
        if self.whole is not None:
            self.whole.add(frames, octets)


class ChunkStream:
    """The chunks of a message that comes in pieces: ``async for chunk in message.chunks()``.

    It ends where the sender ended it, and raises where that did not: :class:`StreamAborted`, :class:`SenderGone`,
    :class:`StreamIdle` or :class:`ConnectionLost`. Chunks that are not read hold back what follows on the connection; a
    stream that nobody holds any more is refused.
    """

    def __init__(self, engine: Engine, unread: Unread) -> None:
        self._engine, self._unread = engine, unread
        self._chunks: deque[tuple[Raw, int]] = deque()
        self._bell = Bell(engine.tasks)
        self._error: AgoraError | None = None
        self.ended = False
        """Whether the last chunk, or the reason why there is none, has come."""

    def __aiter__(self) -> ChunkStream:
        return self

    async def __anext__(self) -> str:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.ended:
                raise StopAsyncIteration
            await self._bell.wait()
        text, size = self._chunks.popleft()
        self._unread.add(-1, -size)
        self._engine.inbox.was_read()
        chunk: str = value_of(text)
        return chunk

    def put(self, chunk: Raw, size: int) -> None:
        """For the client: a chunk came."""
        self._chunks.append((chunk, size))
        self._unread.add(1, size)
        self._bell.ring()

    def end(self, error: AgoraError | None = None) -> None:
        """For the client: it is over."""
        if not self.ended:
            self.ended, self._error = True, error
            self._bell.ring()


class Message:
    """A message of another agent, or a reply of one."""

    def __init__(self, engine: Engine, got: Got, *, is_reply: bool, stream: ChunkStream | None) -> None:
        self._engine = engine
        self._stream = stream
        self.sender = got.from_ or ""
        """The id of the agent that sent it, as the router says."""
        self.stream_id = got.stream_id
        """The sender's name for the stream, if it gave one."""
        self.is_reply = is_reply
        """Whether it is a reply, to something that was sent with ``send``."""
        self.payload_json = bytes(got.payload)
        """The payload as it was sent; empty where there was none."""
        inner = request_id_of(got.payload) if got.payload else None
        self._request_id_within = inner is not None
        self.request_id: str | int | None = inner if got.request_id is None else got.request_id
        """What the sender knows the reply by: beside the payload, or within it."""

    @cached_property
    def payload(self) -> Any:
        """The payload's value; None where there was none. Raises SerializationError for one that Python cannot hold."""
        try:
            return value_of(self.payload_json)
        except (ValueError, RecursionError) as error:
            raise SerializationError(f"the payload from {self.sender}: {error}; payload_json has its text") from error

    def __repr__(self) -> str:
        kind = "reply" if self.is_reply else "message"
        return f"<{'streamed ' if self.is_stream else ''}{kind} from {self.sender}>"

    @property
    def is_stream(self) -> bool:
        """Whether chunks follow."""
        return self._stream is not None

    def chunks(self) -> ChunkStream:
        """Return the chunks; none where it is a message of one piece. There is one reader: two share them."""
        if self._stream is None:
            self._stream = ChunkStream(self._engine, Unread())
            self._stream.end()
        return self._stream

    async def text(self) -> str:
        """Return all chunks as one text. Raises as :class:`ChunkStream` does."""
        return "".join([chunk async for chunk in self.chunks()])

    async def stop(self) -> None:
        """Refuse the rest of the stream: its sender gets ``stream_stopped``."""
        if self._stream is not None and not self._stream.ended:
            self._engine.inbox.refuse(self.sender, self.is_reply, self.stream_id or "")

    async def reply(self, payload: Any = ABSENT, *, confirm: bool = False) -> str | None:
        """Answer with a payload, as ``AgoraClient.send`` sends one. Raises as that does."""
        return await self._engine.post(
            "reply", self.sender, {"payload": self._answer(payload), "request_id": self.request_id}, confirm=confirm
        )

    def reply_stream(self, payload: Any = ABSENT, *, confirm: bool = False) -> MessageStream:
        """Answer in chunks: ``async with message.reply_stream() as out: await out.send("…")``."""
        payload = self._answer(payload)
        if payload is ABSENT and self._request_id_within:  # whoever knows requests by their payload finds it there
            payload = {"request_id": self.request_id}
        return MessageStream(
            self._engine, "reply", self.sender, payload, request_id=self.request_id, stream_id=self.stream_id, confirm=confirm
        )

    def _answer(self, payload: Any) -> Any:
        """Repeat the request's id where it was: agents of the seed look for it in the payload."""
        if self._request_id_within and isinstance(payload, dict) and "request_id" not in payload:
            return {"request_id": self.request_id, **payload}
        return payload


class Asked:
    """Something that an answer is awaited for."""

    __slots__ = ("bell", "done", "error", "name", "sent", "stream_id", "to", "value")

    def __init__(self, bell: Bell, name: Any = None, to: str = "", stream_id: str | None = None) -> None:
        self.bell, self.name, self.to, self.stream_id = bell, name, to, stream_id
        self.sent = self.done = False
        self.value: Any = None
        self.error: Exception | None = None

    def answer(self, value: Any = None, error: Exception | None = None) -> None:
        if not self.done:
            self.done, self.value, self.error = True, value, error
            self.bell.ring()

    async def wait(self) -> Any:
        while not self.done:
            await self.bell.wait()
        if self.error is not None:
            raise self.error
        return self.value


class PresenceStream:
    """Who comes and goes: ``async for event, agent in client.presence()``. What is not read holds back what follows."""

    def __init__(self, engine: Engine, unread: Unread) -> None:
        self._engine, self._unread, self._bell = engine, unread, Bell(engine.tasks)
        self._events: deque[PresenceEvent] = deque()

    def __aiter__(self) -> PresenceStream:
        return self

    async def __anext__(self) -> PresenceEvent:
        while not self._events:
            if self._engine.failure is not None:
                raise self._engine.failure
            if self._engine.closed:
                raise StopAsyncIteration
            if self._engine.connected and "presence" not in self._engine.features:
                raise InvalidArgument("this router tells nobody who comes and goes; ask with client.list()")
            await self._bell.wait()
        self._unread.add(-1, 0)
        self._engine.inbox.was_read()
        return self._events.popleft()

    def put(self, event: PresenceEvent) -> None:
        """For the client: something happened."""
        self._events.append(event)
        self._unread.add(1, 0)
        self._bell.ring()

    def look(self) -> None:
        """For the client: whether there is anything to wait for has changed."""
        self._bell.ring()


class MessageStream:
    """A message that goes out in chunks: ``async with client.stream(to, payload) as stream: await stream.send("…")``.

    Leaving the block ends it; leaving it by an exception aborts it, so that nobody takes what came for the whole.
    """

    def __init__(
        self,
        engine: Engine,
        kind: str,
        to: str,
        payload: Any,
        *,
        request_id: str | int | None = None,
        stream_id: str | None = None,
        confirm: bool = False,
        asked: Asked | None = None,
    ) -> None:
        self._engine, self._payload, self._confirm = engine, payload, confirm
        self._request_id, self._asked = request_id, asked
        self._failure: AgoraError | None = None
        self._open = self._told = False
        self.kind = kind
        """``send`` or ``reply``."""
        self.sent = False
        """Whether its start has left."""
        self.to = to
        """Who gets it."""
        self.stream_id = stream_id or engine.new_id("s")
        """Its name, which is this client's own."""

    async def __aenter__(self) -> MessageStream:
        if self._open or self._failure is not None:
            raise InvalidArgument("a stream is opened once")
        fields = {
            "stream_id": self.stream_id,
            "stream": True if self.kind == "send" or self._engine.extended else None,
            "payload": self._payload,
            "request_id": self._request_id,
        }
        self._engine.open_stream(self)
        try:
            await self._engine.post(self.kind, self.to, fields, marks=(self, self._asked))
        except BaseException:
            self._engine.close_stream(self)
            raise
        self._open = True
        return self

    async def send(self, chunk: str) -> None:
        """Send a chunk, waiting where the receiver is slow. Raises what the router or the receiver said against it."""
        if not self._open:
            raise InvalidArgument("the stream is not open: async with client.stream(…) as stream")
        if not isinstance(chunk, str):
            raise InvalidArgument(f"a chunk is text, not {type(chunk).__name__}; structured data belongs in a payload")
        self._check()
        await self._engine.post(f"{self.kind}_chunk", self.to, {"stream_id": self.stream_id, "chunk": chunk}, check=self._check)

    async def reply(self, timeout: float | None = None) -> Message:
        """Wait for the answer; only of a stream that was opened with ``reply=True``, once, also while it is open.

        ``timeout`` in seconds, by default the client's. Raises RequestTimeout, and what the router says of the request.
        """
        if self._asked is None:
            raise InvalidArgument("no answer is expected: client.stream(to, reply=True)")
        return await self._engine.answer_to(self._asked, timeout)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        fields: dict[str, Any] = {"stream_id": self.stream_id}
        try:
            if exc is None:
                if self._told:
                    return
                self._check()
                await self._engine.post(f"{self.kind}_end", self.to, fields, confirm=self._confirm, check=self._check)
                self._check()
            elif self._failure is None:
                if self._engine.extended:
                    fields["error"] = {"code": "aborted", "message": f"its sender failed: {type(exc).__name__}"}
                with anyio.move_on_after(GOODBYE_SECONDS, shield=True), suppress(EchoError):
                    await self._engine.post(f"{self.kind}_end", self.to, fields)
        finally:
            self._engine.close_stream(self)
            if self._asked is not None and (exc is not None or self._failure is not None):
                self._engine.forget_request(self._asked)

    def _check(self) -> None:
        if self._failure is not None:
            self._told = True
            raise self._failure

    def fail(self, error: AgoraError) -> None:
        """For the client: the router says that it is over."""
        self._failure = self._failure or error
