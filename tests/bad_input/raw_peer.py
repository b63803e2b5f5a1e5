"""A dialer that says hello properly, and is about to misbehave: frames by hand, on any transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from echokernel import ConnectionClosed
from echokernel.tasks import TaskScope, open_tasks
from echokernel.transport import Connection, RecvStream, SendStream
from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.errors import ErrorInfo
from echokernel_protocol.frames import FrameDecoder, RawFrame, encode_frame, encode_method
from echokernel_protocol.hello import Hello
from echokernel_protocol.streams import Prelude, StreamKind

REQUEST, RESPONSE, EVENT, STREAM = range(4)
ERROR, CANCEL, END, METADATA, BODY = 0x01, 0x02, 0x04, 0x08, 0x40
SLOT = 0x10

Dial = Callable[[TaskScope], Awaitable[Connection]]

__all__ = ["Dial", "RawCall", "RawPeer", "error_of", "frame", "raw_peer"]


def frame(message_type: int, request_id: int, method: str = "", flags: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame as it stands on a stream."""
    return encode_frame(message_type, request_id, encode_method(method, flags), payload)


def error_of(answer: RawFrame) -> ErrorInfo:
    """Return what an ERROR answer says."""
    assert answer[3] & ERROR, answer
    return ErrorInfo.decode(answer[4])


class RawCall:
    """A call stream of the raw peer's."""

    def __init__(self, request_id: int, send: SendStream, recv: RecvStream) -> None:
        self.id, self.send, self.recv = request_id, send, recv
        self.decoder = FrameDecoder(5_000_000)

    async def put(self, method: str = "", flags: int = SLOT, payload: bytes = b"null") -> None:
        """Write one Request frame: the call, an item, or END."""
        await self.send.write(frame(REQUEST, self.id, method, flags, payload))

    async def end(self) -> None:
        """Write END and finish the stream."""
        await self.put(flags=END, payload=b"")
        await self.send.finish()

    async def answers(self) -> list[tuple[int, bytes]]:
        """Return flags and payload of all frames, to the end of the stream. Raises StreamReset, ConnectionClosed."""
        found: list[tuple[int, bytes]] = []
        with anyio.fail_after(60):
            while data := await self.recv.read():
                found += [(flags, payload) for _, _, _, flags, payload in self.decoder.feed(data)]
        return found

    async def error(self) -> ErrorInfo:
        """Return the error that ends the call."""
        flags, payload = (await self.answers())[-1]
        assert flags & ERROR
        return ErrorInfo.decode(payload)


class RawPeer:
    """What is left to do by hand after the hello."""

    def __init__(self, connection: Connection, send: SendStream, recv: RecvStream) -> None:
        self.connection, self.send, self.recv = connection, send, recv
        self.decoder = FrameDecoder(5_000_000)
        self.inbox: list[RawFrame] = []
        self._next_id = 1

    def take_id(self) -> int:
        """Return the next id of the dialer."""
        self._next_id += 2
        return self._next_id - 2

    def write(self, data: bytes) -> None:
        """Put bytes on the channel."""
        self.send.write_nowait(data)

    def frame(self, message_type: int, request_id: int, method: str = "", flags: int = 0, payload: bytes = b"") -> None:
        """Put a frame on the channel."""
        self.write(frame(message_type, request_id, method, flags, payload))

    def request(self, method: str, payload: bytes = b"null") -> int:
        """Put a request on the channel and return its id."""
        request_id = self.take_id()
        self.frame(REQUEST, request_id, method, SLOT, payload)
        return request_id

    async def answer(self, request_id: int) -> RawFrame:
        """Wait for the response to ``request_id``; link frames are skipped."""
        with anyio.fail_after(60):
            while True:
                for found in self.inbox:
                    if found[0] == RESPONSE and found[1] == request_id and found[2] == "":
                        self.inbox.remove(found)
                        return found
                await self.hear()

    async def hear(self) -> None:
        """Read the channel once; events and link frames are forgotten."""
        data = await self.recv.read()
        assert data, "the channel ended"
        self.inbox += [found for found in self.decoder.feed(data) if found[1]]

    async def call(self, data: bytes | None = None, request_id: int | None = None) -> RawCall:
        """Open a call stream; ``data`` follows its prelude."""
        send, recv = await self.connection.open_bi_stream()
        await send.write(Prelude(StreamKind.CALL).encode() + (data or b""))
        return RawCall(self.take_id() if request_id is None else request_id, send, recv)

    async def open(self, prelude: Prelude, data: bytes = b"") -> SendStream:
        """Open a stream towards the server."""
        stream = await self.connection.open_uni_stream()
        await stream.write(prelude.encode() + data)
        return stream

    async def closed(self) -> ConnectionClosed:
        """Wait until the server has closed the connection, and return why."""
        with anyio.fail_after(15):
            error = await self.connection.wait_closed()
        assert isinstance(error, ConnectionClosed)
        return error


@asynccontextmanager
async def raw_peer(dial: Dial) -> AsyncIterator[RawPeer]:
    """Dial and say hello; the connection is closed at the end."""
    async with open_tasks() as tasks:
        connection = await dial(tasks)
        send, recv = await connection.open_bi_stream()
        channel = Channel(Role.DIALER, Hello(serializers=("json",)))
        channel.send_hello()
        await send.write(Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0))
        while channel.phase is Phase.WAITING:
            channel.receive(await recv.read())
        connection.established()
        try:
            yield RawPeer(connection, send, recv)
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close(drain=0)
