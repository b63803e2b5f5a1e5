"""Events as datagrams: a size that is known, no order, no credit, and nothing that a bad one could break."""

from __future__ import annotations

import random

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel import (
    ConnectionClosed,
    EchoServer,
    InvalidArgument,
    Limits,
    SerializationError,
    Session,
    StreamReceiver,
    event,
    rpc,
    stream,
)
from echokernel.addresses import parse_address
from echokernel.engine.datagrams import Datagrams
from echokernel.tasks import open_tasks
from echokernel.testing import MemoryFaults, MemoryTransport, connected
from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.frames import encode_frame, encode_method
from echokernel_protocol.hello import Hello
from echokernel_protocol.maps import encode_map
from echokernel_protocol.streams import Prelude, StreamKind
from echokernel_protocol.timestamped import encode_timestamped

pytestmark = pytest.mark.anyio
REQUEST, RESPONSE, EVENT, STREAM = range(4)


def datagram(
    message_type: int, request_id: int, method: str = "", flags: int = 0, payload: bytes = b"", more: bytes = b""
) -> bytes:
    return encode_frame(message_type, request_id, encode_method(method, flags), payload)[4:] + more


class Log:
    """An event handler that remembers."""

    name = "note"
    __echokernel_kind__ = "event"

    def __init__(self) -> None:
        self.got: list[bytes] = []

    async def handle(self, session: Session, payload: bytes) -> None:
        self.got.append(payload)


async def test_an_event_by_datagram_reaches_the_same_handler_in_both_directions() -> None:
    log = Log()
    heard: list[int] = []

    @event
    async def hear(number: int) -> None:
        heard.append(number)

    async with connected(log, client_handlers=[hear]) as nodes:
        await nodes.client.emit("note", "by datagram", reliable=False)
        await nodes.client.emit("note", "by channel")
        await nodes.session.emit("hear", 7, reliable=False)
        await anyio.sleep(0.1)
        assert sorted(log.got) == [b'"by channel"', b'"by datagram"']
        assert heard == [7]
        assert nodes.client.session.stats()["datagrams_sent"] == 1
        assert nodes.session.stats()["datagrams_received"] == 1


async def test_the_size_is_known_before_sending() -> None:
    log = Log()
    async with connected(log) as nodes:
        client = nodes.client
        limit = client.max_datagram
        assert limit == 1170
        room = limit - client.datagram_size("note", "")
        room -= 1  # from 128 bytes on, the payload's length takes two bytes
        assert client.datagram_size("note", "x" * room) == limit
        await client.emit("note", "x" * room, reliable=False)
        with pytest.raises(
            InvalidArgument,
            match=r"note: an event of 1,171 bytes as a datagram; 1,170 bytes fit in one now\. Send it reliably \(fallback=True",
        ):
            await client.emit("note", "x" * (room + 1), reliable=False)
        await anyio.sleep(0.1)
        await client.emit("note", "y" * 5000, reliable=False, fallback=True)
        await anyio.sleep(0.1)
        assert sorted(len(payload) for payload in log.got) == [room + 2, 5002]
        with pytest.raises(SerializationError):
            client.datagram_size("note", object())
        with pytest.raises(InvalidArgument, match="method name"):
            await client.emit("not a name", 1, reliable=False)


async def test_a_transport_without_datagrams_says_so() -> None:
    log = Log()
    async with connected(log, transport=MemoryTransport(max_datagram=0)) as nodes:
        assert nodes.client.max_datagram == 0
        with pytest.raises(InvalidArgument, match="this connection has none"):
            await nodes.client.emit("note", 1, reliable=False)
        with pytest.raises(InvalidArgument, match=r'this connection has no datagrams; use delivery="per_frame"'):
            await nodes.client.create_stream("audio", delivery="datagram")
        await nodes.client.emit("note", 1, reliable=False, fallback=True)
        await anyio.sleep(0.1)
        assert log.got == [b"1"]
        assert nodes.session.stats()["datagrams_received"] == 0


async def test_lost_and_doubled_datagrams_are_just_that() -> None:
    log = Log()
    faults = MemoryFaults(loss=0.2, duplicates=0.1, jitter=0.02)
    async with connected(log, transport=MemoryTransport(faults=faults)) as nodes:
        for number in range(500):
            await nodes.client.emit("note", number, reliable=False)
            await anyio.sleep(0.001)
        await anyio.sleep(1)
        numbers = [int(payload) for payload in log.got]
        assert 360 < len(set(numbers)) < 440
        assert len(numbers) > len(set(numbers))
        assert numbers != sorted(numbers)


async def test_nothing_is_dispatched_before_the_hello_nor_before_on_connect_has_returned() -> None:
    log = Log()
    when: list[float] = []

    async def on_connect(session: Session) -> None:
        await anyio.sleep(3)
        when.append(len(log.got))

    server = EchoServer.builder().on_connect(on_connect)
    async with connected(log, server=server) as nodes, open_tasks() as tasks:
        connection = await nodes.transport.connect(parse_address("memory://node:1"), tasks)
        connection.send_datagram(datagram(EVENT, 0, "note", 0x10, b'"a stranger\'s"'))
        send, recv = await connection.open_bi_stream()
        await anyio.sleep(0.5)
        channel = Channel(Role.DIALER, Hello(serializers=("json",)))
        channel.send_hello()
        await send.write(Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0))
        while channel.phase is Phase.WAITING:
            channel.receive(await recv.read())
        connection.send_datagram(datagram(EVENT, 0, "note", 0x10, b'"early"'))
        await anyio.sleep(1)
        assert log.got == []
        await anyio.sleep(4)
        assert log.got == [b'"early"']
        assert when == [0, 0]
        await connection.close()


BAD = [
    b"",
    b"\x00",
    b"\xff" * 1170,
    b"GET / HTTP/1.1\r\n\r\n",
    datagram(EVENT, 0, "note", 0x18, encode_map({"a": "b"}) + b"1"),  # METADATA
    datagram(EVENT, 0, "note", 0x50, b"\x05"),  # BODY
    datagram(EVENT, 5, "note", 0x10, b"1"),
    datagram(EVENT, 0, "", 0x10, b"1"),
    datagram(EVENT, 0, "note", 0x10, b"1", more=b"\x00"),
    datagram(EVENT, 0, "note", 0x10, b"1") * 2,
    datagram(EVENT, 0, "note", 0x10, b"1")[:-1],
    datagram(REQUEST, 1, "double", 0x10, b"1"),
    datagram(RESPONSE, 1, "", 0x10, b"1"),
    datagram(STREAM, 1, "audio", 0),  # an open
    datagram(STREAM, 1, "", 4, b"\x01"),  # an END
    datagram(STREAM, 1, "", 0, b"no stamp"),
    datagram(STREAM, 1, "", 0, encode_timestamped(1, 1, b"x") + b"more"),
]


async def test_bad_datagrams_are_counted_and_cost_nothing_else() -> None:
    log = Log()

    @rpc
    async def double(value: int) -> int:
        return 2 * value

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        async for _ in receiver:
            pass

    async with connected(log, double, audio) as nodes:
        await nodes.client.create_stream("audio")  # id 1: reliable, so that no datagram belongs to it
        dialer = nodes.transport.connections[0][0]
        for bad in BAD:
            dialer.send_datagram(bad)
        dialer.send_datagram(datagram(STREAM, 1, "", 0, encode_timestamped(1, 1, b"x")))
        dialer.send_datagram(datagram(EVENT, 0, "nobody", 0x10, b"1"))
        dialer.send_datagram(datagram(EVENT, 0, "note", 0x30, b"1"))  # a slot that was not agreed
        await anyio.sleep(0.1)
        stats = nodes.session.stats()
        assert stats["datagrams_bad"] == len(BAD) + 1
        assert stats["unknown_events"] == 2
        assert log.got == []
        assert await nodes.client.request("double", 4) == 8


@given(
    st.one_of(
        st.binary(max_size=1200),
        st.tuples(st.sampled_from(BAD[4:]), st.binary(max_size=8), st.integers(0, 40)).map(
            lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]
        ),
    )
)
def test_random_bytes_cost_a_counter(data: bytes) -> None:
    class Sink:
        def on_datagram(self, method: str, flags: int, payload: bytes) -> bool:
            assert method and not flags & ~0x30
            return True

        def take_datagram(self, flow_id: int, flags: int, payload: bytes) -> object:
            assert flags in (0, 8)
            assert 0 <= flow_id < 1 << 53
            return None

        def take(self, payload: bytes) -> None:
            assert len(payload) < len(data)

    datagrams = Datagrams(None, None, None, Sink(), Sink(), Sink())  # type: ignore[arg-type]
    datagrams.take(data)
    assert datagrams.received == 1
    assert datagrams.bad in (0, 1)
    assert len(datagrams._names) <= 1


async def test_datagram_events_that_wait_are_bounded_and_the_newest_is_dropped() -> None:
    go = anyio.Event()
    log: list[int] = []

    @event
    async def slow(number: int) -> None:
        await go.wait()
        log.append(number)

    server = EchoServer.builder().limits(Limits(max_datagram_events=10))
    async with connected(slow, server=server) as nodes:
        for number in range(100):
            await nodes.client.emit("slow", number, reliable=False)
            await anyio.sleep(0.001)
        stats = nodes.session.stats()
        assert (stats["datagrams_received"], stats["datagrams_dropped"]) == (100, 89)
        go.set()
        await anyio.sleep(0.1)
        assert log == list(range(11))  # one was being handled, ten waited
        await nodes.client.emit("slow", 100, reliable=False)
        await anyio.sleep(0.1)
        assert log[-1] == 100


async def test_concurrent_datagram_events_are_bounded_too() -> None:
    running = most = 0

    @event(concurrent=True)
    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    server = EchoServer.builder().limits(Limits(max_datagram_events=10))
    async with connected(work, server=server) as nodes:
        for _ in range(2):
            for number in range(50):
                await nodes.client.emit("work", number, reliable=False)
                await anyio.sleep(0.001)
            await anyio.sleep(3)
        assert most == 10
        assert nodes.session.stats()["datagrams_dropped"] == 80


async def test_datagram_events_take_no_part_in_event_credit() -> None:
    log = Log()
    limits = Limits(max_frame=16_384, max_message=16_384, event_window=32_768)
    async with connected(log, server=EchoServer.builder().limits(limits)) as nodes:
        channel = nodes.session._channel
        for _ in range(2_000):
            await nodes.client.emit("note", "x" * 100, reliable=False)
            await anyio.sleep(0.0001)
        assert len(log.got) == 2_000
        assert (channel._events_taken, channel._events_received) == (0, 0)
        assert nodes.client.session._channel._events_sent == 0
        for _ in range(100):  # and the credit of the channel's events is still right
            await nodes.client.emit("note", "x" * 10_000)
        await anyio.sleep(0.1)
        assert channel._events_taken == channel._events_received == 100 * (10_002 + 64)


async def test_a_flood_of_datagrams_leaves_the_channel_alone() -> None:
    log: list[int] = []
    flooded = 0

    @event
    async def note(number: int) -> None:
        log.append(number)

    @event
    async def flood(text: str) -> None:
        nonlocal flooded
        flooded += 1
        await anyio.sleep(0.01)

    async with connected(note, flood) as nodes, anyio.create_task_group() as tasks:
        over = False

        async def send_flood() -> None:
            while not over:
                await nodes.client.emit("flood", "x" * 1000, reliable=False)

        tasks.start_soon(send_flood)
        with anyio.fail_after(5):
            for number in range(300):
                await nodes.client.emit("note", number)
                await nodes.client.ping()
        over = True
        assert log == list(range(300))
        stats = nodes.session.stats()
        assert stats["datagrams_dropped"] > 1_000
        assert flooded < 600


async def test_a_lost_connection_ends_a_sender_of_datagrams() -> None:
    async with connected(Log()) as nodes:
        nodes.transport.connections[0][0].die()
        await anyio.sleep(0.1)
        with pytest.raises(ConnectionClosed):
            await nodes.client.emit("note", 1, reliable=False)


async def test_the_bad_network_is_the_same_at_every_run() -> None:
    async def run() -> list[bytes]:
        log = Log()
        faults = MemoryFaults(loss=0.3, seed=5)
        async with connected(log, transport=MemoryTransport(faults=faults)) as nodes:
            for number in range(50):
                await nodes.client.emit("note", number, reliable=False)
            await anyio.sleep(0.1)
        return log.got

    random.seed()
    assert await run() == await run()
