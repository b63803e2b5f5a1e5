"""A client with a reconnect policy: what survives the loss of its connection, what fails, and when it gives up."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from echokernel import (
    ClientBuilder,
    ClientContext,
    ConnectionClosed,
    EchoClient,
    EchoError,
    EchoServer,
    InvalidArgument,
    Limits,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    ReconnectPolicy,
    RequestTimeout,
    ServerBuilder,
    Session,
    StreamReceiver,
    TransportError,
    Unauthenticated,
    event,
    rpc,
    stream,
)
from echokernel.engine import redialling
from echokernel.testing import JsonSerializer, MemoryTransport
from echokernel_protocol.codes import Code

pytestmark = pytest.mark.anyio


class Every(ReconnectPolicy):
    """The same pause each time, ``limit`` tries; keeps what it was asked."""

    def __init__(self, delay: float = 0.5, limit: int = 1_000) -> None:
        self.delay, self.limit = delay, limit
        self.asked: list[tuple[int, str]] = []
        self.connections = 0

    def next_delay(self, attempt: int, error: Exception) -> float | None:
        self.asked.append((attempt, type(error).__name__))
        return self.delay if attempt <= self.limit else None

    def connected(self) -> None:
        self.connections += 1


class Place:
    """An address at which servers come and go."""

    def __init__(self, tasks: Any, make: Callable[[], ServerBuilder]) -> None:
        self.transport = MemoryTransport()
        self._tasks, self._make = tasks, make
        self.server: EchoServer

    async def start(self) -> None:
        builder = self._make().transport(self.transport).serializer(JsonSerializer()).bind("memory://node:1")
        self.server = builder.build()
        self._tasks.start_soon(self.server.run)
        while not self.server.addresses:
            await anyio.sleep(0.01)

    async def cut(self) -> None:
        """Every connection is dead, and both ends have noticed."""
        for dialer, _ in self.transport.connections:
            dialer.die()
        self.transport.connections.clear()
        await anyio.sleep(0.001)

    async def kill(self) -> None:
        await self.cut()
        await self.server.stop(drain=0)

    def client(self, policy: ReconnectPolicy | None = None, **how: Any) -> ClientBuilder:
        builder = EchoClient.builder().transport(self.transport).serializer(JsonSerializer())
        return builder.reconnect(policy or Every(), **how)


@asynccontextmanager
async def place(*handlers: Any, make: Callable[[], ServerBuilder] = EchoServer.builder) -> AsyncIterator[Place]:
    def builder() -> ServerBuilder:
        made = make()
        for handler in handlers:
            made.add_handler(handler)
        return made

    async with anyio.create_task_group() as tasks:
        there = Place(tasks, builder)
        await there.start()
        yield there
        await there.server.stop(drain=0)


ADDRESS = "memory://node:1"


@rpc
async def add(a: int, b: int) -> int:
    return a + b


@rpc
async def forever() -> None:
    await anyio.sleep_forever()


@rpc
async def ask_back(session: Session, value: int) -> int:
    return int(await session.request("double", value, returns=int))


@rpc
async def double(value: int) -> int:
    return value * 2


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_lost_connection_becomes_a_new_session_and_all_else_stays() -> None:
    seen: list[Any] = []
    policy = Every(2.0)
    async with place(add, ask_back) as there:
        builder = (
            there.client(policy)
            .add_rpc(double)
            .on_connect(lambda context: seen.append("connect"))
            .on_disconnect(lambda context: seen.append("disconnect"))
            .on_reconnecting(lambda context, attempt, delay: seen.append(("reconnecting", attempt, delay)))
            .on_reconnected(lambda context, gap: seen.append(("reconnected", round(gap, 1))))
            .on_gave_up(lambda context, error: seen.append(error))
        )
        async with builder.connect(ADDRESS) as client:
            context, first = client.context(), client.session
            context.set("kept", "yes")
            first.set("of the session", "gone")
            assert await client.request("ask_back", 4) == 8
            await there.cut()
            await until(lambda: client.session is not first and client.is_connected)
            assert await client.request("ask_back", 5) == 10
            assert client.context() is context and context.get("kept") == "yes"
            assert context.session is client.session and client.session.get("of the session") is None
            assert [session.id for session in there.server.context().sessions()] == [2]
            await until(lambda: len(seen) == 5)
            assert (policy.asked, policy.connections) == ([(1, "ConnectionClosed")], 2)
        assert seen == [
            "connect",
            "disconnect",
            ("reconnecting", 1, 2.0),
            "connect",
            ("reconnected", 2.0),
            "disconnect",
        ]


async def test_what_is_asked_meanwhile_waits_and_what_was_sent_fails() -> None:
    taken: list[Any] = []

    @event
    async def log(value: int) -> None:
        taken.append(value)

    @stream
    async def audio(stream: StreamReceiver) -> None:
        taken.extend([frame.data async for frame in stream])

    @rpc
    async def count(session: Session, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number

    answers: dict[str, Any] = {}

    async def ask(name: str, function: Callable[[], Any]) -> None:
        answers[name] = await function()

    async def send_stream(client: EchoClient) -> None:
        async with await client.create_stream("audio") as sender:
            await sender.send(b"x")
        await sender.wait_taken()

    async def read(client: EchoClient) -> list[int]:
        async with client.request_stream("count", 3, returns=int, timeout=20) as call:
            return [number async for number in call]

    async with place(add, log, audio, count, forever) as there, there.client().connect(ADDRESS) as client:
        async with anyio.create_task_group() as tasks:

            async def sent_already() -> None:
                with pytest.raises(OutcomeUnknown):
                    await client.request("forever")
                answers["sent already"] = "fails"

            tasks.start_soon(sent_already)
            await anyio.sleep(0.1)
            await there.kill()
            await until(lambda: not client.is_connected and answers)
            tasks.start_soon(ask, "request", lambda: client.request("add", (1, 2), returns=int))
            tasks.start_soon(ask, "isolated", lambda: client.request("add", (1, 3), isolated=True, timeout=0))
            tasks.start_soon(ask, "emit", lambda: client.emit("log", 7))
            tasks.start_soon(ask, "stream", lambda: send_stream(client))
            tasks.start_soon(ask, "answers", lambda: read(client))
            tasks.start_soon(ask, "ping", client.ping)
            tasks.start_soon(ask, "health", client.health)
            tasks.start_soon(ask, "describe", lambda: client.describe("add"))
            await anyio.sleep(5)
            assert list(answers) == ["sent already"]
            with pytest.raises(ConnectionClosed, match="not connected now") as caught:
                await client.emit("log", 8, reliable=False)
            assert caught.value.retryable
            await there.start()
        assert (answers["request"], answers["isolated"], answers["answers"]) == (3, 4, [0, 1, 2])
        assert answers["health"].uptime >= 0 and answers["describe"].methods[0].name == "add" and answers["ping"] >= 0
        await until(lambda: len(taken) == 2)
        assert sorted(map(str, taken)) == ["7", "b'x'"]


async def test_a_wait_ends_with_its_deadline() -> None:
    async with place(add) as there, there.client().connect(ADDRESS) as client:
        await there.kill()
        await until(lambda: not client.is_connected)
        for limit, ask in (
            (3.0, lambda: client.request("add", (1, 2), timeout=3)),
            (10.0, lambda: client.request("add", (1, 2))),
            (10.0, lambda: client.emit("log", 1)),
            (10.0, lambda: client.create_stream("audio")),
            (4.0, lambda: client.request_stream("count", 1, timeout=4).result()),
            (10.0, client.ping),
        ):
            began = anyio.current_time()
            with pytest.raises(RequestTimeout, match=r"nobody answers at .* nothing was sent") as caught:
                await ask()
            assert caught.value.retryable
            assert limit <= anyio.current_time() - began < limit + 0.1
        with pytest.raises(InvalidArgument, match="timeout of -1"):
            await client.request("add", (1, 2), timeout=-1)


async def test_a_request_inside_a_handler_waits_no_longer_than_its_caller() -> None:
    waited: list[float] = []
    client: EchoClient

    @rpc
    async def through(value: int) -> int:
        began = anyio.current_time()
        with anyio.CancelScope(shield=True):  # else the end of the caller's patience would cancel it, too
            try:
                return int(await client.request("double", value, timeout=20))
            finally:
                waited.append(anyio.current_time() - began)

    async with place(double) as there, there.client().connect(ADDRESS) as client:
        front = EchoServer.builder().transport(there.transport).serializer(JsonSerializer()).bind("memory://front:2")
        async with front.add_rpc(through).build():
            dial = EchoClient.builder().transport(there.transport).serializer(JsonSerializer())
            async with dial.connect("memory://front:2") as caller:
                await there.kill()
                # the cut took the caller's connection along: that one has no policy
                with pytest.raises(ConnectionClosed):
                    await caller.request("through", 2)
            async with (
                EchoClient.builder()
                .transport(there.transport)
                .serializer(JsonSerializer())
                .connect("memory://front:2") as caller
            ):
                with pytest.raises(RequestTimeout):
                    await caller.request("through", 2, timeout=3)
                await until(lambda: waited)
                assert 2.9 < waited[0] < 3.2


async def test_closing_in_the_pause_ends_at_once_and_frees_who_waits() -> None:
    async with place(add) as there:
        async with anyio.create_task_group() as tasks, there.client(Every(1_000)).connect(ADDRESS) as client:

            async def wait() -> None:
                with pytest.raises(ConnectionClosed, match="this client was closed"):
                    await client.request("add", (1, 2), timeout=0)

            await there.kill()
            await until(lambda: not client.is_connected)
            for _ in range(3):
                tasks.start_soon(wait)
            await anyio.sleep(0.1)
            began = anyio.current_time()
            await client.close()
        assert anyio.current_time() - began < 0.1
        with pytest.raises(ConnectionClosed, match="this client was closed"):
            await client.emit("log", 1)


@pytest.mark.parametrize("where", ["a task", "on_reconnecting", "the dial"])
async def test_closing_from_elsewhere_ends_it_too(where: str) -> None:
    tried: list[int] = []

    async def closes(context: ClientContext, attempt: int, delay: float) -> None:
        tried.append(attempt)
        if where == "on_reconnecting":
            await client.close()

    async def never() -> bytes:
        if tried:
            await anyio.sleep_forever()
        return b""

    async with place(add) as there:
        builder = there.client(Every(5)).on_reconnecting(closes).credentials(never)
        async with builder.connect(ADDRESS) as client:
            await there.kill()
            await until(lambda: tried)
            if where == "the dial":
                await anyio.sleep(6)
            if where != "on_reconnecting":
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.close)
            await anyio.sleep(0.1)
            began = anyio.current_time()
            with pytest.raises(ConnectionClosed, match="this client was closed"):
                await client.request("add", (1, 2))
            assert anyio.current_time() - began < 0.1
            await there.start()
            await anyio.sleep(20)
            assert there.server.context().sessions() == []
        assert tried == [1]


async def test_a_session_that_this_program_closes_stays_closed() -> None:
    gave_up: list[Any] = []
    async with place(add) as there:
        builder = there.client().on_gave_up(lambda context, error: gave_up.append(error))
        async with builder.connect(ADDRESS) as client:
            await client.session.close()
            await anyio.sleep(20)
            with pytest.raises(ConnectionClosed, match="this client was closed"):
                await client.request("add", (1, 2))
        assert gave_up == [] and len(there.transport.connections) == 1


class Door:
    open = True
    seen: list[bytes]

    def __init__(self) -> None:
        self.seen = []

    async def authenticate(self, credentials: bytes, peer: Any) -> str | None:
        self.seen.append(credentials)
        return "somebody" if self.open else None


async def test_it_gives_up_where_it_is_not_known_and_says_why() -> None:
    door, gave_up, number = Door(), [], iter(range(10))

    async def credentials() -> str:
        return f"token {next(number)}"

    async with place(add, make=lambda: EchoServer.builder().authenticator(door)) as there:
        builder = there.client().credentials(credentials).on_gave_up(lambda context, error: gave_up.append(error))
        async with builder.connect(ADDRESS) as client:
            await there.cut()
            await until(lambda: len(door.seen) == 2)
            assert await client.request("add", (1, 2)) == 3
            door.open = False
            await there.cut()
            began = anyio.current_time()
            with pytest.raises(
                ConnectionClosed, match=r"given up after 1 try to connect again: .*credentials"
            ) as caught:
                await client.request("add", (1, 2))
            assert anyio.current_time() - began < 1
            assert caught.value.code == Code.UNAUTHENTICATED and not caught.value.retryable
            assert isinstance(caught.value.__cause__, Unauthenticated) and gave_up == [caught.value.__cause__]
            began = anyio.current_time()
            for ask in (client.emit, client.create_stream):
                with pytest.raises(ConnectionClosed, match="given up"):
                    await ask("x")
            with pytest.raises(ConnectionClosed, match="given up"):
                await client.emit("x", reliable=False)
            with pytest.raises(ConnectionClosed, match="given up"):
                await client.request_stream("x").result()
            assert anyio.current_time() == began
        assert door.seen == [b"token 0", b"token 1", b"token 2"], "asked anew at each connect"


@pytest.mark.parametrize(
    ("code", "tries"), [(Code.OK, 0), (Code.PERMISSION_DENIED, 0), (Code.INTERNAL, 1), (Code.RESOURCE_EXHAUSTED, 1)]
)
async def test_what_the_server_says_with_its_close_decides(code: Code, tries: int) -> None:
    policy = Every()
    async with place(add) as there, there.client(policy).connect(ADDRESS) as client:
        await there.server.context().sessions()[0].close(code, "so it is")
        await until(lambda: not client.is_connected)
        if tries:
            assert await client.request("add", (1, 2)) == 3
        else:
            with pytest.raises(ConnectionClosed, match=r"given up.*so it is"):
                await client.request("add", (1, 2))
        assert len(policy.asked) == tries


async def test_a_peer_that_refuses_in_on_connect_is_not_asked_again_and_a_full_one_is() -> None:
    refusing = False

    async def on_connect(session: Session) -> None:
        if refusing:
            raise PermissionDenied("not you")

    def one_at_a_time() -> ServerBuilder:
        return EchoServer.builder().on_connect(on_connect).limits(Limits(max_sessions=1))

    async with place(add, make=one_at_a_time) as there:
        policy = Every()
        async with there.client(policy).connect(ADDRESS) as client:
            await there.cut()
            await anyio.sleep(0.1)
            async with there.client().connect(ADDRESS):
                await anyio.sleep(3)
                assert len(policy.asked) > 3 and policy.asked[-1][1] == "Overloaded"
            assert await client.request("add", (1, 2)) == 3
            refusing = True
            await there.cut()
            with pytest.raises(ConnectionClosed, match=r"given up.*not you"):
                await _persist(client)


async def _persist(client: EchoClient) -> None:
    for _ in range(10):
        try:
            await client.request("add", (1, 2))
        except OutcomeUnknown:
            continue


async def test_a_client_that_refuses_its_server_in_on_connect_does_not_insist() -> None:
    policy, servers = Every(), []

    async def right_server(context: ClientContext) -> None:
        servers.append(context.session)
        if len(servers) == 2:
            raise InvalidArgument("not ready yet")
        if len(servers) == 4:
            raise PermissionDenied("that is another server")

    async with place(add) as there, there.client(policy).on_connect(right_server).connect(ADDRESS) as client:
        await there.cut()
        await until(lambda: len(servers) == 3)
        assert await client.request("add", (1, 2)) == 3, "what may pass is tried again"
        await there.cut()
        await until(lambda: len(servers) == 4)
        await anyio.sleep(1)
        with pytest.raises(ConnectionClosed, match=r"given up: .*another server"):
            await client.request("add", (1, 2))
        assert len(servers) == 4


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_that_is_awaited_connects_again_too(anyio_backend: str) -> None:
    async with place(add) as there:
        client = await there.client(Every(0.01)).connect(ADDRESS)
        await there.cut()
        assert await client.request("add", (1, 2)) == 3
        await there.cut()
        await client.close()
        with pytest.raises(ConnectionClosed, match="this client was closed"):
            await client.request("add", (1, 2))


async def test_a_server_that_goes_away_names_the_time_to_come_back() -> None:
    delays: list[float] = []
    async with place(add, forever) as there:
        builder = there.client(Every(0.5)).on_reconnecting(lambda context, attempt, delay: delays.append(delay))
        async with builder.connect(ADDRESS) as client, anyio.create_task_group() as tasks:
            session = there.server.context().sessions()[0]
            tasks.start_soon(session.drain, "maintenance", 7.0)
            await until(lambda: not client.is_connected)
            began = anyio.current_time()
            assert await client.request("add", (1, 2)) == 3, "while it drains, and after that, it waits"
            assert delays == [7.5]
            assert 7.4 <= anyio.current_time() - began < 8


async def test_a_server_that_stops_and_starts_again_is_found() -> None:
    async with place(add) as there:
        policy = Every(1.0)
        async with there.client(policy).connect(ADDRESS) as client:
            await there.server.stop(drain=1)
            await anyio.sleep(3.5)
            assert [asked[0] for asked in policy.asked] == [1, 2, 3, 4]
            assert {asked[1] for asked in policy.asked} == {"ConnectionClosed", "TransportError"}
            await there.start()
            assert await client.request("add", (1, 2)) == 3


async def test_it_gives_up_when_the_policy_does() -> None:
    gave_up: list[Any] = []
    async with place(add) as there:
        builder = there.client(Every(1, limit=3)).on_gave_up(lambda context, error: gave_up.append(error))
        async with builder.connect(ADDRESS) as client:
            await there.kill()
            with pytest.raises(ConnectionClosed, match="given up after 3 tries to connect again: nobody answers"):
                await client.request("add", (1, 2))
            assert isinstance(gave_up[0], TransportError)
            await client.close()
            with pytest.raises(ConnectionClosed, match="given up after 3 tries"):
                await client.request("add", (1, 2))


@pytest.mark.parametrize("delay", [float("nan"), -1.0, "boom"])
async def test_a_policy_that_fails_is_given_up_with_its_reason(delay: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Every):
        def next_delay(self, attempt: int, error: Exception) -> float | None:
            if isinstance(delay, str):
                raise KeyError(delay)
            return float(delay)

    async with place(add) as there, there.client(Broken()).connect(ADDRESS) as client:
        await there.cut()
        with pytest.raises(ConnectionClosed, match=r"given up: (the reconnect policy wants a pause of|'boom')"):
            await _persist(client)
    assert "the reconnect policy failed" in caplog.text


async def test_the_first_connection_is_tried_once_unless_asked_for() -> None:
    async with place(add) as there:
        await there.kill()
        policy = Every(1)
        began = anyio.current_time()
        with pytest.raises(TransportError, match="nobody answers"):
            async with there.client(policy).connect(ADDRESS):
                pass
        assert anyio.current_time() == began and policy.asked == []
        with pytest.raises(TransportError, match="nobody answers"):
            async with there.client(Every(1, limit=2), first=True).connect(ADDRESS):
                pass
        assert anyio.current_time() - began == pytest.approx(2.0)
        with anyio.move_on_after(5) as patience:
            async with there.client(Every(1), first=True).connect(ADDRESS):
                pass
        assert patience.cancelled_caught
        async with anyio.create_task_group() as tasks:

            async def later() -> None:
                await anyio.sleep(5)
                await there.start()

            tasks.start_soon(later)
            async with there.client(Every(1), first=True).connect(ADDRESS) as client:
                assert await client.request("add", (1, 2)) == 3


async def test_a_hint_ends_the_pause() -> None:
    async with place(add) as there, there.client(Every(1_000)).connect(ADDRESS) as client:
        client.reconnect_now()  # connected: nothing happens
        await there.kill()
        await until(lambda: not client.is_connected)
        await there.start()
        client.reconnect_now()
        await until(lambda: client.is_connected, 1)
        assert await client.request("add", (1, 2)) == 3


async def test_each_try_is_bounded() -> None:
    asked: list[float] = []

    async def credentials() -> bytes:
        asked.append(anyio.current_time())
        if len(asked) == 2:
            await anyio.sleep_forever()
        if len(asked) == 3:
            raise OSError("the token service is down: s3cret")
        return b""

    policy = Every(1)
    policy.dial_timeout = 4
    async with place(add) as there, there.client(policy).credentials(credentials).connect(ADDRESS) as client:
        await there.cut()
        await until(lambda: len(asked) == 4)
        assert asked[2] - asked[1] == pytest.approx(5, abs=0.1) and asked[3] - asked[2] == pytest.approx(1, abs=0.1)
        assert await client.request("add", (1, 2)) == 3
        assert [kind for _, kind in policy.asked] == ["ConnectionClosed", "RequestTimeout", "OSError"]


async def test_callbacks_may_fail_hang_and_use_the_client(caplog: pytest.LogCaptureFixture) -> None:
    sums: list[int] = []
    client: EchoClient | None = None

    async def on_connect(context: ClientContext) -> None:
        if client is not None:  # it is the second session
            assert context.session is client.session
            sums.append(await client.request("add", (1, 1)))

    def broken(*_: object) -> None:
        raise ValueError("a secret of the program")

    async def hangs(*_: object) -> None:
        await anyio.sleep_forever()

    async with place(add) as there:
        builder = there.client().on_connect(on_connect).on_reconnecting(broken).on_reconnected(hangs)
        builder.on_reconnecting(hangs).on_disconnect(hangs).on_reconnected(lambda context, gap: sums.append(-1))
        async with builder.connect(ADDRESS) as client:
            await there.cut()
            assert await client.request("add", (1, 2), timeout=30) == 3
            await until(lambda: sums == [2, -1])
    assert "a callback about reconnecting failed: ValueError" in caplog.text
    assert "given up after 5 s" in caplog.text


async def test_without_a_policy_a_lost_connection_stays_lost() -> None:
    async with place(add) as there:
        for builder in (there.client().reconnect(None), EchoClient.builder().transport(there.transport)):
            async with builder.serializer(JsonSerializer()).connect(ADDRESS) as client:
                assert type(client) is EchoClient and client.is_connected
                await there.cut()
                await anyio.sleep(5)
                client.reconnect_now()
                assert not client.is_connected
                with pytest.raises(ConnectionClosed, match="does not answer"):
                    await client.request("add", (1, 2))


async def test_connected_requests_are_the_session_s_own_coroutines() -> None:
    async with place(add) as there, there.client().connect(ADDRESS) as client:
        asked = client.request("add", (1, 2))
        assert asked.__qualname__ == "Calls.request", "no coroutine around it: it is the hot path"
        assert await asked == 3


async def test_only_so_many_calls_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redialling, "MAX_WAITING", 3)
    async with place(add) as there, there.client().connect(ADDRESS) as client:
        await there.kill()
        await until(lambda: not client.is_connected)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(client.request, "add", (1, 2))
            await anyio.sleep(0.1)
            with pytest.raises(Overloaded, match="3 calls wait"):
                await client.request("add", (1, 2))
            await there.start()


async def test_a_streaming_call_that_waits_can_be_closed() -> None:
    async with place(add) as there, there.client().connect(ADDRESS) as client:
        await there.kill()
        await until(lambda: not client.is_connected)
        call = client.request_stream("count", 3)
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(EchoError, match="closed here"):
                    await anext(call)

            tasks.start_soon(wait)
            await anyio.sleep(1)
            call.close()


async def test_fifty_random_kills_double_nothing_and_leave_nobody_hanging() -> None:
    """Non-idempotent calls: each ran once or not at all where its answer came or it failed unsent, at most once otherwise."""
    ran: dict[int, int] = {}
    chance = random.Random(50)
    kinds: dict[str, int] = {}

    @rpc
    async def note(number: int) -> int:
        ran[number] = ran.get(number, 0) + 1
        await anyio.sleep(chance.uniform(0, 0.2))
        return number

    async with place(note) as there, there.client(Every(0.1)).connect(ADDRESS) as client:
        over, number = False, 0

        async def call() -> None:
            nonlocal number
            while not over:
                number += 1
                mine = number
                with anyio.fail_after(40):
                    try:
                        assert await client.request("note", mine, timeout=30) == mine
                    except OutcomeUnknown:
                        kinds["unknown"] = kinds.get("unknown", 0) + 1
                        assert ran.get(mine, 0) <= 1
                    except ConnectionClosed:
                        kinds["never sent"] = kinds.get("never sent", 0) + 1
                        assert mine not in ran
                    else:
                        kinds["answered"] = kinds.get("answered", 0) + 1
                        assert ran[mine] == 1

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(call)
            for _ in range(50):
                await anyio.sleep(chance.uniform(0.05, 1))
                if chance.random() < 0.3:
                    await there.kill()
                    await anyio.sleep(chance.uniform(0, 1))
                    await there.start()
                else:
                    await there.cut()
            await anyio.sleep(1)
            over = True
        assert max(ran.values()) == 1
        assert kinds["answered"] > 500 and kinds["unknown"] > 50
        assert client.session.stats()["open_requests"] == 0


async def test_many_reconnects_leave_no_tasks_behind() -> None:
    async with place(add) as there, there.client(Every(0)).connect(ADDRESS) as client:
        assert client._tasks is not None
        counts = set()
        for _ in range(20):
            old = client.session
            await there.cut()
            await until(lambda old=old: client.session is not old and client.is_connected)
            await anyio.sleep(5)
            assert await client.request("add", (1, 2)) == 3
            counts.add((len(client._tasks._running), len(client.session._tasks._running)))  # type: ignore[attr-defined]
        assert len(counts) == 1 and counts.pop()[0] == 1


@rpc
async def upto(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number


@rpc
async def total(numbers: AsyncIterator[int]) -> int:
    return sum([number async for number in numbers])


async def test_typed_calls_wait_as_others_do() -> None:
    async with place(add, upto, total) as there, there.client().connect(ADDRESS) as client:
        quick = client.with_options(timeout=0.1)
        assert await client.call(add, 1, 2) == 3
        await there.cut()
        assert not client.is_connected
        with pytest.raises(RequestTimeout, match="nothing was sent"):
            await quick.call(add, 1, 2)
        async with client.call(upto, 3) as answers:
            assert [answer async for answer in answers] == [0, 1, 2]
        await there.cut()
        assert await client.call(total, [1, 2, 3]) == 6  # type: ignore[arg-type]
        await there.cut()
        assert await client.call(add, 3, 4) == 7
