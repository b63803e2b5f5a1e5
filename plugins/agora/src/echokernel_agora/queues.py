"""What waits for one agent: relayed frames, in the order in which each sender sent them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from echokernel_agora.agents import Agent
    from echokernel_agora.streams import Stream

__all__ = ["Account", "AccountKey", "Held", "Lanes", "Log", "Parcel", "Queue"]

TURN_BYTES = 64 * 1024  # of one sender before the next one's turn: what a browser draws in one go anyway


AccountKey = str | tuple[str, bool, str | None]


class Account:
    """What a sender with credit may send to one receiver: bytes that are under way, and bytes to be granted again.

    ``key``: the receiver; or receiver, whether it is a reply, and stream id, of a sender that can pause each of its streams.
    """

    __slots__ = ("key", "to_grant", "under_way")

    def __init__(self, key: AccountKey) -> None:
        self.key = key
        self.under_way = self.to_grant = 0


class Parcel:
    """One relayed frame on its way, and whom to tell what became of it."""

    __slots__ = ("account", "cost", "data", "id", "kind", "sender", "sender_id", "seq", "stream", "to")

    def __init__(
        self,
        data: bytes,
        kind: str,
        to: str,
        sender: Agent | None = None,
        stream: Stream | None = None,
        id: str | None = None,
        account: Account | None = None,
        cost: int = 0,
    ) -> None:
        self.data = data
        self.kind = kind  # of the frame that its receiver gets: "message", "reply_chunk", …
        self.to = to
        self.sender = sender  # None: made by the router itself, and counted nowhere
        self.sender_id = sender.id if sender is not None else ""
        self.account = account  # what pays for it, where its sender has credit
        self.cost = cost  # bytes of the sender's frame
        self.stream = stream
        self.id = id
        self.seq = 0


class Queue(Protocol):
    """What all three kinds do. ``frames`` and ``size`` (bytes) count what waits, ``relayed`` the frames of agents among
    them, ``credited`` and ``credited_frames`` what credit paid for.
    """

    frames: int
    size: int
    credited: int
    credited_frames: int
    relayed: int

    def push(self, parcel: Parcel) -> None: ...

    def drain(self, write: Callable[[bytes], bool]) -> Iterator[Parcel]:
        """Write what can be written, and yield what is delivered by that."""

    def clear(self) -> list[Parcel]:
        """Return everything that waits, oldest first, and forget it."""


class _Counting:
    __slots__ = ("credited", "credited_frames", "frames", "relayed", "size")

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.frames = self.size = self.relayed = self.credited = self.credited_frames = 0

    def _add(self, parcel: Parcel) -> None:
        self.frames += 1
        self.size += len(parcel.data)
        if parcel.sender is not None:
            self.relayed += 1
        if parcel.account is not None:
            self.credited += len(parcel.data)
            self.credited_frames += 1

    def _remove(self, parcel: Parcel) -> None:
        self.frames -= 1
        self.size -= len(parcel.data)
        if parcel.sender is not None:
            self.relayed -= 1
        if parcel.account is not None:
            self.credited -= len(parcel.data)
            self.credited_frames -= 1


class Lanes(_Counting):
    """A lane for each sender, served in turns: one that floods an agent does not hold up what others send it."""

    __slots__ = ("_lanes", "_sizes", "_turn")

    def __init__(self) -> None:
        super().__init__()
        self._lanes: OrderedDict[str, deque[Parcel]] = OrderedDict()
        self._sizes: dict[str, int] = {}  # bytes of each lane
        self._turn = 0  # bytes that the first lane has had in this turn

    def push(self, parcel: Parcel) -> None:
        lane = self._lanes.get(parcel.sender_id)
        if lane is None:
            lane = self._lanes[parcel.sender_id] = deque()
            self._sizes[parcel.sender_id] = 0
        lane.append(parcel)
        self._sizes[parcel.sender_id] += len(parcel.data)
        self._add(parcel)

    def of_sender(self, sender_id: str) -> tuple[int, int]:
        """Return how many frames of one sender wait, and their bytes."""
        return len(self._lanes.get(sender_id, ())), self._sizes.get(sender_id, 0)

    def drain(self, write: Callable[[bytes], bool]) -> Iterator[Parcel]:
        lanes = self._lanes
        while lanes:
            name, lane = next(iter(lanes.items()))
            parcel = lane[0]
            if not write(parcel.data):
                return
            lane.popleft()
            self._remove(parcel)
            self._turn += len(parcel.data)
            self._sizes[name] -= len(parcel.data)
            if not lane:
                del lanes[name], self._sizes[name]
                self._turn = 0
            elif self._turn >= TURN_BYTES:
                lanes.move_to_end(name)
                self._turn = 0
            yield parcel

    def clear(self) -> list[Parcel]:
        waiting = [parcel for lane in self._lanes.values() for parcel in lane]
        self._lanes.clear()
        self._sizes.clear()
        self._forget()
        self._turn = 0
        return waiting


class Log(_Counting):
    """Numbered frames for an agent that says which it has got: what it has not waits, to be sent again after a loss."""

    __slots__ = ("_entries", "_next", "_written")

    def __init__(self) -> None:
        super().__init__()
        self._entries: deque[Parcel] = deque()
        self._written = 0  # how many of them, from the left, have been written to the present connection
        self._next = 1

    def push(self, parcel: Parcel) -> None:
        parcel.seq = self._next
        self._next += 1
        parcel.data = b'%b,"seq":%d}' % (parcel.data[:-1], parcel.seq)
        self._entries.append(parcel)
        self._add(parcel)

    def drain(self, write: Callable[[bytes], bool]) -> Iterator[Parcel]:
        while self._written < len(self._entries) and write(self._entries[self._written].data):
            self._written += 1
        return iter(())

    def acknowledge(self, seq: int) -> list[Parcel]:
        """Return what is delivered by that: everything up to ``seq`` that has been written."""
        done = []
        while self._written and self._entries[0].seq <= seq:
            parcel = self._entries.popleft()
            self._written -= 1
            self._remove(parcel)
            done.append(parcel)
        return done

    def resume(self, seq: int) -> list[Parcel] | None:
        """Begin again behind ``seq`` on a new connection; return what is delivered. None: that number was never sent."""
        first = self._entries[0].seq if self._entries else self._next
        if not first - 1 <= seq < first + self._written:
            return None
        done = self.acknowledge(seq)
        self._written = 0
        return done

    @property
    def unwritten(self) -> bool:
        return self._written < len(self._entries)

    @property
    def unacknowledged(self) -> int:
        """The number of the oldest frame that was written and not acknowledged; 0: there is none."""
        return self._entries[0].seq if self._written else 0

    def clear(self) -> list[Parcel]:
        waiting = list(self._entries)
        self._entries.clear()
        self._forget()
        self._written = 0
        return waiting


class Held(_Counting):
    """For a connection that takes every frame at once and tells of each when it has gone: one with streams of its own."""

    __slots__ = ("_held", "_new")

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[Parcel, None] = {}
        self._new: deque[Parcel] = deque()

    def push(self, parcel: Parcel) -> None:
        self._held[parcel] = None
        self._new.append(parcel)
        self._add(parcel)

    def take(self) -> Iterator[Parcel]:
        """Yield what was not yet taken."""
        while self._new:
            yield self._new.popleft()

    def drain(self, write: Callable[[bytes], bool]) -> Iterator[Parcel]:
        return iter(())

    def settle(self, parcel: Parcel) -> bool:
        """Forget it: it has gone. False where it was not waiting any more."""
        if parcel not in self._held:
            return False
        del self._held[parcel]
        self._remove(parcel)
        return True

    def clear(self) -> list[Parcel]:
        waiting = list(self._held)
        self._held.clear()
        self._new.clear()
        self._forget()
        return waiting
