"""Flushes the links of many sessions after a broadcast, without keeping the loop from everything else."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel.engine.link import Link

SLICE = 0.070  # seconds of one turn of the loop; nobody else should notice more than 100 ms

__all__ = ["Flushes"]


class Flushes:
    """Links with something to send. A packet takes its 100 µs, so some hundred links fill a turn of the loop."""

    __slots__ = ("_links", "_planned")

    def __init__(self) -> None:
        self._links: deque[Link] = deque()
        self._planned = False

    def add(self, link: Link) -> None:
        """Flush ``link`` when this turn of the loop ends, or in one of the next ones. Once, however often it is added."""
        if link.is_listed:
            return
        link.is_listed = True
        self._links.append(link)
        if not self._planned:
            self._planned = True
            link.tasks.call_soon(self._run)

    def _run(self) -> None:
        links = self._links
        end = time.perf_counter() + SLICE
        while links:
            link = links.popleft()
            link.flush_listed()
            if time.perf_counter() >= end and links:
                link.tasks.call_soon(self._run)
                return
        self._planned = False
