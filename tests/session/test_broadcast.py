"""Broadcasts: encoded once, in order, and never waiting for the slowest; what its policy does with a session that is behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from echokernel import (
    BroadcastPolicy,
    ConnectionClosed,
    EchoClient,
    EchoServer,
    InvalidArgument,
    Limits,
    SerializationError,
    ServerBuilder,
    Session,
    event,
    rpc,
)
from echokernel.addresses import parse_address
from echokernel.serializer import Codec
from echokernel.tasks import open_tasks
from echokernel.testing import JsonSerializer, MemoryConnection, Nodes, connected
from echokernel.transport import RecvStream
from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.codes import Code
from echokernel_protocol.frames import Flags, FrameDecoder
from echokernel_protocol.hello import Hello
from echokernel_protocol.maps import take_map
from echokernel_protocol.streams import Prelude, StreamKind

pytestmark = pytest.mark.anyio
SMALL = Limits(max_frame=16_384, max_message=16_384, event_window=32_768)  # some 30 events of 1,000 bytes
TEXT = "x" * 1_000


class Listener:
    """A client's handler of ``tick``; it stops after the first event until ``go`` is set."""

    def __init__(self, *, slow: bool = False) -> None:
        self.got: list[Any] = []
        self.go = anyio.Event()
        if not slow:
            self.go.set()

        @event("tick")
        async def on_tick(value: Any) -> None:
            self.got.append(value)
            await self.go.wait()

        self.handler = on_tick

    @property
    def numbers(self) -> list[int]:
        return [value[0] for value in self.got]


@asynccontextmanager
async def audience(
    *listeners: Listener, server: ServerBuilder | None = None, limits: Limits = SMALL, handlers: Any = ()
) -> AsyncIterator[Nodes]:
    """Run a server, and a client with small windows for each listener; the first one is ``nodes.client``."""

    def builder(each: Listener) -> Any:
        return EchoClient.builder().limits(limits).add_handler(each.handler)

    async with AsyncExitStack() as stack:
        first, *others = listeners
        nodes = await stack.enter_async_context(connected(*handlers, server=server, client=builder(first)))
        for each in others:
            client = builder(each).transport(nodes.transport).serializer(JsonSerializer())
            await stack.enter_async_context(client.connect("memory://node:1"))
        yield nodes


def counters(nodes: Nodes) -> dict[str, float]:
    stats = nodes.server.context().stats()
    return {name: value for name, value in stats.items() if value and name not in ("sessions", "groups", "broadcasts")}


async def ticks(nodes: Nodes, numbers: Any, text: str = TEXT, **options: Any) -> list[int]:
    reached = []
    for number in numbers:
        reached.append(await nodes.server.context().broadcast("tick", [number, text], **options))
        await anyio.sleep(0.001)  # no quick client falls behind
    return reached


# --- what everybody gets --------------------------------------------------------------------------------------------


class Counting(JsonSerializer):
    """Counts what it encodes."""

    def __init__(self, name: str = "json", fails: bool = False) -> None:
        super().__init__(name)
        self.encoded = 0
        self._fails = fails

    def _make(self, type: Any) -> Codec:
        codec = super()._make(type)

        def encode(value: Any) -> bytes:
            self.encoded += 1
            if self._fails:
                raise SerializationError("cannot say that")
            return codec.encode(value)

        return Codec(encode, codec.decode)


async def test_one_encoding_serves_all_sessions_that_agreed_on_the_same_serializer() -> None:
    both = Counting("one"), Counting("two")
    server = EchoServer.builder().serializer(both[0]).serializer(both[1])
    listeners = [Listener() for _ in range(6)]
    async with connected(server=server) as nodes, AsyncExitStack() as stack:
        for number, each in enumerate(listeners):
            name = ("one", "two")[number % 2]
            client = EchoClient.builder().transport(nodes.transport).serializer(JsonSerializer(name))
            await stack.enter_async_context(client.add_handler(each.handler).connect("memory://node:1"))
        assert await nodes.server.context().broadcast("tick", [7, "seven"]) == 7
        await anyio.sleep(1)
        assert [each.got for each in listeners] == [[[7, "seven"]]] * 6
        assert [each.encoded for each in both] == [1, 1]
        assert counters(nodes) == {"delivered": 7}


async def test_what_cannot_be_encoded_is_one_error_and_nothing_is_sent() -> None:
    server = EchoServer.builder().serializer(JsonSerializer("one")).serializer(Counting("two", fails=True))
    listeners = [Listener(), Listener()]
    async with connected(server=server) as nodes, AsyncExitStack() as stack:
        for name, each in zip(("one", "two"), listeners, strict=True):
            client = EchoClient.builder().transport(nodes.transport).serializer(JsonSerializer(name))
            await stack.enter_async_context(client.add_handler(each.handler).connect("memory://node:1"))
        with pytest.raises(SerializationError, match="cannot say that"):
            await nodes.server.context().broadcast("tick", [1])
        await anyio.sleep(1)
        assert [each.got for each in listeners] == [[], []]
        assert nodes.server.context().stats()["broadcasts"] == 0


async def test_nobody_there_is_nobody_reached() -> None:
    assert await EchoServer.builder().bind("memory://node:1")._node.context.broadcast("tick", object()) == 0


@pytest.mark.parametrize("size", [100, 100_000, 300_000], ids=["frame", "body", "several windows"])
async def test_every_length_arrives_in_order(size: int) -> None:
    listeners = [Listener(), Listener(), Listener()]
    async with audience(*listeners, limits=Limits()) as nodes:
        assert await ticks(nodes, range(30), "y" * size) == [3] * 30
        await anyio.sleep(5)
        for each in listeners:
            assert each.numbers == list(range(30))
            assert all(len(value[1]) == size for value in each.got)
        assert counters(nodes) == {"delivered": 90}


async def test_a_peer_that_takes_less_is_left_out_and_counted() -> None:
    large, small = Listener(), Listener()
    async with audience(small) as nodes, AsyncExitStack() as stack:
        client = EchoClient.builder().transport(nodes.transport).serializer(JsonSerializer()).add_handler(large.handler)
        await stack.enter_async_context(client.connect("memory://node:1"))
        assert await ticks(nodes, [1], "y" * 20_000) == [1]
        await anyio.sleep(1)
        assert (large.numbers, small.numbers) == ([1], [])
        assert counters(nodes) == {"delivered": 1, "too_large": 1}
        with pytest.raises(InvalidArgument, match="no session takes that much"):
            await ticks(nodes, [1], "y" * 5_000_000)


@pytest.mark.parametrize("name", ["", "a b", "$ack", "x" * 129, 7, None])
async def test_names_are_checked(name: Any) -> None:
    async with connected() as nodes:
        with pytest.raises(InvalidArgument):
            await nodes.server.context().broadcast(name, 1)
        with pytest.raises(InvalidArgument):
            nodes.server.context().set_policy(name, "wait")


@pytest.mark.parametrize("policy", ["lastest", "", 7])
async def test_policies_are_checked(policy: Any) -> None:
    for choose in (EchoServer.builder().broadcast_policy, EchoServer.builder()._node.context.set_policy):
        with pytest.raises(InvalidArgument, match="wanted wait, drop_oldest, latest, disconnect"):
            choose("tick", policy)
    async with connected() as nodes:
        with pytest.raises(InvalidArgument, match="broadcast policy"):
            await nodes.server.context().broadcast("tick", 1, policy=policy)
        with pytest.raises(InvalidArgument, match="kernel's"):
            await nodes.server.context().broadcast("tick", 1, metadata={"$timeout": "5"})


async def test_handlers_and_subscribers_broadcast() -> None:
    listener = Listener()

    @rpc("say")
    async def say(session: Session, number: int) -> int:
        return await session.server_ctx.broadcast("tick", [number])

    @event("shout")
    async def shout(session: Session, number: int) -> None:
        for _ in range(3):
            await session.server_ctx.broadcast("tick", [number])
            await session.server_ctx.broadcast("shout", number)  # back to where it came from

    async with audience(listener, handlers=[say, shout]) as nodes:
        assert await nodes.client.request("say", 1) == 1
        await nodes.client.emit("shout", 2)
        await anyio.sleep(1)
        assert listener.numbers == [1, 2, 2, 2]


# --- a raw peer -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def raw_peer(nodes: Nodes, **hello: Any) -> AsyncIterator[tuple[MemoryConnection, RecvStream]]:
    async with open_tasks() as tasks:
        connection = await nodes.transport.connect(parse_address("memory://node:1"), tasks)
        assert isinstance(connection, MemoryConnection)
        send, recv = await connection.open_bi_stream()
        channel = Channel(Role.DIALER, Hello(serializers=("json",), **hello))
        channel.send_hello()
        await send.write(Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0))
        while channel.phase is Phase.WAITING:
            channel.receive(await recv.read())
        yield connection, recv
        await connection.close(drain=0)


async def test_metadata_travels_with_it() -> None:
    async with connected() as nodes, raw_peer(nodes) as (_, recv):
        await nodes.server.context().broadcast("tick", 5, metadata={"unit": "m"})
        ((_, request_id, method, flags, payload),) = FrameDecoder(10_000).feed(await recv.read())
        assert (request_id, method, flags & Flags.METADATA) == (0, "tick", Flags.METADATA)
        metadata, end = take_map(payload)
        assert (metadata, payload[end:]) == ({"unit": "m"}, b"5")


@pytest.mark.parametrize("size", [1_000, 290_000], ids=["frames", "bodies"])
async def test_a_peer_that_promises_endless_room_and_never_reads_is_cut_off(size: int) -> None:
    limits = Limits(
        max_message=300_000, event_window=400_000, max_request_bytes=300_000, outbox=300_000, broadcast_backlog=500_000
    )
    listener = Listener()
    async with audience(listener, server=EchoServer.builder().limits(limits), limits=Limits()) as nodes:
        async with raw_peer(nodes, event_limit=2**60) as (connection, _):
            session = nodes.server.context().sessions()[1]
            reached = await ticks(nodes, range(4_000_000 // size), "z" * size)
            with anyio.fail_after(5):
                error = await connection.wait_closed()
            assert isinstance(error, ConnectionClosed)
            assert (error.code, error.by_peer) == (Code.RESOURCE_EXHAUSTED, True)
            assert error.reason == "slow consumer: event tick: more than 500,000 bytes of broadcasts wait"
            assert reached[0] == 2 and reached[-1] == 1
            assert (sum(reached) - len(reached)) * size < 262_144 + 300_000 + 500_000 + 2 * size, "memory is bounded"
        await anyio.sleep(5)
        assert listener.numbers == list(range(4_000_000 // size)), "nobody else notices"
        assert isinstance(session.closed, ConnectionClosed) and session.closed.code == Code.RESOURCE_EXHAUSTED
        stats = nodes.server.context().stats()
        assert (stats["disconnected"], stats["dropped_wait"], stats["waiting"], stats["waiting_bytes"]) == (1, 1, 0, 0)
        assert stats["delivered"] + stats["lost"] == sum(reached)


# --- policies -------------------------------------------------------------------------------------------------------


async def test_wait_keeps_everything_in_order() -> None:
    slow, quick = Listener(slow=True), Listener()
    async with audience(slow, quick) as nodes:
        assert await ticks(nodes, range(200)) == [2] * 200
        await anyio.sleep(1)
        assert quick.numbers == list(range(200)), "nobody waits for the slowest"
        stats = counters(nodes)
        assert stats["waiting"] > 150
        assert 1_000 * stats["waiting"] < stats["waiting_bytes"] < 1_100 * stats["waiting"]
        assert stats["delivered"] + stats["waiting"] == 400
        session = nodes.server.context().sessions()[0].stats()
        assert session["broadcasts_waiting"] == stats["waiting"]
        assert session["broadcasts_waiting_bytes"] == stats["waiting_bytes"]
        slow.go.set()
        await anyio.sleep(2)
        assert slow.numbers == list(range(200))
        assert counters(nodes) == {"delivered": 400}
        session = nodes.server.context().sessions()[0].stats()
        assert (session["broadcasts_waiting"], session["broadcasts_delivered"]) == (0, 200)


async def test_wait_ends_at_its_bound() -> None:
    slow, quick = Listener(slow=True), Listener()
    server = EchoServer.builder().limits(Limits(broadcast_backlog=20_000))
    async with audience(slow, quick, server=server) as nodes:
        session = nodes.session
        reached = await ticks(nodes, range(100))
        assert sum(reached) < 180 and reached[-1] == 1
        await anyio.sleep(3)
        assert isinstance(session.closed, ConnectionClosed)
        assert session.closed.code == Code.RESOURCE_EXHAUSTED
        assert "slow consumer: event tick: more than 20,000 bytes" in str(session.closed)
        stats = counters(nodes)
        assert (stats["disconnected"], stats["dropped_wait"]) == (1, 1)
        assert "waiting" not in stats and "waiting_bytes" not in stats
        assert stats["delivered"] + stats["lost"] == sum(reached)
        assert quick.numbers == list(range(100))


async def test_drop_oldest_keeps_the_newest() -> None:
    slow = Listener(slow=True)
    server = EchoServer.builder().limits(Limits(broadcast_keep=5)).broadcast_policy("tick", "drop_oldest")
    async with audience(slow, server=server) as nodes:
        assert await ticks(nodes, range(100)) == [1] * 100
        stats = counters(nodes)
        assert stats["waiting"] == 5
        assert stats["delivered"] + stats["dropped_drop_oldest"] + 5 == 100
        slow.go.set()
        await anyio.sleep(2)
        delivered = int(stats["delivered"])
        assert slow.numbers == [*range(delivered), 95, 96, 97, 98, 99]
        assert nodes.session.stats()["broadcasts_dropped"] == stats["dropped_drop_oldest"]


async def test_drop_oldest_is_bounded_in_bytes_too() -> None:
    slow = Listener(slow=True)
    server = EchoServer.builder().limits(Limits(broadcast_backlog=10_000))
    async with audience(slow, server=server) as nodes:
        assert await ticks(nodes, range(100), policy="drop_oldest") == [1] * 100
        stats = counters(nodes)
        assert stats["waiting"] == 9 and stats["waiting_bytes"] <= 10_000
        slow.go.set()
        await anyio.sleep(2)
        assert slow.numbers[-9:] == list(range(91, 100))


async def test_latest_keeps_one_of_each_event() -> None:
    slow = Listener(slow=True)
    context_of = EchoServer.builder()
    async with audience(slow, server=context_of) as nodes:
        context = nodes.server.context()
        context.set_policy("tick", "latest")
        context.set_policy("other", "latest")
        await ticks(nodes, range(100))
        for number in range(10):
            await context.broadcast("other", number)
        stats = counters(nodes)
        assert (stats["waiting"], stats["dropped_latest"]) == (2, 100 - stats["delivered"] - 1 + 9)
        slow.go.set()
        await anyio.sleep(2)
        assert slow.numbers == [*range(int(stats["delivered"])), 99]
        assert counters(nodes)["delivered"] == stats["delivered"] + 2


async def test_disconnect_ends_a_session_that_is_behind() -> None:
    slow, quick = Listener(slow=True), Listener()
    server = EchoServer.builder().broadcast_policy("tick", "disconnect")
    async with audience(slow, quick, server=server) as nodes:
        session = nodes.session
        reached = await ticks(nodes, range(100))
        assert reached == sorted(reached, reverse=True) and (reached[0], reached[-1]) == (2, 1)
        await anyio.sleep(3)
        assert isinstance(session.closed, ConnectionClosed)
        assert session.closed.reason == "slow consumer: event tick has to be taken at once"
        assert counters(nodes) == {"delivered": sum(reached), "disconnected": 1, "dropped_disconnect": 1}
        assert quick.numbers == list(range(100))


async def test_the_policy_of_one_broadcast_wins_and_never_drops_what_others_promised() -> None:
    slow = Listener(slow=True)
    async with audience(slow, server=EchoServer.builder().broadcast_policy("tick", "latest")) as nodes:
        await ticks(nodes, range(60), policy="wait")
        await ticks(nodes, range(60, 70))
        await ticks(nodes, range(70, 80), policy="drop_oldest")
        slow.go.set()
        await anyio.sleep(2)
        assert slow.numbers == [*range(60), 69, *range(70, 80)]


async def test_the_limit_of_bytes_is_one_for_all_policies() -> None:
    slow = Listener(slow=True)
    async with audience(slow, server=EchoServer.builder().limits(Limits(broadcast_backlog=20_000))) as nodes:
        number = 0
        while counters(nodes).get("waiting_bytes", 0) < 19_000:
            await ticks(nodes, [number], policy="wait")
            number += 1
        context = nodes.server.context()
        assert await context.broadcast("other", TEXT, policy="latest") == 0
        assert await context.broadcast("other", TEXT, policy="drop_oldest") == 0
        stats = counters(nodes)
        assert (stats["dropped_latest"], stats["dropped_drop_oldest"]) == (1, 1)
        slow.go.set()
        await anyio.sleep(2)
        assert slow.numbers == list(range(number))


# --- order ----------------------------------------------------------------------------------------------------------


async def test_an_emit_does_not_overtake_a_broadcast() -> None:
    slow = Listener(slow=True)
    async with audience(slow) as nodes:
        session = nodes.session

        async def talk() -> None:
            for number in range(0, 90, 3):
                await ticks(nodes, [number, number + 1])
                await session.emit("tick", [number + 2, "short"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk)
            await anyio.sleep(1)
            assert len(slow.got) == 1
            slow.go.set()
        await anyio.sleep(1)
        assert slow.numbers == list(range(90))


async def test_a_newer_latest_does_not_overtake_an_emit_before_it() -> None:
    slow = Listener(slow=True)
    async with audience(slow) as nodes:
        await ticks(nodes, range(40))
        await ticks(nodes, [40], policy="latest")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(nodes.session.emit, "tick", [41, "emitted"])
            await anyio.sleep(0.1)
            await ticks(nodes, [42, 43], policy="latest")
            slow.go.set()
        await anyio.sleep(1)
        assert slow.numbers == [*range(40), 41, 43]


async def test_an_emit_that_is_given_up_leaves_the_queue() -> None:
    slow = Listener(slow=True)
    async with audience(slow) as nodes:
        await ticks(nodes, range(40))
        with anyio.move_on_after(1) as scope:
            await nodes.session.emit("tick", [98, "given up"])
        assert scope.cancelled_caught
        await ticks(nodes, [40])
        slow.go.set()
        await anyio.sleep(1)
        assert slow.numbers == list(range(41))
        await nodes.session.emit("tick", [99, "after all"])
        await anyio.sleep(1)
        assert slow.numbers[-1] == 99


async def test_an_emit_waits_for_no_request_that_nobody_answers() -> None:
    listener = Listener()

    @rpc("never")
    async def never() -> None:
        await anyio.sleep_forever()

    limits = Limits(max_requests=1)
    async with (
        connected(client=EchoClient.builder().limits(limits).add_handler(never).add_handler(listener.handler)) as n,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(3):
            tasks.start_soon(n.session.request, "never")
        await anyio.sleep(0.1)
        with anyio.fail_after(1):
            await n.session.emit("tick", [1])
            await ticks(n, [2])
        await anyio.sleep(0.1)
        assert listener.numbers == [1, 2]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("tasks", [1, 3])
async def test_many_sessions_get_them_in_turns_and_in_one_order(tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echokernel.engine.broadcast.TURN", 4)
    listeners = [Listener() for _ in range(15)]
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async def talk(task: int) -> None:
        for number in range(10):
            assert await nodes.server.context().broadcast("tick", [100 * task + number]) == 15

    async with audience(*listeners) as nodes:
        async with anyio.create_task_group() as group:
            group.start_soon(count_turns)
            async with anyio.create_task_group() as talking:
                for task in range(tasks):
                    talking.start_soon(talk, task)
            group.cancel_scope.cancel()
        assert turns >= 10 * tasks * 3, "others run meanwhile"
        await anyio.sleep(1)
        for each in listeners:
            assert each.numbers == listeners[0].numbers, "all see the same order"
        assert sorted(listeners[0].numbers) == [100 * task + number for task in range(tasks) for number in range(10)]
        assert not nodes.server.context()._broadcasts._underway


async def test_sessions_come_and_go_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echokernel.engine.broadcast.TURN", 2)
    steady = Listener()
    done = False

    async def come_and_go(nodes: Nodes) -> None:
        while not done:
            client = EchoClient.builder().transport(nodes.transport).serializer(JsonSerializer())
            async with client.add_handler(Listener(slow=True).handler).connect("memory://node:1"):
                await anyio.sleep(0.01)

    async with audience(steady) as nodes, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(come_and_go, nodes)
        reached = []
        for number in range(200):
            reached += await ticks(nodes, [number])
            await anyio.sleep(0.001)
        done = True
        await anyio.sleep(1)
        assert steady.numbers == list(range(200))
        assert min(reached) >= 1 and max(reached) > 1
        stats = counters(nodes)
        assert stats["delivered"] + stats.get("lost", 0) == sum(reached)
        assert "waiting" not in stats


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_what_waits_is_delivered_while_the_server_drains_and_nothing_new_is_taken() -> None:
    slow = Listener(slow=True)
    async with audience(slow) as nodes:
        context = nodes.server.context()
        await ticks(nodes, range(100))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(nodes.server.stop)
            await anyio.sleep(1)
            assert await context.broadcast("tick", [100]) == 0
            slow.go.set()
        assert slow.numbers == list(range(100))
        assert counters(nodes) == {"delivered": 100}


async def test_a_slow_session_does_not_keep_the_server_from_stopping() -> None:
    slow = Listener(slow=True)
    async with audience(slow, server=EchoServer.builder().limits(Limits(drain_timeout=1))) as nodes:
        await ticks(nodes, range(100))
        with anyio.fail_after(10):
            await nodes.server.stop()
        await anyio.sleep(3)
        stats = counters(nodes)
        assert stats["delivered"] + stats["lost"] == 100
        assert "waiting_bytes" not in stats


async def test_a_lost_connection_ends_what_waits() -> None:
    slow = Listener(slow=True)
    async with audience(slow) as nodes:
        await ticks(nodes, range(50))
        failed: list[Exception] = []

        async def emit() -> None:
            try:
                await nodes.session.emit("tick", [1])
            except ConnectionClosed as error:
                failed.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(emit)
            await anyio.sleep(0.1)
            nodes.transport.connections[0][1].die()
        assert len(failed) == 1
        stats = counters(nodes)
        assert stats["delivered"] + stats["lost"] == 50 and "waiting" not in stats


async def test_an_idle_session_keeps_nothing() -> None:
    slow = Listener(slow=True)
    async with audience(slow) as nodes:
        backlog = nodes.session._calls.backlog
        assert backlog.queue is None and nodes.session._groups is None
        await ticks(nodes, range(50))
        assert backlog.queue is not None
        slow.go.set()
        await anyio.sleep(1)
        assert backlog.queue is None


def test_the_policies_are_a_public_type() -> None:
    policy: BroadcastPolicy = "latest"
    assert policy in BroadcastPolicy.__args__  # type: ignore[attr-defined]
