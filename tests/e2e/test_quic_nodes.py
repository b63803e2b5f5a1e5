"""Two real nodes over loopback QUIC: the promises that the in-memory tests make hold on the real wire."""

from __future__ import annotations

import gc
import logging
import secrets
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from echokernel import (
    Address,
    ConnectionClosed,
    EchoClient,
    EchoServer,
    HandlerError,
    InvalidArgument,
    MethodNotFound,
    OutcomeUnknown,
    RequestTimeout,
    Session,
    StreamReceiver,
    TransportError,
    event,
    rpc,
    stream,
)

pytest.importorskip("echokernel_quic")
pytest.importorskip("echokernel_msgpack")
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def own_identity(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))


@dataclass
class Order:
    id: int
    items: list[str]
    note: str | None = None


@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@rpc
async def reverse(order: Order) -> Order:
    return Order(order.id, order.items[::-1], order.note)


@rpc
async def fail() -> None:
    raise ValueError("a secret")


@rpc
async def repeat(data: bytes, times: int) -> bytes:
    return data * times


@rpc
async def forever() -> None:
    await anyio.sleep_forever()


@rpc
async def ask_back(session: Session, value: int) -> int:
    return int(await session.request("double", value, returns=int))


@rpc
async def double(value: int) -> int:
    return 2 * value


@asynccontextmanager
async def serving(*handlers: Any) -> AsyncIterator[EchoServer]:
    builder = EchoServer.builder().bind("quic://127.0.0.1:0")
    for handler in handlers:
        builder.add_handler(handler)
    async with builder.build() as server:
        yield server


async def until(condition: Any) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


async def test_requests_of_every_kind() -> None:
    async with (
        serving(add, reverse, fail, repeat, forever) as server,
        EchoClient.connect(server.addresses[0]) as client,
    ):
        assert await client.request("math.add", (10, 20), returns=int) == 30
        order = Order(1, ["tea", "salt"])
        assert await client.request("reverse", order, returns=Order) == Order(1, ["salt", "tea"])
        assert await client.request("repeat", (b"x" * 1000, 3000), returns=bytes) == b"x" * 3_000_000
        with pytest.raises(MethodNotFound, match=r"no method 'math\.sub' here"):
            await client.request("math.sub", (1, 2))
        with pytest.raises(InvalidArgument, match=r"math\.add"):
            await client.request("math.add", ("one", 2))
        with pytest.raises(HandlerError, match="fail failed: ValueError") as caught:
            await client.request("fail")
        assert "a secret" not in str(caught.value)
        with pytest.raises(RequestTimeout, match="forever: no answer within its deadline"):
            await client.request("forever", timeout=0.2)
        assert await client.ping() < 5
        assert await client.request("math.add", (1, 1)) == 2


async def test_both_directions() -> None:
    log: list[object] = []

    @event
    async def news(text: str) -> None:
        log.append(text)

    @stream
    async def numbers(receiver: StreamReceiver) -> None:
        log.append(sum([int.from_bytes(frame.data, "big") async for frame in receiver]))

    async with serving(ask_back) as server:
        builder = EchoClient.builder().add_rpc(double).add_event(news).add_stream(numbers)
        async with builder.connect(server.addresses[0]) as client:
            assert await client.request("ask_back", 21) == 42
            (session,) = server.context().sessions()
            await session.emit("news", "hello")
            async with await session.create_stream("numbers") as sender:
                for number in range(100):
                    await sender.send(number.to_bytes(4, "big"))
            await until(lambda: len(log) == 2)
    assert sorted(map(str, log)) == ["4950", "hello"]


async def test_events_and_streams_arrive_whole_before_a_close() -> None:
    counted: list[int] = []
    size = 0

    @event
    async def note(number: int) -> None:
        counted.append(number)

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        nonlocal size
        async for frame in receiver:
            size += len(frame.data)

    async with serving(note, audio) as server:
        async with EchoClient.connect(server.addresses[0]) as client:
            for number in range(5_000):
                await client.emit("note", number)
            async with await client.create_stream("audio") as sender:
                for _ in range(40):
                    await sender.send(bytes(65_536))
        await until(lambda: not server.context().sessions())
    assert counted == list(range(5_000))
    assert size == 40 * 65_536


async def test_two_thousand_requests_at_once() -> None:
    answers = 0
    async with serving(double) as server, EchoClient.connect(server.addresses[0]) as client:

        async def call(number: int) -> None:
            nonlocal answers
            assert await client.request("double", number, timeout=60) == 2 * number
            answers += 1

        async with anyio.create_task_group() as tasks:
            for number in range(2_000):
                tasks.start_soon(call, number)
    assert answers == 2_000


async def test_a_stopping_server_lets_requests_finish_and_tells_its_clients() -> None:
    running = anyio.Event()

    @rpc
    async def slow() -> str:
        running.set()
        await anyio.sleep(0.3)
        return "done"

    results: list[object] = []
    async with serving(slow) as server, EchoClient.connect(server.addresses[0]) as client:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                results.append(await client.request("slow"))

            tasks.start_soon(call)
            await running.wait()
            await server.stop()
        with pytest.raises(ConnectionClosed):
            await client.request("slow")
        assert client.session.closed is not None
        assert "the server stops" in str(client.session.closed)
    assert results == ["done"]


async def test_a_session_closed_by_the_server_says_why() -> None:
    running = anyio.Event()

    @rpc("forever")
    async def wait() -> None:
        running.set()
        await anyio.sleep_forever()

    async with serving(wait) as server, EchoClient.connect(server.addresses[0]) as client:
        (session,) = server.context().sessions()
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises(OutcomeUnknown, match="maintenance"):
                    await client.request("forever")

            tasks.start_soon(call)
            await running.wait()  # with postcard, a question about its types comes first
            await session.close(4711, "maintenance")
        assert isinstance(client.session.closed, ConnectionClosed)
        assert (client.session.closed.code, client.session.closed.by_peer) == (4711, True)


# --- what cannot work -----------------------------------------------------------------------------------------------


async def test_nobody_at_the_address() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(TransportError, match=rf"nobody answers at quic://127\.0\.0\.1:{port}"):
        async with EchoClient.connect(f"127.0.0.1:{port}"):
            pass


async def test_a_port_in_use() -> None:
    async with serving() as server:
        builder = EchoServer.builder().bind(server.addresses[0])
        with pytest.raises(TransportError, match=r"127\.0\.0\.1:\d+.* in use"):
            async with builder.build():
                pass


async def test_another_fingerprint_is_not_trusted_and_the_one_seen_is_named() -> None:
    async with serving(add) as server:
        wrong = "sha256:" + "A" * 43
        with pytest.raises(TransportError) as caught:
            async with EchoClient.connect(server.addresses[0], fingerprint=wrong):
                pass
        assert wrong in str(caught.value)
        assert str(server.listeners[0].fingerprint) in str(caught.value)
        fingerprint = server.listeners[0].fingerprint
        async with EchoClient.connect(server.addresses[0], fingerprint=fingerprint) as client:
            assert await client.request("math.add", (1, 2)) == 3


async def test_a_foreign_self_signed_certificate_is_not_trusted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "somebody else"))
        with pytest.raises(TransportError, match="fingerprint"):
            async with EchoClient.connect(server.addresses[0]):
                pass


@pytest.mark.parametrize("address", ["nonsense", "quic://", "quic://:1", "127.0.0.1:99999", "1:2:3", "quic://host:x"])
def test_a_wrong_address_says_what_was_wanted(address: str) -> None:
    with pytest.raises(InvalidArgument, match=r"wanted quic://HOST:PORT|stands in brackets"):
        EchoClient.connect(address)


# --- secrets --------------------------------------------------------------------------------------------------------


async def test_no_canary_reaches_a_log_line_or_a_repr(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    caplog.set_level(logging.DEBUG)
    token, text, result = (f"canary{secrets.token_hex(8)}" for _ in range(3))

    class Tokens:
        async def authenticate(self, credentials: bytes, peer: object) -> str | None:
            return "ann" if credentials == token.encode() else None

    @rpc
    async def swap(text: str) -> str:
        return result

    @rpc
    async def explode(text: str) -> str:
        raise RuntimeError("no payload in here")

    @event
    async def note(number: int) -> None: ...

    seen: list[object] = []
    builder = EchoServer.builder().bind("quic://127.0.0.1:0").authenticator(Tokens())
    from echokernel_msgpack import MsgpackSerializer

    builder.serializer(MsgpackSerializer())  # with postcard the wrong types below would never leave
    builder.add_rpc(swap).add_rpc(explode).add_event(note).on_connect(seen.append)
    async with builder.build() as server:
        connecting = EchoClient.builder().credentials(token).connect(server.addresses[0])
        seen += [server, builder, connecting, *server.listeners]
        async with connecting as client:
            seen += [client, client.session, client.session.peer, client.session._channel, client.session._connection]
            assert await client.request("swap", text) == result
            with pytest.raises(HandlerError) as caught:
                await client.request("explode", text)
            await client.emit("note", text)  # the wrong type: its handler fails, and is logged
            with pytest.raises(InvalidArgument) as wrong:
                await client.request("swap", 5)
            seen += [caught.value, wrong.value]
            await until(lambda: "event note" in caplog.text)
        with pytest.raises(Exception, match="credentials") as refused:
            async with EchoClient.connect(server.addresses[0], credentials=token + "x"):
                pass
        seen.append(refused.value)
    key = next((tmp_path / "state").rglob("*key*")).read_text()
    secret_line = key.splitlines()[1]
    everything = caplog.text + "".join(map(repr, seen)) + "".join(map(str, seen))
    for canary in (token, text, result, secret_line):
        assert canary not in everything


async def test_nothing_is_left_behind() -> None:
    sessions: list[weakref.ref[Session]] = []
    async with serving(add) as server:
        for _ in range(5):
            async with EchoClient.connect(server.addresses[0]) as client:
                await client.request("math.add", (1, 2))
                sessions.append(weakref.ref(client.session))
                sessions += [weakref.ref(session) for session in server.context().sessions()]
        await until(lambda: not server.stats()["sessions"])  # the context leaves out those that are just ending
        assert server.stats()["unauthenticated"] == 0
    del client

    def all_gone() -> bool:
        gc.collect()
        return not any(session() for session in sessions)

    await until(all_gone)  # the last timers of a cancelled task may hold on for a second


def test_addresses_print_as_they_are_dialled() -> None:
    assert str(Address("quic", "::1", 5)) == "quic://[::1]:5"
    assert Address("quic", "127.0.0.1", 1).is_loopback
    assert not Address("quic", "example.org", 1).is_loopback
