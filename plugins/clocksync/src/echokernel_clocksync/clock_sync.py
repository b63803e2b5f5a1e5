"""The clock that nodes share: ``EchoClient.builder().plugin(ClockSync())``, and the same for a server."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from echokernel import ClientBuilder, Clock, ClockUnavailable, InvalidArgument, OneWay, TimeInterval
from echokernel_clocksync.follower import Follower
from echokernel_clocksync.outward import Line, OutwardClock
from echokernel_clocksync.playout import Playout
from echokernel_clocksync.probes import ProbeSettings
from echokernel_protocol.clock import ClockAnswer, ClockProbe, decode_clock
from echokernel_protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from echokernel import ClockStatus, Session, StreamReceiver

logger = logging.getLogger("echokernel.clocksync")
Builder = TypeVar("Builder")
Nanoseconds = Callable[[], int]
OnStep = Callable[[int], object]
MAX_U64 = 2**64 - 1

__all__ = ["ClockSync"]


class ClockSync(Clock):
    """A clock that nodes share, with a bound of its error that is certain.

    A node that is only dialled is the reference: its clock shows the machine's time of day as it was when the object was
    made, and from then on the monotonic clock's, so setting the time of day moves nothing. A node that dials follows the
    node that it has dialled; one that does both passes on what it follows, and adds its own bound. One object may be given
    to several builders. All methods but the ``async`` ones may be called from any thread.

    While it is not synchronised, :meth:`now_us` is the machine's time of day. The first synchronisation sets it; later
    corrections are slewed, and only those of more than 10 ms, or after a clock was set, are steps.
    """

    name = "clocksync"
    redials = False
    """Whether another session with the reference follows when one ends, as far as is known."""

    def __init__(self) -> None:
        self._probes = ProbeSettings()
        self._slew = 500e-6
        self._now: Nanoseconds = time.monotonic_ns
        self._wall: Nanoseconds = time.time_ns
        self._follows = False
        self._outward: OutwardClock | None = None
        """Where there is something to follow, once it was synchronised."""
        self._follower: Follower | None = None
        self._session: Session | None = None
        self._ended = 0
        self._wake = anyio.Event()
        self._waiters: set[anyio.Event] = set()
        self._on_step: list[OnStep] = []
        self._counts: Counter[str] = Counter()
        self._begin()

    def __repr__(self) -> str:
        return f"<ClockSync, {'follows' if self._follows else 'reference'}, {self.status}>"

    def _begin(self) -> None:
        self._base, self._epoch = secrets.randbits(64), secrets.randbits(64)
        now = self._now()
        if not 0 <= now <= MAX_U64:
            raise InvalidArgument(f"ClockSync.with_clock: the clock shows {now}; wanted ns, 0 to 2**64")
        self._origin = Line(now, self._wall())

    # --- how it is made ----------------------------------------------------------------------------------------

    def with_burst(self, count: int = 16, pause: float = 0.02) -> ClockSync:
        """Ask ``count`` times (3 to 64), ``pause`` seconds apart, at the start and after a step. Raises InvalidArgument."""
        if not (3 <= count <= 64 and 0.005 <= pause <= 10):
            raise InvalidArgument(f"with_burst({count}, {pause}): wanted 3 to 64 probes, 0.005 to 10 s apart")
        self._probes = replace(self._probes, burst=count, burst_pause=round(pause * 1e9))
        return self

    def with_interval(self, seconds: float = 1.0) -> ClockSync:
        """Ask about this often later on, from 4 times as often where there is jitter to 8 times as seldom where there is none.

        0.02 to 3,600. Raises InvalidArgument.
        """
        if not 0.02 <= seconds <= 3_600:
            raise InvalidArgument(f"with_interval({seconds}): wanted 0.02 to 3,600 s")
        self._probes = replace(self._probes, interval=round(seconds * 1e9))
        return self

    def with_max_slew_ppm(self, ppm: float = 500.0) -> ClockSync:
        """Correct :meth:`now_us` by at most this, in millionths: 1 to 100,000. Raises InvalidArgument."""
        if not 1 <= ppm <= 100_000:
            raise InvalidArgument(f"with_max_slew_ppm({ppm}): wanted 1 to 100,000")
        self._slew = ppm * 1e-6
        return self

    def with_clock(self, now_ns: Nanoseconds, *, wall_ns: Nanoseconds = time.time_ns) -> ClockSync:
        """Read these clocks instead of the machine's: ``now_ns`` never goes back, ``wall_ns`` counts from 1970. For tests.

        Raises InvalidArgument for a clock below 0.
        """
        self._now, self._wall = now_ns, wall_ns
        self._begin()
        return self

    def install(self, builder: Builder) -> Builder:
        """Be the clock of a builder's node: what ``builder.plugin(…)`` calls."""
        if isinstance(builder, ClientBuilder):
            self._follows = True
        builder.clock(self)  # type: ignore[attr-defined]
        return builder

    # --- what time it is ---------------------------------------------------------------------------------------

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

    def on_step(self, callback: OnStep) -> ClockSync:
        """Call ``callback(delta_us)`` after :meth:`now_us` jumped by so much; negative: back. In the event loop; be quick."""
        self._on_step.append(callback)
        return self

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

    async def wait_synced(self, timeout: float = 5.0, max_error: float | None = None) -> None:
        """Wait until the clock is synchronised, and its :attr:`bound_us` is at most ``max_error`` seconds where that is given.

        Raises ClockUnavailable when ``timeout`` seconds were not enough, when the session ends first, and at once where the
        reference has no clock to follow.
        """
        ended = self._ended
        changed = anyio.Event()
        with anyio.move_on_after(timeout):
            while not self._is_within(max_error):
                if self._session is not None and not self._session.answers_clock:
                    raise ClockUnavailable(self._why_not())
                if self._follower is not None and self._follower.counts["absurd"] and self._outward is None:
                    raise ClockUnavailable(self._why_not())
                if self._ended != ended and not self.redials:
                    raise ClockUnavailable(f"the session ended before the clock was synchronised; {self._why_not()}")
                changed = anyio.Event()
                self._waiters.add(changed)
                try:
                    await changed.wait()
                finally:
                    self._waiters.discard(changed)
            return
        if not self._is_within(max_error):
            raise ClockUnavailable(f"not within {timeout:g} s: {self._why_not(max_error)}")

    # --- what the kernel calls ---------------------------------------------------------------------------------

    def received(self, session: Session, payload: bytes) -> None:
        """Answer a probe at once, or learn from an answer. Never raises: what is not right is counted."""
        arrived = self._now()
        try:
            message = decode_clock(payload)
        except ProtocolViolation:
            self._counts["malformed"] += 1
            return
        if isinstance(message, ClockProbe):
            self._answer(session, message.number, arrived)
        elif message is not None and session is self._session and self._follower is not None:
            self._learn(self._follower, message, arrived)

    async def follow(self, session: Session) -> None:
        """Ask the node that was dialled for its time until the session ends. One is followed at a time; others wait."""
        self._follows = True
        while self._session is not None:
            freed = anyio.Event()
            self._waiters.add(freed)
            await freed.wait()
        self._session = session
        try:
            if not session.answers_clock:
                self._tell()
                logger.warning("%s has no clock to follow; %s", session.peer_addr, REMEDY)
                await anyio.sleep_forever()
            await self._ask(session)
        finally:
            self._session = None
            self._ended += 1
            self._tell()

    def playout(self, stream: StreamReceiver, **options: Any) -> Playout:
        """Play ``stream`` by this clock: what ``stream.playout(…)`` calls. :class:`Playout` has the options."""
        return Playout(stream, self, monotonic_ns=self._now, **options)

    async def _ask(self, session: Session) -> None:
        now = self._now()
        follower = self._follower
        if follower is None:
            follower = self._follower = Follower(self._probes, now)
        else:
            follower.connect(now)
        plan = follower.plan
        while True:
            now = self._now()
            if now >= plan.due:
                number = plan.ask(self._now())
                session.send_clock(ClockProbe(number).encode())
            unsettled = not follower.settled
            follower.pass_time(now)
            if unsettled and follower.settled:
                self._steer(follower, now, jump=False)
            if (
                not follower.settled and not plan.burst_left
            ):  # it is, once the answers still on their way had their time
                now = min(plan.due, plan.asked_last + follower.patience)
            else:
                now = plan.due
            self._wake = anyio.Event()
            with anyio.move_on_after(max((now - self._now()) / 1e9, 0.001)):
                await self._wake.wait()  # an answer that makes another burst necessary does that

    def _answer(self, session: Session, number: int, arrived: int) -> None:
        synced = self.is_synced
        now = self._now()
        shared, bound = self._shared(now), 0
        if self._follows and synced:
            low, high = self._certain(now)
            bound = max(1, high - shared, shared - low)  # 0 is for the node that all follow
        answer = ClockAnswer(number, arrived, now, shared, bound, self._base, self._timeline_name(), synced)
        if session.send_clock(answer.encode()):
            self._counts["answered"] += 1

    def _learn(self, follower: Follower, answer: ClockAnswer, arrived: int) -> None:
        due = follower.plan.due
        news = follower.take(answer, arrived)
        if follower.plan.due < due:
            self._wake.set()
        if news != "nothing" and (follower.settled or self._outward is not None):
            self._steer(follower, arrived, jump=news == "stepped")
        self._tell()

    def _steer(self, follower: Follower, at: int, *, jump: bool) -> None:
        """Lead the outward clock to where the follower says."""
        if follower.timeline.epoch is None or follower.estimator.exchanges < 3:
            return
        line = follower.line(at)
        if self._outward is None:
            self._outward = OutwardClock(line, slew=self._slew)
            logger.info("synchronised, within %.3f ms", self.bound_us / 1000)
            self._tell()
            return
        delta = self._outward.steer(line, at, jump=jump)
        if delta:
            logger.warning("the shared clock stepped by %+.3f ms", delta / 1e6)
            for callback in list(self._on_step):
                try:
                    callback(delta // 1000)
                except Exception as error:
                    logger.error("on_step failed: %s", type(error).__name__, exc_info=error)

    # --- inside ------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Wake all who wait for a change."""
        for waiter in list(self._waiters):
            waiter.set()
        self._waiters.clear()

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

    def _is_within(self, max_error: float | None) -> bool:
        if not self.is_synced:
            return False
        return max_error is None or self.bound_us <= max_error * 1e6

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
            return f"{session.peer_addr} has no clock to follow; {REMEDY}"
        if follower is not None and follower.trouble:
            return follower.trouble
        answers = 0 if follower is None else follower.counts["answers"]
        return f"the clock is not synchronised yet: {answers} answers from {session.peer_addr}"


REMEDY = (
    "give it one: pip install 'echokernel[clocksync]' and .plugin(ClockSync()), or [service.clock] use = \"clocksync\""
)
