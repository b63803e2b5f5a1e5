"""Two real nodes over the in-memory transport, in virtual time, with clocks of their own: the truth is known."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from echokernel import ClockUnavailable, EchoClient, EchoServer, Session, StreamReceiver, Timestamped, stream
from echokernel.testing import MemoryFaults, MemoryTransport, connected
from echokernel_clocksync import ClockSync
from echokernel_protocol.clock import ClockAnswer, ClockProbe

pytestmark = pytest.mark.anyio

NOON = 1_800_000_000_000_000_000  # ns since 1970, in 2027


class Machine:
    """A machine's clocks in virtual time: ``ahead`` seconds before the loop's, ``ppm`` faster. Its time of day can be set."""

    def __init__(self, *, ahead: float = 0.0, ppm: float = 0.0, wall: int = NOON) -> None:
        self.ahead, self.ppm, self.wall = round(ahead * 1e9), ppm, wall
        self.reads = 0

    def now_ns(self) -> int:
        self.reads += 1
        loop = round(anyio.current_time() * 1e9)
        return loop + self.ahead + round(loop * self.ppm * 1e-6)

    def wall_ns(self) -> int:
        return self.wall + self.now_ns()

    def clock(self) -> ClockSync:
        return ClockSync().with_clock(self.now_ns, wall_ns=self.wall_ns)


def jittery(**changes: Any) -> MemoryTransport:
    return MemoryTransport(faults=MemoryFaults(jitter=0.02, loss=0.01, seed=5), **changes)


def nodes(server: ClockSync | None, client: ClockSync | None, transport: MemoryTransport | None = None) -> Any:
    builders = {"server": EchoServer.builder(), "client": EchoClient.builder()}
    if server is not None:
        builders["server"].plugin(server)
    if client is not None:
        builders["client"].plugin(client)
    return connected(**builders, transport=transport or jittery())  # type: ignore[arg-type]


def wrong_us(ours: ClockSync, theirs: ClockSync) -> int:
    return ours.now_us() - theirs.now_us()


async def test_a_client_follows_the_server_it_has_dialled() -> None:
    theirs, ours = Machine(ahead=123.456, ppm=40).clock(), Machine(wall=NOON - 10**12).clock()
    assert (theirs.status, theirs.is_synced, theirs.bound_us, theirs.drift_ppm) == ("synced", True, 0, 0)
    assert (ours.is_synced, ours.status) == (True, "synced")  # nobody said yet that it is for a client
    async with nodes(theirs, ours):
        await anyio.sleep(0.01)
        assert (ours.is_synced, ours.status) == (False, "syncing")
        await ours.wait_synced(2.0)
        assert (ours.is_synced, ours.status) == (True, "synced")
        covered, worst, before = 0, 0, 0
        for _ in range(100):
            await anyio.sleep(0.7)
            now, truth, interval = ours.now_us(), theirs.now_us(), ours.interval()
            covered += interval.earliest_us <= truth <= interval.latest_us and abs(now - truth) <= ours.bound_us + 1
            assert now > before
            before, worst = now, max(worst, abs(now - truth))
        assert covered == 100
        assert worst < 3_000
        assert abs(wrong_us(ours, theirs)) < 1_000
        assert ours.drift_ppm == pytest.approx(40, abs=15)
        assert ours.offset_us == pytest.approx(1_123_456_000 + 1_000 * 0.04, abs=50_000)
        assert 0 < ours.rtt_min_us < 20_000
        assert 0 <= ours.age_s < 10
        assert 0 < ours.error_us <= ours.bound_us < ours.rtt_min_us / 2 + 200 * ours.age_s + 12_000
        one_way = ours.one_way()
        assert one_way is not None
        assert 0 <= one_way.out <= 0.021 + one_way.error
        assert 0 <= one_way.back <= 0.021 + one_way.error
        stats = ours.stats()
        assert stats["lost"] > 0
        assert stats["probes"] - 3 <= stats["answers"] + stats["lost"] <= stats["probes"]
        assert theirs.stats()["answered"] >= stats["answers"]
        assert (stats["epoch"], stats["steps"]) == (theirs.stats()["epoch"], 0)


async def test_times_of_both_machines_are_read_from_one_another() -> None:
    reference, follower = Machine(ahead=5), Machine()
    theirs, ours = reference.clock(), follower.clock()
    async with nodes(theirs, ours):
        await ours.wait_synced()
        for clock, machine in ((ours, follower), (theirs, reference)):
            here = machine.now_ns()
            assert clock.to_shared(here) == clock.now_us()
            for ahead in (-5, 0, 0.001, 3_600):
                there = clock.to_shared(here) + round(ahead * 1e6)
                assert clock.to_shared(clock.to_local(there)) in (there - 1, there)


async def test_waiting_is_for_a_bound_too_and_says_why_it_was_not_reached() -> None:
    theirs, ours = Machine(ahead=9).clock(), Machine().clock()
    async with nodes(theirs, ours):
        await ours.wait_synced(2.0, max_error=0.015)
        with pytest.raises(
            ClockUnavailable, match=r"not within 1 s: the bound is \d.* wanted 0.001 ms; half of the shortest"
        ):
            await ours.wait_synced(1.0, max_error=1e-6)
        await theirs.wait_synced(0.0, max_error=0.0)


async def test_many_wait_and_all_end_with_the_session() -> None:
    ours = Machine().clock().with_burst(64, 0.5)
    ended: list[str] = []

    async def wait() -> None:
        try:
            await ours.wait_synced(60)
        except ClockUnavailable as error:
            ended.append(str(error))

    async with anyio.create_task_group() as tasks:
        async with nodes(Machine().clock(), ours):
            for _ in range(5):
                tasks.start_soon(wait)
            await anyio.sleep(3)
            left = anyio.current_time()
        await anyio.sleep(0.1)
        assert len(ended) == 5
    assert anyio.current_time() - left < 5
    assert all(text.startswith("the session ended before the clock was synchronised") for text in ended)
    with pytest.raises(ClockUnavailable, match="not within 1 s: the clock follows nobody: connect the client"):
        await ours.wait_synced(1)


async def test_several_waiters_are_all_woken() -> None:
    ours = Machine().clock()
    async with nodes(Machine().clock(), ours), anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ours.wait_synced)


async def test_a_server_without_a_clock_is_said_so() -> None:
    ours = Machine().clock()
    async with nodes(None, ours) as both:
        with pytest.raises(ClockUnavailable, match=r"^memory.* has no clock to follow; give it one: pip install"):
            await ours.wait_synced(60)
        assert (ours.status, ours.is_synced) == ("unsynced", False)
        for ask in (ours.interval, lambda: ours.bound_us, lambda: ours.to_shared(5), lambda: ours.to_local(5)):
            with pytest.raises(ClockUnavailable, match="has no clock to follow"):
                ask()
        assert ours.one_way() is None
        assert await both.client.ping() >= 0


async def test_a_set_wall_clock_moves_nothing_and_an_unset_one_is_no_reference() -> None:
    reference, follower = Machine(ahead=50), Machine()
    theirs, ours = reference.clock(), follower.clock()
    async with nodes(theirs, ours):
        await ours.wait_synced()
        then = theirs.now_us()
        reference.wall -= 7_200 * 10**9
        follower.wall -= 3_600 * 10**9
        await anyio.sleep(10)
        assert theirs.now_us() - then == pytest.approx(10e6, abs=1e3)
        assert abs(wrong_us(ours, theirs)) < 5_000
        assert ours.stats()["steps"] == 0
    unset, ours = Machine(wall=0).clock(), Machine().clock()
    async with nodes(unset, ours):
        with pytest.raises(ClockUnavailable, match=r"s after 1970, which is not between 2020 and 2200: set the clock"):
            await ours.wait_synced(60)
        assert not ours.is_synced
        assert ours.stats()["absurd"] > 0


async def step(change: Callable[[Machine, Machine], None]) -> tuple[list[int], ClockSync, ClockSync]:
    reference, follower = Machine(ahead=50), Machine()
    theirs, ours = reference.clock(), follower.clock()
    steps: list[int] = []
    ours.on_step(steps.append).on_step(lambda delta: 1 // 0)
    async with nodes(theirs, ours):
        await ours.wait_synced()
        await anyio.sleep(20)
        change(reference, follower)
        await anyio.sleep(15)
        assert (ours.status, ours.stats()["steps"]) == ("synced", 1)
        assert abs(wrong_us(ours, theirs)) < 3_000
        interval = ours.interval()
        assert interval.earliest_us <= theirs.now_us() <= interval.latest_us
    return steps, theirs, ours


async def test_a_machine_that_slept_is_a_step() -> None:
    def sleep(reference: Machine, follower: Machine) -> None:
        reference.ahead += 100 * 10**9  # ours stood meanwhile, as CLOCK_MONOTONIC does in a suspended machine

    steps, *_ = await step(sleep)
    assert steps[0] == pytest.approx(100e6, abs=20e3)


async def test_a_small_step_is_made_at_once_too() -> None:
    machine = Machine(ahead=50)
    theirs, ours = machine.clock(), Machine().clock()
    steps: list[int] = []
    ours.on_step(steps.append)
    async with nodes(theirs, ours, MemoryTransport()):
        await ours.wait_synced()
        await anyio.sleep(5)
        machine.ahead += 4_000_000
        await anyio.sleep(15)
        assert abs(wrong_us(ours, theirs)) < 100
    assert sum(steps) == pytest.approx(4_000, abs=100)


async def test_a_reference_that_slept_is_a_step_back() -> None:
    def sleep(reference: Machine, follower: Machine) -> None:
        reference.ahead -= 100_000_000

    steps, *_ = await step(sleep)
    assert sum(steps) == pytest.approx(-100e3, abs=5e3)


async def test_between_sessions_the_clock_holds_over_and_then_goes_on() -> None:
    reference, follower = Machine(ahead=50, ppm=30), Machine()
    theirs, ours = reference.clock(), follower.clock()
    async with nodes(theirs, ours):
        await ours.wait_synced()
        await anyio.sleep(20)
    bound = ours.bound_us
    assert (ours.status, ours.is_synced) == ("holdover", True)
    await anyio.sleep(100)
    assert ours.bound_us == pytest.approx(bound + 20_000, abs=200)
    assert abs(wrong_us(ours, theirs)) < 5_000  # the rate was measured for 20 s
    async with nodes(theirs, ours):
        await anyio.sleep(1)
        assert ours.status == "synced"
        assert ours.bound_us < bound + 5_000
        stats = ours.stats()
        assert (stats["steps"], stats["restarts"]) == (0, 0)
    later = Machine(ahead=1, wall=NOON + 10**15).clock()
    steps: list[int] = []
    ours.on_step(steps.append)
    async with nodes(later, ours):
        await anyio.sleep(2)
        assert abs(wrong_us(ours, later)) < 5_000
        assert (ours.stats()["restarts"], ours.stats()["epoch"]) == (1, later.stats()["epoch"])
    assert sum(steps) == pytest.approx(10**12 - 49e6, abs=60e3)  # 20 minutes of 30 ppm are in it


async def test_a_silent_reference_is_a_holdover() -> None:
    theirs, ours = Machine().clock(), Machine().clock()
    transport = MemoryTransport()
    async with nodes(theirs, ours, transport):
        await ours.wait_synced()
        received, theirs.received = theirs.received, lambda *_: None  # type: ignore[method-assign,assignment]
        await anyio.sleep(60)
        assert ours.status == "holdover"
        theirs.received = received  # type: ignore[method-assign]
        await anyio.sleep(10)
        assert ours.status == "synced"


async def test_in_a_chain_the_bounds_add_up() -> None:
    top = Machine(ahead=70, ppm=-30)
    theirs, middle, ours = top.clock(), Machine(ahead=7, ppm=40).clock(), Machine(wall=5 * NOON // 4).clock()
    async with nodes(theirs, middle), nodes(middle, ours):
        assert not middle.is_synced
        await middle.wait_synced()
        await ours.wait_synced()
        for _ in range(30):
            await anyio.sleep(0.77)
            assert abs(wrong_us(ours, theirs)) <= ours.bound_us + 1
            interval = ours.interval()
            assert interval.earliest_us <= theirs.now_us() <= interval.latest_us
            assert ours.bound_us > 0.5 * middle.bound_us
        assert abs(wrong_us(ours, theirs)) < 3_000
        assert ours.bound_us < middle.bound_us + ours.rtt_min_us / 2 + 12_000
        assert ours.stats()["epoch"] == theirs.stats()["epoch"]
        assert ours.stats()["unsynced"] > 0  # the middle said so at the beginning


async def test_without_datagrams_the_channel_carries_the_probes() -> None:
    theirs, ours = Machine(ahead=50).clock(), Machine().clock()
    async with nodes(theirs, ours, MemoryTransport(max_datagram=0)):
        await ours.wait_synced()
        assert abs(wrong_us(ours, theirs)) < 100


async def test_frames_are_stamped_with_the_shared_time() -> None:
    frames: list[tuple[Timestamped[bytes], int]] = []
    theirs, ours = Machine(ahead=50).clock(), Machine(wall=NOON // 2).clock()

    @stream("samples")
    async def samples(session: Session, receiver: StreamReceiver) -> None:
        frames.extend([(frame, theirs.now_us()) async for frame in receiver])

    async with nodes(theirs, ours) as both:
        both.server.add_handler(samples)
        async with await both.client.create_stream("samples") as sender:
            await sender.send(b"before")
            await ours.wait_synced()
            await sender.send(b"after")
        await anyio.sleep(1)
    assert [frame.synced for frame, _ in frames] == [False, True]
    assert abs(frames[1][0].wall_time - frames[1][1]) < 1_100_000
    assert abs(frames[0][0].wall_time - frames[0][1]) > 1e14


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\x01",
        b"\xff" * 40,
        b"\x07later",
        ClockAnswer(99, 1, 2, NOON, 0, 1, 1).encode(),
        ClockAnswer(1, 5, 4, NOON, 0, 1, 1).encode(),
        ClockAnswer(2**32 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1).encode(),
    ],
)
async def test_nonsense_is_counted_and_dropped(wrong: bytes, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = Machine(ahead=50).clock(), Machine().clock()
    async with nodes(theirs, ours) as both:
        for _ in range(8):
            both.session.send_clock(wrong)
            both.client.session.send_clock(wrong)
            await anyio.sleep(0.03)
        await ours.wait_synced()
        assert abs(wrong_us(ours, theirs)) < 10_000
        assert await both.client.ping() >= 0
    counted = ours.stats()
    assert counted["unknown"] + counted["malformed"] + counted["nonsense"] > 0 or wrong[:1] == b"\x07"
    assert "the clock failed" not in caplog.text


async def test_answers_for_a_session_that_is_not_followed_are_ignored() -> None:
    theirs, ours = Machine(ahead=50).clock(), Machine().clock()
    async with nodes(theirs, ours) as both:
        await ours.wait_synced()
        both.client.session.send_clock(ClockAnswer(1, 1, 2, NOON, 0, 1, 1).encode())
        both.session.send_clock(ClockProbe(3).encode())
        await anyio.sleep(1)
        assert ours.stats()["answered"] == 1
        assert theirs.is_synced


async def test_a_second_session_is_followed_when_the_first_is_over() -> None:
    first, second = Machine(ahead=50).clock(), Machine(ahead=60, wall=NOON + 10**12).clock()
    ours = Machine().clock()
    async with nodes(second, ours), nodes(first, ours):
        await ours.wait_synced()
        followed = ours.stats()["epoch"]
        assert followed == second.stats()["epoch"]  # it was dialled before
        assert first.stats()["answered"] == 0
    async with nodes(first, ours) as inner, nodes(second, ours):
        await anyio.sleep(2)
        await inner.client.session.close()
        await anyio.sleep(2)
        assert ours.stats()["epoch"] == second.stats()["epoch"]
        assert abs(wrong_us(ours, second)) < 20_000


async def test_a_circle_of_followers_never_becomes_synchronised() -> None:
    machine = Machine(ahead=5)
    one, other = machine.clock(), Machine().clock()
    async with nodes(one, other), nodes(other, one):
        with pytest.raises(
            ClockUnavailable, match="the reference follows another node itself, and is not synchronised"
        ):
            await one.wait_synced(5)
        assert not other.is_synced
        assert machine.reads < 2_000, "nobody is in a hurry"


async def test_probes_cost_little() -> None:
    theirs, ours = Machine(ahead=50).clock(), Machine().clock()
    costs: list[int] = []
    received = ours.received

    def metered(session: Session, payload: bytes) -> None:
        began = time.thread_time_ns()
        received(session, payload)
        costs.append(time.thread_time_ns() - began)

    ours.received = metered  # type: ignore[method-assign]
    async with nodes(theirs, ours):
        await anyio.sleep(60)
    assert len(costs) > 100
    assert (
        statistics.median(costs) < 2_000_000
    )  # the benchmark's budget is 0.5 ms; this one is for machines that are busy
