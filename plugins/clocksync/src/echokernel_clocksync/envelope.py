"""The lower edge of a cloud of points, ready for every slope: what one direction of the exchanges says about the clocks."""

from __future__ import annotations

from bisect import bisect_left, insort

__all__ = ["Envelope"]

RAW = 48  # the newest points stay as they are: a burst of 16, and as many seconds again as a slope needs to show


class Envelope:
    """Points (x, y) that all lie above a line we look for; the lowest ones say where it runs.

    Asked for a slope, it answers with the height that the points allow at a place to their right. Its memory ends ``horizon``
    to the left of the newest point. Of more than 48 points, the older ones are thinned to the lowest of each ``bucket``, so
    memory is at most 48 + horizon / bucket points. x and y are nanoseconds, as floats near zero.
    """

    __slots__ = ("_bucket", "_edge", "_horizon", "_points", "_slopes")

    def __init__(self, *, bucket: float, horizon: float) -> None:
        self._bucket, self._horizon = bucket, horizon
        self._points: list[tuple[float, float]] = []
        self._edge: list[tuple[float, float]] = []
        """The lower hull of the points, left to right."""
        self._slopes: list[float] = []
        """Of the hull's sides, rising: the corner for a slope is found by bisection."""

    def __len__(self) -> int:
        return len(self._points)

    def add(self, x: float, y: float, slope: float) -> None:
        """Add a point; ``slope`` is that of the line, as far as known: it says which point of a bucket is the lowest."""
        points = self._points
        if points and x < points[-1][0]:  # an answer overtook another one
            insort(points, (x, y))
            self._rebuild()
        else:
            points.append((x, y))
            self._extend(x, y)
        if len(points) > RAW:
            self._thin(len(points) - RAW, slope)
        if points[-1][0] - points[0][0] > 1.1 * self._horizon:  # in portions: the hull is then made anew
            oldest = points[-1][0] - self._horizon
            del points[: bisect_left(points, (oldest,))]
            self._rebuild()

    def reach(self, x: float, slope: float) -> float:
        """Return the lowest height at ``x`` of the lines with this slope through the points. Raises IndexError without any."""
        corner_x, corner_y = self._edge[bisect_left(self._slopes, slope)]
        return corner_y + slope * (x - corner_x)

    def support(self, slope: float) -> tuple[float, float]:
        """Return the point that :meth:`reach` rests on. Raises IndexError without any."""
        return self._edge[bisect_left(self._slopes, slope)]

    def _thin(self, newest: int, slope: float) -> None:
        """Of point ``newest``, the youngest that is not raw any more, and the one before, one goes if they share a bucket."""
        points = self._points
        if newest < 1:
            return
        (x, y), (x2, y2) = points[newest - 1], points[newest]
        if x // self._bucket == x2 // self._bucket:
            # what the hull knows of the point that goes, it keeps until it is made anew
            del points[newest - 1 if y2 - slope * x2 <= y - slope * x else newest]

    def _extend(self, x: float, y: float) -> None:
        edge, slopes = self._edge, self._slopes
        while edge:
            last_x, last_y = edge[-1]
            if x == last_x:
                if y >= last_y:
                    return
            else:
                slope = (y - last_y) / (x - last_x)
                if not slopes or slope > slopes[-1]:
                    slopes.append(slope)
                    break
            edge.pop()
            if slopes:
                slopes.pop()
        edge.append((x, y))

    def _rebuild(self) -> None:
        self._edge.clear()
        self._slopes.clear()
        for x, y in self._points:
            self._extend(x, y)
