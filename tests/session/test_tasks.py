"""The task scope, on asyncio and trio alike: starting, stopping, timers, futures, crashes."""

from __future__ import annotations

import contextvars
import logging
import socket

import anyio
import anyio.lowlevel
import pytest

from echokernel.engine.deadlines import GRAIN, Deadlines
from echokernel.tasks import open_tasks

pytestmark = pytest.mark.anyio
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


async def test_a_task_runs_and_ends() -> None:
    async with open_tasks() as tasks:
        done = anyio.Event()

        async def work(number: int) -> None:
            assert number == 7
            done.set()

        task = tasks.start(work, 7, name="work")
        await done.wait()
        await anyio.sleep(0.01)
        assert task.done()


async def test_a_crash_is_logged_with_the_tasks_name_and_costs_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def crash() -> None:
        raise ValueError("boom")

    async with open_tasks() as tasks:
        tasks.start(crash, name="doomed")
        await anyio.sleep(0.01)
    assert "task doomed failed: ValueError" in caplog.text


async def test_stopping_a_task_before_it_began_leaves_nothing_behind() -> None:
    async with open_tasks() as tasks:
        task = tasks.start(anyio.sleep, 100)
        tasks.stop(task)
        await anyio.sleep(0.01)
        assert task.done()
        tasks.stop(task)


async def test_a_swallowed_cancellation_is_repeated() -> None:
    caught = 0

    async def stubborn() -> None:
        nonlocal caught
        while caught < 3:
            try:
                await anyio.sleep(100)
            except BaseException:
                caught += 1

    async with open_tasks() as tasks:
        task = tasks.start(stubborn)
        await anyio.sleep(0.01)
        tasks.stop(task)
        await anyio.sleep(5)
        assert task.done()
        assert caught == 3


async def test_closing_names_what_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def stubborn() -> None:
        end = anyio.current_time() + 4
        while anyio.current_time() < end:
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
            except BaseException:
                pass

    async with open_tasks() as tasks:
        tasks.start(stubborn, name="stubborn")
        await anyio.sleep(0.01)
    await anyio.sleep(10)
    assert "1 task(s) still run 2 s after they were cancelled: stubborn" in caplog.text


async def test_the_body_keeps_its_own_exception() -> None:
    with pytest.raises(KeyError):
        async with open_tasks() as tasks:
            tasks.start(anyio.sleep, 100)
            raise KeyError


async def test_a_task_gets_the_context_that_it_is_given() -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())

    async with open_tasks() as tasks:
        token = variable.set("copied")
        tasks.start(look)
        variable.reset(token)
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        tasks.start(look, context=context)
        await anyio.sleep(0.01)
    assert sorted(seen) == ["copied", "given"]


async def test_timers_fire_in_time_and_not_when_cancelled() -> None:
    log: list[tuple[str, float]] = []
    async with open_tasks() as tasks:
        began = tasks.now()
        tasks.call_at(began + 2, lambda: log.append(("two", tasks.now() - began)))
        tasks.call_at(began + 1, lambda: log.append(("one", tasks.now() - began)))
        cancelled = tasks.call_at(began + 1.5, lambda: log.append(("never", 0)))
        cancelled.cancel()
        cancelled.cancel()
        await anyio.sleep(3)
    assert [name for name, _ in log] == ["one", "two"]
    assert [round(at, 1) for _, at in log] == [1, 2]


async def test_call_soon_comes_after_what_is_ready() -> None:
    log: list[str] = []

    async def work() -> None:
        log.append("task")

    async with open_tasks() as tasks:
        tasks.start(work)
        tasks.call_soon(log.append, "soon")
        await anyio.sleep(0.01)
    assert sorted(log) == ["soon", "task"]


async def test_a_future_carries_a_result_or_an_exception() -> None:
    async with open_tasks() as tasks:
        future = tasks.future()
        tasks.call_soon(future.set_result, 5)
        assert await future == 5
        assert future.done()
        broken = tasks.future()
        tasks.call_soon(broken.set_exception, KeyError("k"))
        with pytest.raises(KeyError):
            await broken
        ready = tasks.future()
        ready.set_result("at once")
        assert await ready == "at once"


async def test_a_future_whose_waiter_was_cancelled_takes_no_result() -> None:
    async with open_tasks() as tasks:
        future = tasks.future()
        with anyio.move_on_after(0.01):
            await future
        assert future.done()


async def test_a_socket_is_watched_until_the_watch_is_cancelled() -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    got: list[bytes] = []
    async with open_tasks() as tasks:
        watch = tasks.watch_readable(here, lambda: got.append(here.recv(100)))
        there.send(b"one")
        while not got:
            await anyio.sleep(0.001)
        watch.cancel()
        watch.cancel()
        there.send(b"two")
        await anyio.sleep(0.05)
    here.close()
    there.close()
    assert got == [b"one"]


async def test_deadlines_fire_once_in_their_order_and_not_when_discarded() -> None:
    log: list[tuple[int, float]] = []
    async with open_tasks() as tasks:
        began = tasks.now()
        deadlines = Deadlines(tasks, lambda key: log.append((key, tasks.now() - began)))
        for key, after in [(1, 3.0), (2, 1.0), (3, 2.0), (4, 1.0)]:
            bucket = deadlines.add(began + after, key)
            if key == 4:
                deadlines.discard(bucket, key)
        await anyio.sleep(5)
        assert [key for key, _ in log] == [2, 3, 1]
        assert all(abs(at - wanted) <= 2 * GRAIN for (_, at), wanted in zip(log, (1, 2, 3), strict=True))
        deadlines.add(tasks.now() + 1, 9)
        deadlines.close()
        await anyio.sleep(2)
    assert len(log) == 3


async def test_what_is_left_to_release_is_released_when_the_scope_has_closed(caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []
    async with open_tasks() as tasks:

        async def linger() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                called.append("task")

        tasks.start(linger)
        tasks.at_end(lambda: called.append("first"))
        tasks.at_end(lambda: 1 / 0)
        tasks.at_end(lambda: called.append("cancelled")).cancel()
        tasks.at_end(lambda: called.append("last"))
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert called == []
    assert called == ["task", "last", "first"]
    assert "ZeroDivisionError" in caplog.text, "one that fails keeps none of the others from its turn"
