"""How far the shared clock is off, against a truth that is known: real QUIC between processes, and a bad network between them.

    python plugins/clocksync/benchmarks/clock.py [--quick] [--strict] [--only NAME] [--plot docs/images/clock-error.png]

The server is a process whose clock is 123.456 s ahead and 40 ppm faster; all processes of a machine share one monotonic clock,
so what its shared time is at any moment is known here to the microsecond. A relay, a third process, delays and drops packets.
``error`` is the distance of ``now_us()``, every 20 ms from the moment on at which the clock says that it is synchronised.
``cover``: queries in which the truth was in ``interval()`` and no further off than ``bound_us``. ``wide``: those in which the
half of the interval, or the bound without what is left to slew, was more than half of the shortest round trip + 200 ppm of its
age + 0.2 ms. ``rtt max``: of a probe; with an upload, what the queue did. ``CPU``: of one answer, from its bytes to the
corrected clock, median. Steps and an hour without any are simulated. ``--strict``: exit code 1 when a budget is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from echokernel import EchoClient, EchoServer, Session, StreamReceiver, rpc, stream
from echokernel_clocksync import ClockSync
from echokernel_clocksync.simulation import PATHS, SimulatedLink

HERE = Path(__file__).resolve().parent
AHEAD, PPM = 123_456_000_000, 40


@dataclass(frozen=True)
class Profile:
    out: str = ""
    back: str = ""
    relayed: bool = True
    messages: bool = False
    bulk: bool = False
    budget: float | None = None
    """ms, for the 99th percentile of the error."""
    after: float = 0.0
    """Seconds from which on that counts."""


PROFILES = {
    "loopback": Profile(relayed=False, budget=0.5),
    "loopback, 1,000 msg/s": Profile(relayed=False, messages=True, budget=0.5),
    "Wi-Fi-like: 1 ms + gamma 1.5 ms, 1 % loss": Profile(*2 * ["delay=1,gamma=1.5,loss=1"], budget=1.0),
    "50±10 ms, 1 % loss": Profile(*2 * ["delay=50,jitter=10,loss=1"], budget=1.5, after=30),
    "own upload: 8 Mbit/s, 200 ms queue": Profile("delay=2,rate=8,queue=200", "delay=2", bulk=True, budget=3.0),
    "own upload: 4 Mbit/s, 300 ms queue": Profile("delay=2,rate=4,queue=300", "delay=2", bulk=True, budget=3.0),
    "asymmetric jitter: 60±20 / 41±1 ms": Profile("delay=60,jitter=20,loss=1", "delay=41,jitter=1,loss=1", budget=3.0),
    "asymmetric base: 50±1 / 20±1 ms": Profile("delay=50,jitter=1,loss=1", "delay=20,jitter=1,loss=1"),
}


def server_clock(began: int) -> int:
    """Return what the server's clock shows now; ``began``: when it showed the same as this machine's, plus ``AHEAD``."""
    now = time.monotonic_ns()
    return now + AHEAD + (now - began) * PPM // 1_000_000


async def serve(began: int) -> None:
    clock = ClockSync().with_clock(lambda: server_clock(began))

    @rpc
    def echo(data: bytes) -> bytes:
        return data

    @stream("bulk")
    async def bulk(session: Session, receiver: StreamReceiver) -> None:
        async for _ in receiver:
            pass

    builder = EchoServer.builder().bind("quic://127.0.0.1:0").plugin(clock).add_rpc(echo).add_stream(bulk)
    async with builder.build() as server:
        print(json.dumps({"port": server.addresses[0].port, "origin_us": clock.to_shared(0)}), flush=True)
        while os.getppid() != 1:
            await anyio.sleep(0.5)


class MeteredClock(ClockSync):
    """Notes what answers cost."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[int] = []

    def received(self, session: Session, payload: bytes) -> None:
        began = time.thread_time_ns()
        super().received(session, payload)
        self.costs.append(time.thread_time_ns() - began)


@dataclass
class Result:
    profile: Profile
    times: list[float] = field(default_factory=list)
    """Seconds since the clock was synchronised."""
    errors: list[float] = field(default_factory=list)
    """ms, with their sign."""
    bounds: list[float] = field(default_factory=list)
    slowest_ms: float = 0.0
    """The longest round trip of a probe."""
    uncovered: int = 0
    wide: int = 0
    cpu_ms: float = math.nan
    stats: dict[str, Any] = field(default_factory=dict)

    def percentile(self, share: float, after: float = 0.0) -> float:
        values = sorted(abs(error) for at, error in zip(self.times, self.errors, strict=True) if at >= after)
        return values[min(len(values) - 1, int(share * len(values)))] if values else math.nan


@contextmanager
def child(*command: str) -> Any:
    """Run a process that prints one line when it is ready; yields the line."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline()
    finally:
        process.terminate()
        process.wait(10)


async def measure(profile: Profile, seconds: float) -> Result:
    began = time.monotonic_ns()
    with child(str(HERE / "clock.py"), "--serve", str(began)) as line:
        about = json.loads(line)
        if not profile.relayed:
            return await query(profile, about["port"], about["origin_us"], began, seconds)
        with child(str(HERE / "udp_relay.py"), str(about["port"]), profile.out, profile.back) as port:
            return await query(profile, int(port), about["origin_us"], began, seconds)


async def query(profile: Profile, port: int, origin_us: int, began: int, seconds: float) -> Result:
    clock, result = MeteredClock(), Result(profile)

    def truth() -> float:
        return origin_us + server_clock(began) / 1000

    connecting = EchoClient.builder().plugin(clock).connect(f"quic://127.0.0.1:{port}")
    async with connecting as client, anyio.create_task_group() as load:
        await clock.wait_synced(20)
        start = time.monotonic()
        if profile.messages:
            load.start_soon(send_messages, client)
        if profile.bulk:
            load.start_soon(send_bulk, client, seconds / 4, seconds * 3 / 4)
        while (at := time.monotonic() - start) < seconds:
            before, interval = truth(), clock.interval()
            now, bound, after = clock.now_us(), clock.bound_us, truth()
            if after - before < 1_000:  # else this process was not running meanwhile
                result.times.append(at)
                result.errors.append((now - (before + after) / 2) / 1000)
                result.bounds.append(bound / 1000)
                covered = interval.earliest_us <= after and before <= interval.latest_us
                result.uncovered += not (covered and before - bound - 1 <= now <= after + bound + 1)
                stats = clock.stats()
                result.slowest_ms = max(result.slowest_ms, stats["rtt_us"] / 1000)
                allowed = stats["rtt_min_us"] / 2 + 200 * stats["rtt_min_age_s"] + 200
                half = (interval.latest_us - interval.earliest_us) / 2
                result.wide += half > allowed or bound - abs(stats["slewing_us"]) > allowed + 1
            await anyio.sleep(0.02)
        load.cancel_scope.cancel()
    result.stats = dict(clock.stats())
    result.cpu_ms = statistics.median(clock.costs) / 1e6
    return result


async def send_messages(client: EchoClient) -> None:
    """Send 1,000 requests of 1 kB each second, and wait for their answers beside."""
    data = bytes(1_000)
    async with anyio.create_task_group() as tasks:
        began, sent = anyio.current_time(), 0
        while True:
            while sent < (anyio.current_time() - began) * 1_000:
                sent += 1
                tasks.start_soon(client.request, "echo", data)
            await anyio.sleep(0.001)


async def send_bulk(client: EchoClient, start: float, end: float) -> None:
    began = anyio.current_time()
    await anyio.sleep(start)
    async with await client.create_stream("bulk") as sender:
        while anyio.current_time() - began < end:
            await sender.send(bytes(30_000))


def simulate(hours: float) -> list[tuple[str, str, bool]]:
    """Return what is to be shown of steps, and whether it is within its budget."""
    rows = []
    false = wide = uncovered = queries = 0
    for number, path in enumerate(PATHS.values()):
        link = SimulatedLink(path, seed=number)
        for _, query in link.run(3_600 * hours):
            queries += 1
            uncovered += not query.is_covered
            wide += query.bound > query.allowed
        false += len(link.noticed)
    rows.append((f"simulated: {len(PATHS)} paths, {hours:g} h each: false steps", str(false), false == 0))
    rows.append(
        (f"simulated: {queries:,} queries: not covered, too wide", f"{uncovered}, {wide}", not uncovered and not wide)
    )
    for name in ("lan", "25±5 ms", "50±10 ms", "wifi"):
        path, quick, trials = PATHS[name], 0, 40
        for seed in range(trials):
            link = SimulatedLink(path, seed=1_000 + seed)
            half = statistics.median(path.out(link._chance, 0) + path.back(link._chance, 0) for _ in range(200)) / 2
            link.steps = [(60.0, half * (1 if seed % 2 else -1))]
            link.__post_init__()
            answers = 0
            for number, (_, query) in enumerate(link.run(75)):
                if number % 2 == 0 and query.at > 60.4:
                    answers += 1
                if link.noticed:
                    break
            quick += bool(link.noticed) and answers <= 4 and link.noticed[0] >= 60
        what = f"simulated: {name}: steps of half a round trip noticed within 3 answers"
        rows.append((what, f"{quick / trials:.0%}", quick == trials or name == "wifi"))
    return rows


def report(results: dict[str, Result]) -> bool:
    """Print the table; returns whether all budgets were kept."""
    kept = True
    heads = ("p50 ms", "p99 ms", "p99 30 s", "budget", "bound", "rtt max", "queries", "cover", "wide", "steps", "CPU ms")
    print(f"{'path':44}" + "".join(f"{head:>10}" for head in heads))
    for name, result in results.items():
        profile = result.profile
        queries = len(result.errors)
        p99 = result.percentile(0.99, profile.after if max(result.times) > profile.after else 0.0)
        budget = "" if profile.budget is None else f"{profile.budget:g}"
        cells = (
            f"{result.percentile(0.5):.3f}",
            f"{result.percentile(0.99):.3f}",
            f"{result.percentile(0.99, 30):.3f}" if max(result.times) > 30 else "",
            budget,
            f"{statistics.median(result.bounds):.2f}",
            f"{result.slowest_ms:.1f}",
            str(queries),
            f"{1 - result.uncovered / queries:.0%}" if not result.uncovered else f"-{result.uncovered}",
            str(result.wide),
            str(result.stats["steps"]),
            f"{result.cpu_ms:.3f}",
        )
        print(f"{name:44}" + "".join(f"{cell:>10}" for cell in cells), flush=True)
        kept &= not result.uncovered and not result.wide and not result.stats["steps"] and result.cpu_ms <= 0.5
        kept &= profile.budget is None or p99 <= profile.budget
    return kept


def plot(results: dict[str, Result], file: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(results), sharex=True, figsize=(8, 1.35 * len(results) + 0.8), layout="constrained"
    )
    for axis, (name, result) in zip(axes if len(results) > 1 else [axes], results.items(), strict=True):
        axis.plot(result.times, result.errors, linewidth=0.8, color="#1b6ca8")
        axis.axhline(0, linewidth=0.5, color="#888888")
        if result.profile.budget is not None:
            for sign in (-1, 1):
                axis.axhline(sign * result.profile.budget, linewidth=0.7, linestyle="--", color="#c0392b")
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylabel("ms", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("seconds since the clock was synchronised", fontsize=8)
    figure.suptitle("Error of now_us() against the truth; dashed: the budget of the 99th percentile", fontsize=10)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each path (60)")
    parser.add_argument("--quick", action="store_true", help="4 s of each path, and minutes for hours")
    parser.add_argument("--only", action="append", metavar="NAME", help="only paths whose name has this in it")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a budget is missed")
    parser.add_argument("--plot", metavar="FILE", help="write the errors over time as a PNG")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve is not None:
        anyio.run(serve, arguments.serve)
        return 0
    seconds = 4.0 if arguments.quick else arguments.seconds
    chosen = {
        name: profile
        for name, profile in PROFILES.items()
        if not arguments.only or any(part in name for part in arguments.only)
    }
    results = {name: anyio.run(measure, profile, seconds) for name, profile in chosen.items()}
    kept = report(results) if results else True
    if not arguments.only:
        for name, value, good in simulate(0.05 if arguments.quick else 1.0):
            print(f"{name}: {value}")
            kept &= good
    if arguments.plot and results:
        plot(results, arguments.plot)
    print("all budgets are kept" if kept else "a budget is missed")
    return 1 if arguments.strict and not kept else 0


if __name__ == "__main__":
    sys.exit(main())
