#!/usr/bin/env python3
"""The spine's figures: echokernel against grpc.aio and against the bare transport, interleaved, in one run.

    python3 dev.py python tests/benchmarks/compare.py            # about 4 minutes
    python3 dev.py python tests/benchmarks/compare.py --quick    # a smoke test: one short round, no judgement

Every peer is a server process and a client process of its own on 127.0.0.1, on uvloop, with 32-byte payloads on one
connection. Peers take turns within each round; a ratio is the median of the rounds' own ratios, because the speed of a
shared machine drifts by a factor of two between rounds, and hardly between neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RAW = HERE.parents[1] / "plugins" / "quic" / "benchmarks" / "raw_echo.py"
RAW_KEYS = {
    "sequential": "requests_per_s",
    "concurrent": "requests_per_s",
    "events": "events_per_s",
    "bulk": "mb_per_s",
}

# (what, mode, against, at least)
GOALS = [
    ("sequential requests", "sequential", "grpc", 1.2),
    ("64 requests in flight", "concurrent", "grpc", 8.0),
    ("one-way events", "events", "grpc", 10.0),
    ("64 requests in flight", "concurrent", "raw", 0.6),
    ("bulk, 64 KiB frames", "bulk", "raw", 0.6),
]


class Server:
    """A peer's server process, for as long as the benchmark runs."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise SystemExit(f"{command[0]} did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def client(*command: str) -> dict[str, Any]:
    """Run one client process and return what it measured."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def measure(rounds: int, seconds: float) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return every result by (peer, mode), peers interleaved within each round."""
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cert = str(Path(folder, "grpc.pem"))
        ours = Server(str(HERE / "peer_echokernel.py"), "serve")
        grpc = Server(str(HERE / "peer_grpc.py"), "serve", cert)
        raw = Server(str(RAW), "server")
        try:
            for _ in range(rounds):
                for mode in ("sequential", "concurrent", "events", "bulk"):
                    found = client(str(HERE / "peer_echokernel.py"), mode, ours.address, str(seconds))
                    results.setdefault(("echokernel", mode), []).append(found)
                    found = client(
                        str(RAW),
                        "client",
                        "--address",
                        raw.address,
                        "--mode",
                        mode,
                        "--seconds",
                        str(seconds),
                        "--in-flight",
                        "64",
                    )
                    results.setdefault(("raw", mode), []).append({"per_s": found[RAW_KEYS[mode]], **found})
                    if mode != "bulk":
                        found = client(str(HERE / "peer_grpc.py"), mode, grpc.address, str(seconds), cert)
                        results.setdefault(("grpc", mode), []).append(found)
                for mode in ("mixed",):
                    found = client(str(HERE / "peer_echokernel.py"), mode, ours.address, str(seconds))
                    results.setdefault(("echokernel", mode), []).append(found)
        finally:
            for server in (ours, grpc, raw):
                server.stop()
        for mode in ("stuck", "idle"):
            fresh = Server(str(HERE / "peer_echokernel.py"), "serve")
            try:
                amount = str(min(1.0, seconds))  # of 1,000 connections: all of them, but in a smoke test
                results["echokernel", mode] = [client(str(HERE / "peer_echokernel.py"), mode, fresh.address, amount)]
            finally:
                fresh.stop()
    return results


def report(results: dict[tuple[str, str], list[dict[str, Any]]]) -> bool:
    """Print the table in Markdown, and return whether every figure is met."""

    def median(peer: str, mode: str, key: str = "per_s") -> float:
        return statistics.median(result[key] for result in results[peer, mode])

    good = True

    def ratio(peer: str, other: str, mode: str) -> float:
        """Return the median of the rounds' ratios; neighbours in time are compared."""
        pairs = zip(results[peer, mode], results[other, mode], strict=True)
        return statistics.median(one["per_s"] / two["per_s"] for one, two in pairs)

    def line(what: str, ours: str, theirs: str, ratio: str, goal: str, met: bool) -> None:
        nonlocal good
        good &= met
        print(f"| {what} | {ours} | {theirs} | {ratio} | {goal} | {'yes' if met else '**no**'} |")

    print("| what | echokernel | peer | ratio | goal | met |\n|---|---|---|---|---|---|")
    for what, mode, against, least in GOALS:
        ours, theirs = median("echokernel", mode), median(against, mode)
        unit = "MB/s" if mode == "bulk" else "/s"
        name = "grpc.aio" if against == "grpc" else "bare transport"
        digits = 1 if mode == "bulk" else 0
        line(
            what,
            f"{ours:,.{digits}f} {unit}",
            f"{name} {theirs:,.{digits}f} {unit}",
            f"{ratio('echokernel', against, mode):.2f}",
            f">= {least}",
            ratio("echokernel", against, mode) >= least,
        )
    raw, against_grpc = median("raw", "concurrent"), ratio("raw", "grpc", "concurrent")
    line(
        "the bare transport itself, 64 in flight",
        "-",
        f"{raw:,.0f} /s",
        f"{against_grpc:.2f}",
        ">= 10 x grpc.aio",
        against_grpc >= 10,
    )
    bulk = median("echokernel", "bulk")
    line("bulk, 64 KiB frames", f"{bulk:.1f} MB/s", "-", "-", ">= 10 MB/s", bulk >= 10)
    p99 = median("echokernel", "mixed", "p99_ms")
    line("small requests during bulk, p99", f"{p99:.1f} ms", "-", "-", "<= 60 ms", p99 <= 60)
    stuck = results["echokernel", "stuck"][0]
    worst = max(stuck["client_mb"], stuck["server_mb"])
    line(
        "200 MB at a stopped reader",
        f"client +{stuck['client_mb']:.1f} MB, server +{stuck['server_mb']:.1f} MB",
        "-",
        "-",
        "< 16 MB, send() waits",
        worst < 16 and stuck["send_waits"],
    )
    idle = results["echokernel", "idle"][0]
    line(
        "1,000 idle connections, server",
        f"{idle['server_mb']:.0f} MB ({idle['kib_each']:.0f} KiB each)",
        "-",
        "-",
        "<= 150 MB",
        idle["server_mb"] <= 150,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--quick", action="store_true", help="one short round that only shows that everything runs")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.1
    results = measure(options.rounds, options.seconds)
    good = report(results)
    return 0 if good or options.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
