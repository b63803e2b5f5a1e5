"""The table that puts the seed's API beside ours: a test for each of its rows, which uses every name of the row.

One row is left out, because nothing of it exists yet: ``ClockSync`` (echokernel-clocksync). The row of discovery is tested
with a backend of this module; ``Discovery`` as a ready backend is tested with echokernel-mdns.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from echokernel import (
    Address,
    Advertiser,
    Advertising,
    ClientBuilder,
    ClientContext,
    ConfigError,
    ConnectionClosed,
    Discovery,
    EchoClient,
    EchoError,
    EchoServer,
    EventHandler,
    Frame,
    HandlerError,
    InvalidArgument,
    MethodNotFound,
    Middleware,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    PluginError,
    ProtocolError,
    ReconnectPolicy,
    RequestCancelled,
    RequestTimeout,
    RpcHandler,
    SerializationError,
    Serializer,
    ServerBuilder,
    ServerContext,
    ServiceInfo,
    Session,
    StreamHandler,
    StreamReceiver,
    StreamReset,
    StreamStopped,
    Timestamped,
    TransportError,
    Unauthenticated,
    event,
    rpc,
    stream,
    time_left,
)
from echokernel.discovery import ServiceEvent
from echokernel.tasks import open_tasks
from echokernel.testing import JsonSerializer, MemoryTransport, connected
from echokernel_protocol.codes import Code

pytestmark = pytest.mark.anyio


@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@rpc
async def forever() -> None:
    await anyio.sleep_forever()


class Notes:
    """What handlers and callbacks saw, and a way to wait for it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def wait(self, count: int) -> list[Any]:
        with anyio.fail_after(10):
            while len(self.seen) < count:
                await anyio.sleep(0.01)
        return self.seen

    def event(self, name: str) -> Any:
        @event(name)
        async def note(value: Any) -> None:
            self.seen.append(value)

        return note

    def stream(self, name: str) -> Any:
        @stream(name)
        async def note(stream: StreamReceiver) -> None:
            self.seen.append([frame.data async for frame in stream])

        return note


class Nothing(Discovery):
    """Keeps what is advertised in a list: enough for a builder to carry, and for the row of discovery."""

    def __init__(self) -> None:
        self.there: list[ServiceInfo] = []

    def advertise(self, service: ServiceInfo) -> Advertising:
        return Advertising(lambda: self._advertise(service))

    async def _advertise(self, service: ServiceInfo) -> Advertiser:
        self.there.append(service)
        return Withdrawing(self, service)

    async def discover(self, name: str, timeout: float = 3.0) -> list[ServiceInfo]:
        return [service for service in self.there if service.name == name]

    async def discover_events(self, name: str) -> AsyncIterator[ServiceEvent]:
        for service in await self.discover(name):
            yield ServiceEvent("appeared", service)
        yield ServiceEvent("gone", ServiceInfo(name))


class Withdrawing(Advertiser):
    def __init__(self, discovery: Nothing, service: ServiceInfo) -> None:
        self.discovery, self.service = discovery, service

    async def stop(self) -> None:
        if self.service in self.discovery.there:
            self.discovery.there.remove(self.service)


async def test_row_server_builder() -> None:
    """builder().bind.transport.add_rpc.add_event.add_stream.plugin.middleware.on_*.build(), and serializer, discovery."""
    notes, transport, discovery = Notes(), MemoryTransport(), Nothing()
    order: list[str] = []

    class Plugin:
        name = "plugged"

        def install(self, builder: ServerBuilder) -> ServerBuilder:
            return builder.add_rpc(rpc("plugged", inline=True)(lambda: "in"))

    class Counting(Middleware):
        async def process_request(self, frame: Frame) -> Frame:
            order.append(f"middleware {frame.header.method}")
            return frame

    async def async_start(context: ServerContext) -> None:
        order.append("start 2")

    builder = EchoServer.builder()
    fluent = (
        builder.bind("memory://node:7")
        .transport(transport)
        .serializer(JsonSerializer())
        .discovery(discovery)
        .add_rpc(add)
        .add_event(notes.event("log"))
        .add_stream(notes.stream("audio"))
        .plugin(Plugin())
        .middleware(Counting())
        .on_start(lambda context: order.append("start 1"))
        .on_start(async_start)
        .on_connect(lambda session: order.append("connect"))
        .on_disconnect(lambda session: order.append("disconnect"))
        .on_stop(lambda context: order.append("stop"))
    )
    assert fluent is builder
    assert builder.discoveries == [discovery]
    server = builder.build()
    assert server.addresses == [], "build() opens nothing"
    client = EchoClient.builder().transport(transport).serializer(JsonSerializer())
    async with server, client.connect("memory://node:7") as dialled:
        assert await dialled.request("math.add", (1, 2)) == 3
        assert await dialled.request("plugged") == "in"
        await dialled.emit("log", "x")
        async with await dialled.create_stream("audio") as sender:
            await sender.send(b"y")
        assert sorted(map(str, await notes.wait(2))) == ["[b'y']", "x"]
    wanted = ["start 1", "start 2", "connect", "middleware math.add", "middleware plugged"]
    assert order[:5] == wanted
    assert order[-2:] == ["disconnect", "stop"]


async def test_row_server() -> None:
    """run(), context(); async with, stop(drain=…), addresses, stats()."""
    transport = MemoryTransport()
    builder = (
        EchoServer.builder().transport(transport).serializer(JsonSerializer()).bind("memory://node:0").add_rpc(add)
    )
    server = builder.build()
    assert isinstance(server.context(), ServerContext)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        while not server.addresses:
            await anyio.sleep(0.01)
        assert server.addresses == [Address("memory", "node", 1)]
        dial = EchoClient.builder().transport(transport).serializer(JsonSerializer()).connect(server.addresses[0])
        async with dial as client:
            assert await client.request("math.add", (1, 1)) == 2
            assert server.stats()["sessions"] == server.context().stats()["sessions"] == 1
            assert client.session.stats()["frames_sent"] > 0
            await server.stop(drain=0)  # run() returns, and the task group ends
    assert server.addresses == []
    async with (
        EchoServer.builder().transport(transport).serializer(JsonSerializer()).bind("memory://n:2").build() as other
    ):
        assert other.addresses


async def test_row_client_builder(anyio_backend_name: str) -> None:
    """EchoClient.connect, builder()…connect(address); with serializer, discovery, add_rpc, add_event, add_stream."""
    notes, discovery = Notes(), Nothing()

    class Plugin:
        name = "plugged"

        def install(self, builder: ClientBuilder) -> ClientBuilder:
            return builder.add_rpc(rpc("plugged", inline=True)(lambda: "in"))

    async with connected(add) as nodes:
        builder = (
            EchoClient.builder()
            .transport(nodes.transport)
            .serializer(JsonSerializer())
            .discovery(discovery)
            .plugin(Plugin())
            .middleware(Middleware())
            .add_rpc(add)
            .add_event(notes.event("log"))
            .add_stream(notes.stream("audio"))
            .on_connect(lambda context: notes.seen.append(context))
            .on_disconnect(lambda context: notes.seen.append("gone"))
        )
        assert builder.discoveries == [discovery]
        async with builder.connect("memory://node:1") as client:
            session = nodes.server.context().sessions()[-1]
            assert await session.request("math.add", (2, 2)) == 4
            assert await session.request("plugged") == "in"
            await session.emit("log", "x")
            async with await session.create_stream("audio") as sender:
                await sender.send(b"y")
            seen = await notes.wait(3)
            assert client.context() in seen and "x" in seen and [b"y"] in seen
        assert notes.seen[-1] == "gone"
        again = EchoClient.builder().transport(nodes.transport).serializer(JsonSerializer()).connect("memory://node:1")
        if anyio_backend_name == "asyncio":
            awaited = await again
            assert await awaited.request("math.add", (1, 2)) == 3
            await awaited.close()
        else:
            with pytest.raises(RuntimeError, match="async with"):
                await again
    with pytest.raises((PluginError, TransportError)):  # host:port means quic://, whether or not that is installed
        async with EchoClient.connect("127.0.0.1:1"):
            pass


async def test_row_client() -> None:
    """request (timeout, returns, metadata, idempotent), emit, create_stream, context, close."""
    notes = Notes()

    @rpc
    async def left() -> float | None:
        return time_left()

    async with connected(add, left, forever, notes.event("log"), notes.stream("audio")) as nodes:
        client = nodes.client
        assert await client.request("math.add", (1, 2), returns=int, metadata={"k": "v"}, idempotent=True) == 3
        with pytest.raises(SerializationError):
            await client.request("math.add", (1, 2), returns=str)
        remaining = await client.request("left", timeout=3)
        assert 0 < remaining <= 3.001
        with pytest.raises(RequestTimeout):
            await client.request("forever", timeout=0.5)
        await client.emit("log", {"n": 1})
        sender = await client.create_stream("audio")
        await sender.send(b"y")
        await sender.finish()
        await notes.wait(2)
        assert isinstance(client.context(), ClientContext)
        assert client.context().session is client.session
        await client.close()
        with pytest.raises(ConnectionClosed):
            await client.request("math.add", (1, 2))


async def test_row_session() -> None:
    """id, peer_addr, created_at, server_ctx, set, get, remove, emit, request, create_stream, close; client_ctx."""
    notes = Notes()
    async with connected(client_handlers=[add, notes.event("log"), notes.stream("audio")]) as nodes:
        session = nodes.session
        assert (session.id, session.peer_addr) == (1, ("memory", 2))
        assert abs(session.created_at - time.time()) < 60
        assert session.info.created_at == session.created_at
        assert session.server_ctx is nodes.server.context()
        assert nodes.client.session.client_ctx is nodes.client.context()
        with pytest.raises(AttributeError, match="client_ctx"):
            _ = nodes.client.session.server_ctx
        session.set("name", "Ada")
        assert (session.get("name"), session.remove("name"), session.get("name")) == ("Ada", "Ada", None)
        assert await session.request("math.add", (2, 3), returns=int) == 5
        await session.emit("log", 1)
        async with await session.create_stream("audio") as sender:
            await sender.send(b"y")
        await notes.wait(2)
        await session.close()
        with anyio.fail_after(10):
            while session.closed is None:
                await anyio.sleep(0.01)
        with pytest.raises(ConnectionClosed):
            await session.request("math.add", (2, 3))


async def test_row_contexts() -> None:
    """ServerContext: set, get, remove, broadcast, sessions. ClientContext: set, get, remove."""
    notes = Notes()
    async with connected(client_handlers=[notes.event("news")]) as nodes:
        for context in (nodes.server.context(), nodes.client.context()):
            context.set("key", [1])
            assert context.get("key") == [1]
            assert context.remove("key") == [1]
            assert context.get("key", "none") == "none"
        assert nodes.server.context().sessions() == [nodes.session]
        assert await nodes.server.context().broadcast("news", "all") == 1
        assert await notes.wait(1) == ["all"]


async def test_row_handlers() -> None:
    """Protocols with name and handle; classes and decorated functions are both."""
    seen: list[Any] = []

    class Reverse:
        name = "reverse"

        async def handle(self, session: Session, payload: bytes) -> bytes:
            return payload[::-1]

    class Note:
        name = "note"

        async def handle(self, session: Session, payload: bytes) -> None:
            seen.append((session.id, payload))

    class Take:
        name = "take"

        async def handle(self, session: Session, stream: StreamReceiver) -> None:
            seen.append([frame.data async for frame in stream])

    decorated = event("note", inline=True)(lambda: None), stream("take")(Take().handle)
    assert isinstance(add, RpcHandler) and isinstance(Reverse(), RpcHandler)
    assert isinstance(decorated[0], EventHandler) and isinstance(Note(), EventHandler)
    assert isinstance(decorated[1], StreamHandler) and isinstance(Take(), StreamHandler)
    assert not isinstance(object(), RpcHandler)
    server = EchoServer.builder().add_rpc(Reverse()).add_event(Note()).add_stream(Take())
    async with connected(server=server) as nodes:
        assert await nodes.client.request("reverse", 123) == 321
        await nodes.client.emit("note", True)
        async with await nodes.client.create_stream("take") as sender:
            await sender.send(b"y")
        assert await sender.wait_taken() == 1
        with anyio.fail_after(10):
            while len(seen) < 2:
                await anyio.sleep(0.01)
    assert (1, b"true") in seen and [b"y"] in seen


async def test_row_decorators() -> None:
    """@rpc("n"), @rpc; a session or none; no parameter is the unit, one is that value, several are a tuple."""
    notes = Notes()

    @rpc
    async def nothing() -> str:
        return "unit"

    @rpc
    async def only_session(session: Session) -> int:
        return session.id

    @rpc
    async def one(value: list[int]) -> int:
        return sum(value)

    @rpc
    async def session_and_one(session: Session, value: int) -> int:
        return session.id + value

    @rpc("named")
    async def session_and_two(session: Session, a: int, b: str) -> str:
        return b * a

    @event
    async def bare() -> None:
        notes.seen.append("bare")

    @event("e.session")
    async def with_session(session: Session, a: int, b: int) -> None:
        notes.seen.append((session.id, a, b))

    @stream
    async def flow(session: Session, stream: StreamReceiver) -> None:
        notes.seen.append([session.id, (await stream.recv() or Timestamped(0, 0, b"")).data])

    handlers = [nothing, only_session, one, session_and_one, session_and_two, bare, with_session, flow]
    async with connected(*handlers) as nodes:
        client = nodes.client
        assert await client.request("nothing") == "unit"
        assert await client.request("only_session") == 1
        assert await client.request("one", [1, 2, 3]) == 6
        assert await client.request("session_and_one", 41) == 42
        assert await client.request("named", (2, "ab")) == "abab"
        await client.emit("bare")
        await client.emit("e.session", (1, 2))
        async with await client.create_stream("flow") as sender:
            await sender.send(b"y")
        seen = await notes.wait(3)
        assert "bare" in seen and (1, 1, 2) in seen and [1, b"y"] in seen
    assert await one([4]) == 4, "a decorated function is still a function"


async def test_row_plugins() -> None:
    """An object with name and install(builder), for both builders."""

    class Both:
        name = "both"

        def install(self, builder: Any) -> Any:
            builder.add_rpc(add)  # and None: the same builder

    server, client = EchoServer.builder().plugin(Both()), EchoClient.builder().plugin(Both())
    async with connected(server=server, client=client) as nodes:
        assert await nodes.client.request("math.add", (1, 2)) == 3
        assert await nodes.session.request("math.add", (1, 2)) == 3


async def test_row_middleware() -> None:
    """process_request and process_response, None intercepts; or one handle(session, frame, call_next)."""
    seen: list[str] = []

    class Two(Middleware):
        async def process_request(self, frame: Frame) -> Frame | None:
            seen.append(f"> {frame.header.method}")
            return None if frame.header.method == "forever" else frame

        async def process_response(self, frame: Frame) -> Frame | None:
            seen.append(f"< {frame.payload!r}")
            return None if frame.payload == b"13" else frame

    class One(Middleware):
        async def handle(self, session: Session, frame: Frame, call_next: Any) -> Frame | None:
            seen.append("before")
            answer: Frame | None = await call_next(frame)
            seen.append("after")
            return answer

    server = EchoServer.builder().middleware(Two()).middleware(One())
    async with connected(add, forever, server=server) as nodes:
        assert await nodes.client.request("math.add", (1, 2)) == 3
        assert seen == ["> math.add", "before", "after", "< b'3'"]
        with pytest.raises(PermissionDenied, match="intercepted"):
            await nodes.client.request("forever")
        with pytest.raises(PermissionDenied, match="intercepted"):
            await nodes.client.request("math.add", (6, 7))


async def test_row_transport() -> None:
    """Transport, Listener, Connection, SendStream, RecvStream; uni streams, max_datagram, ping, reset, stop."""
    transport = MemoryTransport()
    async with open_tasks() as tasks:
        listener = await transport.listen(Address("memory", "node", 0), tasks)
        dialer = await transport.connect(listener.address, tasks)
        acceptor = await listener.accept()
        send, recv = await dialer.open_bi_stream()
        await send.write(b"there")
        await send.finish()
        back, there = await acceptor.accept_bi_stream()
        assert await there.read_to_end(10) == b"there"
        await back.write(b"back")
        assert await recv.read() == b"back"

        uni = await dialer.open_uni_stream()
        await uni.write(b"one way")
        incoming = await acceptor.accept_uni_stream()
        assert await incoming.read() == b"one way"
        uni.reset(7)
        with pytest.raises(StreamReset) as reset:
            await incoming.read()
        recv.stop(9)
        with pytest.raises(StreamStopped) as stopped:
            await back.write(b"more")
        assert (reset.value.code, stopped.value.code) == (7, 9)

        assert dialer.max_datagram > 1000
        dialer.send_datagram(b"d")
        assert await acceptor.recv_datagram() == b"d"
        assert await dialer.ping() >= 0
        assert acceptor.peer_addr == ("memory", 2)
        await dialer.close(5, "bye")
        with pytest.raises(ConnectionClosed) as closed:
            await acceptor.open_bi_stream()
        assert (closed.value.code, closed.value.reason, closed.value.by_peer) == (5, "bye", True)
        await listener.close()
        with pytest.raises(ConnectionClosed):
            await listener.accept()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # sockets need real time
async def test_row_quic_config(anyio_backend: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """QuicConfig.builder() with every name of the seed, QuicTransport(config), CongestionControl, over loopback."""
    quic = pytest.importorskip("echokernel_quic")
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))
    config = (
        quic.QuicConfig.builder()
        .with_self_signed_cert()
        .congestion_control(quic.CongestionControl.BBR)
        .max_concurrent_streams(32)
        .enable_0rtt()
        .build()
    )
    assert config.zero_rtt and config.max_streams == 32
    assert {kind.name for kind in quic.CongestionControl} == {"Cubic", "BBR", "NewReno"}
    server = EchoServer.builder().bind("127.0.0.1:0").transport(quic.QuicTransport(config)).serializer(JsonSerializer())
    skipping = quic.QuicConfig.builder().skip_cert_verification().congestion_control(quic.CongestionControl.NewReno)
    trusting = quic.QuicTransport(skipping.enable_0rtt().build())
    async with server.add_rpc(add).build() as running:
        for _ in range(2):  # the second one is early
            client = EchoClient.builder().transport(trusting).serializer(JsonSerializer())
            async with client.connect(running.addresses[0]) as dialled:
                assert await dialled.request("math.add", (1, 2), idempotent=True) == 3
    chain = quic.QuicConfig.builder().with_cert_chain(tmp_path / "none.pem", tmp_path / "none.key").build()
    listening = (
        EchoServer.builder().bind("127.0.0.1:0").transport(quic.QuicTransport(chain)).serializer(JsonSerializer())
    )
    with pytest.raises(ConfigError, match=r"none\.pem"):
        async with listening.build():
            pass


async def test_row_discovery() -> None:
    """Discovery: advertise, discover, discover_stream, discover_events; Advertiser.stop; ServiceInfo."""
    discovery = Nothing()
    info = ServiceInfo("echo-server").with_port(5000).with_property("protocol", "quic").with_property("version", "1")
    assert (info.name, info.port, info.get_property("protocol"), info.get_property("none")) == (
        "echo-server",
        5000,
        "quic",
        None,
    )
    async with await discovery.advertise(info):
        assert discovery.there == [info]
    async with discovery.advertise(info) as advertising:
        assert advertising.service == info
        assert await discovery.discover("echo-server", timeout=3) == [info]
        assert [found async for found in discovery.discover_stream("echo-server")] == [info]
        assert [each.kind async for each in discovery.discover_events("echo-server")] == ["appeared", "gone"]
    assert await discovery.discover("echo-server") == []
    discovery.suspect(info)
    begun = discovery.advertise(info)
    advertiser = await begun
    with pytest.raises(RuntimeError, match="used already"):
        await begun
    await advertiser.stop()
    await advertiser.stop()
    assert discovery.there == []


async def test_row_serializer() -> None:
    """Serializer with name, serialize(value, type), deserialize(data, type)."""
    serializer: Serializer = JsonSerializer("mine")
    assert serializer.name == "mine"
    assert serializer.deserialize(serializer.serialize((1, "a"), tuple[int, str]), tuple[int, str]) == (1, "a")
    with pytest.raises(SerializationError):
        serializer.deserialize(b"[", list[int])
    server, client = (
        EchoServer.builder().serializer(serializer),
        EchoClient.builder().serializer(JsonSerializer("mine")),
    )
    async with connected(add, server=server, client=client) as nodes:
        assert nodes.session.serializer.name == "mine"
        assert await nodes.client.request("math.add", (1, 2)) == 3


async def test_row_errors() -> None:
    """The seed's six and ours, below one EchoError, each with code and retryable; they travel."""
    seed = [SerializationError, ProtocolError, RequestTimeout, ConnectionClosed, MethodNotFound, TransportError]
    ours = [
        HandlerError,
        RequestCancelled,
        Unauthenticated,
        PermissionDenied,
        Overloaded,
        InvalidArgument,
        ConfigError,
        PluginError,
    ]
    raised: list[EchoError] = [kind("why") for kind in (*seed, *ours)]
    raised.append(OutcomeUnknown("add", ConnectionClosed()))
    for error in raised:
        assert isinstance(error, EchoError)
        assert isinstance(error.code, int) and isinstance(error.retryable, bool)
    travelling = [HandlerError, Unauthenticated, PermissionDenied, Overloaded, InvalidArgument, MethodNotFound]

    @rpc
    async def fail(number: int) -> None:
        raise travelling[number]("on purpose", details=b"more")

    async with connected(fail) as nodes:
        for number, kind in enumerate(travelling):
            with pytest.raises(kind, match="on purpose") as caught:
                await nodes.client.request("fail", number)
            assert type(caught.value) is kind
            assert (caught.value.code, caught.value.details) == (kind.default_code, b"more")
            assert caught.value.retryable is kind.default_retryable
        with pytest.raises(MethodNotFound) as missing:
            await nodes.client.request("nobody")
        assert missing.value.code == Code.UNIMPLEMENTED


async def test_row_streams() -> None:
    """Timestamped; StreamSender: send, send_timestamped, finish; StreamReceiver: recv, close, async for."""
    seen: list[Any] = []

    @stream
    async def by_recv(stream: StreamReceiver) -> None:
        while (frame := await stream.recv()) is not None:
            seen.append(frame)

    @stream
    async def by_iteration(stream: StreamReceiver) -> None:
        async for frame in stream:
            seen.append(frame.data)

    @stream
    async def closes(stream: StreamReceiver) -> None:
        await stream.recv()
        await stream.close()

    async with connected(by_recv, by_iteration, closes) as nodes:
        before = time.time_ns() // 1000
        sender = await nodes.client.create_stream("by_recv")
        await sender.send(b"now")
        await sender.send_timestamped(Timestamped(123, 45, b"then"))
        await sender.finish()
        assert await sender.wait_taken() == 2
        first, second = seen
        assert (first.seq, first.data) == (0, b"now") and first.wall_time >= before
        assert second == Timestamped(wall_time=123, seq=45, data=b"then")

        async with await nodes.client.create_stream("by_iteration") as sender:
            await sender.send(b"a")
        assert await sender.wait_taken() == 1
        assert seen[2:] == [b"a"]

        sender = await nodes.client.create_stream("closes")
        with pytest.raises(StreamStopped), anyio.fail_after(10):
            while True:
                await sender.send(b"b")
                await anyio.sleep(0.01)


async def test_row_reconnect() -> None:
    """ReconnectPlugin: name, install; the client goes on after its connection was lost. Backoff; ReconnectPolicy."""
    plugins = pytest.importorskip("echokernel_reconnect")
    plugin = plugins.ReconnectPlugin(plugins.Backoff(max_tries=5))
    assert isinstance(plugins.Backoff(), ReconnectPolicy)
    assert plugin.name == "reconnect"
    builder = EchoClient.builder()
    assert plugin.install(builder) is builder
    async with connected(add, client=builder) as nodes:
        session = nodes.client.session
        nodes.transport.connections[0][0].die()
        await anyio.sleep(0.01)
        assert session.closed is not None
        assert await nodes.client.request("math.add", (1, 2)) == 3
        assert nodes.client.session is not session
