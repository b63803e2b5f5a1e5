"""What the QUIC tests share: a connected pair, a lossy relay, and two engines in virtual time."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from aioquic.quic.events import StreamDataReceived, StreamReset

from echokernel.addresses import Address, parse_address
from echokernel.tasks import TaskScope, open_tasks
from echokernel_quic import QuicConfig, QuicTransport
from echokernel_quic.config import CongestionControl
from echokernel_quic.engine import Engine
from echokernel_quic.factory import make_engine
from echokernel_quic.identity import self_signed_identity
from echokernel_quic.trust import TrustPolicy

LOCAL = parse_address("quic://127.0.0.1:0")


class Pair:
    """A dialled and an accepted connection, with what they live in."""

    def __init__(self, tasks: TaskScope, listener: Any, client: Any, server: Any, relay: Any = None) -> None:
        self.tasks, self.listener, self.client, self.server, self.relay = tasks, listener, client, server, relay


@contextlib.asynccontextmanager
async def connected(
    config: QuicConfig | None = None,
    *,
    client_config: QuicConfig | None = None,
    relay: Callable[[TaskScope, Address], Any] | None = None,
    established: bool = True,
) -> AsyncIterator[Pair]:
    """Listen, connect (through a relay), and close everything afterwards."""
    async with open_tasks() as tasks:
        listener = await QuicTransport(config).listen(LOCAL, tasks)
        between = relay(tasks, listener.address) if relay else None
        client = await QuicTransport(client_config or config).connect(
            between.address if between else listener.address, tasks
        )
        with anyio.fail_after(5):
            server = await listener.accept()
        if established:
            client.established()
            server.established()
        try:
            yield Pair(tasks, listener, client, server, between)
        finally:
            with anyio.move_on_after(3, shield=True):
                await client.close(drain=0)
                await server.close(drain=0)
                await listener.close()
            if between is not None:
                between.close()
            await anyio.lowlevel.checkpoint()


class Relay:
    """A UDP relay that loses, doubles, corrupts, delays and blacks out what passes. Seeded; one client at a time."""

    def __init__(
        self,
        tasks: TaskScope,
        target: Address,
        *,
        seed: int = 1,
        loss: float = 0.0,
        duplicate: float = 0.0,
        corrupt: float = 0.0,
        delay: tuple[float, float] = (0.0, 0.0),
        max_size: int = 65_535,
    ) -> None:
        self.tasks, self.target = tasks, (target.host, target.port)
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.corrupt, self.delay, self.max_size = loss, duplicate, corrupt, delay, max_size
        self.dark = False
        self.drop: Callable[[bytes, bool], bool] = lambda data, to_server: False
        self.client: Any = None
        self.passed = self.dropped = 0
        self.front = self._socket(("127.0.0.1", 0))
        self.back = self._socket(("127.0.0.1", 0))
        self.address = Address("quic", "127.0.0.1", self.front.getsockname()[1])
        self.watches = [
            tasks.watch_readable(self.front, self._from_client),
            tasks.watch_readable(self.back, self._from_server),
        ]

    @staticmethod
    def _socket(address: tuple[str, int]) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(address)
        return sock

    def rebind(self) -> None:
        """What a NAT does when it forgets: the client appears under another port."""
        self.watches.pop().cancel()
        old, self.back = self.back, self._socket(("127.0.0.1", 0))
        self.tasks.call_soon(old.close)
        self.watches.append(self.tasks.watch_readable(self.back, self._from_server))

    def close(self) -> None:
        for watch in self.watches:
            watch.cancel()
        for sock in (self.front, self.back):
            self.tasks.call_soon(sock.close)

    def _read(self, sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
        for _ in range(64):
            try:
                yield sock.recvfrom(65_535)
            except (BlockingIOError, ConnectionRefusedError):
                return

    def _from_client(self) -> None:
        for data, source in self._read(self.front):
            self.client = source
            self._pass(data, to_server=True)

    def _from_server(self) -> None:
        for data, _ in self._read(self.back):
            self._pass(data, to_server=False)

    def _pass(self, data: bytes, *, to_server: bool) -> None:
        if self.dark or len(data) > self.max_size or self.random.random() < self.loss or self.drop(data, to_server):
            self.dropped += 1
            return
        self.passed += 1
        if self.random.random() < self.corrupt:
            at = self.random.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        for _ in range(2 if self.random.random() < self.duplicate else 1):
            low, high = self.delay
            if high:
                self.tasks.call_at(self.tasks.now() + self.random.uniform(low, high), self._send, data, to_server)
            else:
                self._send(data, to_server)

    def _send(self, data: bytes, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            if to_server:
                self.back.sendto(data, self.target)
            elif self.client is not None:
                self.front.sendto(data, self.client)


class Wire:
    """Two engines, a network between them, and a clock that only moves when somebody waits for it."""

    SERVER, CLIENT = ("127.0.0.1", 4433), ("127.0.0.1", 50_000)

    def __init__(
        self, *, seed: int = 1, loss: float = 0.0, latency: float = 0.005, max_streams: int = 128, loopback: bool = True
    ) -> None:
        self.random = random.Random(seed)
        self.loss, self.latency, self.loopback = loss, latency, loopback
        self.now = 100.0
        self.config = QuicConfig(max_streams=max_streams, congestion_control=CongestionControl.NewReno)
        self.client = make_engine(
            self.config, policy=TrustPolicy(verify=False), server_name="localhost", reset_key=b"c", loopback=loopback
        )
        self.client.connect(self.SERVER, now=self.now)
        self.server: Engine | None = None
        self.identity = self_signed_identity()
        self.reset_key = self.identity.derive(b"test")
        self.queue: list[tuple[float, int, bool, bytes]] = []
        self.sent = 0
        self.events: dict[Engine, list[Any]] = {}

    def _accept(self, data: bytes) -> Engine:
        engine = make_engine(
            self.config,
            identity=self.identity,
            reset_key=self.reset_key,
            loopback=self.loopback,
            original_destination_connection_id=data[6 : 6 + data[5]],
        )
        return engine

    def step(self, end: float) -> bool:
        """Send what is due, then deliver or wait for what comes next. Return False when nothing does before ``end``."""
        for engine in self.engines():
            for _ in range(100):
                datagrams = engine.transmit(self.now)
                for data, _ in datagrams:
                    self.sent += 1
                    if self.random.random() >= self.loss:
                        heapq.heappush(self.queue, (self.now + self.latency, self.sent, engine is self.client, data))
                if not engine.more_to_send:
                    break
        times = [engine.timer() for engine in self.engines() if not engine.is_over]
        timer = min((at for at in times if at is not None), default=None)
        following = min(self.queue[0][0] if self.queue else end + 1, timer if timer is not None else end + 1)
        if following > end:
            self.now = end
            return False
        if self.queue and (timer is None or self.queue[0][0] <= timer):
            self.now, _, to_server, data = heapq.heappop(self.queue)
            self._deliver(to_server, data)
            return True
        assert timer is not None
        self.now = max(self.now, timer) + 1e-6
        for engine in self.engines():
            at = engine.timer()
            if at is not None and at <= self.now and not engine.is_over:
                engine.on_timer(self.now)
                self._collect(engine)
        return True

    def _deliver(self, to_server: bool, data: bytes) -> None:
        if to_server:
            if self.server is None:
                self.server = self._accept(data)
            self.server.receive_datagram(data, self.CLIENT, self.now)
            self._collect(self.server)
        else:
            self.client.receive_datagram(data, self.SERVER, self.now)
            self._collect(self.client)

    def _collect(self, engine: Engine) -> None:
        while (event := engine.next_event()) is not None:
            self.events.setdefault(engine, []).append(event)
            if isinstance(event, StreamDataReceived | StreamReset) and (stream := engine.stream(event.stream_id)):
                engine.track(stream)

    def engines(self) -> list[Engine]:
        return [self.client] if self.server is None else [self.client, self.server]

    def run(self, seconds: float = 1.0, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + seconds
        while self.now < end and not until() and self.step(end):
            pass

    def handshake(self) -> None:
        self.run(5, lambda: self.server is not None and self.client.handshake_confirmed)
        assert self.server is not None
        assert self.server.handshake_complete
        self.client.establish()
        self.server.establish()


def process(code: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a Python program that can import what we can."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **(env or {})}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def rss_kib(pid: int | None = None) -> int:
    for line in Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition; for what has no event to wait for."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # what is watched has no event
            await anyio.sleep(0.005)
