"""Peers that break the rules: they are closed with a code and a reason, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from echokernel import (
    ConnectionClosed,
    EchoServer,
    Limits,
    Session,
    StreamReceiver,
    StreamReset,
    StreamStopped,
    event,
    rpc,
    stream,
)
from echokernel.addresses import parse_address
from echokernel.tasks import open_tasks
from echokernel.testing import MemoryConnection, Nodes, connected
from echokernel.transport import RecvStream, SendStream
from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.codes import Code
from echokernel_protocol.frames import Flags, FrameDecoder, encode_frame, encode_method
from echokernel_protocol.hello import Hello
from echokernel_protocol.streams import Prelude, StreamKind

pytestmark = pytest.mark.anyio
REQUEST, RESPONSE, EVENT, STREAM = range(4)


@rpc
async def double(value: int) -> int:
    return 2 * value


@rpc
async def slow() -> None:
    await anyio.sleep_forever()


@event
async def note(text: str) -> None: ...


@stream
async def audio(session: Session, receiver: StreamReceiver) -> None:
    async for _ in receiver:
        pass


class Peer:
    """A raw dialer that has said hello properly, and is about to misbehave."""

    def __init__(self, connection: MemoryConnection, send: SendStream, recv: RecvStream) -> None:
        self.connection = connection
        self.send = send
        self.recv = recv
        self.decoder = FrameDecoder(100_000)

    def frame(self, message_type: int, request_id: int, method: str = "", flags: int = 0, payload: bytes = b"") -> None:
        self.send.write_nowait(encode_frame(message_type, request_id, encode_method(method, flags), payload))

    async def frames(self) -> list[tuple[int, int, str, int, bytes]]:
        return self.decoder.feed(await self.recv.read())

    async def open(self, prelude: Prelude, data: bytes = b"") -> SendStream:
        stream = await self.connection.open_uni_stream()
        await stream.write(prelude.encode() + data)
        return stream


@asynccontextmanager
async def peer(nodes: Nodes) -> AsyncIterator[Peer]:
    async with open_tasks() as tasks:
        connection = await nodes.transport.connect(parse_address("memory://node:1"), tasks)
        assert isinstance(connection, MemoryConnection)
        send, recv = await connection.open_bi_stream()
        channel = Channel(Role.DIALER, Hello(serializers=("json",)))
        channel.send_hello()
        await send.write(Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0))
        while channel.phase is Phase.WAITING:
            channel.receive(await recv.read())
        yield Peer(connection, send, recv)
        await connection.close()


async def closed_with(bad: Peer) -> ConnectionClosed:
    with anyio.fail_after(10):
        error = await bad.connection.wait_closed()
    assert isinstance(error, ConnectionClosed)
    return error


Misdeed = tuple[str, Callable[[Peer], None], Code, str]
MISDEEDS: list[Misdeed] = [
    (
        "garbage",
        lambda p: p.send.write_nowait(b"\x00\x00\x00\x08garbage!"),
        Code.PROTOCOL_ERROR,
        "message type 103 is unknown",
    ),
    (
        "http",
        lambda p: p.send.write_nowait(b"GET / HTTP/1.1\r\n\r\n"),
        Code.LIMIT_EXCEEDED,
        "a frame of 1,195,725,856 bytes",
    ),
    (
        "oversize",
        lambda p: p.send.write_nowait(b"\x00\x02\x00\x00"),
        Code.LIMIT_EXCEEDED,
        "a frame of 131,072 bytes; the limit here is 66,560",
    ),
    ("flags", lambda p: p.frame(REQUEST, 1, "double", 0x80), Code.PROTOCOL_ERROR, "flags 0x80 mean nothing"),
    ("parity", lambda p: p.frame(REQUEST, 2, "double"), Code.PROTOCOL_ERROR, "odd from the dialer"),
    (
        "reuse",
        lambda p: [p.frame(REQUEST, 1, "double", 0x10, b"1") for _ in "ab"],
        Code.PROTOCOL_ERROR,
        "never used again",
    ),  # type: ignore[arg-type,return-value]
    ("answer", lambda p: p.frame(RESPONSE, 2), Code.PROTOCOL_ERROR, "a response to id 2, for which no request is open"),
    ("no name", lambda p: p.frame(REQUEST, 1), Code.PROTOCOL_ERROR, "names no method"),
    ("long name", lambda p: p.frame(REQUEST, 1, "x" * 200), Code.LIMIT_EXCEEDED, "a method name of 200 bytes"),
    ("second hello", lambda p: p.frame(REQUEST, 0, "$hello", 8, b"\x00"), Code.PROTOCOL_ERROR, "a second hello"),
    (
        "timeout",
        lambda p: p.frame(REQUEST, 1, "double", 0x18, b"\x01\x08$timeout\x03xxx1"),
        Code.PROTOCOL_ERROR,
        ".timeout is 'xxx'",
    ),
    (
        "metadata",
        lambda p: p.frame(REQUEST, 1, "double", 0x18, b"\xff\x01"),
        Code.LIMIT_EXCEEDED,
        "a Map of 255 entries",
    ),
    (
        "huge body",
        lambda p: p.frame(REQUEST, 1, "double", 0x50, b"\x80\x80\x80\x80\x7f"),
        Code.LIMIT_EXCEEDED,
        "a message of",
    ),
    (
        "end count",
        lambda p: [p.frame(STREAM, 1, "audio"), p.frame(STREAM, 1, "", 4)],
        Code.PROTOCOL_ERROR,
        "without the number",
    ),  # type: ignore[arg-type,return-value]
]


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=[misdeed[0] for misdeed in MISDEEDS])
async def test_a_broken_rule_closes_that_connection_alone(misdeed: Misdeed) -> None:
    _, act, code, reason = misdeed
    async with connected(double, note, audio) as nodes, peer(nodes) as bad:
        act(bad)
        error = await closed_with(bad)
        assert error.code == code
        assert reason.strip(".") in error.reason
        assert await nodes.client.request("double", 21) == 42
        await anyio.sleep(3)
        assert len(nodes.server.context().sessions()) == 1


async def test_half_a_frame_and_silence_hurts_nobody() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        bad.send.write_nowait(b"\x00\x00\x00\x64abc")
        await anyio.sleep(60)
        assert await nodes.client.request("double", 1) == 2
        await bad.send.finish()
        assert (await closed_with(bad)).code == Code.TRUNCATED


async def test_a_finished_channel_is_the_end_of_the_session() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        await bad.send.finish()
        assert "the connection left open" in (await closed_with(bad)).reason


async def test_a_flood_of_requests_is_cut_at_the_limit() -> None:
    server = EchoServer.builder().limits(Limits(max_requests=10))
    async with connected(double, slow, server=server) as nodes, peer(nodes) as bad:
        for number in range(11):
            bad.frame(REQUEST, 2 * number + 1, "slow", 0x10, b"null")
        error = await closed_with(bad)
        assert (error.code, error.reason) == (Code.LIMIT_EXCEEDED, "more than 10 open requests")
        assert await nodes.client.request("double", 1) == 2


async def test_a_flood_of_events_is_cut_at_the_credit() -> None:
    server = EchoServer.builder().limits(Limits(max_frame=16_384, max_message=16_384, event_window=32_768))
    async with connected(double, note, server=server) as nodes, peer(nodes) as bad:
        for _ in range(600):
            bad.frame(EVENT, 0, "note", 0x10, b'""')
        assert (await closed_with(bad)).code == Code.LIMIT_EXCEEDED
        assert await nodes.client.request("double", 1) == 2


async def test_cancelling_twice_and_too_late_is_harmless() -> None:
    async with connected(double, slow) as nodes, peer(nodes) as bad:
        bad.frame(REQUEST, 1, "slow", 0x10, b"null")
        for _ in range(5):
            bad.frame(REQUEST, 1, "", Flags.CANCEL)
        ((kind, request_id, _, flags, _),) = await bad.frames()
        assert (kind, request_id, flags) == (RESPONSE, 1, Flags.ERROR)
        bad.frame(REQUEST, 1, "", Flags.CANCEL)
        bad.frame(REQUEST, 3, "double", 0x10, b"4")
        ((_, request_id, _, _, payload),) = await bad.frames()
        assert (request_id, payload) == (3, b"8")
        session = nodes.server.context().sessions()[1]
        assert session.stats()["frames_late"] >= 1


async def test_a_serializer_slot_that_was_not_agreed_is_answered() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        bad.frame(REQUEST, 1, "double", 0x20, b"4")
        ((_, _, _, flags, payload),) = await bad.frames()
        assert flags == Flags.ERROR
        assert b"serializer slot 2 was not agreed" in payload


async def test_raw_payloads_reach_only_handlers_of_bytes() -> None:
    @rpc
    async def size(data: bytes) -> int:
        return len(data)

    @rpc
    async def same(data: bytes) -> bytes:
        return data

    async with connected(double, same, size) as nodes, peer(nodes) as bad:
        bad.frame(REQUEST, 1, "same", 0, b"abc")
        bad.frame(REQUEST, 3, "double", 0, b"4")
        answers: dict[int, tuple[int, bytes]] = {}
        while len(answers) < 2:
            answers |= {request_id: (flags, payload) for _, request_id, _, flags, payload in await bad.frames()}
        assert answers[1] == (0, b"abc")
        assert answers[3][0] == Flags.ERROR
        assert b"raw payloads are bytes" in answers[3][1]


# --- streams beside the channel -------------------------------------------------------------------------------------


async def test_a_stream_of_an_unknown_kind_is_refused_alone() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        stream = await bad.connection.open_uni_stream()
        await stream.write(b"\x09hello")
        await anyio.sleep(0.1)
        with pytest.raises(StreamStopped) as caught:
            await stream.write(b"x")
        assert caught.value.code == Code.UNKNOWN_KIND
        bad.frame(REQUEST, 1, "double", 0x10, b"4")
        assert (await bad.frames())[0][4] == b"8"


async def test_a_call_stream_that_never_says_what_it_wants_is_refused_alone() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        send, recv = await bad.connection.open_bi_stream()
        await send.write(Prelude(StreamKind.CALL).encode())
        with pytest.raises(StreamReset) as caught:
            await recv.read()
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert await nodes.client.request("double", 1) == 2


@pytest.mark.parametrize("kind", [StreamKind.CHANNEL, StreamKind.CALL])
async def test_a_known_kind_in_the_wrong_place_is_a_violation(kind: StreamKind) -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        await bad.open(Prelude(kind))
        assert "stream where none may be" in (await closed_with(bad)).reason
        assert await nodes.client.request("double", 1) == 2


async def test_a_second_channel_is_a_violation() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        send, _ = await bad.connection.open_bi_stream()
        await send.write(Prelude(StreamKind.CHANNEL).encode())
        assert "a channel stream where none may be" in (await closed_with(bad)).reason


async def test_a_stream_that_drips_its_prelude_is_dropped() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        stream = await bad.connection.open_uni_stream()
        await stream.write(b"\x83")
        await anyio.sleep(6)
        with pytest.raises(StreamStopped):
            await stream.write(b"\x80")
        assert await nodes.client.request("double", 1) == 2


@pytest.mark.parametrize("data", [b"short", b"far too long for it"])
async def test_a_body_that_is_not_what_was_announced_is_a_violation(data: bytes) -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        bad.frame(REQUEST, 1, "double", 0x50, b"\x0a")
        stream = await bad.open(Prelude(StreamKind.BODY, (1,)), data)
        await stream.finish()
        error = await closed_with(bad)
        assert (error.code, "the body of frame 1 is not the 10 bytes" in error.reason) == (Code.TRUNCATED, True)


async def test_a_body_may_come_before_its_frame() -> None:
    async with connected(double) as nodes, peer(nodes) as bad:
        stream = await bad.open(Prelude(StreamKind.BODY, (1,)), b"21")
        await stream.finish()
        await anyio.sleep(0.1)
        bad.frame(REQUEST, 1, "double", 0x50, b"\x02")
        assert (await bad.frames())[0][4] == b"42"


async def test_a_body_that_is_reset_voids_its_frame() -> None:
    async with connected(double, note) as nodes, peer(nodes) as bad:
        bad.frame(REQUEST, 1, "double", 0x50, b"\x64")
        stream = await bad.open(Prelude(StreamKind.BODY, (1,)), b"x")
        await anyio.sleep(0.1)
        stream.reset(Code.CANCELLED)
        ((_, request_id, _, flags, _),) = await bad.frames()
        assert (request_id, flags) == (1, Flags.ERROR)


async def test_other_data_on_a_flow_is_a_violation() -> None:
    async with connected(double, audio) as nodes, peer(nodes) as bad:
        bad.frame(STREAM, 1, "audio")
        await bad.open(Prelude(StreamKind.FLOW, (1, 0)), encode_frame(EVENT, 0, encode_method("note"), b""))
        assert "something other than its data" in (await closed_with(bad)).reason
        assert await nodes.client.request("double", 1) == 2


async def test_data_before_its_open_is_held_for_a_second() -> None:
    got: list[bytes] = []

    @stream("late")
    async def late(receiver: StreamReceiver) -> None:
        got.extend([frame.data async for frame in receiver])

    async with connected(late) as nodes, peer(nodes) as bad:
        data = encode_frame(STREAM, 1, b"\x00\x00", b"\x00\x00\x02hi")
        flow = await bad.open(Prelude(StreamKind.FLOW, (1, 0)), data)
        await flow.finish()
        await anyio.sleep(0.5)
        bad.frame(STREAM, 1, "late")
        bad.frame(STREAM, 1, "", Flags.END, b"\x01")
        await anyio.sleep(0.1)
        assert got == [b"hi"]
        forgotten = await bad.open(Prelude(StreamKind.FLOW, (99, 0)), data)
        await anyio.sleep(1.5)
        with pytest.raises(StreamStopped):
            await forgotten.write(b"x")


async def test_one_misbehaving_peer_among_twenty() -> None:
    async with connected(double, note, audio) as nodes:
        for misdeed in MISDEEDS:
            async with peer(nodes) as bad:
                misdeed[1](bad)
                assert await nodes.client.request("double", 5) == 10
                await closed_with(bad)
        assert nodes.client.session.closed is None


async def test_an_event_may_have_metadata_and_a_body() -> None:
    got: list[str] = []

    @event("long")
    async def long(text: str) -> None:
        got.append(text)

    async with connected(long) as nodes, peer(nodes) as bad:
        bad.frame(EVENT, 0, "long", 0x58, b"\x01\x01k\x01v" + b"\x04")
        body = await bad.open(Prelude(StreamKind.BODY, (1,)), b'"hi"')
        await body.finish()
        await anyio.sleep(0.1)
    assert got == ["hi"]


async def test_a_violation_among_what_waits_for_on_connect_closes_too() -> None:
    server = EchoServer.builder().on_connect(lambda session: anyio.sleep(1))
    async with connected(double, server=server) as nodes, peer(nodes) as bad:
        bad.frame(REQUEST, 1, "double", 0x18, b"\x01\x08$timeout\x03xxx1")
        error = await closed_with(bad)
        assert error.code == Code.PROTOCOL_ERROR
        assert "$timeout is 'xxx'" in error.reason


async def test_connections_that_say_no_hello_are_bounded() -> None:
    server = EchoServer.builder().limits(Limits(max_unauthenticated=5))
    async with connected(double, server=server) as nodes, open_tasks() as tasks:
        for _ in range(50):
            await nodes.transport.connect(parse_address("memory://node:1"), tasks)
        await anyio.sleep(0.1)
        assert nodes.server.stats()["unauthenticated"] == 5
        assert await nodes.client.request("double", 1) == 2
