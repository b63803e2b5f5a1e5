"""What has come to an agent and was not yet taken by the program: messages, streams, and how much that is."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

from echokernel_agora.bell import Bell
from echokernel_agora.errors import AgoraError, StreamAborted, error_of
from echokernel_agora.messages import ChunkStream, Message, Unread

if TYPE_CHECKING:
    from collections.abc import Callable

    from echokernel_agora.conversation import Got
    from echokernel_agora.engine import Engine

__all__ = ["Inbox"]

UNREAD_FRAMES = 256
UNREAD_BYTES = 1024 * 1024  # then the socket is not read: the router waits, and tells those who send
WAITED_FOR = 16  # times as much comes in while an answer is awaited, which may be behind it

Key = tuple[str, bool, str]
"""Sender, whether it is a reply, stream id."""


class Inbox:
    """Bounded: when it is full, the connection is not read until the program takes something."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._messages: deque[tuple[Message, int]] = deque()
        self._streams: dict[Key, tuple[weakref.ref[ChunkStream], Unread]] = {}
        self._arrived, self._read = Bell(engine.tasks), Bell(engine.tasks)
        self.unread = Unread()
        """Frames and bytes of everything."""

    def is_full(self) -> bool:
        """Whether no more is to be read from the connection."""
        factor = WAITED_FOR if self._engine.is_waiting else 1
        return self.unread.frames > UNREAD_FRAMES * factor or self.unread.octets > UNREAD_BYTES * factor

    def was_read(self) -> None:
        """For messages and streams: the program took something."""
        if not self.is_full():
            self._read.ring()

    async def room(self) -> None:
        """Wait until the program has taken something, or :meth:`look`."""
        await self._read.wait()

    def look(self) -> None:
        """Let everybody who waits see what has changed: the client is closed, or will not connect any more."""
        self._arrived.ring()
        self._read.ring()

    def put(self, message: Message, size: int) -> None:
        """Add a message of ``size`` bytes."""
        self._messages.append((message, size))
        self.unread.add(1, size)
        self._arrived.ring()

    async def next(self) -> Message | None:
        """Return the next message; None when the client is closed. Raises the reason when there will be no more."""
        while not self._messages:
            if self._engine.failure is not None:
                raise self._engine.failure
            if self._engine.closed:
                return None
            await self._arrived.wait()
        message, size = self._messages.popleft()
        self.unread.add(-1, -size)
        self.was_read()
        return message

    # -- streams -----------------------------------------------------------------------------------------------------

    def open(self, got: Got) -> ChunkStream:
        """Begin a stream. When nobody holds it any more, its sender is told to stop."""
        key = _key(got)
        unread = Unread(self.unread)
        stream = ChunkStream(self._engine, unread)
        us = weakref.ref(self)

        def dropped(reference: weakref.ref[ChunkStream]) -> None:
            inbox = us()
            if inbox is not None:
                unread.add(-unread.frames, -unread.octets)
                known = inbox._streams.get(key)
                if known is not None and known[0] is reference:
                    inbox.refuse(*key)
                inbox.was_read()

        self._streams[key] = weakref.ref(stream, dropped), unread
        return stream

    def unread_of(self, key: Key) -> Unread | None:
        """Return what of a stream was not taken yet; None where nobody holds it."""
        known = self._streams.get(key)
        return None if known is None else known[1]

    def refuse(self, sender: str, is_reply: bool, stream_id: str) -> None:
        """Tell the sender of a stream to stop, and end it here."""
        self._close((sender, is_reply, stream_id), lambda stream: stream.end())
        self._engine.tell(
            {"type": "stop", "from": sender, "stream_id": stream_id, "reply": True if is_reply else None}
        )

    def chunk(self, got: Got, size: int) -> None:
        """Take a chunk; one of a stream that was refused goes nowhere."""
        known = self._streams.get(_key(got))
        if known is not None and (stream := known[0]()) is not None:
            stream.put(got.chunk, size)

    def end(self, got: Got) -> None:
        """Take the end of a stream."""
        why = got.error
        error = error_of(why.code, why.message or "", kind=StreamAborted, stream_id=got.stream_id) if why else None
        self._close(_key(got), lambda stream: stream.end(error))

    def end_all(self, error: AgoraError) -> None:
        """End every stream: their rest is lost."""
        for key in list(self._streams):
            self._close(key, lambda stream: stream.end(error))

    def _close(self, key: Key, end: Callable[[ChunkStream], None]) -> None:
        known = self._streams.pop(key, None)
        if known is not None and (stream := known[0]()) is not None:
            end(stream)


def _key(got: Got) -> Key:
    return got.from_ or "", got.type.startswith("reply"), got.stream_id or ""
