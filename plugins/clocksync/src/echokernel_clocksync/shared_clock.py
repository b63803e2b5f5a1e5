"""What the shared clock says: the time, its bounds, and times of one machine in terms of the other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from echokernel import Clock, ClockUnavailable, OneWay, TimeInterval
from echokernel_clocksync.outward import Line, OutwardClock

if TYPE_CHECKING:
    from echokernel import ClockStatus, Session
    from echokernel_clocksync.follower import Follower

Nanoseconds = Callable[[], int]

__all__ = ["REMEDY", "Nanoseconds", "SharedClock", "peer_text"]

REMEDY = "give it one: pip install 'echokernel[clocksync]' and .plugin(ClockSync()), or [service.clock] use = \"clocksync\""


def peer_text(session: Session) -> str:
    """Return ``host:port`` of a session's peer, for messages."""
    host, port = session.peer_addr
    return f"{host}:{port}"


class SharedClock(Clock):
    """Reads what :class:`~echokernel_clocksync.ClockSync` keeps. Nothing here waits or changes anything."""

    def __init__(self) -> None:
        self._now: Nanoseconds = time.monotonic_ns
        self._wall: Nanoseconds = time.time_ns
        self._epoch = 0
        self._origin = Line(0, 0)
        """The timeline of this node, where it is the reference."""
        self._follows = False
        self._outward: OutwardClock | None = None
        """Where there is something to follow, once it was synchronised."""
        self._follower: Follower | None = None
        self._session: Session | None = None
        """With the reference, while there is one."""
        self._counts: Counter[str] = Counter()

    def now_us(self) -> int:
        """Return the shared time in µs since 1970; the machine's own while :attr:`is_synced` is False.

        It never goes back, but by the first synchronisation and by steps, which :meth:`on_step` tells.
        """
        return self._shared(self._now()) // 1000

    @property
    def is_synced(self) -> bool:
        """Whether :meth:`now_us` is the shared time. Holds on without the reference, while the bound grows."""
        follower = self._follower
        return not self._follows or (
            self._outward is not None and follower is not None and follower.timeline.epoch is not None
        )

    @property
    def status(self) -> ClockStatus:
        """Return what the clock rests on.

        ``unsynced``: on nothing; ``syncing``: the first answers come; ``synced``; ``holdover``: the reference is silent,
        the bound grows by 200 µs each second; ``stepped``: a clock was set, and the answers after that come.
        """
        follower = self._follower
        if not self._follows:
            return "synced"
        if follower is None or not self.is_synced:
            return "syncing" if self._session is not None and self._session.answers_clock else "unsynced"
        if self._session is None or follower.plan.is_silent:
            return "holdover"
        return "stepped" if follower.unsteady else "synced"

    def interval(self) -> TimeInterval:
        """Return between which times the reference's clock is now, for certain. Raises ClockUnavailable while unsynchronised.

        Certain as long as the rates of the machines' clocks stay within 200 ppm of the measured one, and since they were
        last set or slept: see the guide.
        """
        low, high = self._certain(self._now())
        return TimeInterval(low // 1000, -(-high // 1000), self.status)

    @property
    def bound_us(self) -> float:
        """How far :meth:`now_us` is from the reference's clock at most, µs; 0 at the reference. Raises ClockUnavailable.

        What is left of a correction that is being slewed is in it: ``stats()["slewing_us"]``.
        """
        if not self._follows:
            return 0.0
        now = self._now()
        low, high = self._certain(now)
        shared = self._shared(now)
        return max(high - shared, shared - low) / 1000

    @property
    def error_us(self) -> float:
        """How far :meth:`now_us` is off, likely, µs: what asking on would still better, and 1 µs per second since the answer.

        An asymmetric path is in the bound only. 0 at the reference. Raises ClockUnavailable.
        """
        if not self._follows:
            return 0.0
        follower, now = self._synced_follower(), self._now()
        age = now - follower.estimator.newest
        likely = follower.estimator.likely_gain + age * 1e-6 + abs(self._lag(now))
        return min(likely / 1000, self.bound_us)

    @property
    def offset_us(self) -> float:
        """The shared time minus this machine's time of day, µs. Raises ClockUnavailable."""
        if not self.is_synced:
            raise ClockUnavailable(self._why_not())
        return (self._shared(self._now()) - self._wall()) / 1000

    @property
    def drift_ppm(self) -> float:
        """By how much the shared time gains on this machine's monotonic clock, in millionths. Raises ClockUnavailable."""
        if not self._follows:
            return 0.0
        now = self._now()
        return self._synced_follower().line(now).rate * 1e6

    @property
    def rtt_min_us(self) -> float:
        """The shortest round trip to the reference since the last step, µs; 0 at the reference. Raises ClockUnavailable."""
        return self._synced_follower().estimator.round_trip / 1000 if self._follows else 0.0

    @property
    def age_s(self) -> float:
        """How old the newest answer is, seconds; 0 at the reference. Raises ClockUnavailable."""
        return (self._now() - self._synced_follower().estimator.newest) / 1e9 if self._follows else 0.0

    def to_shared(self, local_mono_ns: int) -> int:
        """Return the shared time, in µs since 1970, when ``time.monotonic_ns()`` here showed or will show this.

        Raises ClockUnavailable while unsynchronised.
        """
        if not self.is_synced:
            raise ClockUnavailable(self._why_not())
        return self._shared(local_mono_ns) // 1000

    def to_local(self, shared_us: int) -> int:
        """Return what ``time.monotonic_ns()`` here shows at a shared time in µs since 1970. Raises ClockUnavailable."""
        outward = self._outward
        if not self._follows:
            return self._origin.local + shared_us * 1000 - self._origin.shared
        if outward is None:
            raise ClockUnavailable(self._why_not())
        return outward.local(shared_us * 1000)

    def one_way(self) -> OneWay | None:
        """Return what the newest exchange took each way, in seconds, by the estimate; both are right within ``error``."""
        follower = self._follower
        if follower is None or follower.newest is None or self._outward is None:
            return None
        sent, received, replied, arrived = follower.newest
        estimate = follower.estimator.estimate(arrived)
        out, back = received - sent - estimate.offset, arrived - replied + estimate.offset
        return OneWay(max(0, out) / 1e9, max(0, back) / 1e9, estimate.bound / 1e9)

    def stats(self) -> Mapping[str, int | float]:
        """Return counters, and the newest figures.

        Of probes sent: ``probes answers lost late unknown nonsense doubted absurd unsynced steps restarts``; of others':
        ``answered malformed``; ``epoch`` names the timeline. With a reference also
        ``rtt_min_us rtt_min_age_s rtt_us age_s slewing_us`` (positive: ahead, and slowed down).
        """
        follower, found = self._follower, dict[str, int | float]()
        found["answered"], found["malformed"] = self._counts["answered"], self._counts["malformed"]
        found["epoch"] = self._timeline_name()
        if follower is not None:
            found |= follower.stats()
            if follower.newest is not None:
                found["rtt_us"] = follower.newest.round_trip / 1000
                found["rtt_min_us"] = follower.estimator.round_trip / 1000
                now = self._now()
                found["slewing_us"] = self._lag(now) / 1000
                found["rtt_min_age_s"] = (now - follower.estimator.round_trip_at) / 1e9
                found["age_s"] = (now - follower.estimator.newest) / 1e9
        return found

    # --- inside ------------------------------------------------------------------------------------------------

    def _shared(self, local: int) -> int:
        """Return the shared time at our monotonic time ``local``, both ns."""
        outward = self._outward
        if outward is not None:
            return outward.shared(local)
        if self._follows:
            return self._wall() + local - self._now()
        return self._origin.at(local)

    def _certain(self, local: int) -> tuple[int, int]:
        if not self._follows:
            shared = self._origin.at(local)
            return shared, shared
        return self._synced_follower().certain(local)

    def _lag(self, local: int) -> int:
        return self._outward.lag(local) if self._outward is not None else 0

    def _timeline_name(self) -> int:
        """Return the epoch: that of the node that all follow, handed on."""
        if not self._follows:
            return self._epoch
        follower = self._follower
        return (follower.timeline.epoch or 0) if follower is not None else 0

    def _synced_follower(self) -> Follower:
        follower = self._follower
        if follower is None or not self.is_synced:
            raise ClockUnavailable(self._why_not())
        return follower

    def _why_not(self, max_error: float | None = None) -> str:
        """Return why there is no shared time, or none that is good enough, and what helps."""
        session, follower = self._session, self._follower
        if self.is_synced and max_error is not None:
            text = f"the bound is {self.bound_us / 1000:.3f} ms, wanted {1000 * max_error:g} ms"
            if self.rtt_min_us / 2 > max_error * 1e6:
                text += f"; half of the shortest round trip, {self.rtt_min_us / 2000:.3f} ms, is the least on this path"
            return text
        if session is None:
            return "the clock follows nobody: connect the client, or wait until it is connected again"
        if not session.answers_clock:
            return f"{peer_text(session)} has no clock to follow; {REMEDY}"
        if follower is not None and follower.trouble:
            return follower.trouble
        answers = 0 if follower is None else follower.counts["answers"]
        return f"the clock is not synchronised yet: {answers} answers from {peer_text(session)}"
