"""Frames of two streams, paired by their time stamps."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from echokernel import InvalidArgument

__all__ = ["Alignment", "Pair", "align"]


class Stamped(Protocol):
    """What can be aligned: a frame, or whatever else has a stamp."""

    @property
    def wall_time(self) -> int: ...


A = TypeVar("A", bound=Stamped)
B = TypeVar("B", bound=Stamped)


class Pair(NamedTuple, Generic[A, B]):
    """Two frames that belong together."""

    a: A
    b: B

    @property
    def residual_us(self) -> int:
        """How much later ``b`` was stamped than ``a``, in microseconds."""
        return self.b.wall_time - self.a.wall_time


def align(a: AsyncIterable[A], b: AsyncIterable[B], tolerance: float) -> Alignment[A, B]:
    """Pair each frame of ``a`` with the frame of ``b`` that is nearest in time: ``async for x, y in align(a, b, 0.005)``.

    ``a``, ``b``: streams, playouts, or anything that yields objects with a ``wall_time`` in microseconds. Let ``a`` be the
    one with fewer frames. ``tolerance``: seconds by which the two may differ; a frame with none so near is left out. No frame
    is in two pairs; of two that are as near, it is the earlier. A pair is there as soon as ``b`` has reached the time of ``a``.

    Only what is needed is read, at most one frame of ``a`` and two of ``b`` are held, and there is no task: nothing is to
    be closed. It ends when either ends and no pair is left, and raises what either raises. Frames must come in the order of
    their stamps, as playouts give them; one that is older than its predecessor is left out. Raises InvalidArgument for a
    tolerance below 0.
    """
    return Alignment(a, b, tolerance)


class Alignment(AsyncIterator[Pair[A, B]]):
    """What :func:`align` returns."""

    def __init__(self, a: AsyncIterable[A], b: AsyncIterable[B], tolerance: float) -> None:
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InvalidArgument(f"a tolerance of {tolerance} s; wanted 0 or more")
        self._tolerance = round(tolerance * 1e6)
        self._a, self._b = a.__aiter__(), b.__aiter__()
        self._this: A | None = None  # waits for its partner
        self._before: B | None = None  # the last one that is older than this, unless it has a partner
        self._after: B | None = None  # the first one that is not
        self._last_a: int | None = None
        self._last_b: int | None = None
        self._ended_b = False
        self._ended = False
        self._counts = {"pairs": 0, "unmatched_a": 0, "unmatched_b": 0, "out_of_order": 0}

    def stats(self) -> Mapping[str, int]:
        """Return counters: ``pairs``, ``unmatched_a`` and ``unmatched_b`` (frames left out), ``out_of_order`` (those of
        them that were older than their predecessor).
        """
        return dict(self._counts)

    async def __anext__(self) -> Pair[A, B]:
        while not self._ended:
            if self._this is None:
                self._this = await self._next_a()
                if self._this is None:
                    break
            if not self._ended_b and (self._after is None or self._after.wall_time < self._this.wall_time):
                await self._next_b()
                continue
            this, self._this = self._this, None
            partner = self._nearest(this.wall_time)
            if partner is not None:
                self._counts["pairs"] += 1
                return Pair(this, partner)
            self._counts["unmatched_a"] += 1
            if self._ended_b and (self._after is None or self._after.wall_time < this.wall_time):
                break  # whatever else comes is farther away
        self._end()
        raise StopAsyncIteration

    def _nearest(self, time: int) -> B | None:
        """Take the partner out of the two that can be it."""
        before, after = self._before, self._after
        if after is not None and after.wall_time < time:  # the last one there is
            self._pass(before)
            before, after = after, None
            self._before, self._after = before, None
        to_before = math.inf if before is None else time - before.wall_time
        to_after = math.inf if after is None else after.wall_time - time
        if min(to_before, to_after) > self._tolerance:
            return None
        self._before = None
        if to_before <= to_after:
            return before
        self._pass(before)
        self._after = None
        return after

    async def _next_a(self) -> A | None:
        while True:
            frame = await anext(self._a, None)
            if frame is None:
                return None
            if self._last_a is None or frame.wall_time >= self._last_a:
                self._last_a = frame.wall_time
                return frame
            self._counts["unmatched_a"] += 1
            self._counts["out_of_order"] += 1

    async def _next_b(self) -> None:
        frame: Any = await anext(self._b, None)
        if frame is None:
            self._ended_b = True
        elif self._last_b is not None and frame.wall_time < self._last_b:
            self._counts["unmatched_b"] += 1
            self._counts["out_of_order"] += 1
        else:
            self._last_b = frame.wall_time
            if self._after is not None:
                self._pass(self._before)
                self._before = self._after
            self._after = frame

    def _pass(self, frame: B | None) -> None:
        if frame is not None:
            self._counts["unmatched_b"] += 1

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._counts["unmatched_a"] += self._this is not None
            self._pass(self._before)
            self._pass(self._after)
            self._this = self._before = self._after = None
