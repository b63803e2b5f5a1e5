"""Calls on streams of their own, as an attacker and an impatient user see them: each test was a hole once."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from raw_peer import BODY, REQUEST, SLOT, Dial, RawPeer, error_of, frame, raw_peer

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoServer,
    Frame,
    HandlerError,
    InvalidArgument,
    Limits,
    Middleware,
    RequestCancelled,
    RequestTimeout,
    Session,
    StreamReceiver,
    StreamReset,
    StreamStopped,
    current_metadata,
    event,
    rpc,
    stream,
    time_left,
)
from echokernel.addresses import parse_address
from echokernel.engine.room import Room
from echokernel.tasks import open_tasks
from echokernel.testing import JsonSerializer, Nodes, connected
from echokernel_protocol.calls import AT_ONCE, CallReader
from echokernel_protocol.codes import Code
from echokernel_protocol.frames import MessageType

pytestmark = pytest.mark.anyio


@rpc
async def double(value: int) -> int:
    return 2 * value


@rpc
async def count(texts: AsyncIterator[str]) -> int:
    return len([text async for text in texts])


@rpc
async def deaf(texts: AsyncIterator[str]) -> None:
    await anyio.sleep_forever()


def dialer(nodes: Nodes) -> Dial:
    return lambda tasks: nodes.transport.connect(parse_address("memory://node:1"), tasks)


# --- memory and time ------------------------------------------------------------------------------------------------


def test_many_tiny_items_in_one_read_cost_as_much_as_they_are_long() -> None:
    item = frame(REQUEST, 1, "", SLOT, b"")
    costs = []
    for many in (1_000, 100_000):
        reader = CallReader(MessageType.REQUEST, max_frame=65_536, max_message=65_536)
        reader.receive(frame(REQUEST, 1, "count", SLOT, b""))
        started = time.process_time()
        found = reader.receive(item * many)
        taken = 0
        while found:
            taken += len(found)
            found = reader.receive(b"")
        costs.append((time.process_time() - started) / many)
        assert taken == many
    assert costs[1] < 20 * costs[0]  # all of them were copied for each of them (100), and the loop stood still


def test_items_that_nobody_asks_for_stay_bytes() -> None:
    reader = CallReader(MessageType.REQUEST, max_frame=65_536, max_message=65_536)
    found = reader.receive(frame(REQUEST, 1, "count", SLOT, b"") + frame(REQUEST, 1, "", SLOT, b"") * 20_000)
    assert len(found) == AT_ONCE
    assert reader.has_more


async def test_answers_nobody_asked_for_do_not_pile_up_behind_an_isolated_request() -> None:
    made = 0

    @rpc
    async def forever() -> AsyncIterator[str]:
        nonlocal made
        while True:
            made += 1
            yield "x" * 1_000
            await anyio.sleep(0.001)

    async with connected(forever) as nodes:
        with pytest.raises(InvalidArgument, match="use request_stream"):
            await nodes.client.request("forever", isolated=True)
        assert made < 2_000


async def test_streams_that_say_nothing_are_bounded() -> None:
    server = EchoServer.builder().limits(Limits(max_requests=50))
    async with connected(double, server=server) as nodes, raw_peer(dialer(nodes)) as bad:
        silent = [await bad.call() for _ in range(300)]
        await anyio.sleep(0.1)
        with pytest.raises(StreamReset) as caught:
            await silent[-1].recv.read()
        assert caught.value.code == Code.RESOURCE_EXHAUSTED
        assert await nodes.client.request("double", 1) == 2
        await anyio.sleep(31)  # the others had their time
        call = await bad.call()
        await call.put("double", payload=b"4")
        await call.end()
        assert (await call.answers())[0][1] == b"8"


async def test_a_thousand_cancels_of_one_request_are_one() -> None:
    stopping = 0

    @rpc
    async def stubborn() -> None:
        nonlocal stopping
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)

    async with connected(stubborn) as nodes, raw_peer(dialer(nodes)) as bad:
        session = nodes.server.context().sessions()[1]
        stop = session._tasks.stop

        def counted(task: Any) -> None:
            nonlocal stopping
            stopping += 1
            stop(task)

        session._tasks.stop = counted  # type: ignore[method-assign]
        request_id = bad.request("stubborn")
        for _ in range(1_000):
            bad.frame(REQUEST, request_id, "", 0x02)
        assert error_of(await bad.answer(request_id)).code == Code.CANCELLED
        assert stopping < 5  # the stop repeats itself each second


async def test_what_is_held_back_until_on_connect_returns_is_bounded() -> None:
    async def never(session: Session) -> None:
        await anyio.sleep(30)

    @stream
    async def audio(receiver: StreamReceiver) -> None: ...

    server = EchoServer.builder().on_connect(never)
    async with connected(double, audio, server=server) as nodes, raw_peer(dialer(nodes)) as bad:
        request_id = bad.request("double", b"1")
        for _ in range(50):
            bad.write(frame(REQUEST, request_id, "", 0x02) * 1_000)
            await anyio.sleep(0.001)
            if bad.connection.error is not None:  # type: ignore[attr-defined]
                break
        error = await bad.closed()
        assert (error.code, "on_connect" in error.reason) == (Code.LIMIT_EXCEEDED, True)


async def test_bodies_that_the_peer_does_not_read_hold_its_answers_back() -> None:
    made = 0

    @rpc
    async def large() -> str:
        nonlocal made
        made += 1
        return "x" * 1_000_000

    server = EchoServer.builder().limits(Limits(max_requests=4, outbox=4_194_304))
    async with connected(large, double, server=server) as nodes, raw_peer(dialer(nodes)) as bad:
        with anyio.move_on_after(20):
            for _ in range(200):
                request_id = bad.request("large")
                await bad.answer(request_id)  # the frame is read, its body never
        assert made < 20
        assert await nodes.client.request("double", 1) == 2


async def test_a_thousand_requests_in_one_read_do_not_go_before_those_of_others() -> None:
    order: list[str] = []

    @rpc
    async def mark(who: str) -> None:
        order.append(who)

    async with connected(mark) as nodes, raw_peer(dialer(nodes)) as bad:
        bad.write(b"".join(frame(REQUEST, bad.take_id(), "mark", SLOT, b'"many"') for _ in range(1_000)))
        await nodes.client.request("mark", "one")
        await anyio.sleep(1)
        assert len(order) == 1_001
        assert order.index("one") < 800


# --- every exit answers ---------------------------------------------------------------------------------------------


async def test_a_call_refused_for_want_of_room_is_refused_in_both_directions() -> None:
    @rpc
    async def busy() -> None:
        await anyio.sleep_forever()

    server = EchoServer.builder().limits(Limits(max_requests=1))
    async with connected(busy, count, server=server) as nodes, raw_peer(dialer(nodes)) as bad:
        first = await bad.call()
        await first.put("busy")
        await anyio.sleep(0.1)  # trio runs what is ready in any order
        second = await bad.call()
        await second.put("count")
        assert (await second.error()).code == Code.RESOURCE_EXHAUSTED
        with pytest.raises(StreamStopped):
            await second.put(payload=b'"x"')


async def test_an_error_behind_a_full_window_still_ends_when_the_deadline_passes() -> None:
    @rpc
    async def full() -> AsyncIterator[str]:
        yield "x" * 262_000
        yield "x" * 200
        raise HandlerError("nobody reads this")

    async with connected(full, double) as nodes, raw_peer(dialer(nodes)) as bad:
        call = await bad.call()
        await call.send.write(frame(REQUEST, call.id, "full", SLOT | 0x08, b"\x01\x08$timeout\x042000null"))
        await anyio.sleep(3)
        with pytest.raises(StreamReset) as caught:
            while await call.recv.read(1_000):
                pass
        assert caught.value.code == Code.DEADLINE_EXCEEDED


async def test_a_stream_that_stopped_inside_the_handler_is_no_caller_that_gave_up() -> None:
    @rpc
    async def relay() -> int:
        raise StreamStopped(Code.CANCELLED)  # of some stream of its own

    async with connected(relay) as nodes:
        with pytest.raises(HandlerError, match="lost a connection that it needs"):
            await nodes.client.request("relay", isolated=True)


@pytest.mark.parametrize("size", [70_000, 5_000_000])
async def test_an_error_with_long_details_arrives_as_it_does_on_the_channel(size: int) -> None:
    @rpc
    async def broken() -> None:
        raise HandlerError("long", code=4711, details=b"x" * size)

    async with connected(broken, double) as nodes:
        for isolated in (False, True):
            with pytest.raises(Exception) as caught:
                await nodes.client.request("broken", isolated=isolated)
            if size < 4_000_000:
                assert isinstance(caught.value, HandlerError)
                assert (caught.value.code, len(caught.value.details or b"")) == (4711, size)
            else:
                assert getattr(caught.value, "code", 0) == Code.RESOURCE_EXHAUSTED
            assert await nodes.client.request("double", 1) == 2


async def test_an_error_obeys_the_frame_limit_of_its_caller() -> None:
    @rpc
    async def broken() -> None:
        raise HandlerError("long", code=4711, details=b"x" * 40_000)

    client = EchoClient.builder().limits(Limits(max_frame=16_384))
    async with connected(broken, client=client) as nodes:
        with pytest.raises(HandlerError) as caught:
            await nodes.client.request("broken", isolated=True)
        assert len(caught.value.details or b"") == 40_000


async def test_an_event_handler_that_dies_of_a_cancellation_of_its_own_stops_none_behind_it(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no cancellation outside of its scopes")
    import asyncio

    got: list[int] = []

    @event
    async def note(number: int) -> None:
        if number == 0:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        got.append(number)

    async with connected(note) as nodes:
        for number in range(4):
            await nodes.client.emit("note", number)
        await anyio.sleep(0.1)
        assert got == [1, 2, 3]


async def test_concurrent_events_run_in_a_bounded_number_of_tasks() -> None:
    most = now = 0

    @event(concurrent=True)
    async def note() -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await anyio.sleep(0.1)
        now -= 1

    server = EchoServer.builder().limits(Limits(max_requests=10))
    async with connected(note, server=server) as nodes:
        for _ in range(100):
            await nodes.client.emit("note")
        await anyio.sleep(5)
        assert (most, now) == (10, 0)


async def test_many_tasks_end_without_a_search_for_each(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio keeps its own list")
    costs = []
    gc.disable()  # it goes through all tasks several times, which is not what is asked here
    try:
        for many in (500, 20_000):
            async with open_tasks() as tasks:
                for _ in range(many):
                    tasks.start(anyio.sleep_forever)  # stopped before their first step
                started = time.process_time()
            costs.append((time.process_time() - started) / many)
    finally:
        gc.enable()
    assert costs[1] < 15 * costs[0]  # a search for each would make it 40


# --- the caller's patience ------------------------------------------------------------------------------------------


async def test_the_deadline_holds_while_a_call_waits_to_be_opened() -> None:
    server = EchoServer.builder().limits(Limits(max_requests=1))
    async with connected(deaf, server=server) as nodes, nodes.client.request_stream("deaf", sends=True):
        started = anyio.current_time()
        with pytest.raises(RequestTimeout):
            await anext(nodes.client.request_stream("deaf", sends=True, timeout=2))
        assert anyio.current_time() - started < 3


async def test_closing_a_call_wakes_whoever_waits_for_it_to_open() -> None:
    server = EchoServer.builder().limits(Limits(max_requests=1))
    async with connected(deaf, double, server=server) as nodes, nodes.client.request_stream("deaf", sends=True):
        call = nodes.client.request_stream("deaf", sends=True)
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with anyio.fail_after(3), pytest.raises(RequestCancelled, match="closed here"):
                    await anext(call)

            tasks.start_soon(wait)
            await anyio.sleep(0.1)
            call.close()


async def test_a_call_made_in_a_handler_and_opened_later_has_what_is_left_of_its_time() -> None:
    left: list[float | None] = []

    @rpc
    async def outer(session: Session) -> None:
        call = session.request_stream("forever")
        await anyio.sleep(1.5)
        await anext(call)

    @rpc
    async def forever() -> AsyncIterator[int]:
        left.append(time_left())
        yield 1

    async with connected(outer, client_handlers=[forever]) as nodes:
        await nodes.client.request("outer", timeout=2)
    assert left[0] is not None and left[0] < 0.6


async def test_an_item_that_was_cancelled_half_way_ends_the_call_and_corrupts_nothing() -> None:
    got: list[int] = []

    @rpc
    async def slow(texts: AsyncIterator[str]) -> int:
        await anyio.sleep(2)
        async for text in texts:
            got.append(len(text))
        return len(got)

    async with connected(slow, double) as nodes, nodes.client.request_stream("slow", sends=True) as call:
        with anyio.move_on_after(1):
            await call.send("x" * 1_000_000)
        with pytest.raises(RequestCancelled, match="half"):
            await call.send("y")
        await anyio.sleep(3)
        assert got == []
        assert await nodes.client.request("double", 1) == 2


async def test_large_items_sent_by_two_tasks_do_not_mix() -> None:
    @rpc
    async def kinds(texts: AsyncIterator[str]) -> list[str]:
        return ["".join(sorted(set(text))) async for text in texts]

    async with connected(kinds) as nodes, nodes.client.request_stream("kinds", sends=True) as call:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call.send, "a" * 3_000_000)
            await anyio.lowlevel.checkpoint()
            for _ in range(300):
                await anyio.lowlevel.checkpoint()
                tasks.start_soon(call.send, "b")
        found = await call.result()
        assert (found.count("a"), found.count("b"), len(found)) == (1, 300, 301)


async def test_a_finish_that_was_cancelled_can_be_tried_again() -> None:
    @rpc
    async def slow(texts: AsyncIterator[str]) -> int:
        await anyio.sleep(2)
        return len([text async for text in texts])

    async with connected(slow) as nodes, nodes.client.request_stream("slow", sends=True) as call:
        with anyio.move_on_after(0.5):
            for _ in range(6):
                await call.send("x" * 50_000)
        with anyio.move_on_after(0.5):
            await call.finish()
        with anyio.fail_after(5):
            assert await call.result() >= 5


@pytest.mark.parametrize("timeout", [None, 60])
async def test_a_loop_left_with_break_stops_the_handler_and_the_items(timeout: float | None) -> None:
    ended: list[str] = []

    @rpc
    async def echo(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for number in numbers:
                yield number
        finally:
            ended.append("handler")

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(1_000_000):
                yield number
                await anyio.sleep(0.01)
        finally:
            ended.append("items")

    async with connected(echo) as nodes:
        async for _ in nodes.client.request_stream("echo", items=numbers(), timeout=timeout):
            break
        gc.collect()
        await anyio.sleep(0.5)
        assert sorted(ended) == ["handler", "items"]
        assert nodes.client.session._calls.own_streams.gate.inside == 0


async def test_items_that_end_in_a_cancellation_of_their_own_end_the_call(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no cancellation outside of its scopes")
    import asyncio

    async def items() -> AsyncIterator[str]:
        yield "x"
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with connected(count) as nodes:
        with anyio.fail_after(5), pytest.raises(RequestCancelled):
            await nodes.client.request_stream("count", items=items()).result()


# --- middleware -----------------------------------------------------------------------------------------------------


async def test_middleware_that_opens_a_call_twice_keeps_one() -> None:
    class Twice(Middleware):
        async def handle_outgoing(self, session: Session, frame: Frame, call_next: Any) -> Frame | None:
            await call_next(frame)
            return await call_next(frame)  # type: ignore[no-any-return]

    client = EchoClient.builder().middleware(Twice())
    async with connected(deaf, client=client) as nodes:
        async with nodes.client.request_stream("deaf", sends=True):
            assert nodes.client.session._calls.own_streams.gate.inside == 1
        assert nodes.client.session._calls.own_streams.gate.inside == 0


async def test_middleware_that_intercepts_the_answer_of_a_call_refuses_it() -> None:
    class Silent(Middleware):
        async def handle_outgoing(self, session: Session, frame: Frame, call_next: Any) -> Frame | None:
            await call_next(frame)
            return None

    client = EchoClient.builder().middleware(Silent())
    async with connected(deaf, double, client=client) as nodes:
        with pytest.raises(Exception, match="intercepted"):
            await anext(nodes.client.request_stream("deaf", sends=True))
        assert nodes.client.session._calls.own_streams.gate.inside == 0


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_a_session_ends_with_the_middleware_around_it(ending: str) -> None:
    class AtMost(Middleware):
        async def handle_session(self, session: Session, call_next: Callable[[], Awaitable[None]]) -> None:
            with anyio.move_on_after(5):
                await call_next()
            if ending == "raises":
                raise HandlerError("enough", code=4711)

    server = EchoServer.builder().middleware(AtMost())
    async with connected(double, server=server) as nodes:
        assert await nodes.client.request("double", 1) == 2
        await anyio.sleep(6)
        closed = nodes.client.session.closed
        assert closed is not None
        if ending == "raises":
            assert (closed.code, "enough" in str(closed)) == (4711, True)


# --- contexts -------------------------------------------------------------------------------------------------------


async def test_a_client_made_inside_a_handler_does_not_live_in_its_context() -> None:
    seen: list[tuple[float | None, dict[str, str]]] = []
    made: list[EchoClient] = []

    def look(_: object = None) -> None:
        seen.append((time_left(), dict(current_metadata())))

    @rpc
    async def ask_me(session: Session) -> None:
        await session.request("look_here")

    @rpc("look_here")
    async def look_here() -> None:
        look()

    @event("look_event")
    async def look_event() -> None:
        look()

    async with connected(ask_me) as inner:

        @rpc
        async def make() -> None:
            builder = EchoClient.builder().transport(inner.transport).serializer(JsonSerializer())
            client = builder.add_rpc(look_here).add_event(look_event).on_connect(look)
            context = client.connect("memory://node:1")
            made.append(await context.__aenter__())
            await anyio.sleep(0.1)
            await inner.server.context().sessions()[1].request("look_here", timeout=0)
            await inner.server.context().sessions()[1].emit("look_event")
            await anyio.sleep(0.1)
            await context.__aexit__(None, None, None)

        async with connected(make) as outer:
            await outer.client.request("make", timeout=5, metadata={"user": "7"})
    assert [metadata for _, metadata in seen] == [{}, {}, {}]
    assert (seen[0][0], seen[2][0]) == (None, None)


async def test_what_was_held_back_does_not_run_in_the_context_of_on_connect() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[Any] = []

    async def connect(session: Session) -> None:
        who.set("on_connect")
        await anyio.sleep(1)

    class Around(Middleware):
        async def handle_session(self, session: Session, call_next: Callable[[], Awaitable[None]]) -> None:
            await call_next()
            seen.append(("behind", time_left()))

    @rpc
    async def look() -> str:
        return who.get()

    server = EchoServer.builder().on_connect(connect).middleware(Around())
    async with connected(look, server=server) as nodes:
        assert await nodes.client.request("look") == "nobody"
        assert await nodes.client.request("look") == "nobody"
    assert seen == [("behind", None)]


# --- going away -----------------------------------------------------------------------------------------------------


async def test_stopping_waits_for_a_call_that_is_still_arriving() -> None:
    @rpc
    async def size(text: str) -> int:
        return len(text)

    async with connected(size, double) as nodes, raw_peer(dialer(nodes)) as bad:
        call = await bad.call()
        head = frame(REQUEST, call.id, "size", SLOT | 0x40, b"\xa0\x8d\x06")  # 100,000 bytes follow
        await call.send.write(head + b'"' + b"x" * 50_000)
        await bad.answer(bad.request("double", b"1"))  # a higher id: the call's is below the last one
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(nodes.server.stop)
            tasks.start_soon(pong, bad)
            await anyio.sleep(1.5)
            await call.send.write(b"x" * 49_998 + b'"')
            await call.end()
            assert (await call.answers())[0][1] == b"99998"
            await bad.connection.close(drain=0)


async def pong(bad: RawPeer) -> None:
    """Answer the server's pings, and read what else it says."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            for kind, _, method, _, payload in bad.decoder.feed(await bad.recv.read()):
                if (kind, method) == (REQUEST, "$ping"):
                    bad.frame(1, 0, "$ping", 0, payload)


async def test_nobody_gets_in_behind_a_goaway() -> None:
    started: list[int] = []

    @rpc
    async def busy(number: int) -> None:
        started.append(number)
        await anyio.sleep(1)

    server = EchoServer.builder().limits(Limits(max_requests=1))
    async with connected(busy, server=server) as nodes:
        failed: list[BaseException] = []

        async def ask(number: int) -> None:
            try:
                await nodes.client.request("busy", number, isolated=True)
            except Exception as error:
                failed.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(ask, number)
                await anyio.sleep(0.01)
            await nodes.server.stop(drain=5)
        assert started == [0]
        assert [(type(error).__name__, getattr(error, "code", 0)) for error in failed] == [
            ("ConnectionClosed", Code.GOING_AWAY)
        ] * 2


# --- bodies -----------------------------------------------------------------------------------------------------------

SMALL = Limits(max_message=1_000_000, max_request_bytes=2_000_000)


def holding(most: list[int]) -> Any:
    running = 0

    @rpc
    async def hold(text: str) -> int:
        nonlocal running
        running += 1
        most.append(running)
        await anyio.sleep(0.1)
        running -= 1
        return len(text)

    return hold


async def test_large_isolated_requests_wait_for_each_other_and_are_all_answered() -> None:
    most: list[int] = []
    async with connected(holding(most), server=EchoServer.builder().limits(SMALL)) as nodes:
        async with anyio.create_task_group() as tasks:
            for size in (900_000, 800_000, 900_000, 100, 700_000, 100_000, 900_000):
                tasks.start_soon(lambda size: nodes.client.request("hold", "x" * size, isolated=True), size)
        assert len(most) == 7
        session = nodes.server.context().sessions()[0]
        assert session._served is not None
        assert session._served.bodies.used == 0
    assert max(most) < 5, "two or three large ones, and the one that needs no room"


async def test_bodies_that_never_end_hold_their_room_for_a_while_and_nobody_elses() -> None:
    most: list[int] = []
    a_million = b"\xc0\x84\x3d"
    async with connected(holding(most), server=EchoServer.builder().limits(SMALL)) as nodes, raw_peer(dialer(nodes)) as bad:
        for number in range(4):
            call = await bad.call()
            await call.send.write(frame(REQUEST, call.id, "hold", SLOT | BODY, a_million))
            if number < 2:
                await call.send.write(bytes(999_999))
        await anyio.sleep(1)
        session = next(s for s in nodes.server.context().sessions() if s._served and s._served.bodies.used)
        assert session._served is not None
        assert session._served.bodies.used <= 2_000_000
        assert await nodes.client.request("hold", "x" * 900_000, isolated=True) == 900_000
        await anyio.sleep(40)  # the time for a request to arrive is over
        assert session._served.bodies.used == 0
    assert most == [1]


async def test_an_items_room_is_free_when_the_next_one_is_asked_for() -> None:
    async def many() -> AsyncIterator[str]:
        for _ in range(8):
            yield "x" * 900_000

    async with connected(count, server=EchoServer.builder().limits(SMALL)) as nodes:
        async with anyio.create_task_group() as tasks:
            answers: list[int] = []

            async def send() -> None:
                async with nodes.client.request_stream("count", items=many()) as call:
                    answers.append(await call.result())

            for _ in range(3):
                tasks.start_soon(send)
        assert answers == [8, 8, 8]


async def test_room_that_was_waited_for_in_vain_is_nobodys() -> None:
    async with open_tasks() as tasks:
        room = Room(100, tasks)

        async def hold(size: int) -> None:
            await room.take(size)
            try:
                await anyio.sleep_forever()
            finally:
                room.give(size)

        await room.take(500)  # alone
        with anyio.move_on_after(1):
            await room.take(1)
        waiting = tasks.start(hold, 60)
        await anyio.sleep(0.1)
        tasks.start(hold, 40)
        await anyio.sleep(0.1)
        room.give(500)
        tasks.stop(waiting)  # in the very turn in which it was let in
        await anyio.sleep(0.1)
        assert room.used == 40
        await room.take(60)
        assert room.used == 100
