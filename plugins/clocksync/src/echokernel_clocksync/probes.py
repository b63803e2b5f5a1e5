"""When to ask for the time, and which answers were asked for. No IO, no clock, no task."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ProbePlan", "ProbeSettings"]

LATEST_NS = 5_000_000_000
"""An answer that comes later is dropped: what the clocks did meanwhile is worth more than it says."""
PATIENCE_NS = 1_000_000_000
"""A probe without an answer for so long counts as missed; the answer may still come."""
MISSED = 4
"""In a row: the reference is silent."""
OPEN = 64  # probes that may wait for their answers: 5 s of the quickest pace, bursts included


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How often the time is asked for; ns."""

    burst: int = 16
    burst_pause: int = 20_000_000
    interval: int = 1_000_000_000

    @property
    def quickest(self) -> int:
        """Between probes while the next one is likely to say something new: jitter."""
        return self.interval // 4

    @property
    def slowest(self) -> int:
        """Between probes on a quiet path."""
        return self.interval * 8


class ProbePlan:
    """A burst at the start and after every surprise, then a pace that slows down as long as nothing new is learned."""

    __slots__ = (
        "_asked",
        "_missed_up_to",
        "_number",
        "_settings",
        "asked",
        "asked_last",
        "burst_left",
        "due",
        "interval",
        "late",
        "lost",
        "missed",
    )

    def __init__(self, settings: ProbeSettings, at: int, number: int = 0) -> None:
        self._settings = settings
        self._asked: dict[int, int] = {}
        self._number = number
        self._missed_up_to = -1
        self.due = at
        """Our time of the next probe, ns."""
        self.interval = settings.quickest
        self.burst_left = settings.burst
        self.missed = 0
        """Probes without an answer since the last answer."""
        self.asked = 0
        self.asked_last = at
        """Our time of the newest probe, ns."""
        self.lost = 0
        self.late = 0

    @property
    def number(self) -> int:
        """Of the newest probe. A plan that takes over from another one goes on counting: late answers are not its own."""
        return self._number

    @property
    def waiting(self) -> int:
        """Probes whose answers may still come."""
        return len(self._asked)

    @property
    def is_silent(self) -> bool:
        """Whether so many probes had no answer that the reference counts as gone."""
        return self.missed >= MISSED

    def burst(self, at: int, count: int | None = None) -> None:
        """Ask ``count`` times in quick succession from now on: something changed."""
        self.burst_left = max(self.burst_left, self._settings.burst if count is None else count)
        self.interval = self._settings.quickest
        self.due = min(self.due, at + self._settings.burst_pause)

    def ask(self, at: int) -> int:
        """Return the number of the probe that leaves now, and plan the next one."""
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        if len(self._asked) >= OPEN:
            self._forget(next(iter(self._asked)))
        self._asked[number] = self.asked_last = at
        self.asked += 1
        if self.burst_left:
            self.burst_left -= 1
        # not in step with what else happens once a second on this machine
        pause = self.interval * (90 + self._number * 7 % 20) // 100
        self.due = at + (self._settings.burst_pause if self.burst_left else pause)
        return number

    def answered(self, number: int, at: int) -> int | None:
        """Return when the probe with this number left; None: nobody waits for the answer, it is a second one or too late."""
        asked = self._asked.pop(number, None)
        if asked is None:
            return None
        if at - asked > LATEST_NS:
            self.late += 1
            self.lost += 1
            return None
        self.missed = 0
        return asked

    def learned(self, likely_gain: float) -> None:
        """Choose the pace: ``likely_gain`` is by how much, ns, the next exchange may better the estimate."""
        if self.burst_left:
            return
        settings = self._settings
        factor = 0.75 if likely_gain > 50_000 else 1.25
        self.interval = min(max(int(self.interval * factor), settings.quickest), settings.slowest)

    def pass_time(self, at: int) -> None:
        """Note which probes have no answer yet."""
        for number, asked in list(self._asked.items()):
            if at - asked > PATIENCE_NS and asked > self._missed_up_to:
                self._missed_up_to = asked
                self.missed += 1
                self.interval = min(self.interval, self._settings.interval)
            if at - asked > LATEST_NS:
                self._forget(number)

    def _forget(self, number: int) -> None:
        del self._asked[number]
        self.lost += 1
