"""A picture of what ``echokernel clock`` saw. Needs matplotlib: the extra ``plot``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel_clocksync.command import Sample

__all__ = ["draw"]


def draw(samples: Sequence[Sample], url: str, file: str) -> None:
    """Write offset with its bound, and round trip, over time as a PNG. Raises OSError where ``file`` cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    offsets, trips = figure.subplots(2, 1, sharex=True)
    seconds = [sample.seconds for sample in samples]
    first = samples[0].offset_ms
    moved = [sample.offset_ms - first for sample in samples]
    low = [value - sample.bound_ms for value, sample in zip(moved, samples, strict=True)]
    high = [value + sample.bound_ms for value, sample in zip(moved, samples, strict=True)]
    offsets.fill_between(seconds, low, high, alpha=0.2, linewidth=0, label="certain")
    offsets.plot(seconds, moved, marker=".", label="offset")
    offsets.set_ylabel(f"ms from {first:+.3f} ms")
    offsets.set_title(f"{url}: its clock minus this machine's, drift {samples[-1].drift_ppm:+.2f} ppm", fontsize=10)
    trips.plot(seconds, [sample.rtt_ms for sample in samples], marker=".", label="round trip")
    trips.plot(seconds, [sample.rtt_min_ms for sample in samples], linestyle="--", label="least")
    trips.set_ylim(bottom=0)
    trips.set_ylabel("ms")
    trips.set_xlabel("seconds")
    for axis in (offsets, trips):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
