"""What postcard costs beside msgpack's C extension, in one run: ``python plugins/postcard/benchmarks/codec.py [--strict]``.

Both do the same work by turns, and the best of many rounds counts: on a shared machine the others tell about the
neighbours. ``--quick`` runs briefly, ``--strict`` ends with 1 where a budget is exceeded. The message has four fields, an
int, a str, a float and 32 bytes; for msgpack it is a dict, packed and unpacked by ``packb`` and ``unpackb``.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from echokernel import U32
from echokernel_postcard import PostcardSerializer


@dataclass
class Message:
    id: int
    name: str
    price: float
    data: bytes


@dataclass
class Row:
    """One comparison: what it is, its budget as a multiple of msgpack's time, and both actions."""

    name: str
    budget: float
    ours: Callable[[Any], Any]
    value: Any
    theirs: Callable[[Any], Any]
    their_value: Any
    number: int


def rows(quick: bool) -> list[Row]:
    serializer = PostcardSerializer()
    message = Message(300, "hello world", 1.5, b"x" * 32)
    fields = vars(message).copy()
    items = 100_000
    many, few = (200, 1) if quick else (5000, 2)
    lists: list[tuple[str, Any, list[Any]]] = [
        ("floats", list[float], [number * 0.5 for number in range(items)]),
        ("ints below 100", list[int], [number % 100 for number in range(items)]),
        ("ints below 1,000", list[int], [number % 1000 for number in range(items)]),
        ("ints below 100,000", list[int], list(range(items))),
        ("u32 below 100,000", list[U32], list(range(items))),
    ]
    found = []
    for name, budgets, type_, value, theirs, number in [
        ("message of four", (1.5, 2.5), Message, message, fields, many),
        *((f"{items:,} {name}", (10.0, 10.0), type_, values, values, few) for name, type_, values in lists),
    ]:
        codec = serializer.codec(type_)
        ours, wire = codec.encode(value), msgpack.packb(theirs)
        assert codec.decode(ours) == value
        found += [
            Row(f"{name}: encode", budgets[0], codec.encode, value, msgpack.packb, theirs, number),
            Row(f"{name}: decode", budgets[1], codec.decode, ours, msgpack.unpackb, wire, number),
        ]
    return found


def measure(row: Row, rounds: int) -> tuple[float, float]:
    """Return seconds per call of ours and theirs: the best of ``rounds``, taken by turns."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for place, (action, value) in enumerate(((row.ours, row.value), (row.theirs, row.their_value))):
            began = time.perf_counter()
            for _ in range(row.number):
                action(value)
            best[place] = min(best[place], (time.perf_counter() - began) / row.number)
    return best[0], best[1]


def copies(size: int = 1 << 20) -> list[tuple[str, float]]:
    """Return how often a megabyte of bytes is copied: what is allocated at the worst moment, in its size."""
    codec = PostcardSerializer().codec(Message)
    message = Message(1, "", 0.0, bytes(size))
    wire = codec.encode(message)
    codec.decode(memoryview(wire))  # type: ignore[arg-type] # compiled before it is measured
    found = []
    cases: list[tuple[str, Callable[[Any], Any], Any]] = [
        ("encode", codec.encode, message),
        ("decode bytes", codec.decode, wire),
        ("decode a view", codec.decode, memoryview(wire)),
    ]
    for name, action, value in cases:
        tracemalloc.start()
        result = action(value)
        found.append((name, tracemalloc.get_traced_memory()[1] / size))
        tracemalloc.stop()
        del result
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="run briefly, to see that it runs")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a budget is exceeded")
    options = parser.parse_args()
    gc.disable()
    over = 0
    print(f"{'':36} {'postcard':>10} {'msgpack':>10} {'ratio':>7} {'budget':>7}")
    for row in rows(options.quick):
        ours, theirs = measure(row, 3 if options.quick else 25)
        ratio = ours / theirs
        over += ratio > row.budget
        print(f"{row.name:36} {ours * 1e6:8.2f}µs {theirs * 1e6:8.2f}µs {ratio:6.2f}x {row.budget:6.1f}x")
    for name, count in copies():
        over += count > 1.1
        print(f"{'1 MB of bytes: ' + name:36} {'copied':>10} {count:10.2f} times {'1.1':>8}x")
    return 1 if options.strict and over else 0


if __name__ == "__main__":
    sys.exit(main())
