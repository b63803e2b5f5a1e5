"""A transport with nothing but one byte stream fits the contract: a mux over plain TCP, and the kernel does not notice.

It is a proof, not a product: no TLS, no keepalive, one window per stream. docs/decisions/0002 explains.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.abc
import pytest

from echokernel import (
    Address,
    Connection,
    ConnectionClosed,
    EchoClient,
    EchoServer,
    InvalidArgument,
    Listener,
    RecvStream,
    SendStream,
    Session,
    StreamReceiver,
    StreamReset,
    StreamStopped,
    Transport,
    TransportError,
    event,
    rpc,
    stream,
)
from echokernel.tasks import TaskScope
from echokernel.testing import JsonSerializer

pytestmark = pytest.mark.anyio
RECORD = struct.Struct(">IBI")  # stream id, kind, length or number
DATA, END, RESET, STOP, WINDOW, CLOSE = range(6)
CREDIT = 262_144


class MuxStream(SendStream, RecvStream):
    """Both halves of one stream."""

    def __init__(self, mux: MuxConnection, number: int) -> None:
        self.mux, self.number = mux, number
        self.credit, self.chunks, self.ended = CREDIT, deque[bytes](), False
        self.was_reset: int | None = None
        self.was_stopped: int | None = None
        self.told: Callable[[], object] | None = None
        self.changed = anyio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    @property
    def room(self) -> int:
        return self.credit

    def write_nowait(self, data: bytes) -> None:
        self.mux.check()
        if self.was_stopped is not None:
            raise StreamStopped(self.was_stopped)
        self.credit -= len(data)
        self.mux.put(self.number, DATA, len(data), bytes(data))

    async def write(self, data: bytes) -> None:
        await self.wait_room()
        self.write_nowait(data)

    async def wait_room(self, wanted: int = 1) -> None:
        while self.credit < wanted and self.was_stopped is None:
            self.mux.check()
            await self.changed.wait()
        self.mux.check()

    async def finish(self) -> None:
        self.mux.put(self.number, END)

    def on_stop(self, function: Callable[[], object]) -> None:
        self.told = function
        if self.was_stopped is not None:
            function()

    def reset(self, code: int) -> None:
        self.mux.put(self.number, RESET, code)

    async def read(self, max_bytes: int = CREDIT) -> bytes:
        while not self.chunks and not self.ended:
            if self.was_reset is not None:
                raise StreamReset(self.was_reset)
            self.mux.check()
            await self.changed.wait()
        data = b"".join(self.chunks)
        self.chunks.clear()
        if len(data) > max_bytes:
            self.chunks.append(data[max_bytes:])
            data = data[:max_bytes]
        if data:
            self.mux.put(self.number, WINDOW, len(data))
        return data

    def stop(self, code: int) -> None:
        self.mux.put(self.number, STOP, code)


class MuxConnection(Connection):
    """Records over one socket. Ids: bit 0 says who opened the stream, bit 1 whether it goes both ways."""

    def __init__(self, socket: anyio.abc.ByteStream, dialer: bool, tasks: TaskScope) -> None:
        self.socket, self.dialer, self.tasks = socket, dialer, tasks
        self.streams: dict[int, MuxStream] = {}
        self.arrived: dict[bool, deque[MuxStream]] = {True: deque(), False: deque()}
        self.outgoing = bytearray()
        self.opened = 0
        self.error: ConnectionClosed | None = None
        self.changed = anyio.Event()
        self.writable = anyio.Event()
        tasks.start(self._read)
        tasks.start(self._write)

    @property
    def peer_addr(self) -> tuple[str, int]:
        return ("tcp", 0)

    @property
    def max_datagram(self) -> int:
        return 0

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def put(self, number: int, kind: int, value: int = 0, data: bytes = b"") -> None:
        self.outgoing += RECORD.pack(number, kind, value) + data
        self.writable.set()

    async def _write(self) -> None:
        while True:
            await self.writable.wait()
            self.writable = anyio.Event()
            data, self.outgoing = bytes(self.outgoing), bytearray()
            try:
                await self.socket.send(data)
            except anyio.BrokenResourceError:
                return

    async def _read(self) -> None:
        buffer = bytearray()
        try:
            while True:
                buffer += await self.socket.receive(65_536)
                while len(buffer) >= RECORD.size:
                    number, kind, value = RECORD.unpack_from(buffer)
                    size = RECORD.size + (value if kind in (DATA, CLOSE) else 0)
                    if kind == CLOSE:
                        size = RECORD.size
                    if len(buffer) < size:
                        break
                    data = bytes(buffer[RECORD.size : size])
                    del buffer[:size]
                    if kind == CLOSE:
                        return self._die(ConnectionClosed(code=value, by_peer=True))
                    self._record(number, kind, value, data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._die(ConnectionClosed("the socket was closed"))

    def _record(self, number: int, kind: int, value: int, data: bytes) -> None:
        entry = self.streams.get(number)
        if entry is None:
            entry = self.streams[number] = MuxStream(self, number)
            self.arrived[bool(number & 2)].append(entry)
            self._wake()
        if kind == DATA:
            entry.chunks.append(data)
        elif kind == END:
            entry.ended = True
        elif kind == RESET:
            entry.was_reset = value
        elif kind == STOP:
            entry.was_stopped = value
            if entry.told is not None:
                entry.told()
        else:
            entry.credit += value
        entry.wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def _die(self, error: ConnectionClosed) -> None:
        if self.error is None:
            self.error = error
        self._wake()
        for entry in self.streams.values():
            entry.wake()

    def _open(self, both_ways: bool) -> MuxStream:
        self.check()
        self.opened += 1
        number = self.opened << 2 | both_ways << 1 | self.dialer
        entry = self.streams[number] = MuxStream(self, number)
        return entry

    async def _accept(self, both_ways: bool) -> MuxStream:
        while not self.arrived[both_ways]:
            self.check()
            await self.changed.wait()
        return self.arrived[both_ways].popleft()

    async def open_bi_stream(self) -> tuple[SendStream, RecvStream]:
        entry = self._open(True)
        return entry, entry

    async def accept_bi_stream(self) -> tuple[SendStream, RecvStream]:
        entry = await self._accept(True)
        return entry, entry

    async def open_uni_stream(self) -> SendStream:
        return self._open(False)

    async def accept_uni_stream(self) -> RecvStream:
        return await self._accept(False)

    def send_datagram(self, data: bytes) -> None:
        raise InvalidArgument("this transport has no datagrams")

    async def recv_datagram(self) -> bytes:
        raise await self.wait_closed()

    async def ping(self) -> float:
        return 0.0

    def flush(self) -> None: ...

    async def close(self, code: int = 0, reason: str = "", *, drain: float = 2.0) -> None:
        if self.error is None:
            self.put(0, CLOSE, code)
            with anyio.move_on_after(drain):
                while self.outgoing:
                    await anyio.sleep(0.001)
            self._die(ConnectionClosed(code=code, reason=reason))
        with anyio.CancelScope(shield=True):
            await self.socket.aclose()

    async def wait_closed(self) -> ConnectionClosed:
        while self.error is None:
            await self.changed.wait()
        return self.error

    def stats(self) -> Mapping[str, int | float]:
        return {"streams": len(self.streams)}


class MuxListener(Listener):
    def __init__(self, listener: Any, tasks: TaskScope) -> None:
        self.listener, self.tasks = listener, tasks

    @property
    def address(self) -> Address:
        return Address("tcp", "127.0.0.1", self.listener.extra(anyio.abc.SocketAttribute.local_port))

    async def accept(self) -> Connection:
        try:
            return MuxConnection(await self.listener.listeners[0].accept(), False, self.tasks)
        except anyio.ClosedResourceError:
            raise ConnectionClosed("the listener is closed") from None

    async def close(self) -> None:
        await self.listener.aclose()


class MuxTransport(Transport):
    async def listen(self, address: Address, tasks: TaskScope) -> Listener:
        return MuxListener(await anyio.create_tcp_listener(local_host=address.host, local_port=address.port), tasks)

    async def connect(self, address: Address, tasks: TaskScope) -> Connection:
        try:
            return MuxConnection(await anyio.connect_tcp(address.host, address.port), True, tasks)
        except OSError as error:
            raise TransportError(f"nobody answers at {address}") from error


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_tcp_transport_needs_no_change_of_the_kernel() -> None:
    log: list[object] = []

    @rpc
    async def repeat(session: Session, text: str, times: int) -> str:
        return text * times

    @event
    async def note(text: str) -> None:
        log.append(text)

    @stream
    async def data(receiver: StreamReceiver) -> None:
        log.append(sum([len(frame.data) async for frame in receiver]))

    builder = EchoServer.builder().bind("tcp://127.0.0.1:0").transport(MuxTransport()).serializer(JsonSerializer())
    for handler in (repeat, note, data):
        builder.add_handler(handler)
    async with builder.build() as server:
        connecting = (
            EchoClient.builder().transport(MuxTransport()).serializer(JsonSerializer()).connect(server.addresses[0])
        )
        async with connecting as client:
            assert await client.request("repeat", ("ab", 3)) == "ababab"
            assert len(await client.request("repeat", ("x", 1_000_000))) == 1_000_000
            await client.emit("note", "hello")
            async with await client.create_stream("data") as sender:
                for _ in range(50):
                    await sender.send(bytes(60_000))
            with anyio.fail_after(20):
                while len(log) < 2:
                    await anyio.sleep(0.005)
    assert log == ["hello", 3_000_000]
