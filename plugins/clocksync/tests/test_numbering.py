"""Positions of frames by their 32-bit numbers: RFC 1982, gaps, duplicates, restarts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_clocksync.numbering import MAX_GAP, REMEMBERED, Kind, Numbering

TOP = (1 << 32) - 1
MS = 1_000


def kinds(*frames: tuple[int, int]) -> list[Kind]:
    """What numbers with stamps (in ms) are."""
    numbering = Numbering()
    return [numbering.place(seq, stamp * MS)[1] for seq, stamp in frames]


@given(
    st.integers(0, TOP),
    st.lists(st.tuples(st.integers(0, 200), st.integers(-3, 3)), max_size=60),
)
def test_positions_are_the_senders_order_across_the_wrap(first: int, steps: list[tuple[int, int]]) -> None:
    """Against arithmetic without end: frames 20 ms apart, some of them overtaken or missing."""
    numbering = Numbering()
    began, _ = numbering.place(first, 0)
    known, highest = {0}, 0
    for forward, back in steps:
        number = max(0, highest + forward + back)
        position, kind = numbering.place((first + number) & TOP, number * 20 * MS)
        assert position - began == number
        if number in known:
            assert kind is Kind.DUPLICATE
        else:
            assert kind is (Kind.NEXT if number > highest else Kind.REORDERED)
        known.add(number)
        highest = max(highest, number)
        assert numbering.lost == highest + 1 - len(known)


def test_zero_follows_the_last_number() -> None:
    numbering = Numbering()
    assert [numbering.place(seq, n) for n, seq in enumerate((TOP - 1, TOP, 0, 1))] == [
        (64 + n, Kind.NEXT) for n in range(4)
    ]
    assert numbering.lost == 0


@pytest.mark.parametrize(
    ("name", "frames", "last"),
    [
        ("numbers begin again, stamps go on", [(5_000, 0), (0, 20)], Kind.RESTART),
        ("they begin again soon after", [(10, 0), (0, 1_000)], Kind.RESTART),
        ("every frame has the same number", [(0, 0), (0, 20)], Kind.RESTART),
        ("more is missing than can be lost", [(0, 0), (MAX_GAP + 1, 20)], Kind.RESTART),
        ("much is missing", [(0, 0), (MAX_GAP, 20)], Kind.NEXT),
        ("overtaken", [(10, 200), (8, 160)], Kind.REORDERED),
        ("overtaken, with a stamp that is a little newer", [(10, 200), (9, 201)], Kind.REORDERED),
        ("the same again", [(10, 200), (10, 200)], Kind.DUPLICATE),
        ("too old to be known", [(10_000, 200_000), (10_000 - REMEMBERED, 118_000)], Kind.FORGOTTEN),
        ("far ahead, but older", [(10, 200), (60_000, 100)], Kind.FORGOTTEN),
        ("of the count before the restart", [(5_000, 0), (0, 20), (4_999, -20)], Kind.FORGOTTEN),
        ("of the count before, a little ahead of this one", [(70, 0), (0, 20), (69, -20)], Kind.FORGOTTEN),
        ("too old for the count that has begun", [(5_000, 0), (1_000, 20), (935, 10)], Kind.FORGOTTEN),
        ("overtaken by the restart", [(5_000, 0), (1, 40), (0, 20)], Kind.REORDERED),
    ],
)
def test_what_a_number_says(name: str, frames: list[tuple[int, int]], last: Kind) -> None:
    assert kinds(*frames)[-1] is last


def test_what_comes_after_a_restart_follows_what_came_before() -> None:
    numbering = Numbering()
    before = [numbering.place(seq, seq * 20 * MS)[0] for seq in range(1_000, 1_010)]
    after = [numbering.place(seq, (seq + 2_000) * 20 * MS)[0] for seq in (1, 0, 2)]
    assert max(before) < min(after)
    assert after == [after[0], after[0] - 1, after[0] + 1]
    assert numbering.lost == 0


def test_a_frame_that_comes_after_all_was_not_lost() -> None:
    numbering = Numbering()
    numbering.place(0, 0)
    numbering.place(3, 60 * MS)
    assert numbering.lost == 2
    numbering.place(1, 20 * MS)
    assert numbering.lost == 1
