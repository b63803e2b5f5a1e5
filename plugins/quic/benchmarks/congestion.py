#!/usr/bin/env python3
"""What the congestion controls do on a bottleneck: rate against random loss, added delay, sharing. In virtual time.

The senders run aioquic's own recovery, pacing and congestion control; only streams and encryption are left out (see
``tests/simulated_link.py``). A run is the same every time, so the figures are exact, and no faster on a faster machine.
Prints the tables of ``docs/performance.md``::

    congestion.py            # about 8 minutes
    congestion.py --quick    # 10 s: the same tables with fewer rows and shorter runs
    congestion.py --only sharing
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from simulated_link import Flow, Link, one_link

NAMES = {"bbr": "BBR", "reno": "NewReno", "cubic": "Cubic"}
STARTS = {"together": (0, 0), "BBR 5 s later": (5, 0), "BBR 5 s earlier": (0, 5)}


def alone(link: Link, algorithm: str, seconds: float) -> Flow:
    flow = Flow(link, algorithm)
    link.clock.run(1 + seconds)
    return flow


def loss(quick: bool) -> Iterator[str]:
    """10 Mbit/s, 100 ms queue; share of the link that the program gets after 4 s."""
    seconds = 8 if quick else 34
    yield "| random loss | RTT | BBR | NewReno | Cubic |\n|---|---|---|---|---|"
    shares = [0.0, 0.01] if quick else [0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1]
    for rtt, share in itertools.product([0.04] if quick else [0.01, 0.04, 0.1], shares):
        cells = []
        for algorithm in NAMES:
            link = one_link(rate=10, rtt=rtt, queue_time=0.1, loss=share)
            cells.append(f"{alone(link, algorithm, seconds).rate(5, 1 + seconds) / link.rate:.0%}")
        yield f"| {share:.1%} | {rtt * 1e3:.0f} ms | {' | '.join(cells)} |"


def delay(quick: bool) -> Iterator[str]:
    """200 ms queue, after 2 s: delay that packets found in the queue, and share of the link.

    With jitter, acknowledgements are late by 5 ms on average.
    """
    seconds = 8 if quick else 60
    yield "| link | RTT | jitter | algorithm | median | p95 | p99 | rate |\n|---|---|---|---|---|---|---|---|"
    paths = [(4, 0.01, 0), (4, 0.04, 0), (4, 0.1, 0), (1, 0.04, 0), (20, 0.04, 0), (4, 0.04, 0.005)]
    for rate, rtt, jitter in paths[1:2] if quick else paths:
        for algorithm, name in NAMES.items():
            link = one_link(rate=rate, rtt=rtt, queue_time=0.2)
            link.jitter = jitter
            used = alone(link, algorithm, seconds).rate(3, 1 + seconds) / link.rate
            waits = " | ".join(f"{link.added_delay(share, since=3) * 1e3:.0f} ms" for share in (0.5, 0.95, 0.99))
            yield f"| {rate} Mbit/s | {rtt * 1e3:.0f} ms | {jitter * 1e3:.0f} ms | {name} | {waits} | {used:.0%} |"


def sharing(quick: bool) -> Iterator[str]:
    """4 Mbit/s; BBR's rate divided by the other's, from 15 s after the later start on; the link is full throughout."""
    seconds = 30 if quick else 135
    yield f"| other | queue | RTT | {' | '.join(STARTS)} |\n|---|---|---|{'---|' * len(STARTS)}"
    rows = [("reno", 0.2, 0.04)]
    if not quick:
        rows = list(itertools.product(["reno"], [0.02, 0.05, 0.1, 0.2, 0.4], [0.01, 0.04, 0.1]))
        rows += itertools.product(["cubic", "bbr"], [0.05, 0.2], [0.01, 0.04, 0.1])
    for other, queue, rtt in rows:
        cells = []
        for starts in STARTS.values():
            link = one_link(rate=4, rtt=rtt, queue_time=queue)
            ours, theirs = (Flow(link, name, start=start) for name, start in zip(("bbr", other), starts, strict=True))
            link.clock.run(1 + seconds)
            cells.append(f"{ours.rate(21, 1 + seconds) / theirs.rate(21, 1 + seconds):.2f}")
        yield f"| {NAMES[other]} | {queue * 1e3:.0f} ms | {rtt * 1e3:.0f} ms | {' | '.join(cells)} |"


def cost(quick: bool) -> Iterator[str]:
    """CPU time of sender, link and receiver together, for each packet, at 20 Mbit/s; compare, do not quote."""
    yield "| algorithm | µs per packet |\n|---|---|"
    best = dict.fromkeys(NAMES, 1e9)
    for _, algorithm in itertools.product(range(2 if quick else 5), NAMES):
        link = one_link(rate=20, rtt=0.04, queue_time=0.02)
        began = time.process_time()
        flow = alone(link, algorithm, 5)
        best[algorithm] = min(best[algorithm], (time.process_time() - began) / len(flow.received) * 1e6)
    yield from (f"| {NAMES[algorithm]} | {value:.0f} |" for algorithm, value in best.items())


TABLES = {"loss": loss, "delay": delay, "sharing": sharing, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, shorter runs")
    parser.add_argument("--only", choices=TABLES, help="one table")
    options = parser.parse_args()
    for name, table in TABLES.items():
        if options.only in (None, name):
            print(f"{name}: {inspect.cleandoc(table.__doc__ or '')}\n")
            for line in table(options.quick):
                print(line, flush=True)
            print()


if __name__ == "__main__":
    main()
