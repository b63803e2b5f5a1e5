"""How quickly nodes find each other: ``python plugins/mdns/benchmarks/figures.py [--runs N] [--plot FILE.svg]``.

As root, with iproute2, between two network namespaces; otherwise between two processes on the loopback interface. With nft
also while 10 % of the packets are lost. Budgets: an existing service is found within 200 ms (p95), an announced one is seen
within 1.5 s, one announced with ``fast=True`` within 50 ms, a stopped one is gone within 50 ms of its goodbye, and at 10 % loss
95 % are found within 3 s. Exits with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from echokernel_mdns import MdnsDiscovery, ServiceInfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

HERE = Path(__file__).resolve()
Times = list[float]


# --- what runs in the two machines ------------------------------------------------------------------------------------


def discovery(interface: str) -> MdnsDiscovery:
    return MdnsDiscovery(interfaces=[interface])


async def serve(interface: str, count: int) -> None:
    """Announce a service until stdin ends."""
    async with discovery(interface).advertise(ServiceInfo("bench").with_port(4433)):
        say("ready")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def find(interface: str, count: int) -> None:
    """Look for that service, each time with sockets and a memory of its own."""
    for _ in range(count):
        began = time.monotonic()
        found = await discovery(interface).discover("bench", timeout=6.0, min_count=1)
        say("found", time.monotonic() - began if found else float("inf"))
        await asyncio.sleep(1.1 if count > 20 else 0.3)  # a responder sends a record once a second


async def watch(interface: str, count: int) -> None:
    """Tell what is seen, and when. CLOCK_MONOTONIC is the same in all namespaces."""
    say("ready")
    async for event in discovery(interface).watch():
        say(event.kind, event.service.name, time.monotonic())


async def announce(interface: str, count: int, *, fast: bool = False) -> None:
    """Announce and withdraw services, and tell when."""
    for number in range(count):
        service = ServiceInfo(f"{'fast' if fast else 'plain'}-{number}").with_port(4433)
        began = time.monotonic()
        advertiser = await discovery(interface).advertise(service, fast=fast)
        say("announce", service.name, began)
        await asyncio.sleep(0.3)
        say("stop", service.name, time.monotonic())
        await advertiser.stop()


async def announce_fast(interface: str, count: int) -> None:
    await announce(interface, count, fast=True)


async def blocked(interface: str, count: int) -> None:
    """How long the program's loop is held up while services are announced and found: the longest pause of each run."""
    for _ in range(count):
        pauses: Times = []

        async def measure(pauses: Times = pauses) -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0)
                pauses.append(time.perf_counter() - before)
                await asyncio.sleep(0.0005)

        task = asyncio.create_task(measure())
        async with discovery(interface).advertise(ServiceInfo("bench-loop").with_port(1), fast=True):
            await discovery(interface).discover("bench-loop", timeout=0.3)
        task.cancel()
        say("blocked", max(pauses))


ROLES = {each.__name__: each for each in (serve, find, watch, announce, announce_fast, blocked)}


def say(*words: object) -> None:
    print(json.dumps(words), flush=True)


# --- the two machines ---------------------------------------------------------------------------------------------------


class Pair:
    """Two machines: network namespaces, or this one twice."""

    def __init__(self, stack: ExitStack) -> None:
        self._prefixes: list[list[str]] = [[], []]
        self.interface, self.what = "lo", "two processes on the loopback interface"
        self.machines = []
        if os.geteuid() == 0 and shutil.which("ip"):
            import mdns_lab

            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.machines = stack.enter_context(mdns_lab.network(2, directory))
            self._prefixes = [machine.command() for machine in self.machines]
            self.interface, self.what = "eth0", "two network namespaces on a bridge"

    def start(self, machine: int, role: str, count: int = 0) -> subprocess.Popen[str]:
        command = [*self._prefixes[machine], sys.executable, str(HERE), "--role", role, "--interface", self.interface]
        command += ["--runs", str(count)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def read(self, machine: int, role: str, count: int) -> list[list[object]]:
        with self.start(machine, role, count) as process:
            assert process.stdout is not None
            return [json.loads(line) for line in process.stdout]

    def lose(self, percent: int) -> bool:
        """Let both machines lose packets that they send; False where that cannot be had."""
        if not self.machines or not shutil.which("nft"):
            return False
        rules = (
            "add table inet loss; add chain inet loss out { type filter hook output priority 0; }; "
            f"add rule inet loss out numgen random mod 100 < {percent} drop"
        )
        return all(
            subprocess.run(machine.command("nft", rules), capture_output=True, check=False).returncode == 0
            for machine in self.machines
        )


def found_times(pair: Pair, runs: int) -> Times:
    server = pair.start(1, "serve")
    assert server.stdout is not None
    if "ready" not in server.stdout.readline():
        raise SystemExit("the server could not announce its service")
    time.sleep(1.5)  # its announcements are out
    try:
        return [float(str(line[1])) for line in pair.read(0, "find", runs)]
    finally:
        server.communicate()


def seen_times(pair: Pair, role: str, runs: int) -> tuple[Times, Times]:
    """Return seconds from announcing to being seen, and from the goodbye to being gone."""
    watcher = pair.start(0, "watch")
    assert watcher.stdout is not None
    watcher.stdout.readline()
    time.sleep(0.7)
    did = pair.read(1, role, runs)
    time.sleep(0.5)
    watcher.terminate()
    saw = {(kind, name): at for kind, name, at in map(json.loads, watcher.communicate()[0].splitlines())}
    at = {(kind, name): float(str(moment)) for kind, name, moment in did}
    never = float("inf")
    return (
        [saw.get(("appeared", name), never) - moment for (kind, name), moment in at.items() if kind == "announce"],
        [saw.get(("gone", name), never) - moment for (kind, name), moment in at.items() if kind == "stop"],
    )


# --- the report -----------------------------------------------------------------------------------------------------------


def quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=40, help="how often each is tried (default 40; slow ones a quarter)"
    )
    parser.add_argument("--plot", type=Path, help="write the distributions as an SVG")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--interface", default="lo", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        asyncio.run(ROLES[arguments.role](arguments.interface, arguments.runs))
        return 0
    runs, few = arguments.runs, max(3, arguments.runs // 4)
    measured: list[tuple[str, Times, float, float]] = []  # what, seconds, quantile that counts, budget
    with ExitStack() as stack:
        pair = Pair(stack)
        print(f"between {pair.what}, Python {sys.version.split()[0]}")
        measured.append(("existing service found", found_times(pair, runs), 0.95, 0.2))
        seen, gone = seen_times(pair, "announce", few)
        measured.append(("announced service seen", seen, 1.0, 1.5))
        fast, gone_too = seen_times(pair, "announce_fast", runs)
        measured.append(("announced with fast=True seen", fast, 0.95, 0.05))
        measured.append(("stopped service gone", gone + gone_too, 0.95, 0.05))
        pauses = [float(str(line[1])) for line in pair.read(0, "blocked", few)]
        measured.append(("longest pause of the program's loop", pauses, 0.5, 0.005))
        if pair.lose(10):
            measured.append(("found, 10 % of packets lost", found_times(pair, runs), 0.95, 3.0))
        else:
            print("without loss: that needs root, iproute2 and nftables")
    print(f"\n{'':38}{'runs':>5}{'p50':>10}{'p95':>10}{'max':>10}   budget")
    missed = 0
    for what, times, share, budget in measured:
        cells = "".join(f"{quantile(times, each) * 1000:>7.1f} ms" for each in (0.5, 0.95, 1.0))
        good = quantile(times, share) <= budget
        missed += not good
        kind = "max" if share == 1.0 else f"p{share * 100:.0f}"
        print(f"{what:38}{len(times):>5}{cells}   {kind} <= {budget * 1000:g} ms{'' if good else '  MISSED'}")
    if arguments.plot:
        arguments.plot.write_text(svg([(what, times) for what, times, _, _ in measured]), "utf-8")
        print(f"\nwritten: {arguments.plot}")
    return 1 if missed else 0


COLOURS = ("#1b6ca8", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#444444")
LEFT, TOP, WIDTH, HEIGHT = 60, 20, 560, 280


def svg(curves: Sequence[tuple[str, Times]]) -> str:
    """Return the share of runs (upwards) that were done after so many milliseconds (1 to 10,000, logarithmic)."""
    import math

    def x(seconds: float) -> float:
        return LEFT + WIDTH * min(4.0, max(0.0, math.log10(max(seconds, 1e-6) * 1000))) / 4

    lines = []
    for power in range(5):
        at = LEFT + WIDTH * power / 4
        lines.append(f'<line x1="{at}" y1="{TOP}" x2="{at}" y2="{TOP + HEIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{at}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{10**power:,} ms</text>')
    for share in (0, 25, 50, 75, 100):
        at = TOP + HEIGHT * (1 - share / 100)
        lines.append(f'<line x1="{LEFT}" y1="{at}" x2="{LEFT + WIDTH}" y2="{at}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{share} %</text>')
    for number, (what, times) in enumerate(curves):
        colour, path, height = COLOURS[number % len(COLOURS)], f"M{LEFT},{TOP + HEIGHT}", float(TOP + HEIGHT)
        for done, seconds in enumerate(sorted(each for each in times if each < float("inf")), 1):
            path += f"H{x(seconds):.1f}"
            height = TOP + HEIGHT * (1 - done / len(times))
            path += f"V{height:.1f}"
        lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = TOP + HEIGHT + 44 + 18 * number
        lines.append(f'<rect x="{LEFT}" y="{at - 10}" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{LEFT + 20}" y="{at}">{what}</text>')
    tall = TOP + HEIGHT + 50 + 18 * len(curves)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 40} {tall}" font-family="sans-serif" '
    return head + 'font-size="13"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"


if __name__ == "__main__":
    sys.exit(main())
