"""Pairs of frames of two streams by their stamps, against a search through all of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel import (
    EchoClient,
    EchoServer,
    InvalidArgument,
    StreamReceiver,
    StreamReset,
    StreamStopped,
    Timestamped,
    stream,
)
from echokernel.testing import connected
from echokernel_clocksync.align import align

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from shared_time import SharedClock

MS = 1_000


async def frames(*times: int, log: list[str] | None = None, name: str = "") -> AsyncIterator[Timestamped[int]]:
    for number, time in enumerate(times):
        if log is not None:
            log.append(f"{name}{time}")
        yield Timestamped(time, number, time)


def aligned(a: list[int], b: list[int], tolerance_us: int) -> tuple[list[tuple[int, int]], Any]:
    async def run() -> tuple[list[tuple[int, int]], Any]:
        pairs = align(frames(*a), frames(*b), tolerance_us / 1e6)
        found = [(x.data, y.data) async for x, y in pairs]
        return found, pairs.stats()

    return asyncio.run(run())


def searched(a: list[int], b: list[int], tolerance: int) -> list[tuple[int, int]]:
    """For each of ``a`` in turn the nearest of those ``b`` that no earlier one has, or has passed."""
    pairs, first = [], 0
    for x in a:
        # those before the last one that is older than x were passed
        near = [n for n in range(first, len(b)) if abs(b[n] - x) <= tolerance]
        if near:
            best = min(near, key=lambda n: (abs(b[n] - x), n))
            pairs.append((x, b[best]))
            first = best + 1
    return pairs


rising = st.lists(st.integers(0, 400), max_size=40, unique=True).map(sorted)


@given(rising, rising, st.integers(0, 60))
def test_each_frame_has_the_nearest_that_is_left(a: list[int], b: list[int], tolerance: int) -> None:
    pairs, stats = aligned(a, b, tolerance)
    assert pairs == searched(a, b, tolerance)
    assert all(abs(x - y) <= tolerance for x, y in pairs)
    assert stats["pairs"] == len(pairs)
    assert stats["unmatched_a"] <= len(a) - len(pairs)
    assert stats["unmatched_b"] <= len(b) - len(pairs)
    assert stats["out_of_order"] == 0


@given(st.lists(st.integers(0, 400), max_size=30), st.lists(st.integers(0, 400), max_size=30), st.integers(0, 60))
def test_pairs_rise_and_share_no_frame_whatever_comes(a: list[int], b: list[int], tolerance: int) -> None:
    pairs, stats = aligned(a, b, tolerance)
    assert [x for x, _ in pairs] == sorted(x for x, _ in pairs)
    assert [y for _, y in pairs] == sorted(y for _, y in pairs)
    assert len(pairs) <= min(len(a), len(b))
    assert all(abs(x - y) <= tolerance for x, y in pairs)
    assert stats["pairs"] + stats["unmatched_a"] <= len(a)
    assert stats["pairs"] + stats["unmatched_b"] <= len(b)


def test_a_camera_and_an_inertial_sensor() -> None:
    rng = random.Random(7)
    camera = [n * 33_333 + rng.randint(-500, 500) for n in range(90)]
    sensor = [n * 5_000 + rng.randint(-200, 200) for n in range(600)]
    pairs, stats = aligned(camera, sensor, 5_000)
    assert [x for x, _ in pairs] == camera
    assert max(abs(x - y) for x, y in pairs) <= 2_900
    assert (stats["unmatched_a"], stats["pairs"]) == (0, 90)
    assert stats["unmatched_b"] > 500


def test_of_two_that_are_as_near_it_is_the_earlier() -> None:
    assert aligned([10], [5, 15], 5)[0] == [(10, 5)]


def test_the_end_of_either_is_the_end() -> None:
    assert aligned([10, 20, 1_000, 2_000, 3_000], [11, 21], 5)[0] == [(10, 11), (20, 21)]
    assert aligned([10], list(range(0, 3_000, 10)), 5)[0] == [(10, 10)]
    assert aligned([], [1, 2], 5)[0] == []
    assert aligned([1, 2], [], 5) == ([], {"pairs": 0, "unmatched_a": 1, "unmatched_b": 0, "out_of_order": 0})


def test_frames_that_were_overtaken_are_left_out_and_counted() -> None:
    pairs, stats = aligned([10, 20, 15, 30], [10, 20, 5, 30], 3)
    assert pairs == [(10, 10), (20, 20), (30, 30)]
    assert (stats["out_of_order"], stats["unmatched_a"], stats["unmatched_b"]) == (2, 1, 1)


def test_a_pair_is_there_as_soon_as_b_has_reached_a() -> None:
    log: list[str] = []

    async def run() -> None:
        pairs = align(frames(100, 200, log=log, name="a"), frames(90, 99, 103, 104, log=log, name="b"), 0.001)
        pair = await anext(pairs)
        assert (pair.a.data, pair.b.data, pair.residual_us) == (100, 99, -1)

    asyncio.run(run())
    assert log == ["a100", "b90", "b99", "b103"]


def test_after_the_end_there_is_nothing() -> None:
    async def run() -> None:
        pairs = align(frames(1), frames(1), 0)
        assert [(x.data, y.data) async for x, y in pairs] == [(1, 1)]
        with pytest.raises(StopAsyncIteration):
            await anext(pairs)

    asyncio.run(run())


@pytest.mark.parametrize("tolerance", [-0.001, float("nan"), float("inf")])
def test_a_tolerance_that_cannot_be(tolerance: float) -> None:
    with pytest.raises(InvalidArgument, match="wanted 0 or more"):
        align(frames(), frames(), tolerance)


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("played", [False, True])
async def test_streams_and_playouts_of_them(played: bool) -> None:
    """The camera's frames are under way for 80 ms, the sensor's arrive at once; 30 and 200 per second."""
    there = anyio.Event()
    streams: dict[str, StreamReceiver] = {}
    pairs: list[Any] = []

    async def pair_them(camera: Any, sensor: Any) -> None:
        async for pair in align(camera, sensor, 0.003):
            pairs.append(pair)

    @stream("camera")
    async def camera(stream: StreamReceiver) -> None:
        streams["camera"] = stream
        there.set()
        await anyio.sleep(60)

    @stream("sensor")
    async def sensor(stream: StreamReceiver) -> None:
        await there.wait()
        if played:
            async with streams["camera"].playout(delay=0.1) as left, stream.playout(delay=0.1) as right:
                await pair_them(left, right)
        else:
            await pair_them(streams["camera"], stream)

    async def send(client: EchoClient, name: str, every: float, frames: int, age: float) -> None:
        with contextlib.suppress(StreamStopped):  # the other one has ended: its handler wants no more
            sender = await client.create_stream(name)
            for number in range(frames):
                stamp = SharedClock().now_us() - round(age * 1e6)
                await sender.send_timestamped(Timestamped(stamp, number, b""))
                await anyio.sleep(every)
            await sender.finish()

    clocks = {"server": EchoServer.builder().clock(SharedClock()), "client": EchoClient.builder().clock(SharedClock())}
    async with connected(camera, sensor, **clocks) as nodes, anyio.create_task_group() as tasks:  # type: ignore[arg-type]
        tasks.start_soon(send, nodes.client, "camera", 1 / 30, 60, 0.08)
        tasks.start_soon(send, nodes.client, "sensor", 1 / 200, 400, 0.0)
        await anyio.sleep(4)
    assert len(pairs) >= 55
    assert max(abs(pair.residual_us) for pair in pairs) <= 3_000


@pytest.mark.anyio
async def test_what_a_stream_raises_comes_through() -> None:
    caught: list[Exception] = []

    @stream("camera")
    async def camera(stream: StreamReceiver) -> None:
        try:
            async for _ in align(stream, frames(*range(100)), 1.0):
                pass
        except StreamReset as error:
            caught.append(error)

    async with connected(camera) as nodes:
        sender = await nodes.client.create_stream("camera")
        await sender.send_timestamped(Timestamped(5, 0, b""))
        await anyio.sleep(1)
        sender.abort()
        await anyio.sleep(1)
    assert caught
