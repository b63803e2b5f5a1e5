"""Requests with many values: both ways, at both ends, ended early by either, and held back by either."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoServer,
    HandlerError,
    InvalidArgument,
    Limits,
    MethodNotFound,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    RequestCancelled,
    RequestTimeout,
    Session,
    StreamStopped,
    current_trailers,
    rpc,
    time_left,
)
from echokernel.testing import connected
from echokernel_protocol.codes import Code

pytestmark = pytest.mark.anyio


@rpc
async def count(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number


@rpc
async def total(numbers: AsyncIterator[int]) -> int:
    return sum([number async for number in numbers])


@rpc
async def running(start: int, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in numbers:
        start += number
        yield start


@rpc
async def double(value: int) -> int:
    return 2 * value


async def test_many_answers() -> None:
    async with connected(count) as nodes:
        async with nodes.client.request_stream("count", 3, returns=int) as call:
            assert [number async for number in call] == [0, 1, 2]
        assert [number async for number in nodes.client.request_stream("count", 2)] == [0, 1]
        assert [number async for number in nodes.client.request_stream("count", 0)] == []


async def test_many_items() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(4):
            yield number

    async with connected(total) as nodes:
        assert await nodes.client.request_stream("total", items=[1, 2, 3]).result() == 6
        assert await nodes.client.request_stream("total", items=numbers()).result() == 6
        assert await nodes.client.request_stream("total", items=[]).result() == 0
        async with nodes.client.request_stream("total", sends=True) as call:
            await call.send(20)
            await call.send(22)
            assert await call.result() == 42


async def test_both_at_once_and_from_the_server_to_its_client() -> None:
    async with (
        connected(client_handlers=[running]) as nodes,
        nodes.session.request_stream("running", 100, sends=True, returns=int) as call,
    ):
        await call.send(1)
        assert await anext(call) == 101
        await call.send(10)
        assert await anext(call) == 111
        await call.finish()
        with pytest.raises(StopAsyncIteration):
            await anext(call)


async def test_a_handler_may_take_its_session_and_call_back_while_it_streams() -> None:
    @rpc
    async def relay(session: Session, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield await session.request("double", number)

    async with connected(relay, client_handlers=[double]) as nodes:
        call = nodes.client.request_stream("relay", items=range(3))
        assert [number async for number in call] == [0, 2, 4]


async def test_a_handler_class_streams() -> None:
    class Letters:
        name = "letters"

        async def handle(self, session: Session, payload: bytes) -> AsyncIterator[bytes]:
            for letter in b"ab":
                yield b'"%c"' % letter

    server = EchoServer.builder().add_rpc(Letters())  # type: ignore[arg-type]
    async with connected(server=server) as nodes:
        assert [letter async for letter in nodes.client.request_stream("letters")] == ["a", "b"]


async def test_a_handler_may_say_something_with_its_end() -> None:
    @rpc
    async def rows(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number
        current_trailers()["rows"] = str(limit)

    @rpc
    async def wrong() -> AsyncIterator[int]:
        current_trailers()["$mine"] = "x"
        yield 1

    async with connected(rows, wrong, double) as nodes:
        async with nodes.client.request_stream("rows", 2) as call:
            assert call.trailers == {}
            assert [number async for number in call] == [0, 1]
            assert call.trailers == {"rows": "2"}
        call = nodes.client.request_stream("wrong")
        assert await anext(call) == 1
        with pytest.raises(InvalidArgument, match="kernel's"):
            await anext(call)
    with pytest.raises(InvalidArgument, match="none is being handled here"):
        current_trailers()


async def test_values_longer_than_a_frame_go_both_ways() -> None:
    @rpc
    async def upper(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in texts:
            yield text.upper()

    texts = ["x" * 70_000, "y", "z" * 300_000]
    async with connected(upper) as nodes:
        assert [text async for text in nodes.client.request_stream("upper", items=texts)] == [t.upper() for t in texts]


async def test_the_caller_stops_early_and_the_handler_learns_it_at_once() -> None:
    ended = anyio.Event()

    @rpc
    async def forever() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with connected(forever) as nodes:
        async with nodes.client.request_stream("forever") as call:
            assert await anext(call) == 1
        with anyio.fail_after(0.5):
            await ended.wait()
        with pytest.raises(RequestCancelled, match="closed here"):
            await anext(call)


async def test_leaving_a_loop_without_async_with_stops_the_handler() -> None:
    ended = anyio.Event()

    @rpc
    async def forever() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await anyio.sleep(0.01)
        finally:
            ended.set()

    async with connected(forever) as nodes:
        async for _ in nodes.client.request_stream("forever"):
            break
        gc.collect()
        with anyio.fail_after(0.5):
            await ended.wait()


async def test_the_handler_stops_early_and_the_caller_learns_it_at_once() -> None:
    @rpc
    async def first(numbers: AsyncIterator[int]) -> int:
        return await anext(aiter(numbers))

    async with connected(first) as nodes:
        async with nodes.client.request_stream("first", sends=True) as call:
            await call.send(7)
            assert await anext(call) == 7
            with pytest.raises(StopAsyncIteration):
                await anext(call)
            with pytest.raises((StreamStopped, InvalidArgument, ConnectionClosed)):
                for _ in range(1_000):
                    await call.send(8)
        assert await nodes.client.request_stream("first", items=iter([7, 8, 9])).result() == 7


async def test_what_the_handler_raises_comes_behind_its_answers() -> None:
    @rpc
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise HandlerError("no more", code=4711, details=b"x")

    async with connected(broken) as nodes, nodes.client.request_stream("broken") as call:
        assert await anext(call) == 1
        for _ in range(2):  # it stays so
            with pytest.raises(HandlerError, match="no more") as caught:
                await anext(call)
            assert (caught.value.code, caught.value.details) == (4711, b"x")


async def test_what_the_iterator_of_the_caller_raises_stops_the_handler_and_reaches_the_caller() -> None:
    seen: list[int | str] = []

    @rpc
    async def watch(numbers: AsyncIterator[int]) -> None:
        try:
            async for number in numbers:
                seen.append(number)
        except RequestCancelled:
            seen.append("cancelled")
            raise
        except BaseException:
            seen.append("stopped")
            raise

    async def numbers() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(0.01)
        raise KeyError("mine")

    async with connected(watch) as nodes:
        with pytest.raises(KeyError, match="mine"):
            await nodes.client.request_stream("watch", items=numbers()).result()
        await anyio.sleep(0.1)
        assert seen[0] == 1 and seen[-1] in ("cancelled", "stopped")


async def test_answers_that_nobody_reads_hold_the_handler_back_and_nobody_else() -> None:
    made = 0

    @rpc
    async def flood() -> AsyncIterator[str]:
        nonlocal made
        while True:
            made += 1
            yield "x" * 10_000

    async with connected(flood, double) as nodes, nodes.client.request_stream("flood") as call:
        await anext(call)
        await anyio.sleep(1)
        held = made
        assert held < 200  # the transport's window, and one chunk that was read
        assert await nodes.client.request("double", 1) == 2
        await anyio.sleep(1)
        assert made == held
        for _ in range(100):
            await anext(call)
        assert made > held or held > 100


async def test_items_that_the_handler_does_not_read_hold_the_caller_back() -> None:
    @rpc
    async def lazy(texts: AsyncIterator[str]) -> int:
        await anyio.sleep(5)
        return len([text async for text in texts])

    async with connected(lazy) as nodes, nodes.client.request_stream("lazy", sends=True) as call:
        sent = 0
        with anyio.move_on_after(2):
            for _ in range(1_000):
                await call.send("x" * 10_000)
                sent += 1
        assert sent < 200
        assert await call.result() == sent


async def test_a_deadline_ends_the_call_at_both_ends() -> None:
    left: list[float | None] = []
    ended = anyio.Event()

    @rpc
    async def forever(start: int) -> AsyncIterator[int]:
        left.append(time_left())
        try:
            yield start
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with connected(forever) as nodes:
        async with nodes.client.request_stream("forever", 1, timeout=2) as call:
            assert await anext(call) == 1
            with pytest.raises(RequestTimeout, match="not over within its deadline"):
                await anext(call)
        with anyio.fail_after(0.5):
            await ended.wait()
        assert left[0] is not None and 1.9 <= left[0] <= 2
        call = nodes.client.request_stream("forever", 1)
        await anext(call)
        assert left[1] is None  # the default deadline of requests does not hold for streams
        call.close()


async def test_the_wrong_way_to_call_is_explained() -> None:
    async with connected(count, double, total) as nodes:
        with pytest.raises(InvalidArgument, match="use request_stream"):
            await nodes.client.request("count", 3)
        with pytest.raises(InvalidArgument, match="use request_stream"):
            await nodes.client.request("count", 3, isolated=True)
        with pytest.raises(MethodNotFound, match="no method 'nothing'"):
            await anext(nodes.client.request_stream("nothing"))
        assert await nodes.client.request_stream("double", 2).result() == 4
        with pytest.raises(ProtocolError, match="more than one answer"):
            await nodes.client.request_stream("count", 3).result()
        with pytest.raises(InvalidArgument, match="sends no items"):
            await nodes.client.request_stream("count", 3).send(1)
        with pytest.raises(InvalidArgument, match="total"):
            await nodes.client.request_stream("total", items=["text"]).result()
        with pytest.raises(InvalidArgument, match="count"):
            await anext(nodes.client.request_stream("count", "text"))
        assert nodes.session.stats()["open_peer_requests"] == 0


async def test_a_lost_connection_ends_calls_with_an_error() -> None:
    @rpc
    async def forever() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep_forever()

    async with connected(forever, total) as nodes:
        call = nodes.client.request_stream("forever")
        await anext(call)
        other = nodes.client.request_stream("total", sends=True)
        await other.send(1)
        nodes.session._connection.die(  # type: ignore[attr-defined]
            ConnectionClosed("gone", code=Code.UNAVAILABLE), ConnectionClosed("gone", code=Code.UNAVAILABLE)
        )
        with pytest.raises(ConnectionClosed):
            await anext(call)
        with pytest.raises(ConnectionClosed):
            await other.result()
        with pytest.raises(ConnectionClosed):
            await anext(nodes.client.request_stream("forever"))


async def test_stopping_a_server_waits_for_open_calls() -> None:
    @rpc
    async def slowly(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            await anyio.sleep(0.5)
            yield number

    got: list[int] = []
    async with connected(slowly) as nodes:

        async def read() -> None:
            got.extend([number async for number in nodes.client.request_stream("slowly", 4)])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.sleep(0.1)
            await nodes.server.stop(drain=5)
    assert got == [0, 1, 2, 3]


# --- isolated requests -----------------------------------------------------------------------------------------


async def test_an_isolated_request_is_a_request() -> None:
    @rpc
    async def broken() -> None:
        raise ValueError("secret")

    async with connected(double, broken, client_handlers=[double]) as nodes:
        assert await nodes.client.request("double", 21, isolated=True) == 42
        assert await nodes.session.request("double", 21, isolated=True, returns=int) == 42
        with pytest.raises(HandlerError, match="broken failed: ValueError"):
            await nodes.client.request("broken", isolated=True)
        with pytest.raises(MethodNotFound):
            await nodes.client.request("nothing", isolated=True)


async def test_isolated_requests_have_deadlines_and_can_be_cancelled() -> None:
    ended: list[str] = []

    @rpc
    async def sleep(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    async with connected(sleep) as nodes:
        with pytest.raises(RequestTimeout, match="within its deadline"):
            await nodes.client.request("sleep", "deadline", isolated=True, timeout=1)
        await anyio.sleep(0.1)
        assert ended == ["deadline"]
        with anyio.move_on_after(1):
            await nodes.client.request("sleep", "cancelled", isolated=True)
        await anyio.sleep(0.1)
        assert ended == ["deadline", "cancelled"]


@pytest.mark.parametrize("idempotent", [False, True])
async def test_the_outcome_of_an_isolated_request_that_lost_its_connection(idempotent: bool) -> None:
    @rpc
    async def die(session: Session) -> None:
        session._connection.die(  # type: ignore[attr-defined]
            ConnectionClosed("gone", code=Code.UNAVAILABLE), ConnectionClosed("gone", code=Code.UNAVAILABLE)
        )

    async with connected(die) as nodes:
        with pytest.raises(ConnectionClosed) as caught:
            await nodes.client.request("die", isolated=True, idempotent=idempotent)
        assert isinstance(caught.value, OutcomeUnknown) is not idempotent


async def test_more_isolated_requests_than_the_peer_serves_wait_at_the_caller() -> None:
    most = now = 0

    @rpc
    async def busy() -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await anyio.sleep(0.1)
        now -= 1

    server = EchoServer.builder().limits(Limits(max_requests=8))
    async with connected(busy, server=server) as nodes:
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(lambda: nodes.client.request("busy", isolated=True))
        assert most == 8


async def test_a_peer_that_opens_more_calls_than_it_may_is_refused_alone() -> None:
    @rpc
    async def busy() -> None:
        await anyio.sleep(1)

    server = EchoServer.builder().limits(Limits(max_requests=2))
    async with connected(busy, server=server) as nodes:
        nodes.client.session._calls.own_streams.gate._free = 10
        refused: list[Overloaded] = []

        async def ask() -> None:
            try:
                await nodes.client.request("busy", isolated=True)
            except Overloaded as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert len(refused) == 3 and all(error.retryable for error in refused)
        assert await nodes.client.request("busy") is None


async def test_calls_wait_until_on_connect_has_returned() -> None:
    order: list[str] = []

    async def slow(session: Session) -> None:
        await anyio.sleep(1)
        order.append("connected")

    @rpc
    async def note() -> None:
        order.append("called")

    async with connected(note, server=EchoServer.builder().on_connect(slow)) as nodes:
        await nodes.client.request("note", isolated=True)
    assert order == ["connected", "called"]


async def test_a_call_that_nobody_opened_costs_nothing() -> None:
    async with connected(count) as nodes:
        call: Any = nodes.client.request_stream("count", 3)
        assert repr(call) == "<StreamingCall 'count', not opened>"
        del call
        with pytest.raises(InvalidArgument, match="method name"):
            nodes.client.request_stream("no name", 3)


async def test_a_client_that_leaves_stops_its_calls() -> None:
    ended = anyio.Event()

    @rpc
    async def forever() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with connected(forever) as nodes:
        other = EchoClient.builder().transport(nodes.transport).serializer(nodes.client._node.serializers[0])
        async with other.connect("memory://node:1") as client:
            await anext(client.request_stream("forever"))
        with anyio.fail_after(1):
            await ended.wait()
