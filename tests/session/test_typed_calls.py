"""Calls by the handler's own function, in both directions; types that differ; types that are learned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoServer,
    Frame,
    InvalidArgument,
    MethodNotFound,
    Middleware,
    ProtocolError,
    RequestTimeout,
    SerializationError,
    ServerBuilder,
    Session,
    current_metadata,
    event,
    introspection,
    rpc,
    stream,
    time_left,
)
from echokernel.engine import learning, serving, stubs
from echokernel.serializer import Codec, Serializer
from echokernel.shapes import fingerprint
from echokernel.testing import JsonSerializer, MemoryTransport, connected

pytestmark = pytest.mark.anyio


@dataclass
class Pose:
    x: float
    y: float


@dataclass
class Position:
    x: float
    y: float


@rpc("math.add")
async def add(a: int, b: int = 5) -> int:
    return a + b


@rpc
async def flip(session: Session, pose: Pose) -> Pose:
    return Pose(pose.y, pose.x)


@rpc(inline=True)
def negate(value: int) -> int:
    return -value


@rpc
async def nothing() -> None: ...


@rpc
async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@rpc
async def total(numbers: AsyncIterator[int]) -> int:
    return sum([number async for number in numbers])


@rpc
async def label(poses: AsyncIterator[Pose], prefix: str) -> AsyncIterator[str]:
    async for pose in poses:
        yield f"{prefix}{pose.x:g}"


@rpc
async def about() -> tuple[dict[str, str], float]:
    left = time_left()
    return dict(current_metadata()), -1.0 if left is None else left


heard: list[tuple[str, int]] = []


@event
async def note(text: str, number: int) -> None:
    heard.append((text, number))


HANDLERS = (add, flip, negate, nothing, count, total, label, about, note)


class Store:
    """Handlers that are methods."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    @rpc("store.put")
    async def put(self, key: str, value: int) -> None:
        self.values[key] = value

    @rpc("store.get")
    async def get(self, key: str) -> int | None:
        return self.values.get(key)


# --- calling ----------------------------------------------------------------------------------------------------------


async def test_call_answers_as_the_function_would() -> None:
    async with connected(*HANDLERS) as nodes:
        client = nodes.client
        assert await client.call(add, 10, 20) == 30
        assert await client.call(add, 10) == 15, "defaults are filled in here"
        assert await client.call(add, b=1, a=2) == 3
        assert await client.call(flip, Pose(1, 2)) == Pose(2, 1), "the session is not an argument"
        assert await client.call(negate, 3) == -3
        assert await client.call(nothing) is None


async def test_the_server_calls_likewise() -> None:
    async with connected(client_handlers=[add, flip]) as nodes:
        assert await nodes.session.call(add, 1, 2) == 3
        assert await nodes.session.call(flip, Pose(1, 2)) == Pose(2, 1)


async def test_many_values_there_and_back() -> None:
    async with connected(*HANDLERS) as nodes:
        async with nodes.client.call(count, 3) as answers:
            assert [answer async for answer in answers] == [0, 1, 2]
        assert await nodes.client.call(total, [1, 2, 3]) == 6  # type: ignore[arg-type]  # any iterable will do
        async with nodes.client.call(label, [Pose(1, 2), Pose(3, 4)], "#") as answers:  # type: ignore[arg-type]
            assert [answer async for answer in answers] == ["#1", "#3"]


async def test_an_event_is_told() -> None:
    heard.clear()
    async with connected(*HANDLERS) as nodes:
        await nodes.client.call(note, "hi", 3)
        await nodes.client.call(note, text="ho", number=4)
        await nodes.client.request("nothing")
        await anyio.sleep(0.1)
    assert heard == [("hi", 3), ("ho", 4)]


async def test_options_travel() -> None:
    async with connected(*HANDLERS) as nodes:
        caller = nodes.client.with_options(timeout=3, metadata={"k": "v"})
        metadata, left = await caller.call(about)
        assert metadata == {"k": "v"}, "what the kernel says of the types is not the program's"
        assert 0 < left <= 3.001
        assert await nodes.client.with_options(isolated=True).call(add, 1, 2) == 3
        assert "timeout=3" in repr(caller)


async def test_handlers_that_are_methods() -> None:
    store = Store()
    async with connected(store.put, store.get) as nodes:
        await nodes.client.call(store.put, "a", 1)
        assert await nodes.client.call(store.get, "a") == 1
        assert await nodes.client.call(store.get, "b") is None


async def test_through_middleware() -> None:
    seen: list[str] = []

    class Watch(Middleware):
        async def handle_outgoing(self, session: Session, frame: Frame, call_next: Any) -> Frame | None:
            seen.append(frame.header.method)
            assert "$shape" not in frame.metadata
            return await call_next(frame)  # type: ignore[no-any-return]

    heard.clear()
    async with connected(*HANDLERS, client=EchoClient.builder().middleware(Watch())) as nodes:
        assert await nodes.client.call(add, 1, 2) == 3
        assert await nodes.client.call(total, [1, 2]) == 3  # type: ignore[arg-type]
        await nodes.client.call(note, "hi", 1)
        with pytest.raises(InvalidArgument, match="peer's signature"):
            await nodes.client.call(old_flip, 1)
        await anyio.sleep(0.1)
    assert seen == ["math.add", "total", "note", "flip"]
    assert heard == [("hi", 1)]


# --- proxies ----------------------------------------------------------------------------------------------------------


class Math(Protocol):
    async def add(self, a: int, b: int) -> int: ...


class Numbers(Protocol):
    def count(self, to: int) -> AsyncIterator[int]: ...

    async def total(self, numbers: AsyncIterator[int]) -> int: ...

    @event
    async def note(self, text: str, number: int) -> None: ...


async def test_a_proxy_has_the_methods_of_a_protocol() -> None:
    heard.clear()
    async with connected(*HANDLERS) as nodes:
        math = nodes.client.proxy(Math, prefix="math.")
        assert await math.add(10, b=20) == 30
        numbers = nodes.client.proxy(Numbers)
        assert [number async for number in numbers.count(3)] == [0, 1, 2]
        assert await numbers.total(numbers.count(4)) == 6
        await numbers.note("hi", 1)
        await anyio.sleep(0.1)
        impatient = nodes.client.with_options(timeout=0.5).proxy(Math, prefix="math.")
        assert await impatient.add(1, 2) == 3
        with pytest.raises(AttributeError):
            math.subtract(1, 2)  # type: ignore[attr-defined]
    assert heard == [("hi", 1)]


async def test_a_class_that_no_proxy_can_be_made_of() -> None:
    class Empty(Protocol): ...

    class Keywords(Protocol):
        async def add(self, *, a: int) -> int: ...

    async with connected(*HANDLERS) as nodes:
        with pytest.raises(InvalidArgument, match="has no methods"):
            nodes.client.proxy(Empty)
        with pytest.raises(InvalidArgument, match="cannot be filled from a message"):
            nodes.client.proxy(Keywords)


# --- types that differ ------------------------------------------------------------------------------------------------


@rpc("math.add")
async def old_add(a: int, b: str) -> int:
    raise NotImplementedError


@rpc("flip")
async def old_flip(pose: int) -> int:
    raise NotImplementedError


@rpc("count")
async def old_count(to: str) -> AsyncIterator[int]:
    yield 1


@rpc("count")
async def one_count(to: int) -> int:
    raise NotImplementedError


@event("note")
async def old_note(text: str) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("isolated", [False, True])
async def test_a_changed_signature_is_named_on_both_sides_and_runs_nothing(isolated: bool) -> None:
    ran: list[int] = []

    @rpc("math.add")
    async def new_add(a: int, b: int = 5) -> int:
        ran.append(a)
        return a + b

    async with connected(new_add) as nodes:
        caller = nodes.client.with_options(isolated=isolated)
        for _ in range(2):
            with pytest.raises(InvalidArgument) as caught:
                await caller.call(old_add, 1, "x")
            assert str(caught.value) == (
                "math.add: the peer's signature is (a: int, b: int = 5) -> int; it was called as (a: int, b: str) -> int. "
                "Nothing was run; use the same version of it on both ends."
            )
        assert ran == []
        assert await caller.call(add, 1, 2) == 3, "the connection goes on"


async def test_streaming_calls_and_events_are_compared_too() -> None:
    heard.clear()
    async with connected(*HANDLERS) as nodes:
        with pytest.raises(InvalidArgument, match=r"signature is \(to: int\).*called as \(to: str\)"):
            async with nodes.client.call(old_count, "3") as answers:
                await anext(answers)
        with pytest.raises(InvalidArgument, match=r"-> AsyncIterator\[int\]; it was called as \(to: int\) -> int"):
            await nodes.client.call(one_count, 3)
        with pytest.raises(InvalidArgument, match=r"signature is \(text: str, number: int\); it was called as \(text: str\)"):
            await nodes.client.call(old_note, "hi")
        await anyio.sleep(0.1)
    assert heard == []


async def test_a_large_message_with_other_types_is_discarded() -> None:
    async with connected(*HANDLERS) as nodes:

        @rpc("flip")
        async def long_flip(pose: str) -> str:
            raise NotImplementedError

        for isolated in (False, True):
            with pytest.raises(InvalidArgument, match="peer's signature"):
                await nodes.client.with_options(isolated=isolated).call(long_flip, "x" * 200_000)
        assert await nodes.client.call(flip, Pose(1, 2)) == Pose(2, 1)


async def test_names_of_classes_may_differ() -> None:
    @rpc("flip")
    async def their_flip(pose: Position) -> Position:
        raise NotImplementedError

    async with connected(*HANDLERS) as nodes:
        assert await nodes.client.call(their_flip, Position(1, 2)) == Position(2, 1)


async def test_the_claim_travels_until_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def spy(handler: Any, method: str, claim: str) -> InvalidArgument | None:
        seen.append((method, claim))
        return stubs.check_claim(handler, method, claim)

    monkeypatch.setattr(serving, "check_claim", spy)
    async with connected(*HANDLERS) as nodes:
        for _ in range(3):
            assert await nodes.client.call(add, 1, 2) == 3
    assert seen == [("math.add", fingerprint(add.shape))]


async def test_where_a_type_says_nothing_nothing_is_compared() -> None:
    @rpc("flip")
    async def untyped(pose: Any) -> Any:
        raise NotImplementedError

    async with connected(*HANDLERS) as nodes:
        assert await nodes.client.call(untyped, {"x": 1, "y": 2}) == {"x": 2.0, "y": 1.0}


async def test_what_cannot_be_called() -> None:
    @stream
    async def audio(frames: Any) -> None: ...

    async with connected(*HANDLERS) as nodes:
        client: Any = nodes.client
        with pytest.raises(InvalidArgument, match=r"math\.add\(a: int, b: int = 5\) -> int: missing a required argument: 'a'"):
            await client.call(add)
        with pytest.raises(InvalidArgument, match="too many positional"):
            await client.call(add, 1, 2, 3)
        with pytest.raises(InvalidArgument, match=r"math\.add\(a: int"):
            await client.call(add, "x", 2)
        with pytest.raises(InvalidArgument, match="is no handler: wanted what @rpc or @event made"):
            await client.call(print, 1)
        with pytest.raises(InvalidArgument, match="create_stream"):
            await client.call(audio, 1)

        @rpc
        async def absent(x: int) -> int:
            raise NotImplementedError

        with pytest.raises(MethodNotFound):
            await client.call(absent, 1)


async def test_errors_are_those_of_requests() -> None:
    @rpc
    async def sleep() -> None:
        await anyio.sleep_forever()

    async with connected(sleep) as nodes:
        with pytest.raises(RequestTimeout):
            await nodes.client.with_options(timeout=0.1).call(sleep)
        await nodes.server.stop(drain=0)
        with pytest.raises(ConnectionClosed):
            await nodes.client.call(sleep)


# --- types that are learned -------------------------------------------------------------------------------------------


class Mute(JsonSerializer):
    """Cannot read anything without its type, as postcard cannot."""

    self_describing = False

    def __init__(self) -> None:
        super().__init__("mute")

    def codec(self, type: Any) -> Codec:
        codec = super().codec(type)
        return Codec(codec.encode, _mute) if type is Any else codec


def _mute(data: bytes) -> Any:
    raise SerializationError("say what it is: returns=…")


def mute_nodes(*handlers: Any, server: ServerBuilder | None = None, transport: MemoryTransport | None = None) -> Any:
    server = (server or EchoServer.builder()).serializer(Mute())
    return connected(*handlers, server=server, client=EchoClient.builder().serializer(Mute()), transport=transport)


async def test_a_request_learns_what_it_needs_and_asks_once() -> None:
    async with mute_nodes(*HANDLERS) as nodes:
        client: Any = nodes.client
        assert client.session.serializer.name == "mute"
        before = client.session.stats()["frames_sent"]
        assert await client.request("math.add", (10, 20)) == 30
        assert await client.request("math.add", (1, 2)) == 3
        assert client.session.stats()["frames_sent"] - before == 3, "one question, two requests"
        assert await client.request("flip", {"x": 1.0, "y": 2.0}) == {"x": 2.0, "y": 1.0}, "structs are dicts"
        assert await client.request("flip", Pose(1, 2)) == {"x": 2.0, "y": 1.0}
        assert await client.request("flip", Pose(1, 2), returns=Pose) == Pose(2, 1)
        assert await client.request("nothing") is None
        async with client.request_stream("count", 3) as answers:
            assert [answer async for answer in answers] == [0, 1, 2]
        async with client.request_stream("label", "#", items=[{"x": 1, "y": 2}]) as answers:
            assert [answer async for answer in answers] == ["#1"]
        with pytest.raises(MethodNotFound):
            await client.request("absent", 1)
        with pytest.raises(InvalidArgument, match=r"math\.add\(a: int, b: int = 5\) -> int: "):
            await client.request("math.add", "x")


async def test_many_that_want_to_know_ask_once_and_learn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(described: Any, codecs: Any) -> Any:
        made.append(described.name)
        return make_coding(described, codecs)

    make_coding = learning._coding
    monkeypatch.setattr(learning, "_coding", make)
    async with mute_nodes(*HANDLERS) as nodes:
        before = nodes.client.session.stats()["frames_sent"]
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(nodes.client.request, "math.add", (number, 1))
        assert nodes.client.session.stats()["frames_sent"] - before == 11, "one question, ten requests"
        assert made == ["math.add"], "a codec costs a millisecond"


async def test_one_that_asks_and_gives_up_leaves_the_question_to_the_next() -> None:
    async with mute_nodes(*HANDLERS) as nodes:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(nodes.client.request, "math.add", (1, 1))
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert await nodes.client.request("math.add", (2, 1)) == 3


async def test_what_is_not_there_yet_is_asked_for_again() -> None:
    async with mute_nodes() as nodes:
        with pytest.raises(MethodNotFound):
            await nodes.client.request("math.add", (1, 2))
        nodes.server.add_rpc(add)
        assert await nodes.client.request("math.add", (1, 2)) == 3
        got: list[Pose] = []

        @event
        async def place(pose: Pose) -> None:
            got.append(pose)

        await nodes.client.emit("place", "nobody cares what")
        await anyio.sleep(0.1)
        nodes.server.add_event(place)
        await anyio.sleep(6)
        with pytest.raises(InvalidArgument, match="place"):
            await nodes.client.emit("place", "somebody cares")
        await nodes.client.emit("place", {"x": 1, "y": 2})
        await anyio.sleep(0.1)
        assert got == [Pose(1, 2)]


async def test_asking_counts_against_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    describe = introspection.KERNEL_METHODS["$describe"][0]

    async def slowly(session: Session, payload: bytes) -> bytes:
        await anyio.sleep(0.7)
        return await describe(session, payload)

    @rpc
    async def sleep(seconds: float) -> None:
        await anyio.sleep(seconds)

    monkeypatch.setitem(introspection.KERNEL_METHODS, "$describe", (slowly,))
    async with mute_nodes(sleep, add) as nodes:
        began = anyio.current_time()
        with pytest.raises(RequestTimeout):
            await nodes.client.request("sleep", 30.0, timeout=1.0)
        assert 0.9 < anyio.current_time() - began < 1.1
        with pytest.raises(RequestTimeout):
            await nodes.client.request("math.add", (1, 2), timeout=0.5)
        assert await nodes.client.request("math.add", (1, 2), timeout=1) == 3


async def test_a_description_that_is_none_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lie(session: Session, payload: bytes) -> bytes:
        return b"\xff" * 8

    monkeypatch.setitem(introspection.KERNEL_METHODS, "$describe", (lie,))
    async with mute_nodes(add) as nodes:
        with pytest.raises(ProtocolError, match="the peer's description"):
            await nodes.client.request("math.add", (1, 2))
        await anyio.sleep(1)
        assert nodes.client.session.closed is not None


async def test_emit_learns_too() -> None:
    heard.clear()
    async with mute_nodes(*HANDLERS) as nodes:
        await nodes.client.emit("note", ("hi", 1))
        await nodes.client.emit("unheard", 1)
        await anyio.sleep(0.1)
    assert heard == [("hi", 1)]


async def test_where_nothing_can_be_learned_the_type_has_to_be_given() -> None:
    async with mute_nodes(*HANDLERS, server=EchoServer.builder().describe(False)) as nodes:
        with pytest.raises(SerializationError, match="returns="):
            await nodes.client.request("math.add", (1, 2))
        assert await nodes.client.request("math.add", (1, 2), returns=int) == 3
        assert await nodes.client.call(add, 1, 2) == 3


def test_a_parameter_without_a_type_is_refused_where_bytes_do_not_say_what_they_are() -> None:
    @rpc
    async def untyped(session: Session, what, how: int) -> None:  # type: ignore[no-untyped-def]
        raise NotImplementedError

    @rpc
    async def items(numbers: AsyncIterator[Any]) -> None:
        raise NotImplementedError

    def node(serializer: Serializer, handler: Any) -> EchoServer:
        builder = EchoServer.builder().serializer(serializer).transport(MemoryTransport()).bind("memory://node:1")
        return builder.add_handler(handler).build()

    for handler, name in ((untyped, "what"), (items, "numbers")):
        with pytest.raises(InvalidArgument, match=rf"parameter '{name}' has no type, and mute payloads .* annotate it"):
            node(Mute(), handler)
        node(JsonSerializer(), handler)
