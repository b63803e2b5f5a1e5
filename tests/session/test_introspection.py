"""What a node tells about itself, and how much of a stream was taken: between two real sessions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

import echokernel
from echokernel import (
    EchoClient,
    EchoError,
    EchoServer,
    HandlerError,
    HealthStatus,
    InvalidArgument,
    Limits,
    MethodKind,
    MethodNotFound,
    Overloaded,
    PermissionDenied,
    PluginDescription,
    ProtocolError,
    Session,
    StreamReceiver,
    event,
    rpc,
    stream,
)
from echokernel.engine.calls import Calls
from echokernel.engine.taken import REMEMBERED
from echokernel.introspection import KERNEL_METHODS
from echokernel.middleware import Middleware
from echokernel.signatures import describe_handler
from echokernel.testing import connected

pytestmark = pytest.mark.anyio


@dataclass
class Pose:
    """Where something is."""

    x: float
    y: float = 0.0
    source: str = "/home/alice/poses.csv"


@rpc("math.add")
async def add(session: Session, a: int, b: int = 3) -> int:
    """Return the sum.

    Of two numbers.
    """
    return a + b


@rpc("pose.move")
async def move(pose: Pose | None) -> list[Pose]:
    return []


@event("log", concurrent=True)
async def log(message: str) -> None: ...


@stream("audio")
async def audio(session: Session, stream: StreamReceiver) -> None:
    """Take all of it."""
    async for _ in stream:
        pass


class Plain:
    """A class instead of a function."""

    name = "plain"

    async def handle(self, session: Session, payload: bytes, /) -> bytes:
        return payload


# --- describe ---------------------------------------------------------------------------------------------------------


async def test_a_description_has_everything() -> None:
    server = EchoServer.builder().name("quick").add_rpc(Plain())
    async with connected(add, move, log, audio, server=server) as nodes:
        nodes.server._node.about.plugins = (PluginDescription("memory", "echokernel-memory", "1"),)
        found = await nodes.client.describe()
        assert (found.node, found.version, found.serializers) == ("quick", echokernel.__version__, ("json",))
        assert found.runtime.startswith(("Python 3.", "PyPy 3."))
        assert found.plugins == (PluginDescription("memory", "echokernel-memory", "1"),)
        assert [(method.kind.name, method.name, method.signature, method.doc) for method in found.methods] == [
            ("RPC", "math.add", "(a: int, b: int = 3) -> int", "Return the sum.\n\nOf two numbers."),
            ("RPC", "plain", "", "A class instead of a function."),
            ("RPC", "pose.move", "(pose: Pose | None) -> list[Pose]", ""),
            ("EVENT", "log", "(message: str)", ""),
            ("STREAM", "audio", "(stream: StreamReceiver)", "Take all of it."),
        ]
        assert [method.concurrent for method in found.methods] == [False, False, False, True, False]
        two, plain, pose, one, flow = found.methods
        schema = json.loads(two.parameters)
        assert [part["title"] for part in schema["prefixItems"]] == ["a", "b"]
        assert (schema["minItems"], schema["maxItems"]) == (2, 2)
        assert json.loads(two.result) == {"type": "integer"}
        assert json.loads(one.parameters) == {"type": "string", "title": "message"}
        assert (plain.parameters, plain.result, flow.parameters, flow.result, one.result) == ("", "", "", "", "")
        assert "Pose" in json.loads(pose.parameters)["$defs"]
        assert "/home" not in repr(found)
        assert __name__.rpartition(".")[2] not in repr(found)


async def test_both_ends_can_be_asked() -> None:
    async with connected(add, client_handlers=[log]) as nodes:
        assert [method.name for method in (await nodes.session.describe()).methods] == ["log"]
        assert (await nodes.session.health()).sessions == 1


async def test_methods_by_name_and_without_schemas() -> None:
    async with connected(add, move, log) as nodes:
        some = await nodes.client.describe("log", "pose.move", "nope")
        assert [method.name for method in some.methods] == ["pose.move", "log"]
        brief = await nodes.client.describe("math.add", schemas=False)
        assert (brief.methods[0].parameters, brief.methods[0].signature[:3]) == ("", "(a:")


async def test_a_method_is_described_once_and_again_when_its_handler_is_another() -> None:
    async with connected(add) as nodes:
        node = nodes.server._node
        await nodes.client.describe()
        key = MethodKind.RPC, "math.add"
        first = node.about.methods[key]
        await nodes.client.describe()
        assert node.about.methods[key] is first

        @rpc("math.add")
        async def other(text: str) -> str: ...

        node.methods._handlers["rpc", "math.add"] = other
        [method] = (await nodes.client.describe()).methods
        assert method.signature == "(text: str) -> str"
        del node.methods._handlers["rpc", "math.add"]
        assert (await nodes.client.describe()).methods == ()


async def test_descriptions_of_handlers_that_are_gone_are_dropped() -> None:
    async with connected(add) as nodes:
        node = nodes.server._node
        for number in range(200):

            @rpc(f"passing.{number}")
            async def passing() -> None: ...

            node.methods._handlers["rpc", passing.name] = passing
            if number % 50 == 0:
                await nodes.client.describe()
        for name in node.methods.names("rpc"):
            if name.startswith("passing"):
                del node.methods._handlers["rpc", name]
        assert [method.name for method in (await nodes.client.describe()).methods] == ["math.add"]
        assert len(node.about.methods) <= 67


async def test_a_node_that_does_not_want_to_be_described() -> None:
    async with connected(add, server=EchoServer.builder().describe(False)) as nodes:
        with pytest.raises(PermissionDenied, match="does not describe itself"):
            await nodes.client.describe()
        assert (await nodes.client.health()).status is HealthStatus.OK
    async with connected(client=EchoClient.builder().describe(False)) as nodes:
        with pytest.raises(PermissionDenied):
            await nodes.session.describe()


async def test_a_description_that_is_longer_than_a_frame() -> None:
    server = EchoServer.builder()
    for number in range(600):

        @rpc(f"many.{number}")
        async def one_of_many(text: str) -> str: ...

        one_of_many.function.__doc__ = "x" * 200
        server.add_rpc(one_of_many)
    async with connected(server=server) as nodes:
        found = await nodes.client.describe(timeout=60)
        assert len(found.methods) == 600
        assert len(found.encode()) > 100_000


async def test_a_description_that_is_too_long_says_what_to_ask_instead() -> None:
    @rpc("long")
    async def long() -> None: ...

    long.function.__doc__ = "x" * 100_000  # cut
    client = EchoClient.builder().limits(Limits(max_frame=16_384, max_message=16_384, event_window=40_000))
    async with connected(long, add, client=client) as nodes:
        with pytest.raises(Overloaded, match="for methods by name"):
            await nodes.client.describe()
        assert len((await nodes.client.describe("math.add")).methods) == 1


async def test_middleware_sees_it_as_a_request() -> None:
    seen = []

    class Look(Middleware):
        async def handle(self, session: Any, frame: Any, call_next: Any) -> Any:
            seen.append(frame.header.method)
            return await call_next(frame)

    async with connected(add, server=EchoServer.builder().middleware(Look())) as nodes:
        assert len((await nodes.client.describe()).methods) == 1
        assert await nodes.client.health()
    assert seen == ["$describe", "$health"]


@pytest.mark.parametrize(("method", "payload"), [("$describe", b"\x02"), ("$health", b"x"), ("$taken", b"")])
async def test_a_question_that_is_nonsense(method: str, payload: bytes) -> None:
    async with connected(add) as nodes:
        with pytest.raises(InvalidArgument):
            await nodes.client.session._calls.request_raw(method, payload, None)
        assert await nodes.client.request("math.add", (1, 2)) == 3


async def test_a_question_that_a_serializer_coded() -> None:
    async with connected(add) as nodes:
        with pytest.raises(InvalidArgument):
            await nodes.client.request("$describe", {"a": 1})


async def test_an_answer_that_is_nonsense_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lie(session: Session, payload: bytes) -> bytes:
        return b"\xff"

    monkeypatch.setitem(KERNEL_METHODS, "$health", (lie,))
    async with connected(add) as nodes:
        with pytest.raises(ProtocolError, match=r"a \$health answer is cut short"):
            await nodes.client.health()
        with anyio.fail_after(5):
            while nodes.client.session.closed is None:
                await anyio.sleep(0.01)


async def test_an_older_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KERNEL_METHODS, "$describe")
    async with connected(add) as nodes:
        with pytest.raises(MethodNotFound, match=r"\$describe"):
            await nodes.client.describe()


# --- how handlers are described ---------------------------------------------------------------------------------------


async def count(upto: int) -> AsyncIterator[int]:
    yield upto


class Counter:
    """Answers with many payloads."""

    name = "counter"

    async def handle(self, session: Session, payload: bytes, /) -> AsyncIterator[bytes]:
        yield payload


async def total(numbers: AsyncIterator[float], unit: str) -> float:
    return 0.0


async def odd(path: Path, thing: "Calls", numbers: "list[Missing]") -> Any: ...  # type: ignore[name-defined]  # noqa: F821, UP037


def described(function: Any) -> Any:
    return describe_handler(MethodKind.RPC, "m", rpc("m")(function))


def test_streaming_handlers() -> None:
    found = described(count)
    assert found.signature == "(upto: int) -> AsyncIterator[int]"
    assert (found.streaming_request, found.streaming_response) == (False, True)
    assert json.loads(found.result) == {"type": "integer"}
    found = described(total)
    assert (found.streaming_request, found.streaming_response) == (True, False)
    assert json.loads(found.items) == {"type": "number"}
    assert json.loads(found.parameters) == {"type": "string", "title": "unit"}
    assert found.signature == "(numbers: AsyncIterator[float], unit: str) -> float"
    found = describe_handler(MethodKind.RPC, "counter", Counter())
    assert (found.streaming_request, found.streaming_response) == (False, True)


@dataclass
class Recorder:
    name: str = "recorder"
    path: Path = Path("/home/alice/out")

    async def handle(self, session: Session, payload: bytes, /) -> bytes:
        return payload


@dataclass
class Options:
    default: dict[str, Path] = field(default_factory=dict)
    places: tuple[Path, ...] = (Path("/home/alice/a"),)
    place: Path = Path("/home/alice/b")
    relative: str = "a/b"


async def configure(
    options: Options, where: str = "/home/alice/c", depth: int = 3, low: float | None = None
) -> None: ...


def test_no_place_of_this_machine_is_told() -> None:
    assert describe_handler(MethodKind.RPC, "recorder", Recorder()).doc == ""
    found = described(configure)
    assert found.signature == ("(options: Options, where: str = ..., depth: int = 3, low: float | None = None) -> None")
    assert "home" not in repr(found)
    options = json.loads(found.parameters)["$defs"]["Options"]["properties"]
    assert list(options) == ["default", "places", "place", "relative"]
    assert options["relative"]["default"] == "a/b"


def test_what_has_no_schema_has_an_empty_one() -> None:
    found = described(odd)
    assert found.signature == "(path: Path, thing: Calls, numbers: list[Missing]) -> Any"
    assert found.parameters == ""
    assert found.result == "{}"


# --- health -----------------------------------------------------------------------------------------------------------


async def test_health_counts() -> None:
    release = anyio.Event()

    @rpc
    async def wait() -> None:
        await release.wait()

    async with connected(wait) as nodes, anyio.create_task_group() as tasks:
        tasks.start_soon(nodes.client.request, "wait")
        await anyio.sleep(0.01)
        health = await nodes.client.health()
        assert (health.status, health.sessions, health.open_requests) == (HealthStatus.OK, 1, 1)
        assert 0 <= health.uptime < 60
        nodes.server._node.about.draining = True
        assert (await nodes.client.health()).status is HealthStatus.DRAINING
        release.set()


async def test_a_server_that_stops_says_so() -> None:
    async with connected(add) as nodes:
        await nodes.server.stop(0)
        assert nodes.server._node.about.draining


# --- what was taken ---------------------------------------------------------------------------------------------------


async def send(nodes: Any, name: str, frames: int) -> Any:
    sender = await nodes.client.create_stream(name)
    for _ in range(frames):
        await sender.send(b"x")
    await sender.finish()
    return sender


async def test_a_stream_that_was_taken_as_a_whole() -> None:
    async with connected(audio) as nodes:
        sender = await send(nodes, "audio", 5)
        assert await sender.wait_taken() == sender.sent == 5
        assert await sender.wait_taken() == 5  # remembered


async def test_it_waits_for_the_handler() -> None:
    release = anyio.Event()

    @stream("slow")
    async def slow(stream: StreamReceiver) -> None:
        await stream.recv()
        await release.wait()
        await stream.recv()

    async with connected(slow) as nodes:
        sender = await send(nodes, "slow", 3)
        with anyio.move_on_after(1):
            await sender.wait_taken(0)
            pytest.fail("the handler has not ended")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0.01)
            release.set()
            assert await sender.wait_taken(0) == 2  # of 3: it did not want the last one
        assert not nodes.session._flows.taken_streams._waiting


async def test_a_refused_stream_and_a_failed_handler() -> None:
    @stream("broken")
    async def broken(stream: StreamReceiver) -> None:
        raise ValueError("canary")

    async with connected(broken) as nodes:
        sender = await send(nodes, "nope", 1)
        with pytest.raises(MethodNotFound, match="'nope' was refused: no stream"):
            await sender.wait_taken()
        sender = await nodes.client.create_stream("broken")
        with pytest.raises(HandlerError, match="its handler failed: ValueError") as caught:
            await sender.wait_taken()
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize("delivery", ["reliable", "per_frame", "datagram"])
async def test_every_carrier_says_what_was_taken(delivery: Any) -> None:
    async with connected(audio) as nodes:
        sender = await nodes.client.create_stream("audio", delivery=delivery)
        for _ in range(3):
            await sender.send(b"x")
        await sender.finish()
        assert await sender.wait_taken() == sender.sent == 3


async def test_handlers_that_come_and_go_are_described() -> None:
    async with connected(add) as nodes:
        assert len((await nodes.client.describe()).methods) == 1
        nodes.server.add_rpc(rpc("count")(count))
        [more, _] = (await nodes.client.describe()).methods
        assert (more.name, more.streaming_response) == ("count", True)
        nodes.server.remove_rpc("count")
        assert len((await nodes.client.describe()).methods) == 1


async def test_only_the_last_ones_are_remembered() -> None:
    async with connected(audio) as nodes:
        first = await send(nodes, "audio", 1)
        await first.wait_taken()
        for _ in range(REMEMBERED):
            await (await send(nodes, "audio", 0)).wait_taken()
        with pytest.raises(EchoError, match="no stream 1 of yours is known here"):
            await first.wait_taken()
