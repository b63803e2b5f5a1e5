"""The playout buffer: what comes out when, and that every frame is counted once."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from echokernel_clocksync.delay import AdaptiveDelay, DelayPolicy, FixedDelay
from echokernel_clocksync.playout_buffer import Late, Played, PlayoutBuffer

MS = 1_000
SECOND = 1_000_000
TOP = (1 << 32) - 1


class Player:
    """A buffer, and a sender of 50 frames per second. Times in ms; the shared clock is ``offset`` ahead of the local one."""

    def __init__(
        self, policy: DelayPolicy | None = None, *, offset: int = 5_000, synced: bool = True, **options: Any
    ) -> None:
        self.buffer = PlayoutBuffer(policy or FixedDelay(100 * MS), **options)
        self.offset = offset * MS
        self.stamped_shared = self.clock_synced = synced
        self.stamp_error = 0  # of the sender's clock, in ms

    def put(self, seq: int, arrives: float | None = None, *, stamp: float | None = None, size: int = 100) -> bool:
        """A frame stamped at seq x 20 ms arrives, 30 ms later if nothing else is said."""
        sent = 20 * seq if stamp is None else stamp
        at = round((sent + 30 if arrives is None else arrives) * MS)
        return self.buffer.put(
            seq,
            round((sent + self.stamp_error) * MS) + 5_000 * MS,
            seq & TOP,
            size,
            now=at,
            offset=self.offset,
            stamped_shared=self.stamped_shared,
            clock_synced=self.clock_synced,
        )

    def play(self, until: float) -> list[tuple[int, float]]:
        """Return (seq, ms) of what is played up to then, each when it is due."""
        return [(played.frame, at) for played, at in self.frames(until)]

    def frames(self, until: float) -> list[tuple[Played, float]]:
        out: list[tuple[Played, float]] = []
        while (due := self.buffer.next_due()) is not None and due <= until * MS:
            due = max([due, *(round(at * MS) for _, at in out[-1:])])  # overdue: it comes with the frame before it
            played = self.buffer.pop(due, self.offset)
            assert played is not None
            out.append((played, due / MS))
        return out

    def run(self, *sequence: int, delay: float = 30) -> list[tuple[int, float]]:
        """Let frames arrive ``delay`` ms after they were sent, and play what is due meanwhile."""
        out = []
        for seq in sequence:
            out += self.play(20 * seq + delay)
            self.put(seq, 20 * seq + delay)
        return out

    def __getattr__(self, name: str) -> Any:
        return asdict(self.buffer.counters)[name]


def test_frames_are_played_at_their_stamp_and_the_delay() -> None:
    player = Player()
    player.put(0)
    player.put(2)
    player.put(1, 75)  # overtaken
    assert player.play(200) == [(0, 100), (1, 120), (2, 140)]
    assert player.reordered == 1
    assert player.buffer.lost == 0


def test_nothing_comes_before_its_time() -> None:
    player = Player()
    player.put(0)
    assert player.buffer.pop(100 * MS - 1, player.offset) is None
    assert player.buffer.pop(100 * MS, player.offset) is not None


def test_a_gap_is_counted_and_shows_on_the_frame_after_it() -> None:
    player = Player()
    for seq in (0, 1, 4):
        player.put(seq)
    assert [played.missing for played, _ in player.frames(1_000)] == [0, 0, 2]
    assert player.buffer.lost == 2


@pytest.mark.parametrize(("late", "played"), [("drop", [0, 2]), ("deliver", [0, 1, 2])])
def test_late_frames(late: Late, played: list[int]) -> None:
    player = Player(late=late)
    player.put(0)
    out = player.play(125)
    assert player.put(1, 125) is (late == "deliver")  # due at 120
    out += player.play(125)
    player.put(2)
    out += player.play(200)
    assert [seq for seq, _ in out] == played
    assert (player.late, player.dropped_late, player.buffer.lost) == (1, 2 - len(played) + 1, 0)


def test_a_late_frame_is_never_played_after_a_later_one() -> None:
    player = Player(late="deliver")
    for seq in (0, 2):
        player.put(seq)
    player.play(140)
    assert not player.put(1, 141)
    assert (player.late, player.dropped_late) == (1, 1)


def test_duplicates_are_dropped_before_and_after_they_are_played() -> None:
    player = Player()
    player.put(0)
    assert not player.put(0, 31)
    player.play(100)
    assert not player.put(0, 99)
    assert player.duplicate == 2
    assert player.played == 1


def test_numbers_wrap() -> None:
    player = Player()
    for n in range(4):
        player.put(TOP - 1 + n, 30 + 20 * n, stamp=20 * n)
    assert [seq for seq, _ in player.play(1_000)] == [TOP - 1 + n for n in range(4)]
    assert player.buffer.lost == 0
    assert player.discontinuities == 0


def test_a_stamp_far_ahead_is_dropped_and_costs_nobody_else_anything() -> None:
    player = Player()
    player.put(0)
    assert not player.put(1, 50, stamp=1_051)
    assert player.put(2)
    assert player.play(500) == [(0, 100), (2, 140)]
    assert player.far_future == 1


def test_without_a_shared_clock_far_ahead_means_ahead_of_the_others() -> None:
    player = Player(synced=False)
    player.stamp_error = 3_600_000  # an hour
    player.put(0)
    assert not player.put(1, 50, stamp=1_051)
    player.put(2)
    assert player.play(500) == [(0, 130), (2, 170)]


def test_a_stamp_that_is_a_little_ahead_holds_nobody_up() -> None:
    player = Player()
    player.put(0)
    player.put(1, 50, stamp=900)
    player.put(2)
    assert player.play(500) == [(0, 100), (1, 140), (2, 140)]


def test_a_wild_stamp_that_was_overtaken_holds_nobody_up() -> None:
    player = Player()
    player.put(2)
    player.put(1, 75, stamp=900)
    assert player.play(500) == [(1, 140), (2, 140)]


def test_a_stamp_of_long_ago_hurries_nobody() -> None:
    player = Player(FixedDelay(SECOND))
    for seq in range(10):
        player.put(seq)
    player.put(10, 230, stamp=-300)
    player.put(11)
    assert player.play(5_000) == [(seq, 20 * seq + 1_000) for seq in range(10)] + [(10, 1_180), (11, 1_220)]


def test_what_is_older_than_a_flush_is_late() -> None:
    player = Player(FixedDelay(10 * SECOND), max_frames=3)
    for seq in (0, 1, 3, 4):
        player.put(seq)
    assert player.flushed == 3
    assert not player.put(2, 115)
    assert player.dropped_late == 1


def test_jitter_is_that_of_the_rfc() -> None:
    player = Player()
    for seq, delay in enumerate((30, 46, 30)):
        player.put(seq, 20 * seq + delay)
    assert player.buffer.jitter == 1_000 + (16_000 - 1_000) / 16


def test_a_full_buffer_is_flushed() -> None:
    player = Player(FixedDelay(10 * SECOND), max_frames=3)
    for seq in range(4):
        player.put(seq)
    assert (player.flushed, player.discontinuities, len(player.buffer)) == (3, 1, 1)
    (played, _), *rest = player.frames(20_000)
    assert (played.frame, played.discontinuity, rest) == (3, True, [])
    assert not player.put(2, 95)  # it would be out of order
    assert player.duplicate == 1


def test_bytes_are_bounded_too() -> None:
    player = Player(max_bytes=1_000)
    player.put(0, size=600)
    player.put(1, size=600)
    assert (player.flushed, player.buffer.size) == (1, 600)
    player.put(2, size=5_000)  # alone it may be longer
    assert (player.flushed, player.buffer.size) == (2, 5_000)


def test_adaptive_delay_without_clocks_goes_by_the_quickest_frame() -> None:
    player = Player(AdaptiveDelay(), synced=False)
    player.stamp_error = -(10**9)
    for seq in range(100):
        player.play(20 * seq + 30)
        player.put(seq, 20 * seq + 30 + seq % 3 * 5)  # 30 to 40 ms
    assert player.late == 0
    assert player.buffer.policy.delay - player.buffer.policy.window.low == 12 * MS


# --- clocks ---------------------------------------------------------------------------------------------------------


def gaps(out: list[tuple[int, float]]) -> list[float]:
    return [after[1] - before[1] for before, after in pairwise(out)]


@pytest.mark.parametrize("policy", [lambda: FixedDelay(100 * MS), AdaptiveDelay])
@pytest.mark.parametrize("who", ["the sender", "this node"])
@pytest.mark.parametrize("error", [-3_600_000, -40, 7, 3_600_000])
def test_becoming_synchronised_is_not_heard(policy: Any, who: str, error: int) -> None:
    """Delays differ before and after; frames stay 20 ms apart within half a millisecond, and none is lost."""
    player = Player(policy(), synced=False)
    if who == "the sender":
        player.clock_synced, player.stamp_error = True, error
    else:
        player.stamped_shared, player.offset = True, (5_000 + error) * MS
    out = player.run(*range(100))
    assert not player.buffer.is_synced
    player.stamped_shared = player.clock_synced = True
    player.stamp_error, player.offset = 0, 5_000 * MS
    out += player.run(*range(100, 400))
    assert player.buffer.is_synced
    assert player.switches == 1
    assert [seq for seq, _ in out] == list(range(len(out)))
    assert max(abs(gap - 20) for gap in gaps(out)) <= 0.5
    if isinstance(player.buffer.policy, FixedDelay):
        assert player.play(100_000)[-1] == (399, 20 * 399 + 100)
    assert (player.late, player.far_future) == (0, 0)


def test_what_is_held_when_clocks_come_to_agree_keeps_its_distances() -> None:
    player = Player(FixedDelay(SECOND), synced=False)
    player.clock_synced, player.stamp_error = True, -3_600_000
    out = player.run(*range(100))
    player.stamped_shared, player.stamp_error = True, 0
    for seq in (101, 100, 102):  # the order has to be looked at again
        player.put(seq, max(2_050, 20 * seq + 30))
    out += player.play(10_000)
    assert [seq for seq, _ in out] == list(range(103))
    assert max(abs(gap - 20) for gap in gaps(out)) <= 1.5  # three arrive in one gap


def test_losing_the_clock_is_not_heard() -> None:
    player = Player()
    out = player.run(*range(100))
    player.clock_synced, player.offset = False, 0
    out += player.run(*range(100, 400))
    assert player.switches == 1
    assert max(abs(gap - 20) for gap in gaps(out)) <= 1
    assert player.play(100_000)[-1] == (399, 20 * 399 + 130)


def test_a_clock_that_slews_is_followed() -> None:
    player = Player()
    player.put(0)
    player.offset += 3 * MS
    assert player.buffer.pop(97 * MS, player.offset) is not None


@pytest.mark.parametrize("frames", [0, 20])
@pytest.mark.parametrize("policy", [lambda: FixedDelay(100 * MS), AdaptiveDelay])
def test_a_clock_that_steps_does_not_move_what_is_held(policy: Any, frames: int) -> None:
    """Ours by 10 s, and the sender's so many frames later."""
    player = Player(policy())
    out = player.run(*range(100))
    player.offset += 10 * SECOND
    out += player.run(*range(100, 100 + frames))
    player.stamp_error += 10_000
    out += player.run(*range(100 + frames, 300))
    assert player.discontinuities == 1
    assert (player.late, player.far_future) == (0, 0)
    assert player.buffer.is_synced
    assert [seq for seq, _ in out] == list(range(len(out)))
    assert max(abs(gap - 20) for gap in gaps(out)) <= 0.5


def test_a_clock_that_was_wrong_and_steps_is_believed() -> None:
    """The sender was right all the time."""
    player = Player()
    player.offset += 10 * SECOND
    player.put(0)
    assert player.late == 1
    player.run(*range(1, 100))
    player.offset -= 10 * SECOND
    player.run(*range(100, 450))
    assert player.buffer.is_synced
    assert player.play(100_000)[-1] == (449, 20 * 449 + 100)


@pytest.mark.parametrize("step", [-3_600_000, -400, 400, 3_600_000])
def test_stamps_that_jump_are_a_new_beginning_within_a_quarter_of_a_second(step: int) -> None:
    player = Player(AdaptiveDelay(), synced=False)
    out = player.run(*range(100))
    player.stamp_error = step
    out += player.run(*range(100, 200))
    assert player.discontinuities == 1
    lost = set(range(150)) - {seq for seq, _ in out}
    assert not lost or (min(lost) >= 100 and max(lost) <= 113)
    assert [gap for gap in gaps(out)[-30:] if abs(gap - 20) > 0.5] == []
    assert abs(player.buffer.policy.delay - player.buffer.policy.window.low) < 10 * MS


@pytest.mark.parametrize("step", [-400, 400])
def test_what_is_held_while_stamps_jump_keeps_its_distances(step: int) -> None:
    """A second's frames are held, of both times."""
    player = Player(FixedDelay(SECOND), synced=False)
    out = player.run(*range(100))
    player.stamp_error = step
    out += player.run(*range(100, 200))
    out += player.play(10_000)
    assert [seq for seq, _ in out] == list(range(200))
    # what came before it was clear that this is a new time cannot be played farther apart than it came, nor all at once
    assert [gap for gap in gaps(out)[:99] + gaps(out)[115:] if abs(gap - 20) > 0.5] == []
    assert all(0 <= gap <= 60 for gap in gaps(out)), [gap for gap in gaps(out) if gap > 60]


def test_stamps_without_any_order_are_no_new_time() -> None:
    player = Player()
    player.run(*range(100))
    for seq in range(100, 200):
        player.put(seq, 20 * seq + 30, stamp=20 * seq - (300, 600, 900)[seq % 3])
    assert player.discontinuities == 0
    assert player.peaks == 100


def test_a_sender_whose_clock_is_not_ours_is_played_by_its_own_time() -> None:
    """It says that it is synchronised, and is an hour ahead."""
    player = Player()
    player.stamp_error = 3_600_000
    out = player.run(*range(100))
    assert (player.far_future, player.switches) == (13, 1)
    assert [seq for seq, _ in out] == list(range(13, 13 + len(out)))
    assert not player.buffer.is_synced
    player.offset += 3_600 * SECOND  # it was ours that was wrong
    out = player.run(*range(100, 200))
    assert player.buffer.is_synced
    assert player.switches == 2
    assert max(abs(gap - 20) for gap in gaps(out)) <= 0.5


@pytest.mark.parametrize("policy", [lambda: FixedDelay(100 * MS), AdaptiveDelay])
def test_a_sender_that_restarts_goes_on(policy: Any) -> None:
    player = Player(policy())
    player.run(*range(1_000, 1_100))
    for seq in range(100):
        player.put(seq, 22_030 + 20 * seq, stamp=22_000 + 20 * seq)
        if seq == 0:
            frames = player.frames(22_300)
            assert frames[-1][0].frame == 0
            assert frames[-1][0].discontinuity
            assert frames[-1][0].missing == 0
    assert player.discontinuities == 1
    assert player.buffer.lost == 0
    assert (player.late, player.duplicate) == (0, 0)


def test_a_sender_that_restarts_with_an_older_clock_goes_on_too() -> None:
    player = Player(AdaptiveDelay())
    player.run(*range(1_000, 1_100))
    player.stamp_error = -10_000
    taken = [player.put(seq, 22_030 + 20 * seq, stamp=22_000 + 20 * seq) for seq in range(100)]
    assert taken.index(True) <= 14
    assert all(taken[14:])


def test_a_stall_is_no_new_beginning() -> None:
    """A reliable stream delivers two seconds' frames at a time."""
    player = Player(AdaptiveDelay())
    player.run(*range(100))
    for seq in range(100, 200):
        player.put(seq, 4_000)
    player.run(*range(200, 300))
    assert player.discontinuities == 0
    assert player.peaks > 80
    assert player.buffer.policy.delay < 190 * MS


def test_a_path_that_becomes_slower_than_the_reach_is_followed() -> None:
    player = Player(AdaptiveDelay())
    player.run(*range(100))
    player.run(*range(100, 200), delay=600)
    assert player.discontinuities == 1
    assert player.late <= 14
    assert player.buffer.policy.delay < 650 * MS


# --- whatever comes -------------------------------------------------------------------------------------------------


class AnySender(RuleBasedStateMachine):
    """Frames of a sender that may do anything, clocks that may do anything, and a player that may be slow."""

    @initialize(
        fixed=st.sampled_from([None, 0, 50 * MS, 3 * SECOND]),
        late=st.sampled_from(["drop", "deliver"]),
        seq=st.sampled_from([0, 7, TOP - 3]),
    )
    def begin(self, fixed: int | None, late: Late, seq: int) -> None:
        policy = AdaptiveDelay(window=20) if fixed is None else FixedDelay(fixed, window=20)
        self.buffer = PlayoutBuffer(policy, late=late, max_frames=8, max_bytes=2_000)
        self.now = 10**9
        self.offset = 10**6
        self.sender = 0  # error of its clock
        self.seq = seq
        self.flags = (True, True)
        self.sent: list[tuple[int, int]] = []
        self.taken: list[tuple[int, int]] = []
        self.out: list[Played] = []

    def _put(self, wall_time: int, seq: int, size: int) -> None:
        frame = (wall_time, seq)
        shared, synced = self.flags
        arguments = {"now": self.now, "offset": self.offset, "stamped_shared": shared, "clock_synced": synced}
        if self.buffer.put(frame, wall_time, seq, size, **arguments):
            self.taken.append(frame)

    @rule(gap=st.sampled_from([1, 1, 1, 1, 2, 5]), transit=st.integers(-5, 300), size=st.integers(0, 600))
    def send(self, gap: int, transit: int, size: int) -> None:
        self.seq = (self.seq + gap) & TOP
        frame = (max(0, self.now + self.offset + self.sender - transit * MS), self.seq)
        self.sent.append(frame)
        self._put(*frame, size)

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(1, 12))
    def send_again(self, back: int) -> None:
        self._put(*self.sent[-min(back, len(self.sent))], 10)

    @rule(back=st.integers(1, 5), transit=st.integers(0, 300))
    def overtaken(self, back: int, transit: int) -> None:
        self._put(max(0, self.now + self.offset + self.sender - transit * MS), (self.seq - back) & TOP, 10)

    @rule(wall_time=st.integers(0, 1 << 62), seq=st.integers(0, TOP))
    def nonsense(self, wall_time: int, seq: int) -> None:
        self._put(wall_time, seq, 10)

    @rule(seq=st.integers(0, TOP))
    def restart(self, seq: int) -> None:
        self.seq = seq

    @rule(by=st.sampled_from([-(10**8), -(10**5), -300, 300, 10**5, 10**8]), whose=st.integers(0, 2))
    def set_clock(self, by: int, whose: int) -> None:
        self.sender += by * (whose != 1)
        self.offset += by * (whose != 0)

    @rule(flags=st.tuples(st.booleans(), st.booleans()))
    def sync(self, flags: tuple[bool, bool]) -> None:
        self.flags = flags

    @rule(passes=st.integers(0, 400))
    def wait(self, passes: int) -> None:
        self.now += passes * MS

    @rule()
    def play(self) -> None:
        while (played := self.buffer.pop(self.now, self.offset)) is not None:
            assert played.due <= self.now
            assert played.missing >= 0
            self.out.append(played)
        due = self.buffer.next_due()
        assert due is None or due > self.now

    @invariant()
    def every_frame_is_counted_once(self) -> None:
        if not hasattr(self, "buffer"):
            return
        counters = self.buffer.counters
        assert counters.received == len(self.buffer) + sum(
            (counters.played, counters.dropped_late, counters.duplicate, counters.far_future, counters.flushed)
        )
        assert counters.played == len(self.out)
        assert len(self.taken) == counters.played + counters.flushed + len(self.buffer)
        assert counters.dropped_late <= counters.late
        assert self.buffer.lost >= 0

    @invariant()
    def it_is_bounded(self) -> None:
        if hasattr(self, "buffer"):
            assert len(self.buffer) <= 8
            assert 0 <= self.buffer.size <= 2_000

    @invariant()
    def numbers_rise(self) -> None:
        if not hasattr(self, "buffer"):
            return
        for before, after in pairwise(self.out):
            if not after.discontinuity:
                assert 0 < (after.frame[1] - before.frame[1]) & TOP < 1 << 31
                assert after.missing == ((after.frame[1] - before.frame[1]) & TOP) - 1

    @invariant()
    def what_was_taken_is_played_once(self) -> None:
        if hasattr(self, "buffer"):
            played = [played.frame for played in self.out]
            for frame in set(played):
                assert played.count(frame) <= self.taken.count(frame)


TestAnySender = AnySender.TestCase
