"""``echokernel clock URL``: how the clock of a running node compares with this machine's, live."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from echokernel.cli import DONE, FAILED, USAGE, fail
from echokernel.cli.client_commands import add_client_arguments, with_client

if TYPE_CHECKING:
    from echokernel import EchoClient
    from echokernel_clocksync.clock_sync import ClockSync

SYNC_SECONDS = 15.0

__all__ = ["ClockCommand", "Sample"]


class Sample(NamedTuple):
    """What the clock said at one moment."""

    seconds: float
    """Since the first sample."""
    status: str
    offset_ms: float
    """The node's shared time minus this machine's time of day."""
    drift_ppm: float
    rtt_ms: float
    rtt_min_ms: float
    bound_ms: float
    age_s: float
    steps: int


HEADS = ("seconds", "status", "offset ms", "drift ppm", "rtt ms", "least ms", "bound ms", "age s", "steps")


class ClockCommand:
    """``echokernel clock``."""

    name = "clock"
    help = "compare the clock of a running node with this machine's: offset, drift, round trip, certain bound"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        add_client_arguments(parser)
        parser.add_argument(
            "-c", "--count", type=int, default=0, metavar="N", help="lines to print; 0: until Ctrl-C (0)"
        )
        parser.add_argument("--seconds", type=float, metavar="S", help="stop after this time")
        parser.add_argument("-i", "--interval", type=float, default=1.0, metavar="S", help="seconds between lines (1)")
        parser.add_argument(
            "--json", action="store_true", help="one JSON object per line; times in the units of their names"
        )
        parser.add_argument("--plot", metavar="FILE.png", help="write what was seen as a picture, also after Ctrl-C")

    def run(self, arguments: argparse.Namespace) -> int:
        """Follow the node until enough was seen, and return the exit code."""
        from echokernel_clocksync.clock_sync import ClockSync

        if not 0.05 <= arguments.interval <= 3_600:
            return fail(f"--interval: {arguments.interval:g}: wanted 0.05 to 3,600 s", USAGE)
        if arguments.plot is not None and (trouble := _no_plot(arguments.plot)):
            return fail(trouble, USAGE)
        clock, samples = ClockSync(), list[Sample]()

        async def use(client: EchoClient) -> int:
            await _watch(clock, arguments, samples)
            return DONE

        try:
            code = with_client(arguments, use, lambda builder: builder.plugin(clock))
        except KeyboardInterrupt:
            code = DONE if samples else FAILED
        if samples and arguments.plot is not None:
            from echokernel_clocksync.plot import draw

            draw(samples, arguments.url, arguments.plot)
            print(f"wrote {arguments.plot}", file=sys.stderr)
        return code


async def _watch(clock: ClockSync, arguments: argparse.Namespace, samples: list[Sample]) -> None:
    import anyio

    await clock.wait_synced(SYNC_SECONDS)
    began = anyio.current_time()
    with _display(arguments) as show:
        while True:
            sample = take(clock, anyio.current_time() - began)
            samples.append(sample)
            show(sample)
            following = began + len(samples) * arguments.interval
            over = arguments.seconds is not None and following - began > arguments.seconds
            if over or len(samples) == arguments.count:
                return
            await anyio.sleep(max(0.0, following - anyio.current_time()))


def take(clock: ClockSync, seconds: float) -> Sample:
    """Return what ``clock`` says now. Raises ClockUnavailable."""
    stats = clock.stats()
    return Sample(
        seconds=round(seconds, 3),
        status=clock.status,
        offset_ms=round(clock.offset_us / 1000, 6),
        drift_ppm=round(clock.drift_ppm, 3),
        rtt_ms=round(stats["rtt_us"] / 1000, 6),
        rtt_min_ms=round(stats["rtt_min_us"] / 1000, 6),
        bound_ms=round(clock.bound_us / 1000, 6),
        age_s=round(clock.age_s, 3),
        steps=int(stats["steps"]),
    )


def _cells(sample: Sample) -> list[str]:
    return [
        f"{sample.seconds:.1f}",
        sample.status,
        f"{sample.offset_ms:+.3f}",
        f"{sample.drift_ppm:+.2f}",
        f"{sample.rtt_ms:.3f}",
        f"{sample.rtt_min_ms:.3f}",
        f"{sample.bound_ms:.3f}",
        f"{sample.age_s:.1f}",
        str(sample.steps),
    ]


class _Lines:
    """Plain lines, or one JSON object in each."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> Callable[[Sample], None]:
        if not self._as_json:
            print("  ".join(f"{head:>9}" for head in HEADS), flush=True)
        return self._show

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def _show(self, sample: Sample) -> None:
        if self._as_json:
            print(json.dumps(sample._asdict()), flush=True)
        else:
            print("  ".join(f"{cell:>9}" for cell in _cells(sample)), flush=True)


class _Table:
    """The newest lines, in place: for a terminal, with rich."""

    ROWS = 15

    def __init__(self) -> None:
        from rich.live import Live

        self._rows: list[list[str]] = []
        self._live = Live(auto_refresh=False)

    def __enter__(self) -> Callable[[Sample], None]:
        self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _show(self, sample: Sample) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        self._rows = [*self._rows[1 - self.ROWS :], _cells(sample)]
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for head in HEADS:
            table.add_column(head, justify="right")
        for row in self._rows:
            table.add_row(*row)
        self._live.update(table, refresh=True)


def _display(arguments: argparse.Namespace) -> _Lines | _Table:
    if not arguments.json and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        try:
            return _Table()
        except ImportError:
            pass
    return _Lines(arguments.json)


def _no_plot(file: str) -> str:
    """Return why no picture can be written; empty where it can."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install 'echokernel-clocksync[plot]'"
    folder = os.path.dirname(file) or "."
    if not file.endswith(".png"):
        return f"--plot: {file}: wanted a name that ends with .png"
    return "" if os.path.isdir(folder) else f"--plot: there is no folder {folder}"
