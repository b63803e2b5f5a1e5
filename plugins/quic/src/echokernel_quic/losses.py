"""Whether losses tell of a full queue, or only of a bad path. No clock and no IO.

A queue that overflows was full first, so the packets around a lost one took longer than the shortest round trip. Losses
while nothing waits anywhere say nothing about our rate: they are counted as the path's own, and as many are expected
when there is a queue.
"""

from __future__ import annotations

import math

QUEUE_FACTOR = 1.1  # a round whose quickest round trip took this many times the shortest one …
QUEUE_TIME = 0.004  # … and this many seconds more, went through a queue; acknowledgements vary by less
SURPRISE = 2.0  # standard deviations (Poisson) above the path's own losses that make losses of a queue
POLICED = 0.2  # share of packets lost without any queue, above which somebody polices the rate (as in BBR version 1)
ENOUGH = 50  # packets to judge by where there is no queue
MEMORY = 300  # packets over which the path's own losses are averaged
FLOOR_SECONDS = 30.0  # the shortest round trip is remembered for one to two times this: others' queues hide it for long

__all__ = ["LossJudge"]


class LossJudge:
    """One connection's losses, round by round."""

    __slots__ = ("_floor_at", "_floors", "_quiet_lost", "_quiet_packets", "_was_queued", "background")

    def __init__(self) -> None:
        self.background = 0.0
        """Share of packets (0..1) that the path loses by itself."""
        self._was_queued = False
        self._quiet_lost = self._quiet_packets = 0
        self._floors = (math.inf, math.inf)
        self._floor_at = -math.inf

    def end_round(self, *, lost: int, packets: int, rtt: float, now: float) -> bool:
        """Return whether the losses of the round that ends mean that we send too much.

        ``lost`` of ``packets`` are known to be lost or have arrived since the last round; ``rtt``: the round's quickest
        round trip, in seconds.
        """
        if now >= self._floor_at + FLOOR_SECONDS:
            self._floors, self._floor_at = (math.inf, self._floors[0]), now
        self._floors = (min(rtt, self._floors[0]), self._floors[1])
        queued = QUEUE_FACTOR * min(self._floors) + QUEUE_TIME < rtt < math.inf
        recently = queued or self._was_queued  # a loss is noticed a round trip later, when the queue may be gone
        self._was_queued = queued
        if recently:
            expected = self.background * packets
            return lost > expected + SURPRISE * math.sqrt(expected)
        self._quiet_lost += lost
        self._quiet_packets += packets
        if self._quiet_packets < ENOUGH:
            return False
        share = self._quiet_lost / self._quiet_packets
        weight = min(1.0, self._quiet_packets / MEMORY)
        self._quiet_lost = self._quiet_packets = 0
        if share > POLICED:
            return True
        self.background += (share - self.background) * weight
        return False
