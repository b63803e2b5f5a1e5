"""Events that wait for one session, as a value: their order, and which of them a newer one pushes out."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from echokernel_protocol.channel import FRAME_CHARGE

if TYPE_CHECKING:
    from echokernel.tasks import Future

__all__ = ["Ready", "Waiting", "WaitingEvents"]


class Ready:
    """An event as it travels: a whole frame, and the body beside it where it is too long for one."""

    __slots__ = ("body", "frame", "size")

    def __init__(self, frame: bytes, body: bytes | None, size: int) -> None:
        self.frame = frame
        self.body = body
        self.size = size
        """Bytes of the frame's payload and the body: what counts against credit."""


class Waiting:
    """One event in the queue: a broadcast with its policy, or an ``emit`` whose caller waits on ``future``."""

    __slots__ = ("event", "future", "policy", "ready")

    def __init__(self, event: str, ready: Ready, policy: str, future: Future[None] | None = None) -> None:
        self.event = event
        self.ready = ready
        self.policy = policy
        self.future = future

    @property
    def charge(self) -> int:
        """What it counts against the bound of the queue: an emit nothing, for its caller is the bound."""
        return self.ready.size + FRAME_CHARGE if self.future is None else 0


class WaitingEvents:
    """The queue of one session. It exists only while something waits."""

    __slots__ = ("_dropped_first", "_entries", "_last", "_next", "size")

    def __init__(self) -> None:
        self._entries: OrderedDict[int, Waiting] = OrderedDict()
        self._next = 0
        self._last: dict[str, int] = {}
        """The place of the last entry of each event name."""
        self._dropped_first: dict[tuple[str, str], deque[int]] = {}
        """Places of the broadcasts by (event, policy), oldest first."""
        self.size = 0
        """Bytes of the broadcasts that wait."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> Waiting:
        """What is to be sent next. Raises StopIteration where nothing waits."""
        return next(iter(self._entries.values()))

    def append(self, entry: Waiting) -> int:
        """Add an entry at the end and return its place."""
        self._next = place = self._next + 1
        self._entries[place] = entry
        self._last[entry.event] = place
        if entry.future is None:
            self._dropped_first.setdefault((entry.event, entry.policy), deque()).append(place)
            self.size += entry.charge
        return place

    def take(self) -> Waiting:
        """Remove the first entry and return it."""
        return self.remove(next(iter(self._entries)))

    def remove(self, place: int) -> Waiting:
        """Remove the entry at ``place`` and return it. Raises KeyError where it has gone already."""
        entry = self._entries.pop(place)
        if self._last[entry.event] == place:
            del self._last[entry.event]
        if entry.future is None:
            self.size -= entry.charge
            places = self._dropped_first[entry.event, entry.policy]
            places.popleft()  # entries of one name and policy leave in the order in which they came
            if not places:
                del self._dropped_first[entry.event, entry.policy]
        return entry

    def count(self, event: str, policy: str) -> int:
        """Return how many broadcasts of that name wait with that policy."""
        return len(self._dropped_first.get((event, policy), ()))

    def oldest(self, event: str, policy: str) -> tuple[int, Waiting] | None:
        """Return the oldest broadcast of that name and policy, with its place."""
        places = self._dropped_first.get((event, policy))
        return (places[0], self._entries[places[0]]) if places else None

    def replace(self, place: int, entry: Waiting) -> None:
        """Put a broadcast in place of the one at ``place``, or at the end where that would overtake its own name."""
        if self._last[entry.event] != place:
            self.remove(place)
            self.append(entry)
            return
        self.size += entry.charge - self._entries[place].charge
        self._entries[place] = entry

    def broadcasts(self) -> int:
        """Return how many broadcasts wait."""
        return sum(len(places) for places in self._dropped_first.values())

    def waiters(self) -> list[Future[None]]:
        """Return the futures of the emits that wait."""
        return [entry.future for entry in self._entries.values() if entry.future is not None]
