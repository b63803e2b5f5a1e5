"""Sessions before their connection's handshake is complete: marked requests run, everything else waits."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoServer,
    Limits,
    RequestTimeout,
    Session,
    StreamReceiver,
    Unauthenticated,
    event,
    rpc,
    stream,
)
from echokernel.addresses import Address, parse_address
from echokernel.server import ServerBuilder
from echokernel.tasks import TaskScope, open_tasks
from echokernel.testing import JsonSerializer, MemoryTransport
from echokernel.testing.memory import MemoryConnection, connection_pair
from echokernel.transport import Connection
from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.early import IDEMPOTENT, assumption
from echokernel_protocol.frames import encode_method
from echokernel_protocol.hello import Hello
from echokernel_protocol.maps import encode_map
from echokernel_protocol.streams import Prelude, StreamKind

pytestmark = pytest.mark.anyio
ADDRESS = parse_address("memory://node:1")


class EarlyConnection(MemoryConnection):
    """One end of a connection that is complete when the test says so."""

    complete: anyio.Event
    memory: dict[str, bytes]
    dialled = False
    side_streams = 0

    @property
    def early(self) -> bool:
        return not self.complete.is_set()

    async def confirmed(self) -> None:
        await self.complete.wait()
        self.check()

    @property
    def remembered(self) -> bytes | None:
        return self.memory.get("data") if self.early and self.dialled else None

    def remember(self, data: bytes) -> None:
        self.memory["data"] = data

    async def open_uni_stream(self) -> Any:
        if self.dialled:
            await self.confirmed()
        return await super().open_uni_stream()

    async def accept_uni_stream(self) -> Any:
        await self.confirmed()
        return await super().accept_uni_stream()


class EarlyTransport(MemoryTransport):
    """Connections after the first are early; :attr:`complete` ends that."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[str, bytes] = {}
        self.complete = anyio.Event()

    async def connect(self, address: Address, tasks: TaskScope) -> Connection:
        dialer, acceptor = connection_pair(tasks)
        for end in (dialer, acceptor):
            end.__class__ = EarlyConnection
            assert isinstance(end, EarlyConnection)
            end.complete, end.memory, end.dialled = self.complete, self.memory, end is dialer
        self.connections.append((dialer, acceptor))
        self.listeners[address.port].add(acceptor)
        return dialer


class Notes:
    """What ran at the server."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def handlers(self) -> list[Any]:
        @rpc
        async def double(x: int) -> int:
            self.ran.append(x)
            return 2 * x

        @event
        async def note(text: str) -> None:
            self.ran.append(text)

        @stream
        async def flow(frames: StreamReceiver) -> None:
            self.ran.append("flow")

        return [double, note, flow]


@asynccontextmanager
async def node(
    notes: Notes, transport: EarlyTransport, builder: ServerBuilder | None = None
) -> AsyncIterator[EchoServer]:
    builder = (builder or EchoServer.builder()).transport(transport).bind(ADDRESS).serializer(JsonSerializer())
    for handler in notes.handlers():
        builder.add_handler(handler)
    async with builder.build() as server:
        yield server


def client(transport: EarlyTransport, credentials: str = "") -> Any:
    return (
        EchoClient.builder().transport(transport).serializer(JsonSerializer()).credentials(credentials).connect(ADDRESS)
    )


async def visit(transport: EarlyTransport, credentials: str = "") -> None:
    """Connect once in the ordinary way, so that there is something to remember; the next connection is early."""
    transport.complete.set()
    async with client(transport, credentials):
        pass
    transport.complete = anyio.Event()


async def test_marked_requests_run_early_and_everything_else_waits() -> None:
    notes, transport = Notes(), EarlyTransport()
    async with node(notes, transport):
        await visit(transport)
        async with client(transport) as early, anyio.create_task_group() as tasks:
            assert await early.request("double", 1, idempotent=True, returns=int) == 2
            answers: list[int] = []

            async def ask(x: int) -> None:
                answers.append(await early.request("double", x, returns=int))

            async def open_flow() -> None:
                sender = await early.create_stream("flow")
                await sender.finish()

            tasks.start_soon(ask, 5)
            tasks.start_soon(early.emit, "note", "event")
            tasks.start_soon(open_flow)
            await anyio.sleep(1)
            assert await early.request("double", 2, idempotent=True, returns=int) == 4
            assert notes.ran == [1, 2]
            transport.complete.set()
            await anyio.sleep(0.5)
            assert answers == [10]
            assert sorted(map(str, notes.ran)) == ["1", "2", "5", "event", "flow"]
            assert await early.request("double", 7, returns=int) == 14
            assert early.session.peer.boot


async def test_the_mark_travels_only_while_it_is_needed() -> None:
    notes, transport, sent = Notes(), EarlyTransport(), []
    async with node(notes, transport):
        await visit(transport)
        async with client(transport) as early:
            channel: Any = early.session._channel
            take = channel.data_to_send

            def watched(room: int) -> bytes:
                sent.append(take(room))
                return bytes(sent[-1])

            channel.data_to_send = watched
            await early.request("double", 1, idempotent=True)
            assert IDEMPOTENT.encode() in b"".join(sent)
            transport.complete.set()
            await anyio.sleep(0.1)
            sent.clear()
            await early.request("double", 2, idempotent=True)
            assert IDEMPOTENT.encode() not in b"".join(sent)
            assert notes.ran == [1, 2]


async def test_a_handshake_that_never_completes_runs_no_more_than_the_marked_ones() -> None:
    notes, transport, told = Notes(), EarlyTransport(), []
    builder = EchoServer.builder().on_disconnect(lambda session: told.append(session))
    async with node(notes, transport, builder) as server:
        await visit(transport)
        told.clear()
        with pytest.raises(ConnectionClosed) as caught:
            async with client(transport) as early:
                assert await early.request("double", 1, idempotent=True, returns=int) == 2

                async def cut() -> None:
                    await anyio.sleep(0.1)
                    transport.connections[-1][0].die()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cut)
                    try:
                        await early.request("double", 2, returns=int)
                    except ConnectionClosed as error:
                        caught_inside = error
                raise caught_inside
        assert caught.value.retryable, "it never left"
        await anyio.sleep(3)
        assert notes.ran == [1]
        assert told == [], "on_disconnect would tell of somebody of whom on_connect never told"
        assert server.stats()["sessions"] == 0


async def test_what_is_called_on_connect_comes_first_and_after_the_handshake() -> None:
    notes, transport = Notes(), EarlyTransport()
    builder = EchoServer.builder().on_connect(lambda session: notes.ran.append("connected"))
    async with node(notes, transport, builder):
        await visit(transport)
        notes.ran.clear()
        async with client(transport) as early, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: early.request("double", 1, idempotent=True))
            await anyio.sleep(1)
            assert notes.ran == []
            transport.complete.set()
            await anyio.sleep(0.1)
            assert notes.ran == ["connected", 1]


async def test_a_wait_for_the_handshake_ends_at_the_deadline() -> None:
    notes, transport = Notes(), EarlyTransport()
    async with node(notes, transport):
        await visit(transport)
        async with client(transport) as early:
            with pytest.raises(RequestTimeout, match="not complete within the deadline; nothing was sent"):
                await early.request("double", 1, timeout=0.5)
            transport.complete.set()
            await anyio.sleep(1)
        assert notes.ran == []


async def test_a_rejected_dialer_hears_it_and_nothing_ran() -> None:
    class Once:
        def __init__(self) -> None:
            self.left = 1

        async def authenticate(self, credentials: bytes, peer: object) -> str | None:
            self.left -= 1
            return "ann" if self.left >= 0 else None

    notes, transport = Notes(), EarlyTransport()
    async with node(notes, transport, EchoServer.builder().authenticator(Once())):
        await visit(transport, "secret")
        async with client(transport, "secret") as early, anyio.create_task_group() as tasks:

            async def ask(idempotent: bool) -> None:
                with pytest.raises(Unauthenticated, match="the credentials were not accepted"):
                    await early.request("double", 1, idempotent=idempotent)

            tasks.start_soon(ask, True)
            tasks.start_soon(ask, False)
            await anyio.sleep(0.1)
            transport.complete.set()
        assert notes.ran == []


async def test_an_acceptor_that_has_changed_says_so_and_runs_nothing() -> None:
    notes, transport = Notes(), EarlyTransport()
    async with node(notes, transport):
        await visit(transport)
    async with node(notes, transport, EchoServer.builder().limits(Limits(max_message=1_000_000))):
        async with client(transport) as early:
            with anyio.move_on_after(0.2):
                await early.request("double", 1, idempotent=True)
            transport.complete.set()
            with pytest.raises(ConnectionClosed, match="not what the dialer remembers"):
                await early.request("double", 2, idempotent=True)
        assert notes.ran == []
        async with client(transport) as again:
            assert await again.request("double", 3, returns=int) == 6


async def test_an_acceptor_with_larger_limits_is_no_surprise() -> None:
    notes, transport = Notes(), EarlyTransport()
    async with node(notes, transport):
        await visit(transport)
    larger = EchoServer.builder().limits(Limits(max_message=8_000_000))
    async with node(notes, transport, larger), client(transport) as early:
        assert await early.request("double", 1, idempotent=True, returns=int) == 2
        assert early.session.peer.max_message == 4_194_304
        transport.complete.set()
        await anyio.sleep(0.1)
        assert early.session.peer.max_message == 8_000_000


async def test_another_offer_than_remembered_waits_for_the_answer() -> None:
    notes, transport = Notes(), EarlyTransport()
    async with node(notes, transport):
        await visit(transport)
        builder = (
            EchoClient.builder().transport(transport).serializer(JsonSerializer("other")).serializer(JsonSerializer())
        )
        with anyio.move_on_after(1) as scope:
            async with builder.connect(ADDRESS):
                pytest.fail("it offers other serializers, so that the answer could be another")
        assert scope.cancelled_caught


# --- a dialer that does not keep to it --------------------------------------------------------------------------------


@asynccontextmanager
async def raw(transport: EarlyTransport, frames: Any, answer: Hello) -> AsyncIterator[tuple[Channel, Any]]:
    """A connection on which hello and frames have left together, and what reads the channel."""
    async with open_tasks() as tasks:
        connection = await transport.connect(ADDRESS, tasks)
        send, recv = await connection.open_bi_stream()
        channel = Channel(Role.DIALER, Hello(serializers=("json",), assumed=assumption(answer)))
        channel.send_hello()
        hello = Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0)
        channel.assume(answer)
        frames(channel)
        await send.write(hello + channel.data_to_send(1_000_000))
        yield channel, recv
        await connection.close()


def answer_of(server: EchoServer) -> Hello:
    return replace(server._node.hello(), node="", boot="")


async def test_unmarked_frames_that_come_early_are_held_in_their_order() -> None:
    notes, transport = Notes(), EarlyTransport()
    mark = encode_map({IDEMPOTENT: ""})

    def frames(channel: Channel) -> None:
        channel.emit(encode_method("note", 0x10), b'"one"')
        channel.call(encode_method("double", 0x10), b"10")
        channel.call(encode_method("double", 0x18), mark + b"11")
        channel.emit(encode_method("note", 0x18), mark + b'"two"')
        channel.call(encode_method("double", 0x18), encode_map({"idempotent": "yes"}) + b"12")
        channel.open_flow(encode_method("flow", 0x10), b"")

    async with node(notes, transport) as server, raw(transport, frames, answer_of(server)):
        await anyio.sleep(1)
        assert notes.ran == [11]
        transport.complete.set()
        await anyio.sleep(1)
        assert sorted(map(str, notes.ran)) == ["10", "11", "12", "flow", "one", "two"]
        assert notes.ran.index("one") < notes.ran.index("two")


async def test_nothing_runs_before_the_hello_even_when_it_is_marked() -> None:
    notes, transport, asked = Notes(), EarlyTransport(), []

    class Slow:
        async def authenticate(self, credentials: bytes, peer: object) -> str | None:
            await anyio.sleep(1)
            asked.append(list(notes.ran))
            return None

    def frames(channel: Channel) -> None:
        channel.call(encode_method("double", 0x18), encode_map({IDEMPOTENT: ""}) + b"11")

    async with (
        node(notes, transport, EchoServer.builder().authenticator(Slow())) as server,
        raw(transport, frames, answer_of(server)) as (channel, recv),
    ):
        await anyio.sleep(2)
        transport.complete.set()
        while channel.phase is Phase.ASSUMED:
            channel.receive(await recv.read())
        assert channel.phase is Phase.REFUSED
        assert asked == [[]]
        assert notes.ran == []


@pytest.mark.parametrize("assumed", ["", "x", "json;;0;10000;1;1;1;1;x", "json;;0;10000;" + "9" * 30 + ";1;1;1;1"])
async def test_an_assumption_that_nobody_makes_closes(assumed: str, caplog: pytest.LogCaptureFixture) -> None:
    notes, transport = Notes(), EarlyTransport()
    caplog.set_level(logging.INFO)
    transport.complete.set()
    async with node(notes, transport), open_tasks() as tasks:
        connection = await transport.connect(ADDRESS, tasks)
        send, _ = await connection.open_bi_stream()
        channel = Channel(Role.DIALER, Hello(serializers=("json",), assumed=assumed))
        channel.send_hello()
        hello = Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0)
        channel.call(encode_method("double", 0x18), encode_map({IDEMPOTENT: ""}) + b"11")
        await send.write(hello + channel.data_to_send(9999))
        with anyio.fail_after(5):
            error = await connection.wait_closed()
        assert "before the hello was answered" in str(error) if not assumed else "assumed is" in str(error)
        assert notes.ran == []


async def test_an_early_session_shows_itself(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[bool] = []

    @rpc
    async def is_early(session: Session) -> bool:
        seen.append(session._connection.early)
        return seen[-1]

    notes, transport = Notes(), EarlyTransport()
    async with node(notes, transport, EchoServer.builder().add_rpc(is_early)):
        await visit(transport)
        async with client(transport) as early:
            assert await early.request("is_early", idempotent=True, returns=bool)
            transport.complete.set()
            await anyio.sleep(0.1)
            assert not await early.request("is_early", idempotent=True, returns=bool)
