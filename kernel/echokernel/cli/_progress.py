"""How far a transfer has come: one line on a terminal, drawn again and again; nothing elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from echokernel.cli._output import duration, size

REDRAW_SECONDS = 0.1
BAR = 24  # characters

__all__ = ["Progress", "progress_line"]


class Progress:
    """Draws on ``out`` where that is a terminal. ``total``: bytes, None where nobody knows."""

    def __init__(self, total: int | None, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._total = total
        self._started = self._drawn = time.monotonic()
        self._shows = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._width = 0
        self.done = 0
        """Bytes so far."""
        self.frames = 0

    def start(self) -> None:
        """Count the time from now on: what came before was the way to the peer."""
        self._started = self._drawn = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._started

    def add(self, count: int) -> None:
        """Another frame of so many bytes has gone over."""
        self.done += count
        self.frames += 1
        if self._shows and (now := time.monotonic()) - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self._draw(progress_line(self.done, self._total, now - self._started))

    def clear(self) -> None:
        """Take the line away, so that the next one stands alone."""
        if self._width:
            self._draw("")
            self._out.write("\r")
            self._out.flush()
            self._width = 0

    def _draw(self, line: str) -> None:
        self._out.write("\r" + line.ljust(self._width))  # the last one may have been longer
        self._out.flush()
        self._width = len(line)


def progress_line(done: int, total: int | None, seconds: float) -> str:
    """Return ``  1.2 MB of 4.0 MB  [######------]  30%  3.4 MB/s  1 s left``; less where ``total`` is not known."""
    rate = done / seconds if seconds > 0 else 0.0
    speed = f"{size(rate)}/s"
    if total is None:
        return f"{size(done):>8}  {speed}  {duration(seconds)}"
    part = min(1.0, done / total) if total else 1.0
    bar = ("#" * int(part * BAR)).ljust(BAR, "-")
    left = f"{duration((total - done) / rate)} left" if rate and total >= done else "? left"
    return f"{size(done):>8} of {size(total)}  [{bar}]  {part:4.0%}  {speed}  {left}"
