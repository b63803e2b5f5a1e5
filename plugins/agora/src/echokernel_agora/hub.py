"""What the connections of one listener share: the batch that is under way, the heartbeat's wheel, counts by address."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from echokernel_agora.histogram import Histogram
from echokernel_agora.limits import Limits

__all__ = ["Beating", "Flushed", "Hub", "is_local"]

READ_SIZE = 32 * 1024  # bytes at a time: 125 frames of 256 bytes, 2 or 3 ms of work, then it is somebody else's turn
SLOTS = 10  # of the wheel: each tick looks at one, so 5,000 pings never go out at once
TICK = 0.1  # s; each connection is looked at once a second
CLOSE_CODES = frozenset(
    {*range(1000, 1004), *range(1005, 1016), 4408, 4409}
)  # of RFC 6455's registry, and the router's own
OTHER_CODE = 0  # stands for all those that a client made up
SAMPLE = 32  # one batch of so many is timed


class Flushed(Protocol):
    """Something that collected bytes and writes them at the end of the batch."""

    def flush(self) -> None: ...


class Beating(Protocol):
    """Something with a life of its own: looked at once in a while, and at every tick while a deadline is near."""

    def beat(self, now: float) -> None: ...

    def press(self, now: float) -> None:
        """Look at the deadline, which may be over."""

    def abort(self, why: str) -> None: ...


class Hub:
    """Not aware of any protocol. Everything happens in the event loop's thread."""

    def __init__(
        self,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        on_event: Callable[[str, Mapping[str, object]], None] = lambda name, fields: None,
        tick: float = TICK,
    ) -> None:
        self.limits, self.loop, self.on_event = limits, loop, on_event
        self.reads_on = "uvloop" in type(loop).__module__
        """The loop reads one connection up to 32 times before it looks at the next one."""
        self.buffer = bytearray(READ_SIZE)
        """One for all connections: filled and read within one callback of the loop."""
        self.view = memoryview(self.buffer)
        self.busy = False
        """Something flushes at the end of what goes on now."""
        self.dirty: list[Flushed] = []
        self._recent: set[Flushed] = set()
        self._later: list[Flushed] = []
        self.latency = Histogram()
        self.connections: set[Beating] = set()
        self.waiting: Counter[str] = Counter()
        """Connections by address that have not registered anybody."""
        self.refusals: Counter[str] = Counter()
        """Requests that were refused, by reason."""
        self.closes: Counter[int] = Counter()
        """WebSockets that ended, by the code of the close frame that came first; 1006 without one, 0 for codes of nobody's."""
        self.bytes_in = self.bytes_out = 0
        self.draining = False
        self.shut = False
        """Nobody is listening any more: what arrives now was under way."""
        self._batches = 0
        self._tick, self._slot = tick, 0
        self._slots: list[set[Beating]] = [set() for _ in range(SLOTS)]
        self._next_slot = 0
        self._pressing: set[Beating] = set()
        self._emptied: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def period(self) -> float:
        """Seconds between two looks at the same connection."""
        return self._tick * SLOTS

    # --- a batch ---------------------------------------------------------------------------------------------------

    def begin(self) -> float:
        """A batch of frames begins. Returns when, for one batch of many, otherwise 0."""
        self.busy = True
        self._batches += 1
        return 0.0 if self._batches % SAMPLE else time.perf_counter()

    def end(self, began: float) -> None:
        """Write what the batch made, once for each connection.

        One that was written to in this turn of the loop already waits for the next: where many send to one, it gets what
        all of them sent in one piece, and where one sends to one, nothing waits.
        """
        self.busy = False
        dirty, self.dirty = self.dirty, []
        recent = self._recent
        if dirty and not recent:
            self.loop.call_soon(self._next_turn)
        for each in dirty:
            if each in recent:
                self._later.append(each)
            else:
                recent.add(each)
                each.flush()
        if began:
            self.latency.observe(time.perf_counter() - began)

    def touch(self, each: Flushed) -> None:
        """``each`` has something to write: at the end of the batch, or soon."""
        if self.busy:
            self.dirty.append(each)
        else:
            if not self._recent:
                self.loop.call_soon(self._next_turn)
            self._recent.add(each)
            self._later.append(each)

    def _next_turn(self) -> None:
        self._recent.clear()
        later, self._later = self._later, []
        for each in later:
            each.flush()

    # --- the wheel -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._timer = self.loop.call_later(self._tick, self._turn)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def keep(self, each: Beating) -> None:
        """Look at it from time to time, until :meth:`forget`."""
        self._slots[self._next_slot].add(each)
        self._next_slot = (self._next_slot + 1) % SLOTS

    def watch(self, each: Beating) -> None:
        """Look at it at every tick, too, until :meth:`unwatch`."""
        self._pressing.add(each)

    def unwatch(self, each: Beating) -> None:
        self._pressing.discard(each)

    def forget(self, each: Beating) -> None:
        self._pressing.discard(each)
        self.connections.discard(each)
        for slot in self._slots:
            slot.discard(each)
        if not self.connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def wait_empty(self, seconds: float) -> None:
        """Wait until no connection is left, no longer than that."""
        if self.connections:
            self._emptied = self.loop.create_future()
            await asyncio.wait([self._emptied], timeout=seconds)

    def _turn(self) -> None:
        self._timer = self.loop.call_later(self._tick, self._turn)
        now = self.loop.time()
        began = self.begin()
        try:
            for each in list(self._pressing):
                each.press(now)
            for each in list(self._slots[self._slot]):
                each.beat(now)
        finally:
            self._slot = (self._slot + 1) % SLOTS
            self.end(began and 0.0)

    # --- counts ----------------------------------------------------------------------------------------------------

    def is_crowded(self, address: str, *, spare: int = 0) -> bool:
        """Whether an address has too many connections that registered nobody.

        Programs of this machine are not counted by address: they share it with a proxy's clients, and a restart brings
        hundreds of them back at once.
        """
        return self.waiting[address] > self.limits.unregistered_per_address + spare and not is_local(address)

    def arrived(self, address: str) -> None:
        self.waiting[address] += 1

    def settled(self, address: str) -> None:
        """One of its connections registered, or is gone."""
        if self.waiting[address] <= 1:
            del self.waiting[address]
        else:
            self.waiting[address] -= 1

    def total_in(self) -> int:
        """Return bytes read from WebSockets since the start."""
        return self.bytes_in + sum(getattr(each, "bytes_in", 0) for each in self.connections)

    def total_out(self) -> int:
        return self.bytes_out + sum(getattr(each, "bytes_out", 0) for each in self.connections)

    def abort_all(self, some: Iterable[Beating], why: str) -> None:
        for each in list(some):
            each.abort(why)


def is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == ""
