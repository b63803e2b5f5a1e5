"""What the kernel does for clocks: it carries ``$clock``, stamps and marks streams, and follows the node that was dialled."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from echokernel import (
    Clock,
    ClockUnavailable,
    EchoClient,
    EchoServer,
    Playout,
    Session,
    StreamReceiver,
    Timestamped,
    stream,
)
from echokernel.testing import MemoryTransport, connected
from echokernel_protocol.clock import ClockProbe

pytestmark = pytest.mark.anyio


class TestClock(Clock):
    """Counts from a million, and answers every frame with ``answer``."""

    __test__ = False

    def __init__(self, *, synced: bool = True, answer: bytes = b"") -> None:
        self.synced, self.answer = synced, answer
        self.time = 1_000_000
        self.heard: list[bytes] = []
        self.followed: list[Session] = []
        self.ended = 0

    def now_us(self) -> int:
        self.time += 1
        return self.time

    @property
    def is_synced(self) -> bool:
        return self.synced

    def received(self, session: Session, payload: bytes) -> None:
        self.heard.append(payload)
        if payload == b"fault":
            raise RuntimeError("a clock's own fault")
        if self.answer:
            assert session.send_clock(self.answer)

    async def follow(self, session: Session) -> None:
        self.followed.append(session)
        try:
            await anyio.sleep_forever()
        finally:
            self.ended += 1

    def playout(self, stream: StreamReceiver, **options: Any) -> Playout:
        return (self, stream, options)  # type: ignore[return-value]


def builders(server: Clock | None, client: Clock | None) -> dict[str, Any]:
    made: dict[str, Any] = {"server": EchoServer.builder(), "client": EchoClient.builder()}
    if server is not None:
        made["server"].clock(server)
    if client is not None:
        made["client"].clock(client)
    return made


@pytest.mark.parametrize("datagrams", [True, False])
async def test_a_probe_is_answered_at_once(datagrams: bool) -> None:
    theirs, ours = TestClock(answer=b"answer"), TestClock()
    transport = MemoryTransport() if datagrams else MemoryTransport(max_datagram=0)
    async with connected(**builders(theirs, ours), transport=transport) as nodes:
        session = nodes.client.session
        assert session.answers_clock
        assert (session.max_datagram > 0) == datagrams
        assert session.send_clock(ClockProbe(5).encode())
        await anyio.sleep(0.01)
        assert (theirs.heard, ours.heard) == ([b"\x00\x05"], [b"answer"])
        assert ours.followed == [session]
        assert theirs.followed == []  # the node that was dialled follows nobody
        await session.close()
        await anyio.sleep(0.01)
        assert not session.send_clock(b"x")
    assert ours.ended == 1


async def test_a_peer_without_a_clock_says_so_and_drops_probes() -> None:
    ours = TestClock()
    async with connected(**builders(None, ours)) as nodes:
        assert not nodes.client.session.answers_clock
        nodes.client.session.send_clock(b"\x00\x05")
        await anyio.sleep(0.01)
        (theirs,) = nodes.server.context().sessions()
        assert theirs.stats()["clock_dropped"] == 1
        assert await nodes.client.ping() >= 0  # and the session goes on


async def test_a_flood_is_dropped_beyond_a_rate_and_a_fault_is_logged_alone(caplog: pytest.LogCaptureFixture) -> None:
    theirs = TestClock()
    async with connected(**builders(theirs, TestClock())) as nodes:
        session = nodes.client.session
        session.send_clock(b"fault")
        for _ in range(1_000):
            session.send_clock(b"\x00\x05")
            await anyio.sleep(0.0001)
        (peer,) = nodes.server.context().sessions()
        assert 60 <= len(theirs.heard) <= 64 + 200 * 0.12
        assert len(theirs.heard) + peer.stats()["clock_dropped"] + peer.stats()["datagrams_dropped"] == 1_001
        await anyio.sleep(1)
        session.send_clock(b"later")
        await anyio.sleep(0.01)
        assert theirs.heard[-1] == b"later"
    assert "the clock failed: RuntimeError" in caplog.text


@pytest.mark.parametrize("delivery", ["reliable", "per_frame", "datagram"])
async def test_streams_are_stamped_by_the_clock_and_say_whether_it_is_synchronised(delivery: Any) -> None:
    frames: list[Timestamped[bytes]] = []

    @stream("samples")
    async def samples(session: Session, receiver: StreamReceiver) -> None:
        frames.extend([frame async for frame in receiver])

    ours = TestClock(synced=False)
    async with connected(samples, **builders(None, ours)) as nodes:
        async with await nodes.client.create_stream("samples", delivery=delivery) as sender:
            await sender.send(b"0")
            ours.synced = True
            await sender.send(b"1")
            await sender.send_timestamped(Timestamped(77, 2, b"2"))
            await sender.send_timestamped(Timestamped(78, 3, b"3", synced=False))
        await anyio.sleep(1)
    frames.sort(key=lambda frame: frame.seq)
    assert [(frame.wall_time, frame.synced) for frame in frames] == [
        (1_000_001, False),
        (1_000_002, True),
        (77, True),
        (78, False),
    ]


@pytest.mark.parametrize("delivery", ["reliable", "per_frame", "datagram"])
async def test_without_a_clock_the_whole_stream_is_not_synchronised(delivery: Any) -> None:
    frames: list[Timestamped[bytes]] = []
    metadata: list[Any] = []

    @stream("samples")
    async def samples(session: Session, receiver: StreamReceiver) -> None:
        metadata.append(receiver.metadata)
        frames.extend([frame async for frame in receiver])

    async with connected(samples) as nodes:
        async with await nodes.client.create_stream("samples", delivery=delivery, metadata={"room": "2"}) as sender:
            await sender.send(b"0")
            await sender.send_timestamped(Timestamped(77, 1, b"1"))
        await anyio.sleep(1)
    assert [frame.synced for frame in frames] == [False, False]
    assert metadata == [{"room": "2"}]  # the mark is the kernel's


async def test_playout_is_the_clocks_business() -> None:
    played: list[Any] = []

    @stream("samples")
    async def samples(session: Session, receiver: StreamReceiver) -> None:
        try:
            played.append((receiver, receiver.playout(delay=0.1)))
        except ClockUnavailable as error:
            played.append(str(error))

    clock = TestClock()
    for server in (clock, None):
        async with connected(samples, **builders(server, None)) as nodes:
            async with await nodes.client.create_stream("samples"):
                pass
            await anyio.sleep(0.1)
    (receiver, playout), refused = played
    assert playout == (clock, receiver, {"delay": 0.1})
    assert "stream 'samples': playout needs a clock; this node has no clock plugin" in refused


async def test_a_service_that_is_a_clock_is_the_servers_clock_and_gets_the_context() -> None:
    class ClockService(TestClock):
        async def start(self, context: Any) -> None:
            self.context = context
            assert context.clock is self
            assert (context.name, len(context.boot)) == ("the node", 16)
            assert [listener.address.scheme for listener in context.listeners] == ["memory"]

        async def stop(self) -> None:
            assert self.context.sessions() == []

    service = ClockService()
    async with connected(server=EchoServer.builder().name("the node").service(service)) as nodes:
        assert nodes.server.context() is service.context
    assert list(service.context.listeners) == []
