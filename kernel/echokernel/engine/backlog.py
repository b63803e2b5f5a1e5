"""What becomes of an event that a session cannot take at once: it waits in its turn, is dropped, or costs the session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from echokernel.engine.waiting_events import Ready, Waiting, WaitingEvents

if TYPE_CHECKING:
    from echokernel.engine.bodies import Bodies
    from echokernel.engine.flushing import Flushes
    from echokernel.engine.link import Link
    from echokernel.limits import Limits
    from echokernel.tasks import TaskScope

AT_ONCE = 128  # events that leave the queue in one turn of the loop

logger = logging.getLogger("echokernel.broadcast")

__all__ = ["Backlog", "Tally"]


class Tally:
    """Counts broadcasts, for a session or for a whole server."""

    __slots__ = ("delivered", "disconnected", "dropped", "lost", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.delivered = 0
        """Put into a channel, at once or later."""
        self.dropped: dict[str, int] = {"wait": 0, "drop_oldest": 0, "latest": 0, "disconnect": 0}
        """Not sent because of their policy."""
        self.lost = 0
        """Those that waited when their session ended."""
        self.disconnected = 0
        """Sessions that were closed because they were too slow."""
        self.waiting = 0
        self.waiting_bytes = 0

    def stats(self) -> Mapping[str, int]:
        """Return the counters by name."""
        return {
            "delivered": self.delivered,
            **{f"dropped_{policy}": count for policy, count in self.dropped.items()},
            "lost": self.lost,
            "disconnected": self.disconnected,
            "waiting": self.waiting,
            "waiting_bytes": self.waiting_bytes,
        }


class Backlog:
    """Events of one session on their way out. Costs next to nothing while the session keeps up."""

    __slots__ = (
        "_bodies",
        "_channel",
        "_close",
        "_delivered",
        "_dropped",
        "_failure",
        "_flushes",
        "_keep",
        "_limit",
        "_link",
        "_outbox",
        "_resuming",
        "_tally",
        "_tasks",
        "is_over",
        "queue",
    )

    def __init__(
        self,
        link: Link,
        bodies: Bodies,
        limits: Limits,
        tasks: TaskScope,
        tally: Tally,
        flushes: Flushes,
        close: Callable[[str], None],
    ) -> None:
        self._link = link
        self._channel = link.channel
        self._bodies = bodies
        self._tasks = tasks
        self._outbox = limits.outbox
        self._limit = limits.broadcast_backlog
        self._keep = limits.broadcast_keep
        self._tally = tally
        self._flushes = flushes
        self._close = close
        self._resuming = False
        self._failure: Exception | None = None
        self._delivered = self._dropped = 0
        self.queue: WaitingEvents | None = None
        """What waits; None while nothing does."""
        self.is_over = False
        """The session takes no broadcasts any more: it has ended, or was too slow."""

    def stats(self) -> Mapping[str, int]:
        """Return the session's counters."""
        queue = self.queue
        return {
            "broadcasts_delivered": self._delivered,
            "broadcasts_dropped": self._dropped,
            "broadcasts_waiting": queue.broadcasts() if queue is not None else 0,
            "broadcasts_waiting_bytes": queue.size if queue is not None else 0,
        }

    def may(self, size: int) -> bool:
        """Whether the peer's credit and our own bounds let an event of ``size`` bytes be put in now."""
        waiting = self._channel.outbox_size + self._link.beside
        return waiting <= self._outbox and self._channel.may_emit(size)

    def _put(self, ready: Ready) -> None:
        channel = self._channel
        channel.emit_ready(ready.frame, ready.size)
        if ready.body is not None:
            self._bodies.send(channel.sent, ready.body)

    # --- emits -------------------------------------------------------------------------------------------------

    async def emit(self, event: str, ready: Ready) -> None:
        """Put an event in when its turn has come: behind all that waits already. Raises ConnectionClosed."""
        if self.queue is None:
            await self._link.wait_room()  # which may be no more than letting others run
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if self.queue is None and self.may(ready.size):
                self._put(ready)
                self._link.wake()
                return
        future = self._tasks.future()
        place = self._wait(Waiting(event, ready, "", future))
        try:
            await future
        except BaseException:
            if self.queue is not None:
                try:
                    self.queue.remove(place)
                except KeyError:
                    pass  # it has left, or the session is over
                self._after_removal()
                self.drain()  # the next one may be smaller
            raise

    # --- broadcasts --------------------------------------------------------------------------------------------

    def offer(self, event: str, ready: Ready, policy: str) -> bool:
        """Put a broadcast in, or do with it what ``policy`` says. Never waits. Return whether it left, or waits to."""
        if self.is_over:
            return False
        if self.queue is None and self.may(ready.size):
            self._put(ready)
            self._flushes.add(self._link)
            self._delivered += 1
            self._tally.delivered += 1
            return True
        entry = Waiting(event, ready, policy)
        if policy == "wait":
            if self._fits(entry.charge):
                self._wait(entry)
                return True
            self._drop(policy)
            self._give_up(f"event {event}: more than {self._limit:,} bytes of broadcasts wait")
        elif policy == "drop_oldest":
            return self._push_out(entry)
        elif policy == "latest":
            return self._supersede(entry)
        else:
            self._drop(policy)
            self._give_up(f"event {event} has to be taken at once")
        return False

    def _fits(self, charge: int) -> bool:
        size = 0 if self.queue is None else self.queue.size
        return size <= 0 or size + charge <= self._limit  # one may always wait, however large it is

    def _push_out(self, entry: Waiting) -> bool:
        while (queue := self.queue) is not None and (oldest := queue.oldest(entry.event, entry.policy)) is not None:
            if queue.count(entry.event, entry.policy) < self._keep and self._fits(entry.charge):
                break
            self._count_gone(queue.remove(oldest[0]))
            self._drop(entry.policy)
        if not self._fits(entry.charge):  # what other events let wait takes all the room
            self._drop(entry.policy)
            return False
        self._wait(entry)
        return True

    def _supersede(self, entry: Waiting) -> bool:
        queue = self.queue
        old = None if queue is None else queue.oldest(entry.event, entry.policy)
        if old is None or queue is None:
            if not self._fits(entry.charge):
                self._drop(entry.policy)
                return False
            self._wait(entry)
            return True
        grown = entry.charge - old[1].charge
        self._drop(entry.policy)
        if grown > 0 and queue.size > old[1].charge and queue.size + grown > self._limit:
            return False
        queue.replace(old[0], entry)
        self._tally.waiting_bytes += grown
        return True

    def _drop(self, policy: str) -> None:
        self._dropped += 1
        self._tally.dropped[policy] += 1

    def _give_up(self, reason: str) -> None:
        self.is_over = True  # what waits goes with the session, in a moment
        self._tally.disconnected += 1
        self._close(f"slow consumer: {reason}")

    # --- the queue ---------------------------------------------------------------------------------------------

    def _wait(self, entry: Waiting) -> int:
        if self.queue is None:
            self.queue = WaitingEvents()
        if entry.future is None:
            self._tally.waiting += 1
            self._tally.waiting_bytes += entry.charge
        return self.queue.append(entry)

    def _count_gone(self, entry: Waiting) -> None:
        if entry.future is None:
            self._tally.waiting -= 1
            self._tally.waiting_bytes -= entry.charge

    def _after_removal(self) -> None:
        if not self.queue:
            self.queue = None

    def drain(self) -> None:
        """Credit or room may have come: let go what can, in order."""
        queue = self.queue
        if queue is None or self._resuming or self.is_over:
            return
        for _ in range(AT_ONCE):
            if not queue:
                break
            entry = queue.first
            if entry.future is not None and entry.future.done():  # its caller has given up
                queue.take()
                continue
            if not self.may(entry.ready.size):
                return
            queue.take()
            self._count_gone(entry)
            self._put(entry.ready)
            self._link.wake()
            if entry.future is not None:
                entry.future.set_result(None)
            else:
                self._delivered += 1
                self._tally.delivered += 1
        if queue:
            self._resuming = True
            self._tasks.call_soon(self._resume)
        else:
            self._after_removal()

    def _resume(self) -> None:
        self._resuming = False
        self.drain()

    def fail(self, error: Exception) -> None:
        """The session is over: nothing is sent any more, and whoever waits learns why."""
        self.is_over = True
        self._failure = error
        queue, self.queue = self.queue, None
        if queue is None:
            return
        count = queue.broadcasts()
        self._tally.lost += count
        self._tally.waiting -= count
        self._tally.waiting_bytes -= queue.size
        for future in queue.waiters():
            if not future.done():
                future.set_exception(error)
