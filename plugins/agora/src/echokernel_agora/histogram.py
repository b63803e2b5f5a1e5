"""A histogram with fixed bounds, as Prometheus wants it."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["Histogram"]

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Histogram:
    """Counts of durations in seconds, by upper bound."""

    __slots__ = ("_buckets", "bounds", "total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self.total = 0.0
        """Of all that was observed, in seconds."""

    def observe(self, seconds: float) -> None:
        self._buckets[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self._buckets)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return (bound, how many were at most that), the last one for ``+Inf``."""
        rows, sum_so_far = [], 0
        for bound, count in zip([*map(_text, self.bounds), "+Inf"], self._buckets, strict=True):
            sum_so_far += count
            rows.append((bound, sum_so_far))
        return rows


def _text(bound: float) -> str:
    return f"{bound:.6f}".rstrip("0").rstrip(".")
