"""A shared clock, and aligned playout."""

from echokernel_clocksync.clock_sync import ClockSync

__all__ = ["ClockSync"]
