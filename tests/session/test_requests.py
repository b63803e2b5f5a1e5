"""Requests: every signature form, errors, deadlines, cancellation, limits, bodies, both directions."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoError,
    EchoServer,
    HandlerError,
    InvalidArgument,
    Limits,
    MethodNotFound,
    OutcomeUnknown,
    Overloaded,
    RequestCancelled,
    RequestTimeout,
    Session,
    StreamReceiver,
    event,
    rpc,
    stream,
)
from echokernel.engine import inherited
from echokernel.testing import connected

pytestmark = pytest.mark.anyio


@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@rpc
async def double(value: int) -> int:
    return 2 * value


@rpc
async def nothing() -> None:
    return None


@rpc
async def who(session: Session) -> str:
    return f"{session.peer_addr[0]}"


@rpc
async def greet(session: Session, name: str) -> str:
    return f"hello {name} on {session.id}"


@rpc
async def join(session: Session, a: str, b: str) -> str:
    return a + b


@rpc(inline=True)
def inline_thread() -> int:
    return threading.get_ident()


@rpc
def worker_thread() -> int:
    return threading.get_ident()


@dataclass
class Point:
    x: int
    y: int


@rpc
async def mirror(point: Point) -> Point:
    return Point(point.y, point.x)


@rpc
async def untyped(value):  # type: ignore[no-untyped-def]
    return value


@pytest.mark.parametrize(
    ("method", "value", "result"),
    [
        ("math.add", (10, 20), 30),
        ("double", 4, 8),
        ("nothing", None, None),
        ("who", None, "memory"),
        ("greet", "Ann", "hello Ann on 1"),
        ("join", ("a", "b"), "ab"),
        ("mirror", Point(1, 2), {"x": 2, "y": 1}),
        ("untyped", [1, "two", None], [1, "two", None]),
    ],
)
async def test_a_handler_may_have_every_form(method: str, value: Any, result: Any) -> None:
    async with connected(add, double, nothing, who, greet, join, mirror, untyped) as nodes:
        assert await nodes.client.request(method, value) == result


async def test_the_result_is_built_as_the_caller_wants_it() -> None:
    async with connected(mirror) as nodes:
        assert await nodes.client.request("mirror", Point(1, 2), returns=Point) == Point(2, 1)


async def test_plain_functions_run_in_a_thread_unless_they_are_inline() -> None:
    async with connected(inline_thread, worker_thread) as nodes:
        assert await nodes.client.request("inline_thread") == threading.get_ident()
        assert await nodes.client.request("worker_thread", timeout=0) != threading.get_ident()


def test_a_decorated_function_is_still_a_function() -> None:
    assert inline_thread() == threading.get_ident()
    assert add.name == "math.add"
    assert "math.add" in repr(add)


async def test_a_handler_class_gets_and_returns_bytes() -> None:
    class Upper:
        name = "upper"

        async def handle(self, session: Session, payload: bytes) -> bytes:
            return payload.upper()

    async with connected(server=EchoServer.builder().add_rpc(Upper())) as nodes:
        assert await nodes.client.request("upper", "abc") == "ABC"


async def test_the_server_calls_the_client_and_calls_nest() -> None:
    @rpc
    async def ask_back(session: Session, value: int) -> int:
        return int(await session.request("double", value)) + 1

    async with connected(ask_back, client_handlers=[double]) as nodes:
        assert await nodes.client.request("ask_back", 5) == 11
        assert await nodes.session.request("double", 3) == 6


# --- errors ---------------------------------------------------------------------------------------------------------


async def test_an_unknown_method_is_named() -> None:
    async with connected(add) as nodes:
        with pytest.raises(MethodNotFound, match=r"no method 'math\.sub' here"):
            await nodes.client.request("math.sub", (1, 2))
        assert await nodes.client.request("math.add", (1, 2)) == 3


async def test_wrong_arguments_are_the_callers_mistake() -> None:
    async with connected(add) as nodes:
        with pytest.raises(InvalidArgument, match=r"math\.add: not a valid tuple\[int, int\]"):
            await nodes.client.request("math.add", ("a", 2))
        with pytest.raises(InvalidArgument):
            await nodes.client.request("math.add", 1)


@pytest.mark.parametrize("name", ["", "with space", "ü", "x" * 129])
async def test_a_name_that_cannot_travel_is_refused_at_once(name: str) -> None:
    async with connected() as nodes:
        with pytest.raises(InvalidArgument, match="wanted 1 to 128 characters"):
            await nodes.client.request(name)


async def test_a_failing_handler_tells_its_class_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    @rpc
    async def broken() -> None:
        raise OSError("/home/canary/secret.key is missing")

    async with connected(broken) as nodes:
        with pytest.raises(
            HandlerError, match=r"broken failed: OSError \(error [0-9a-f]{8} in the peer's log\)"
        ) as caught:
            await nodes.client.request("broken")
    assert "canary" not in str(caught.value)
    number = str(caught.value).split("(error ")[1][:8]
    assert number in caplog.text
    assert "canary" in caplog.text


async def test_an_echo_error_arrives_with_code_message_and_details() -> None:
    @rpc
    async def picky() -> None:
        raise HandlerError("sold out", code=4711, details=b"\x01\x02")

    @rpc
    async def busy() -> None:
        raise Overloaded("come back later")

    async with connected(picky, busy) as nodes:
        with pytest.raises(HandlerError, match="sold out") as caught:
            await nodes.client.request("picky")
        assert (caught.value.code, caught.value.details, caught.value.retryable) == (4711, b"\x01\x02", False)
        with pytest.raises(Overloaded, match="come back later") as busy_error:
            await nodes.client.request("busy")
        assert busy_error.value.retryable


async def test_a_result_of_the_wrong_type_is_the_handlers_fault() -> None:
    @rpc
    async def liar() -> int:
        return "many"  # type: ignore[return-value]

    async with connected(liar) as nodes:
        with pytest.raises(HandlerError, match="the result does not fit the handler's return type"):
            await nodes.client.request("liar")


# --- deadlines and cancellation -------------------------------------------------------------------------------------


async def test_a_request_ends_at_its_deadline_and_so_does_its_handler() -> None:
    ended: list[str] = []

    @rpc
    async def slow() -> None:
        try:
            await anyio.sleep(100)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    async with connected(slow) as nodes:
        began = anyio.current_time()
        with pytest.raises(RequestTimeout, match="slow: no answer within its deadline"):
            await nodes.client.request("slow", timeout=3)
        assert 3 <= anyio.current_time() - began < 3.1
        await anyio.sleep(0.1)
        assert len(ended) == 1
        assert nodes.session.stats()["open_peer_requests"] == 0


async def test_the_default_deadline_is_the_nodes_and_needs_no_metadata() -> None:
    @rpc
    async def never() -> None:
        await anyio.sleep_forever()

    client = EchoClient.builder().limits(Limits(default_timeout=2))
    async with connected(never, client=client) as nodes:
        began = anyio.current_time()
        with pytest.raises(RequestTimeout):
            await nodes.client.request("never")
        assert 2 <= anyio.current_time() - began < 2.1


async def test_a_request_without_a_deadline_waits() -> None:
    @rpc
    async def slow() -> str:
        await anyio.sleep(1_000)
        return "done"

    async with connected(slow) as nodes:
        assert await nodes.client.request("slow", timeout=0) == "done"


async def test_a_nested_request_inherits_what_is_left() -> None:
    seen: list[float] = []

    @rpc
    async def inner() -> None:
        await anyio.sleep_forever()

    @rpc
    async def outer(session: Session) -> None:
        began = anyio.current_time()
        try:
            await session.request("inner", timeout=60)
        finally:
            seen.append(anyio.current_time() - began)

    async with connected(outer, client_handlers=[inner]) as nodes:
        with pytest.raises(RequestTimeout):
            await nodes.client.request("outer", timeout=2)
        await anyio.sleep(0.1)
        assert len(seen) == 1
        assert seen[0] < 2.1


async def test_streams_and_events_do_not_inherit_the_deadline_of_a_request_before_them() -> None:
    seen: list[float | None] = []

    @event
    async def note() -> None:
        seen.append(inherited.deadline.get())

    @event(concurrent=True)
    async def notes() -> None:
        seen.append(inherited.deadline.get())

    @stream
    async def audio(receiver: StreamReceiver) -> None:
        seen.append(inherited.deadline.get())

    async with connected(double, note, notes, audio) as nodes:
        await nodes.client.request("double", 1)
        await nodes.client.create_stream("audio")
        await nodes.client.emit("note")
        await nodes.client.request("double", 1)
        await nodes.client.emit("notes")
        await anyio.sleep(0.1)
    assert seen == [None, None, None]


async def test_cancelling_a_request_cancels_the_handler() -> None:
    started, stopped = anyio.Event(), anyio.Event()

    @rpc
    async def slow() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with connected(slow) as nodes:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(nodes.client.request, "slow")
            await started.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(1):
            await stopped.wait()
        await anyio.sleep(0.1)
        assert nodes.client.session.stats()["open_requests"] == 0


async def test_a_request_cancelled_at_once_is_answered_all_the_same() -> None:
    ran: list[int] = []

    @rpc
    async def slow() -> None:
        ran.append(1)
        await anyio.sleep_forever()

    async with connected(slow) as nodes:
        for _ in range(20):
            with anyio.move_on_after(0):
                await nodes.client.request("slow")
        await anyio.sleep(0.1)
        assert nodes.client.session.stats()["open_requests"] == 0
        assert nodes.session.stats()["open_peer_requests"] == 0


async def test_a_handler_that_cancels_itself_is_answered() -> None:
    @rpc
    async def quits() -> None:
        raise RequestCancelled("not today")

    async with connected(quits) as nodes:
        with pytest.raises(RequestCancelled, match="not today"):
            await nodes.client.request("quits")


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_requests_beyond_the_peers_limit_wait_for_their_turn() -> None:
    running = most = 0

    @rpc
    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1
        return number

    results: list[int] = []
    server = EchoServer.builder().limits(Limits(max_requests=4))
    async with connected(work, server=server) as nodes, anyio.create_task_group() as tasks:

        async def call(number: int) -> None:
            results.append(await nodes.client.request("work", number, timeout=60))

        for number in range(20):
            tasks.start_soon(call, number)
    assert sorted(results) == list(range(20))
    assert most == 4


async def test_waiting_for_a_turn_ends_at_the_deadline() -> None:
    @rpc
    async def hold() -> None:
        await anyio.sleep_forever()

    server = EchoServer.builder().limits(Limits(max_requests=1))
    async with connected(hold, server=server) as nodes, anyio.create_task_group() as tasks:
        tasks.start_soon(nodes.client.request, "hold")
        await anyio.sleep(0.01)
        with pytest.raises(RequestTimeout, match="gave no room for it within the deadline; nothing was sent"):
            await nodes.client.request("hold", timeout=1)
        tasks.cancel_scope.cancel()


async def test_a_cancelled_waiter_gives_its_turn_to_the_next_one() -> None:
    release = anyio.Event()

    @rpc
    async def hold(number: int) -> int:
        if number == 0:
            await release.wait()
        return number

    results: list[int] = []
    server = EchoServer.builder().limits(Limits(max_requests=1))
    async with connected(hold, server=server) as nodes, anyio.create_task_group() as tasks:

        async def call(number: int) -> None:
            results.append(await nodes.client.request("hold", number))

        tasks.start_soon(call, 0)
        await anyio.sleep(0.01)
        async with anyio.create_task_group() as doomed:
            doomed.start_soon(call, 1)
            await anyio.sleep(0.01)
            tasks.start_soon(call, 2)
            await anyio.sleep(0.01)
            doomed.cancel_scope.cancel()
        release.set()
    assert sorted(results) == [0, 2]


async def test_ten_thousand_requests_at_once_are_all_answered() -> None:
    results = 0
    async with connected(double) as nodes, anyio.create_task_group() as tasks:

        async def call(number: int) -> None:
            nonlocal results
            assert await nodes.client.request("double", number, timeout=0) == 2 * number
            results += 1

        for number in range(10_000):
            tasks.start_soon(call, number)
    assert results == 10_000


# --- long messages --------------------------------------------------------------------------------------------------


@rpc
async def repeat(text: str, times: int) -> str:
    return text * times


@rpc
async def length(text: str) -> int:
    return len(text)


@pytest.mark.parametrize("size", [65_534, 65_535, 300_000, 4_000_000])
async def test_long_arguments_and_results_travel_beside_the_channel(size: int) -> None:
    async with connected(repeat, length) as nodes:
        assert await nodes.client.request("length", "x" * size) == size
        assert len(await nodes.client.request("repeat", ("x", size))) == size
        assert await nodes.client.request("length", "x" * size, timeout=5) == size


async def test_a_message_over_the_peers_limit_never_leaves() -> None:
    async with connected(length, repeat) as nodes:
        with pytest.raises(InvalidArgument, match="a message of 5,000,002 bytes; the peer takes 4,194,304"):
            await nodes.client.request("length", "x" * 5_000_000)
        with pytest.raises(Overloaded, match="the result has 5,000,002 bytes; the caller takes 4,194,304"):
            await nodes.client.request("repeat", ("x", 5_000_000))
        assert await nodes.client.request("length", "abc") == 3


# --- the end of a connection ----------------------------------------------------------------------------------------


async def test_a_lost_connection_fails_what_is_pending_at_once() -> None:
    @rpc
    async def never() -> None:
        await anyio.sleep_forever()

    errors: list[EchoError] = []
    async with connected(never) as nodes:

        async def call(idempotent: bool) -> None:
            try:
                await nodes.client.request("never", timeout=0, idempotent=idempotent)
            except EchoError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, False)
            await anyio.sleep(0.01)
            tasks.start_soon(call, True)
            await anyio.sleep(0.01)
            nodes.transport.connections[0][0].die()
        errors.sort(key=lambda error: error.retryable)
        assert [type(error) for error in errors] == [OutcomeUnknown, ConnectionClosed]
        assert [error.retryable for error in errors] == [False, True]
        with pytest.raises(ConnectionClosed):
            await nodes.client.request("never")
    assert "may or may not have run" in str(errors[0])


async def test_after_close_everything_says_so() -> None:
    async with connected(add) as nodes:
        await nodes.client.close()
        with pytest.raises(ConnectionClosed):
            await nodes.client.request("math.add", (1, 2))
        with pytest.raises(ConnectionClosed):
            await nodes.client.emit("log", "x")
        with pytest.raises(ConnectionClosed):
            await nodes.client.create_stream("s")
        with pytest.raises(ConnectionClosed):
            await nodes.client.ping()


async def test_a_handler_may_close_its_own_session() -> None:
    @rpc
    async def leave(session: Session) -> None:
        await session.close(reason="bye")

    async with connected(leave) as nodes:
        with pytest.raises(ConnectionClosed, match="bye"):
            await nodes.client.request("leave")


async def test_a_handler_that_does_not_want_to_stop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    @rpc
    async def stubborn() -> None:
        end = anyio.current_time() + 6
        while anyio.current_time() < end:
            try:
                with anyio.CancelScope(shield=True):  # holds on trio; asyncio's own cancellation gets through
                    await anyio.sleep(1)
            except BaseException:
                pass

    caplog.set_level(logging.WARNING)
    async with connected(stubborn) as nodes:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises(ConnectionClosed):
                    await nodes.client.request("stubborn")

            tasks.start_soon(call)
            await anyio.sleep(0.01)
            await nodes.session.close()
        await anyio.sleep(8)
    assert "still run" in caplog.text
    assert "stubborn" in caplog.text


async def test_the_body_of_async_with_keeps_its_own_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        async with connected(add) as nodes:
            await nodes.client.request("math.add", (1, 2))
            raise ZeroDivisionError
    async with connected(add) as nodes:
        pass


async def test_a_method_of_an_instance_is_a_handler() -> None:
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        @rpc
        async def bump(self, by: int) -> int:
            self.value += by
            return self.value

        @rpc("who")
        async def name(self, session: Session) -> bool:
            return session.closed is None

    counter = Counter()
    assert await counter.bump(1) == 1
    async with connected(counter.bump, counter.name) as nodes:
        assert await nodes.client.request("bump", 2) == 3
        assert await nodes.client.request("who") is True
        nodes.server.remove_rpc("bump")
        with pytest.raises(InvalidArgument, match=r"a method; add it from an instance of its class, as in add_rpc\("):
            nodes.server.add_rpc(Counter.bump)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    async with connected(double) as nodes:
        for isolated in (False, True):
            with pytest.raises(InvalidArgument, match="wanted 0"):
                await nodes.client.request("double", 1, timeout=timeout, isolated=isolated)
        with pytest.raises(InvalidArgument, match="wanted 0"):
            nodes.client.request_stream("double", 1, timeout=timeout)
