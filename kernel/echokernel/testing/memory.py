"""A transport within one process: real streams, flow control and closes, no sockets. The kernel's own tests run on it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from echokernel.addresses import Address
from echokernel.errors import (
    ConnectionClosed,
    InvalidArgument,
    StreamReset,
    StreamStopped,
    TransportError,
)
from echokernel.transport import Connection, Listener, PeerIdentity, RecvStream, SendStream, Transport
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from echokernel.tasks import Future, TaskScope

WINDOW = 262_144  # bytes of one stream that nobody has read: as much as the QUIC transport lets wait
MAX_DATAGRAM = 1_170
DATAGRAMS = 256

__all__ = ["MemoryConnection", "MemoryFaults", "MemoryTransport", "connection_pair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFaults:
    """What a bad network does, in both directions, the same at every run: ``MemoryTransport(faults=MemoryFaults(loss=0.1))``.

    Streams stay reliable: a network loses packets, not streams. They are only late, each by itself.
    """

    loss: float = 0.0
    """Share of datagrams that never arrive, 0 to 1."""
    duplicates: float = 0.0
    """Share of datagrams that arrive twice, 0 to 1."""
    jitter: float = 0.0
    """Seconds: each datagram, and each unidirectional stream as a whole, arrives up to so much later, so they overtake
    one another. The channel and other bidirectional streams are never late."""
    seed: int = 0


_NO_FAULTS = MemoryFaults()
_NEVER = random.Random(0)  # 2.5 KiB that a connection without faults does not need


class _Waiters:
    """Tasks that wait for something to change; each looks again when it is woken."""

    __slots__ = ("_futures", "_tasks")

    def __init__(self, tasks: TaskScope) -> None:
        self._tasks = tasks
        self._futures: list[Future[None]] = []

    async def wait(self) -> None:
        future: Future[Any] = self._tasks.future()
        self._futures.append(future)
        await future

    def wake(self) -> None:
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)


class _Pipe:
    """One direction of one stream."""

    __slots__ = ("changed", "chunks", "finished", "on_stop", "owner", "reader", "reset", "size", "stopped", "window")

    def __init__(self, owner: MemoryConnection, reader: MemoryConnection) -> None:
        self.owner = owner
        self.reader = reader
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.window = WINDOW
        self.finished = False
        self.reset: int | None = None
        self.stopped: int | None = None
        self.on_stop: Callable[[], object] | None = None
        self.changed = _Waiters(owner.tasks)


class MemorySendStream(SendStream):
    """The sending half of a pipe."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    async def write(self, data: bytes) -> None:
        while self.room <= 0:
            await self.wait_room()
        self.write_nowait(data)

    def write_nowait(self, data: bytes) -> None:
        pipe = self._pipe
        pipe.owner.check()
        if pipe.stopped is not None:
            raise StreamStopped(pipe.stopped)
        if pipe.finished or pipe.reset is not None:
            raise InvalidArgument("the stream is finished")
        if data:
            pipe.chunks.append(bytes(data))
            pipe.size += len(data)
            pipe.changed.wake()

    @property
    def room(self) -> int:
        return self._pipe.window - self._pipe.size

    async def wait_room(self, wanted: int = 1) -> None:
        pipe = self._pipe
        while True:
            pipe.owner.check()
            if pipe.stopped is not None:
                raise StreamStopped(pipe.stopped)
            if self.room >= wanted:
                return
            await pipe.changed.wait()

    async def finish(self) -> None:
        self._pipe.finished = True
        self._pipe.changed.wake()

    def on_stop(self, function: Callable[[], object]) -> None:
        if self._pipe.stopped is not None:
            function()
        self._pipe.on_stop = function

    def reset(self, code: int) -> None:
        self._pipe.on_stop = None  # both ends keep the pipe for as long as they live
        over = self._pipe.finished and not self._pipe.size
        if self._pipe.reset is None and self._pipe.owner.error is None and not over:
            self._pipe.reset = code
            self._pipe.chunks.clear()
            self._pipe.size = 0
            self._pipe.changed.wake()


class MemoryRecvStream(RecvStream):
    """The receiving half of a pipe."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    async def read(self, max_bytes: int = 262_144) -> bytes:
        pipe = self._pipe
        while True:
            if pipe.reset is not None:
                raise StreamReset(pipe.reset)
            if pipe.stopped is not None:
                raise InvalidArgument("this stream was stopped here")
            if pipe.chunks:
                data = b"".join(pipe.chunks)
                pipe.chunks.clear()
                if len(data) > max_bytes:
                    pipe.chunks.append(data[max_bytes:])
                    data = data[:max_bytes]
                pipe.size -= len(data)
                pipe.changed.wake()
                return data
            if pipe.finished:
                return b""
            pipe.reader.check()
            await pipe.changed.wait()

    def stop(self, code: int) -> None:
        if self._pipe.stopped is None:
            self._pipe.stopped = code
            self._pipe.chunks.clear()
            self._pipe.size = 0
            self._pipe.changed.wake()
            if self._pipe.on_stop is not None:
                self._pipe.on_stop()


class MemoryConnection(Connection):
    """One end of a connection; :attr:`other` is the other one."""

    def __init__(
        self,
        tasks: TaskScope,
        peer_addr: tuple[str, int],
        faults: MemoryFaults = _NO_FAULTS,
        max_datagram: int = MAX_DATAGRAM,
    ) -> None:
        self.tasks = tasks
        self.other: MemoryConnection
        self.identity: PeerIdentity | None = None
        self.error: ConnectionClosed | None = None
        self._peer_addr = peer_addr
        self._pipes: list[_Pipe] = []
        self._bi: deque[tuple[SendStream, RecvStream]] = deque()
        self._uni: deque[RecvStream] = deque()
        self._datagrams: deque[bytes] = deque()
        self._datagrams_dropped = 0
        self._faults = faults
        self._chance = _NEVER if faults == _NO_FAULTS else random.Random(f"{faults.seed} {peer_addr}")
        self._max_datagram = max_datagram
        self._changed = _Waiters(tasks)

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    @property
    def peer_addr(self) -> tuple[str, int]:
        return self._peer_addr

    @property
    def peer_identity(self) -> PeerIdentity | None:
        return self.identity

    @property
    def max_datagram(self) -> int:
        return self._max_datagram

    def _pipe(self, owner: MemoryConnection, reader: MemoryConnection) -> _Pipe:
        pipe = _Pipe(owner, reader)
        # both ends keep it while they live: a dead connection has to wake everybody
        self._pipes.append(pipe)
        self.other._pipes.append(pipe)
        self._pipes = [kept for kept in self._pipes if not _is_over(kept)]
        return pipe

    async def open_bi_stream(self) -> tuple[SendStream, RecvStream]:
        self.check()
        there, back = self._pipe(self, self.other), self._pipe(self.other, self)
        self.other._bi.append((MemorySendStream(back), MemoryRecvStream(there)))
        self.other._changed.wake()
        return MemorySendStream(there), MemoryRecvStream(back)

    async def accept_bi_stream(self) -> tuple[SendStream, RecvStream]:
        while not self._bi:
            self.check()
            await self._changed.wait()
        return self._bi.popleft()

    async def open_uni_stream(self) -> SendStream:
        self.check()
        pipe = self._pipe(self, self.other)
        self._later(self.other._appear, MemoryRecvStream(pipe))
        return MemorySendStream(pipe)

    def _appear(self, stream: RecvStream) -> None:
        self._uni.append(stream)
        self._changed.wake()

    def _later(self, function: Callable[[Any], None], what: Any) -> None:
        if self._faults.jitter:
            self.tasks.call_at(self.tasks.now() + self._chance.uniform(0, self._faults.jitter), function, what)
        else:
            function(what)

    async def accept_uni_stream(self) -> RecvStream:
        while not self._uni:
            self.check()
            await self._changed.wait()
        return self._uni.popleft()

    def send_datagram(self, data: bytes) -> None:
        self.check()
        if len(data) > self._max_datagram:
            raise InvalidArgument(f"a datagram of {len(data):,} bytes; this connection takes {self._max_datagram:,}")
        faults = self._faults
        if faults.loss and self._chance.random() < faults.loss:
            return
        for _ in range(2 if faults.duplicates and self._chance.random() < faults.duplicates else 1):
            self._later(self.other._take_datagram, bytes(data))

    def _take_datagram(self, data: bytes) -> None:
        if len(self._datagrams) >= DATAGRAMS:
            self._datagrams.popleft()
            self._datagrams_dropped += 1
        self._datagrams.append(data)
        self._changed.wake()

    async def recv_datagram(self) -> bytes:
        while not self._datagrams:
            self.check()
            await self._changed.wait()
        return self._datagrams.popleft()

    async def ping(self) -> float:
        self.check()
        await anyio.lowlevel.checkpoint()
        return 0.0

    def flush(self) -> None:
        pass

    async def close(self, code: int = 0, reason: str = "", *, drain: float = 2.0) -> None:
        if self.error is None:
            with anyio.move_on_after(drain):
                while any(pipe.owner is self and pipe.size and self.other.error is None for pipe in self._pipes):
                    waiting = next(pipe for pipe in self._pipes if pipe.owner is self and pipe.size)
                    await waiting.changed.wait()
        self.die(ConnectionClosed(code=code, reason=reason), ConnectionClosed(code=code, reason=reason, by_peer=True))

    def die(self, ours: ConnectionClosed | None = None, theirs: ConnectionClosed | None = None) -> None:
        """End the connection now, as a cut cable would: everything that waits at either end raises."""
        for end, error in ((self, ours), (self.other, theirs)):
            if end.error is None:
                end.error = error or ConnectionClosed("the peer does not answer", code=Code.UNAVAILABLE)
        for end in (self, self.other):
            end._changed.wake()
            pipes, end._pipes = end._pipes, []
            for pipe in pipes:
                pipe.changed.wake()

    async def wait_closed(self) -> Exception:
        while self.error is None:
            await self._changed.wait()
        return self.error

    def stats(self) -> Mapping[str, int | float]:
        return {"datagrams_dropped": self._datagrams_dropped}


def _is_over(pipe: _Pipe) -> bool:
    return (pipe.finished and not pipe.size) or pipe.reset is not None or pipe.stopped is not None


def connection_pair(
    tasks: TaskScope, faults: MemoryFaults = _NO_FAULTS, max_datagram: int = MAX_DATAGRAM
) -> tuple[MemoryConnection, MemoryConnection]:
    """Return the two ends of a new connection: dialer, acceptor."""
    dialer = MemoryConnection(tasks, ("memory", 1), faults, max_datagram)
    acceptor = MemoryConnection(tasks, ("memory", 2), faults, max_datagram)
    dialer.other, acceptor.other = acceptor, dialer
    return dialer, acceptor


class _MemoryListener(Listener):
    def __init__(self, transport: MemoryTransport, address: Address, tasks: TaskScope) -> None:
        self._transport = transport
        self._address = address
        self.tasks = tasks
        self._waiting: deque[MemoryConnection] = deque()
        self._changed = _Waiters(tasks)
        self._closed = False

    @property
    def address(self) -> Address:
        return self._address

    def add(self, connection: MemoryConnection) -> None:
        self._waiting.append(connection)
        self._changed.wake()

    async def accept(self) -> Connection:
        while not self._waiting:
            if self._closed:
                raise ConnectionClosed("the listener is closed")
            await self._changed.wait()
        return self._waiting.popleft()

    async def close(self) -> None:
        self._closed = True
        self._transport.listeners.pop(self._address.port, None)
        self._changed.wake()


class MemoryTransport(Transport):
    """Addresses ``memory://name:port`` within this object: give server and client the same one.

    ``faults``: a bad network instead of a perfect one. ``max_datagram``: bytes that fit in one datagram, 0 for a transport
    without datagrams.
    """

    def __init__(self, *, faults: MemoryFaults | None = None, max_datagram: int = MAX_DATAGRAM) -> None:
        self.faults = faults or _NO_FAULTS
        self.max_datagram = max_datagram
        self.listeners: dict[int, _MemoryListener] = {}
        self.connections: list[tuple[MemoryConnection, MemoryConnection]] = []
        """Every connection made, (dialer, acceptor), for tests that break them."""
        self.identity: PeerIdentity | None = None
        """What acceptors are told of their peers."""

    async def listen(self, address: Address, tasks: TaskScope) -> Listener:
        port = address.port or next(number for number in range(1, 65_536) if number not in self.listeners)
        if port in self.listeners:
            raise TransportError(f"{address} is in use; choose another port", retryable=False)
        listener = self.listeners[port] = _MemoryListener(self, Address(address.scheme, address.host, port), tasks)
        return listener

    async def connect(self, address: Address, tasks: TaskScope) -> Connection:
        listener = self.listeners.get(address.port)
        if listener is None:
            raise TransportError(f"nobody answers at {address}; is the server running?")
        dialer, acceptor = connection_pair(tasks, self.faults, self.max_datagram)
        acceptor.identity = self.identity
        self.connections.append((dialer, acceptor))
        listener.add(acceptor)
        return dialer
