"""The clock that nodes share: ``EchoClient.builder().plugin(ClockSync())``, and the same for a server."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from echokernel import ClientBuilder, ClockUnavailable, InvalidArgument
from echokernel_clocksync.follower import LEAST, Follower
from echokernel_clocksync.outward import Line, OutwardClock
from echokernel_clocksync.playout import Playout
from echokernel_clocksync.probes import ProbeSettings
from echokernel_clocksync.shared_clock import REMEDY, Nanoseconds, SharedClock, peer_text
from echokernel_protocol.clock import ClockAnswer, ClockProbe, decode_clock
from echokernel_protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from echokernel import Session, StreamReceiver

logger = logging.getLogger("echokernel.clocksync")
Builder = TypeVar("Builder")
OnStep = Callable[[int], object]
MAX_U64 = 2**64 - 1

__all__ = ["ClockSync"]


class ClockSync(SharedClock):
    """A clock that nodes share, with a bound of its error that is certain.

    A node that is only dialled is the reference: its clock shows the machine's time of day as it was when the object was
    made, and from then on the monotonic clock's, so setting the time of day moves nothing. A node that dials follows the
    node that it has dialled; one that does both passes on what it follows, and adds its own bound. One object may be given
    to several builders. :meth:`now_us`, :meth:`to_shared` and :meth:`to_local` may be called from any thread.

    While it is not synchronised, :meth:`now_us` is the machine's time of day. The first synchronisation sets it; later
    corrections are slewed, and only those of more than 10 ms, or after a clock was set, are steps.
    """

    name = "clocksync"
    redials = False
    """Whether another session with the reference follows when one ends, as far as is known."""

    def __init__(self) -> None:
        super().__init__()
        self._probes = ProbeSettings()
        self._slew = 500e-6
        self._ended = 0
        """Sessions with a reference that are over."""
        self._wake = anyio.Event()
        self._waiters: set[anyio.Event] = set()
        self._on_step: list[OnStep] = []
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

    # --- who wants to know ----------------------------------------------------------------------------------

    def on_step(self, callback: OnStep) -> ClockSync:
        """Call ``callback(delta_us)`` after :meth:`now_us` jumped by so much; negative: back. In the event loop; be quick."""
        self._on_step.append(callback)
        return self

    async def wait_synced(self, timeout: float = 5.0, max_error: float | None = None) -> None:
        """Wait until the clock is synchronised, and its :attr:`bound_us` is at most ``max_error`` seconds where that is given.

        Raises ClockUnavailable when ``timeout`` seconds were not enough, when the session ends first, and at once where the
        reference has no clock to follow.
        """
        ended = self._ended
        with anyio.move_on_after(timeout):
            while not self._is_within(max_error):
                if self._session is not None and not self._session.answers_clock:
                    raise ClockUnavailable(self._why_not())
                if self._follower is not None and self._follower.is_absurd and not self.is_synced:
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
                logger.warning("%s has no clock to follow; %s", peer_text(session), REMEDY)
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
            look = plan.asked_last + follower.patience  # the answers that are still on their way had their time
            until = look if now < look < plan.due and not follower.settled else plan.due
            self._wake = anyio.Event()
            with anyio.move_on_after(max((until - self._now()) / 1e9, 0.001)):
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
        if follower.timeline.epoch is None or (follower.estimator.exchanges < LEAST and not jump):
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

    def _tell(self) -> None:
        """Wake all who wait for a change."""
        for waiter in list(self._waiters):
            waiter.set()
        self._waiters.clear()

    def _is_within(self, max_error: float | None) -> bool:
        if not self.is_synced:
            return False
        return max_error is None or self.bound_us <= max_error * 1e6
