"""One reference that is followed: its answers in, the line of the shared time and its bounds out. No IO, no clock, no task."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from echokernel_clocksync.estimator import ClockEstimator, Estimate, Exchange
from echokernel_clocksync.outward import Line
from echokernel_clocksync.probes import ProbePlan, ProbeSettings
from echokernel_clocksync.timeline import RemoteTimeline, is_absurd

if TYPE_CHECKING:
    from echokernel_protocol.clock import ClockAnswer

__all__ = ["Follower", "News"]

News = Literal["nothing", "better", "stepped"]
LEAST = 3  # exchanges; as many as a step needs, so that one lie does not set the clock


class Follower:
    """What is known of one reference. Outlives its connections; a reference that was started anew is another one.

    Times are ns of our monotonic clock unless said otherwise.
    """

    def __init__(self, settings: ProbeSettings, at: int) -> None:
        self.plan = ProbePlan(settings, at)
        self.counts: Counter[str] = Counter()
        self.estimator = ClockEstimator()
        self.timeline = RemoteTimeline()
        self.newest: Exchange | None = None
        self.trouble = ""
        """Why there is no shared time, for people; empty where nothing is wrong."""
        self.settled = False
        """Whether a burst has been answered, so that the estimate is worth being followed."""
        self.unsteady = False
        """A step was seen, and the burst after it is not over."""
        self._settings = settings
        self._base: int | None = None

    def connect(self, at: int) -> None:
        """A connection to the reference is there, for the first time or again."""
        self.counts["probes"] += self.plan.asked
        self.counts["lost"] += self.plan.lost + self.plan.waiting
        self.counts["late"] += self.plan.late
        self.plan = ProbePlan(self._settings, at, self.plan.number)
        self.trouble = ""

    def take(self, answer: ClockAnswer, arrived: int) -> News:
        """Learn from an answer that arrived at our time ``arrived``. Never raises; what is not to be believed is counted."""
        counts, plan = self.counts, self.plan
        asked = plan.answered(answer.number, arrived)
        if asked is None:
            counts["unknown"] += 1
            return "nothing"
        counts["answers"] += 1
        if answer.base != self._base:
            self._begin_anew(answer.base)
        exchange = Exchange(asked, answer.received_ns, answer.sent_ns, arrived)
        verdict = self.estimator.add(exchange)
        if verdict == "nonsense":
            counts["nonsense"] += 1
            return "nothing"
        if verdict == "doubted":
            counts["doubted"] += 1
            plan.burst(arrived, LEAST)  # whether it was a step is known 60 ms later
            return "nothing"
        plan.learned(self.estimator.likely_gain)
        self.newest = exchange
        if is_absurd(answer.shared_ns):
            counts["absurd"] += 1
            self.trouble = (
                f"the reference's time is {answer.shared_ns / 1e9:.0f} s after 1970, which is not between 2020 and 2200: "
                "set the clock of its machine"
            )
            return "nothing"
        if not answer.synced:
            counts["unsynced"] += 1
            self.trouble = "the reference follows another node itself, and is not synchronised with it"
            return "nothing"
        self.trouble = ""
        new_timeline = self.timeline.take(answer)
        if verdict == "step" or new_timeline:
            counts["steps"] += 1
            self.unsteady = True
            plan.burst(arrived)
        elif not plan.burst_left:
            self.unsteady = False
        self._settle(arrived)
        return "stepped" if verdict == "step" or new_timeline else "better"

    def pass_time(self, at: int) -> None:
        """Note what has not been answered, and whether enough has been."""
        self.plan.pass_time(at)
        self._settle(at)

    def line(self, at: int) -> Line:
        """Return the shared time as far as it is known at our time ``at``. Only where there is a timeline."""
        estimate = self.estimator.estimate(at)
        theirs = at + estimate.offset
        return Line(at, theirs + self.timeline.ahead(theirs), estimate.rate + self.timeline.rate)

    def certain(self, at: int) -> tuple[int, int]:
        """Return between which shared times it is now for certain, ns since 1970."""
        estimate = self.estimator.estimate(at)
        theirs = at + estimate.offset
        ahead, bound = self.timeline.ahead(theirs), self.timeline.bound(theirs)
        return at + estimate.low + ahead - bound, at + estimate.high + ahead + bound

    def estimate(self, at: int) -> Estimate | None:
        """Return their monotonic clock minus ours; None before the first exchange."""
        return self.estimator.estimate(at) if self.estimator.exchanges else None

    def stats(self) -> dict[str, int]:
        """Return counters of probes and of what became of their answers."""
        names = ("answers", "unknown", "nonsense", "doubted", "absurd", "unsynced", "steps", "restarts")
        plan, counts = self.plan, self.counts
        return {
            "probes": counts["probes"] + plan.asked,
            "lost": counts["lost"] + plan.lost,
            "late": counts["late"] + plan.late,
            **{name: counts[name] for name in names},
        }

    @property
    def patience(self) -> int:
        """How long the last answer of a burst is waited for, ns."""
        return 2 * self.estimator.round_trip + self._settings.burst_pause

    def _settle(self, at: int) -> None:
        if self.settled or self.timeline.epoch is None or self.estimator.exchanges < LEAST:
            return
        plan = self.plan
        if not plan.burst_left:
            self.settled = not plan.waiting or at >= plan.asked_last + self.patience

    def _begin_anew(self, base: int) -> None:
        """Another clock answers: the reference was started again, or another node has its place."""
        if self._base is not None:
            self.counts["restarts"] += 1
            self.plan.burst(self.plan.due)
        self._base = base
        self.estimator = ClockEstimator()
        self.timeline = RemoteTimeline()
        self.newest = None
        self.settled = self.unsteady = False
