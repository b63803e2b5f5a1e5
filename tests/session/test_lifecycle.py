"""Hello, authentication, hooks, middleware, draining, and what a node refuses to do."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from echokernel import (
    ConfigError,
    ConnectionClosed,
    EchoClient,
    EchoError,
    EchoServer,
    Frame,
    InvalidArgument,
    Limits,
    Middleware,
    OutcomeUnknown,
    PeerIdentity,
    PermissionDenied,
    ProtocolError,
    RequestTimeout,
    ServerBuilder,
    Session,
    TransportError,
    Unauthenticated,
    event,
    rpc,
)
from echokernel.middleware import Next
from echokernel.testing import JsonSerializer, MemoryTransport, connected
from echokernel_protocol.codes import Code

pytestmark = pytest.mark.anyio


@rpc
async def double(value: int) -> int:
    return 2 * value


# --- hello ----------------------------------------------------------------------------------------------------------


async def test_nobody_at_an_address_is_a_transport_error() -> None:
    builder = EchoClient.builder().transport(MemoryTransport()).serializer(JsonSerializer())
    with pytest.raises(TransportError, match="nobody answers at memory://x:9; is the server running"):
        async with builder.connect("memory://x:9"):
            pass


async def test_nodes_without_a_common_serializer_say_so() -> None:
    transport = MemoryTransport()
    async with connected(transport=transport):
        builder = EchoClient.builder().transport(transport).serializer(JsonSerializer("cbor"))
        with pytest.raises(ProtocolError, match="no serializer in common: we have json; the peer has cbor"):
            async with builder.connect("memory://node:1"):
                pass


async def test_a_server_that_never_answers_the_hello_is_given_up() -> None:
    transport = MemoryTransport()
    from echokernel.addresses import parse_address
    from echokernel.tasks import open_tasks

    async with open_tasks() as tasks:
        await transport.listen(parse_address("memory://x:1"), tasks)
        began = anyio.current_time()
        with pytest.raises(RequestTimeout, match="no answer to the hello within 5 s"):
            async with EchoClient.builder().transport(transport).serializer(JsonSerializer()).connect("memory://x:1"):
                pass
        assert 5 <= anyio.current_time() - began < 5.2


async def test_a_client_that_never_says_hello_is_closed() -> None:
    transport = MemoryTransport()
    async with connected(transport=transport) as nodes:
        from echokernel.addresses import parse_address
        from echokernel.tasks import open_tasks

        async with open_tasks() as tasks:
            connection = await transport.connect(parse_address("memory://node:1"), tasks)
            with anyio.fail_after(6):
                error = await connection.wait_closed()
        assert "no hello in time" in str(error)
        assert {"sessions": 1, "unauthenticated": 0}.items() <= nodes.server.stats().items()


class Passwords:
    """Knows two people."""

    def __init__(self) -> None:
        self.asked: list[PeerIdentity | None] = []

    async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
        self.asked.append(peer)
        if credentials == b"broken":
            raise RuntimeError("database on fire")
        return {b"swordfish": "ann", b"hunter2": "bob"}.get(credentials)


async def test_the_principal_is_on_the_session() -> None:
    passwords = Passwords()
    server = EchoServer.builder().authenticator(passwords)
    async with connected(double, server=server, client=EchoClient.builder().credentials("swordfish")) as nodes:
        assert nodes.session.principal == "ann"
        assert await nodes.client.request("double", 2) == 4


@pytest.mark.parametrize("credentials", ["wrong", "broken", ""])
async def test_a_stranger_is_refused_and_nothing_of_it_runs(credentials: str) -> None:
    ran: list[int] = []

    @rpc
    async def secret() -> None:
        ran.append(1)

    server = EchoServer.builder().authenticator(Passwords()).on_connect(lambda session: ran.append(2))
    with pytest.raises(Unauthenticated, match="the peer refused: the credentials"):
        async with connected(secret, server=server, client=EchoClient.builder().credentials(credentials)) as nodes:
            await nodes.client.request("secret")
    assert ran == []


async def test_credentials_may_be_asked_for_at_each_connect() -> None:
    async def fetch() -> str:
        await anyio.sleep(0.01)
        return "hunter2"

    server = EchoServer.builder().authenticator(Passwords())
    async with connected(server=server, client=EchoClient.builder().credentials(fetch)) as nodes:
        assert nodes.session.principal == "bob"


async def test_sessions_and_hellos_are_bounded() -> None:
    transport = MemoryTransport()
    server = EchoServer.builder().limits(Limits(max_sessions=1))
    async with connected(server=server, transport=transport):
        builder = EchoClient.builder().transport(transport).serializer(JsonSerializer())
        with pytest.raises(EchoError, match="this node has 1 sessions already"):
            async with builder.connect("memory://node:1"):
                pass


# --- hooks ----------------------------------------------------------------------------------------------------------


async def test_hooks_are_called_sync_or_async_in_their_order() -> None:
    log: list[str] = []

    async def later(_: object) -> None:
        await anyio.lowlevel.checkpoint()
        log.append("async connect")

    server = (
        EchoServer.builder()
        .on_start(lambda context: log.append("start"))
        .on_stop(lambda context: log.append("stop"))
        .on_connect(lambda session: log.append(f"connect {session.id}"))
        .on_connect(later)
        .on_disconnect(lambda session: log.append(f"disconnect {session.id}"))
    )
    client = (
        EchoClient.builder()
        .on_connect(lambda context: log.append("client connect"))
        .on_disconnect(lambda context: log.append("client disconnect"))
    )
    async with connected(double, server=server, client=client) as nodes:
        await nodes.client.request("double", 1)
        log.append("work")
    assert log.index("start") < log.index("connect 1") < log.index("async connect") < log.index("work")
    assert log.index("work") < log.index("disconnect 1") < log.index("stop")
    assert log.index("client connect") < log.index("work") < log.index("client disconnect")


async def test_nothing_is_handled_before_on_connect_returns() -> None:
    log: list[str] = []

    async def prepare(session: Session) -> None:
        await anyio.sleep(1)
        session.set("name", await session.request("name"))
        log.append("prepared")

    @rpc
    async def name() -> str:
        return "ann"

    @rpc
    async def my_name(session: Session) -> str:
        log.append("asked")
        return str(session.get("name"))

    async with connected(my_name, server=EchoServer.builder().on_connect(prepare), client_handlers=[name]) as nodes:
        assert await nodes.client.request("my_name") == "ann"
    assert log == ["prepared", "asked"]


async def test_an_exception_in_on_connect_closes_the_session() -> None:
    def refuse(session: Session) -> None:
        raise ValueError("no")

    async with connected(double, server=EchoServer.builder().on_connect(refuse)) as nodes:
        with pytest.raises(ConnectionClosed, match="on_connect failed"):
            await nodes.client.request("double", 1)


@pytest.mark.parametrize("isolated", [False, True])
async def test_a_peer_that_on_connect_refuses_learns_why_and_that_nothing_ran(isolated: bool) -> None:
    def refuse(session: Session) -> None:
        raise PermissionDenied("not today")

    async with connected(double, server=EchoServer.builder().on_connect(refuse)) as nodes:
        with pytest.raises(ConnectionClosed, match="not today") as caught:
            await nodes.client.request("double", 1, isolated=isolated)
        assert not isinstance(caught.value, OutcomeUnknown)
        assert (caught.value.code, caught.value.retryable) == (Code.PERMISSION_DENIED, False)


async def test_whoever_waits_for_the_end_of_a_session_is_told_why_it_came() -> None:
    told: list[EchoError] = []

    async def wait(session: Session) -> None:
        told.append(await session.wait_closed())

    async with connected() as nodes, anyio.create_task_group() as tasks:
        session = nodes.session
        with anyio.move_on_after(1):
            await session.wait_closed()  # one that gives up waiting is no burden later
        tasks.start_soon(wait, session)
        tasks.start_soon(wait, session)
        await anyio.sleep(1)
        assert told == []
        await nodes.client.session.close()
        with anyio.fail_after(1):
            assert await session.wait_closed() is session.closed
            assert await session.wait_closed() is session.closed
    assert told == [session.closed, session.closed]


async def test_data_lives_on_sessions_and_contexts() -> None:
    async with connected() as nodes:
        for store in (nodes.session, nodes.server.context(), nodes.client.context()):
            store.set("key", 1)
            assert store.get("key") == 1
            assert store.remove("key") == 1
            assert store.get("key") is None
            assert store.remove("key") is None
        assert nodes.session.server_ctx is nodes.server.context()
        assert nodes.client.session.client_ctx is nodes.client.context()
        with pytest.raises(AttributeError, match="belongs to a server"):
            _ = nodes.session.client_ctx
        with pytest.raises(AttributeError, match="belongs to a client"):
            _ = nodes.client.session.server_ctx


# --- middleware -----------------------------------------------------------------------------------------------------


async def test_the_onion_wraps_requests_and_events_outermost_first() -> None:
    log: list[str] = []

    class Layer(Middleware):
        def __init__(self, name: str) -> None:
            self.name = name

        async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
            log.append(f"{self.name} in {frame.header.method}")
            response = await call_next(frame)
            log.append(f"{self.name} out")
            return response

    @event
    async def note(text: str) -> None:
        log.append(text)

    server = EchoServer.builder().middleware(Layer("a")).middleware(Layer("b"))
    async with connected(double, note, server=server) as nodes:
        assert await nodes.client.request("double", 2) == 4
        assert log == ["a in double", "b in double", "b out", "a out"]
        log.clear()
        await nodes.client.emit("note", "hello")
        await anyio.sleep(0.1)
        assert log == ["a in note", "b in note", "hello", "b out", "a out"]


async def test_middleware_may_intercept_and_change() -> None:
    class Gate(Middleware):
        async def process_request(self, frame: Frame) -> Frame | None:
            if frame.header.method == "forbidden":
                return None
            return Frame(frame.header, frame.payload.replace(b"2", b"3"))

        async def process_response(self, frame: Frame) -> Frame | None:
            return Frame(frame.header, frame.payload + b"0")

    @rpc
    async def forbidden() -> None:
        raise AssertionError

    async with connected(double, forbidden, server=EchoServer.builder().middleware(Gate())) as nodes:
        assert await nodes.client.request("double", 2) == 60
        with pytest.raises(PermissionDenied, match="forbidden was intercepted"):
            await nodes.client.request("forbidden")


# --- draining -------------------------------------------------------------------------------------------------------


async def test_a_stopping_server_answers_what_is_open_and_takes_nothing_new() -> None:
    @rpc
    async def slow() -> str:
        await anyio.sleep(3)
        return "done"

    results: list[str] = []
    async with connected(slow, double) as nodes, anyio.create_task_group() as tasks:

        async def call() -> None:
            results.append(await nodes.client.request("slow"))

        tasks.start_soon(call)
        await anyio.sleep(0.1)
        tasks.start_soon(nodes.server.stop)
        await anyio.sleep(0.5)
        with pytest.raises(ConnectionClosed, match="the peer goes away: the server stops; this was never run"):
            await nodes.client.request("double", 1)
    assert results == ["done"]


async def test_draining_ends_at_its_limit() -> None:
    @rpc
    async def never() -> None:
        await anyio.sleep_forever()

    async with connected(never) as nodes, anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(ConnectionClosed):
                await nodes.client.request("never", timeout=0)

        tasks.start_soon(call)
        await anyio.sleep(0.1)
        began = anyio.current_time()
        await nodes.server.stop(drain=2)
        assert anyio.current_time() - began < 5


async def test_events_that_were_sent_before_the_stop_are_handled() -> None:
    handled = 0

    @event
    async def note(number: int) -> None:
        nonlocal handled
        await anyio.sleep(0.01)
        handled += 1

    async with connected(note) as nodes:
        for number in range(100):
            await nodes.client.emit("note", number)
        await nodes.server.stop()
    assert handled == 100


async def test_what_was_emitted_before_close_arrives() -> None:
    log: list[int] = []

    @event
    async def note(number: int) -> None:
        log.append(number)

    async with connected(note) as nodes:
        for number in range(1_000):
            await nodes.client.emit("note", number)
        await nodes.client.close()
        await anyio.sleep(0.5)
    assert log == list(range(1_000))


# --- builders -------------------------------------------------------------------------------------------------------


def test_a_server_without_an_address_says_so() -> None:
    with pytest.raises(InvalidArgument, match=r"the server has no address; call bind\('127\.0\.0\.1:4433'\)"):
        EchoServer.builder().serializer(JsonSerializer()).transport(MemoryTransport()).build()


def public() -> ServerBuilder:
    return EchoServer.builder().bind("quic://0.0.0.0:4433").serializer(JsonSerializer()).transport(MemoryTransport())


def test_a_public_address_wants_authentication() -> None:
    with pytest.raises(ConfigError, match=r"quic://0\.0\.0\.0:4433 can be reached from other machines") as caught:
        public().build()
    for remedy in ("authenticator", "client_ca", "pins", "127.0.0.1", "allow_anonymous"):
        assert remedy in caught.value.message
    public().authenticator(Passwords()).build()
    public().allow_anonymous().build()


async def test_an_anonymous_public_address_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with public().allow_anonymous().build():
        pass
    assert "accepts peers from other machines without asking who they are" in caplog.text


def test_two_handlers_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="two rpc handlers are called 'double'"):
        EchoServer.builder().add_rpc(double).add_rpc(double)


def test_a_handler_is_added_as_what_it_is() -> None:
    with pytest.raises(InvalidArgument, match="handles rpcs; add it with add_rpc"):
        EchoServer.builder().add_event(double)
    with pytest.raises(InvalidArgument, match="is no handler"):
        EchoServer.builder().add_rpc(lambda: None)  # type: ignore[arg-type]


def test_handlers_that_cannot_work_are_refused_when_they_are_made() -> None:
    with pytest.raises(InvalidArgument, match="cannot be filled from a message"):

        @rpc
        async def keyword(*, a: int) -> None: ...

    with pytest.raises(InvalidArgument, match="names that begin with"):

        @rpc("$mine")
        async def mine() -> None: ...

    with pytest.raises(InvalidArgument, match="a plain generator would block"):

        @rpc
        def counting():  # type: ignore[no-untyped-def]
            yield 1

    with pytest.raises(InvalidArgument, match="an annotation cannot be resolved"):

        @rpc
        async def typo(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

        EchoServer.builder().add_rpc(typo)


async def test_a_node_runs_once() -> None:
    async with connected() as nodes:
        with pytest.raises(InvalidArgument, match="has run already"):
            await nodes.server.__aenter__()


async def test_a_plugin_in_code_installs_itself() -> None:
    class Doubling:
        name = "doubling"

        def install(self, builder: ServerBuilder) -> ServerBuilder:
            return builder.add_rpc(double)

    async with connected(server=EchoServer.builder().plugin(Doubling())) as nodes:
        assert await nodes.client.request("double", 4) == 8


async def test_a_plain_await_works_on_asyncio_and_says_what_to_write_on_trio(anyio_backend_name: str) -> None:
    transport = MemoryTransport()
    async with connected(double, transport=transport):
        connecting = EchoClient.builder().transport(transport).serializer(JsonSerializer()).connect("memory://node:1")
        if anyio_backend_name == "trio":
            with pytest.raises(RuntimeError, match=r"async with EchoClient\.connect"):
                await connecting
        else:
            client = await connecting
            assert await client.request("double", 1) == 2
            await client.close()


async def test_a_service_that_stops_first_does_so_before_the_sessions_are_drained() -> None:
    told: list[str] = []

    class Part:
        def __init__(self, name: str, stops_first: bool) -> None:
            self.name, self.stops_first = name, stops_first

        async def start(self, context: Any) -> None:
            self.context = context

        async def stop(self) -> None:
            told.append(f"{self.name} with {len(self.context.sessions())} sessions")

    builder = EchoServer.builder().service(Part("announcer", True)).service(Part("clock", False))
    async with connected(server=builder) as nodes:
        await nodes.client.ping()
        await nodes.server.stop(drain=1)
    assert told == ["announcer with 1 sessions", "clock with 0 sessions"]


async def test_a_service_that_serves_is_enough_to_run_for() -> None:
    class Service:
        def __init__(self, *, serves: bool) -> None:
            self.serves, self.running = serves, False

        async def start(self, context: Any) -> None:
            self.running = True

        async def stop(self) -> None:
            self.running = False

    with pytest.raises(InvalidArgument, match="the server has no address"):
        EchoServer.builder().serializer(JsonSerializer()).service(Service(serves=False)).build()
    service = Service(serves=True)
    async with EchoServer.builder().service(service).build() as server:  # and with nobody to speak to, without a serializer
        assert service.running
        assert not server.addresses
    assert not service.running
