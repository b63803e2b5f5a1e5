"""A shared clock, and aligned playout."""

from echokernel_clocksync.align import Alignment, Pair, align
from echokernel_clocksync.clock_sync import ClockSync
from echokernel_clocksync.delay import AdaptiveDelay, DelayPolicy, FixedDelay
from echokernel_clocksync.playout import Playout, PlayoutFrame

__all__ = [
    "AdaptiveDelay",
    "Alignment",
    "ClockSync",
    "DelayPolicy",
    "FixedDelay",
    "Pair",
    "Playout",
    "PlayoutFrame",
    "align",
]
