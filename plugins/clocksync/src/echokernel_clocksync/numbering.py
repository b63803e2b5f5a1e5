"""Where a frame belongs, by its 32-bit number: in order, again, overtaken, or the beginning of something new."""

from __future__ import annotations

from enum import Enum
from typing import Final

from echokernel_protocol.timestamped import MAX_U32

REMEMBERED: Final = 2_048  # frames in which a duplicate is found: twice what a buffer holds
MAX_GAP: Final = 16_384  # frames; more than that were not lost between two frames, somebody counts anew
OVERTAKEN: Final = 64  # frames; numbers that go back farther, with newer stamps, count anew
NEWER_US: Final = 1_000_000  # microseconds; or whose stamp is that much newer

__all__ = ["Kind", "Numbering"]


class Kind(Enum):
    """What a number says of its frame."""

    NEXT = "next"
    REORDERED = "reordered"
    """It was overtaken by a later one."""
    DUPLICATE = "duplicate"
    FORGOTTEN = "forgotten"
    """So old that nobody knows whether it was here before."""
    RESTART = "restart"
    """The sender counts anew from here."""


class Numbering:
    """Gives each frame of a stream a position that rises without end: RFC 1982 arithmetic, where 2^32 - 1 is before 0.

    A number that goes back while the stamp goes on is a sender that has started again; its frames follow all others.
    """

    __slots__ = ("_first", "_floor", "_highest", "_lost_before", "_previous", "_seen", "_seq", "_unique", "_wall_time")

    def __init__(self) -> None:
        self._first = self._highest = self._floor = -1
        self._seq = 0  # of the highest, like the stamp
        self._wall_time = 0
        self._previous: tuple[int, int] | None = None  # the same of the count before this one
        self._unique = self._lost_before = 0
        self._seen: dict[int, None] = {}

    @property
    def lost(self) -> int:
        """How many frames are missing between the first and the last that came. One that comes after all takes it back."""
        return self._lost_before + self._missing

    @property
    def _missing(self) -> int:
        return self._highest - self._first + 1 - self._unique if self._unique else 0

    def place(self, seq: int, wall_time: int) -> tuple[int, Kind]:
        """Return the frame's position, and what it is. ``wall_time`` in microseconds."""
        if not self._unique:
            return self.restart(seq, wall_time), Kind.NEXT
        step = _step(self._seq, seq)
        newer = wall_time - self._wall_time
        position = self._highest + step
        if newer > 0 and (step == 0 or step < -OVERTAKEN or step > MAX_GAP or (step < 0 and newer >= NEWER_US)):
            previous = (self._seq, self._wall_time)
            position = self.restart(seq, wall_time)
            self._previous = previous
            return position, Kind.RESTART
        if step > MAX_GAP or position <= self._floor or self._is_of_the_previous(seq, wall_time):
            return self._floor, Kind.FORGOTTEN
        if step > 0:
            self._highest, self._seq, self._wall_time = position, seq, wall_time
            kind = Kind.NEXT
        elif position in self._seen:
            return position, Kind.DUPLICATE
        elif position <= self._highest - REMEMBERED:
            return position, Kind.FORGOTTEN
        else:
            self._first = min(self._first, position)
            kind = Kind.REORDERED
        self._remember(position)
        return position, kind

    def restart(self, seq: int, wall_time: int) -> int:
        """Begin anew with this frame, whatever it is. Returns its position."""
        self._lost_before += self._missing
        self._floor = self._highest
        self._first = self._highest = self._floor + 1 + OVERTAKEN  # room for frames that this one has overtaken
        self._seq, self._wall_time = seq, wall_time
        self._previous = None
        self._unique = 0
        self._seen.clear()
        self._remember(self._highest)
        return self._highest

    def _is_of_the_previous(self, seq: int, wall_time: int) -> bool:
        if self._previous is None:
            return False
        its_seq, its_wall_time = self._previous
        return wall_time <= its_wall_time and -REMEMBERED < _step(its_seq, seq) <= 0

    def _remember(self, position: int) -> None:
        self._unique += 1
        self._seen[position] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]


def _step(here: int, there: int) -> int:
    """How far ahead ``there`` is, -2^31 to 2^31 - 1."""
    return ((there - here + (1 << 31)) & MAX_U32) - (1 << 31)
