"""The playout buffer: frames go in as they arrive and come out in order, each when it is due. No IO, no clock, no task.

Times are integers in microseconds. *Local* time is the monotonic clock of whoever plays; *offset* is the shared time minus the
local one, as the node's clock knows it at that moment. A frame is due at stamp + delay on the shared clock. As long as
either end has no shared clock, the buffer keeps to the offset it had: delays count from the quickest frame then. Whenever
that changes, or a clock is set, stamps and delay move against each other in such a way that nothing is played at another
time than it would have been.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from echokernel_clocksync.delay import DelayPolicy
from echokernel_clocksync.numbering import Kind, Numbering

MAX_FRAMES: Final = 1_024  # 20 s at 50 frames/s, 5 s at 200: beyond any sensible delay
MAX_BYTES: Final = 4_194_304  # a second of 30 Mbit/s
HORIZON_US: Final = 1_000_000  # a stamp farther ahead than this is wrong, not early
CLOCK_STEP_US: Final = 10_000  # the shared clock slews below this, so a larger change is a step
FOLLOW_US: Final = 5_000_000  # in which a sender's clock steps as ours did: three probes, a second apart, notice it
RUN_FRAMES: Final = 5  # frames that agree on another level of transit,
RUN_US: Final = 250_000  # for so long, are that level; a stall's backlog arrives within less

__all__ = ["Counters", "Late", "Played", "PlayoutBuffer"]

Late = Literal["drop", "deliver"]


@dataclass(slots=True)
class Counters:
    """Frames, counted. Each one received is ``buffered``, or in exactly one of ``played``, ``dropped_late``, ``duplicate``,
    ``far_future`` and ``flushed``.
    """

    received: int = 0
    played: int = 0
    late: int = 0
    """Arrived after their time, or after a later one had been played."""
    dropped_late: int = 0
    """Those of them that were not played: all, but for ``late="deliver"``."""
    duplicate: int = 0
    reordered: int = 0
    """Were overtaken by a later one."""
    far_future: int = 0
    """Dropped: stamped more than 1 s, or the clock's bound where that is more, ahead of the clock or of the others."""
    flushed: int = 0
    """Dropped because the buffer was full: all that was in it, each time."""
    peaks: int = 0
    """Took so much longer than the quickest frame, or shorter, that the delay does not go by them."""
    discontinuities: int = 0
    """The sender restarted, a clock was set, the path changed beyond ``max_delay``, or the buffer was flushed."""
    switches: int = 0
    """Went over from shared time to relative delay, or back."""


@dataclass(slots=True)
class _Entry:
    position: int
    stamp: int
    origin: int  # the stamp, or that of a later frame where that is earlier: it decides when to play
    size: int
    frame: Any
    arrived: int  # local
    is_late: bool
    discontinuity: bool
    run: int  # of the run that it belonged to when it came, 0: none


@dataclass(slots=True)
class Played:
    """What :meth:`PlayoutBuffer.pop` hands out."""

    frame: Any
    arrived: int
    """Local time of its arrival."""
    due: int
    """Local time at which it was to be played."""
    is_late: bool
    discontinuity: bool
    missing: int
    """How many numbers before this one were not played."""


class _Run:
    """Consecutive frames that do not belong to those before: a new level of transit, when they agree for long enough."""

    __slots__ = ("began", "frames", "high", "low", "number", "spread")

    def __init__(self, spread: int) -> None:
        self.spread = spread
        self.number = 1
        self.frames = 0
        self.began = self.low = self.high = 0

    def add(self, transit: int, now: int) -> bool:
        """Return whether this is a new level."""
        low, high = min(self.low, transit), max(self.high, transit)
        if not self.frames or high - low > self.spread:
            self.forget()
            self.began, low, high = now, transit, transit
        self.frames += 1
        self.low, self.high = low, high
        return self.frames >= RUN_FRAMES and now - self.began >= RUN_US

    def forget(self) -> None:
        if self.frames:
            self.number += 1
            self.frames = 0


class PlayoutBuffer:
    """Frames of one stream, between their arrival and their time.

    ``max_frames`` and ``max_bytes`` bound what is held. One more flushes it: what is in it is dropped, and the newest frame
    begins anew, because whoever is that far behind wants what is live.
    """

    def __init__(
        self, policy: DelayPolicy, *, late: Late = "drop", max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES
    ) -> None:
        self.policy = policy
        self.counters = Counters()
        self.size = 0
        """Bytes held."""
        self.jitter = 0.0
        """Interarrival jitter in microseconds. Source: RFC 3550, section 6.4.1."""
        self._delivers_late = late == "deliver"
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self._numbering = Numbering()
        self._entries: list[_Entry] = []  # by position
        self._floor: int | None = None  # position of the last one played or flushed
        self._run = _Run(policy.reach)
        self._offset: int | None = None
        self._is_stamped_shared = False
        self._distrusts = False
        self._stepped = 0  # by how much our clock was set, as long as the sender's stamps have not followed
        self._stepped_at = 0
        self._transit: int | None = None
        self._breaks = False  # the next frame is the first after a discontinuity

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def lost(self) -> int:
        """Frames that are missing between those that came."""
        return self._numbering.lost

    @property
    def is_synced(self) -> bool:
        """Whether frames are played by the shared clock."""
        return self.policy.absolute

    def next_due(self) -> int | None:
        """Return the local time at which a frame is to be played, None while there is none."""
        if not self._entries:
            return None
        return self._due(self._entries[0])

    def _due(self, entry: _Entry) -> int:
        assert self._offset is not None
        return entry.origin + self.policy.delay - self._offset

    def pop(self, now: int, offset: int) -> Played | None:
        """Return the next frame if it is due at the local time ``now``."""
        if not self._entries:
            return None
        self._follow(offset, now)
        entry = self._entries[0]
        due = self._due(entry)
        if due > now:
            return None
        del self._entries[0]
        self.size -= entry.size
        self.counters.played += 1
        missing = 0
        if self._floor is not None and not entry.discontinuity:
            missing = entry.position - self._floor - 1
        self._floor = entry.position
        return Played(entry.frame, entry.arrived, due, entry.is_late, entry.discontinuity, missing)

    def put(
        self,
        frame: Any,
        wall_time: int,
        seq: int,
        size: int,
        *,
        now: int,
        offset: int,
        stamped_shared: bool = True,
        clock_synced: bool = True,
        horizon: int = HORIZON_US,
    ) -> bool:
        """Take a frame that arrived at the local time ``now``. Returns whether it is held; otherwise it was counted.

        ``stamped_shared``: its stamp is of a synchronised clock; ``clock_synced``: so is ``offset``. ``horizon``: how far
        ahead of now a stamp may be, in microseconds.
        """
        self.counters.received += 1
        is_ahead = stamped_shared and clock_synced and now + offset - wall_time < -horizon
        transit = self._transit_of(wall_time, now, offset, stamped_shared, clock_synced)
        policy = self.policy
        is_strange = policy.is_strange(transit) or (is_ahead and not self._distrusts)
        if is_strange and self._stepped and not policy.is_strange(transit + self._stepped):
            self._restamp(self._stepped)  # its sender's clock has stepped by as much as ours
            self._stepped, is_strange = 0, False
        begins = False
        if not is_strange:
            self._run.forget()
            self._distrusts = self._distrusts and is_ahead
        elif self._run.add(transit, now):
            self._take_level(is_ahead)
            is_strange, begins = False, True
        else:
            self.counters.peaks += 1
            if (is_ahead and not self._distrusts) or (len(policy.window) and transit < policy.window.low - horizon):
                self.counters.far_future += 1
                return False
        position, kind = self._numbering.place(seq, wall_time)
        if begins and kind is not Kind.NEXT and self._floor is not None and position <= self._floor:
            position, kind = self._numbering.restart(seq, wall_time), Kind.RESTART
        if kind is Kind.DUPLICATE:
            self.counters.duplicate += 1
            return False
        if kind is Kind.REORDERED:
            self.counters.reordered += 1
        if not is_strange:
            policy.add(transit)
        if begins or kind is Kind.RESTART:
            self._break()
        return self._hold(frame, wall_time, size, now, transit, position, kind)

    def _hold(self, frame: Any, wall_time: int, size: int, now: int, transit: int, position: int, kind: Kind) -> bool:
        is_behind = kind is Kind.FORGOTTEN or (self._floor is not None and position <= self._floor)
        is_late = is_behind or transit > self.policy.delay
        if is_late:
            self.counters.late += 1
            if is_behind or not self._delivers_late:
                self.counters.dropped_late += 1
                return False
        if self._entries and (len(self._entries) >= self._max_frames or self.size + size > self._max_bytes):
            self._flush()
            if self._floor is not None and position <= self._floor:
                self.counters.late += 1
                self.counters.dropped_late += 1
                return False
        run = self._run.number if self._run.frames else 0
        self._insert(_Entry(position, wall_time, wall_time, size, frame, now, is_late, self._breaks, run))
        self._breaks = False
        return True

    def _insert(self, entry: _Entry) -> None:
        entries = self._entries
        at = len(entries)
        while at and entries[at - 1].position > entry.position:
            at -= 1
        if at < len(entries) and entries[at].discontinuity and not entry.discontinuity:
            # it is the first of the new count, which it had been overtaken in
            entry.discontinuity, entries[at].discontinuity = True, False
        entries.insert(at, entry)
        self.size += entry.size
        if (
            at == len(entries) - 1
            and not entry.run
            and (not at or (not entries[-2].run and entries[-2].origin <= entry.origin))
        ):
            return  # as nearly always
        self._settle()

    def _settle(self) -> None:
        """Let nobody wait longer than a later frame does: a stamp may be wild, the order counts.

        A frame that is not of its neighbours' time has no say in theirs.
        """
        origin: float = math.inf
        for entry in reversed(self._entries):
            entry.origin = int(min(entry.stamp, origin))
            if not entry.run:
                origin = entry.origin

    def _flush(self) -> None:
        self.counters.flushed += len(self._entries)
        self._floor = self._entries[-1].position
        self._entries.clear()
        self.size = 0
        self._break()

    def _break(self) -> None:
        self.counters.discontinuities += 1
        self._breaks = True

    # --- clocks and levels ----------------------------------------------------------------------------------------

    def _transit_of(self, wall_time: int, now: int, offset: int, stamped_shared: bool, clock_synced: bool) -> int:
        if self._offset is None:
            self._offset = offset
            self._is_stamped_shared = stamped_shared
            self.policy.absolute = stamped_shared and clock_synced
        self._follow(offset, now)
        if self._stepped and now - self._stepped_at > FOLLOW_US:
            self._stepped = 0
        becomes = stamped_shared and clock_synced and not self._distrusts and not self._stepped
        if becomes and not self.policy.absolute:
            self._set_offset(offset)
        self._switch(becomes)
        transit = now + self._offset - wall_time
        if stamped_shared != self._is_stamped_shared:
            self._is_stamped_shared = stamped_shared
            if len(self.policy.window):  # its sender's stamps have moved by an unknown time; the usual transit has not
                self._restamp(self.policy.window.quantile(0.5) - transit)
        if self._transit is not None:
            self.jitter += (abs(transit - self._transit) - self.jitter) / 16
        self._transit = transit
        return transit

    def _follow(self, offset: int, now: int) -> None:
        """The clock says ``offset`` now. Its slewing is followed; after a step, stamps are not of this clock for a while."""
        if not self.policy.absolute or self._offset is None:
            return
        moved = offset - self._offset
        if abs(moved) <= CLOCK_STEP_US:
            self._offset = offset
            return
        self._set_offset(offset)
        self._break()
        if abs(moved) > self.policy.reach:
            self._stepped, self._stepped_at = moved, now
            self._switch(False)

    def _switch(self, to_shared_time: bool) -> None:
        if self.policy.absolute != to_shared_time:
            self.policy.absolute = to_shared_time
            self.counters.switches += 1

    def _set_offset(self, offset: int) -> None:
        assert self._offset is not None
        moved, self._offset = offset - self._offset, offset
        if self._transit is not None:
            self._transit += moved
        self.policy.shift(moved)

    def _restamp(self, by: int) -> None:
        """Stamps are later by ``by`` than before."""
        for entry in self._entries:
            entry.stamp += by
            entry.origin += by
        if self._transit is not None:
            self._transit -= by
        self.policy.shift(-by)

    def _take_level(self, is_ahead: bool) -> None:
        """The run is a new level: from now on, transits are like these."""
        policy, run = self.policy, self._run
        self._distrusts = is_ahead
        if is_ahead:  # whoever stamps these does not share our clock, whatever it says
            self._switch(False)
        if len(policy.window):
            followed = policy.relevel((run.low + run.high) // 2 - policy.window.quantile(0.5))
            for entry in self._entries:
                if entry.run == run.number:
                    entry.run = 0
                else:
                    entry.stamp -= followed
            self._settle()
        run.forget()
