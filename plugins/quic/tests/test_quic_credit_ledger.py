"""The ledger alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_quic.credit import (
    STEP,
    STRANGER_WINDOW,
    STREAM_WINDOW,
    STREAM_WINDOW_MAX,
    TOTAL_WINDOWS,
    Credit,
    StreamCredit,
)


def test_limits_never_shrink_and_always_leave_an_established_peer_credit() -> None:
    credit = Credit()
    credit.establish()
    streams = [StreamCredit() for _ in range(400)]
    for stream in streams:
        credit.add(stream)
    credit.due()
    top = credit.limit
    for stream in streams:
        credit.end(stream, 10)
        credit.due()
        assert credit.limit >= top


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 60_000)), max_size=200), st.booleans())
def test_rule_02_unread_bytes_are_bounded_whatever_is_read(steps: list[tuple[int, int]], established: bool) -> None:
    credit = Credit()
    if established:
        credit.establish()
    streams = [StreamCredit() for _ in range(5)]
    received = [0] * 5
    for stream in streams:
        credit.add(stream)
    credit.due()
    for index, size in steps:
        stream = streams[index]
        total = sum(received)
        taken = min(size, stream.limit - received[index], credit.limit - total)  # a peer that sends all it may
        received[index] += taken
        if size % 3 == 0:
            credit.consume(stream, received[index] - stream.consumed, received[index], open_ended=True)
        credit.due()
        unread = sum(received) - credit.consumed
        assert unread <= (STRANGER_WINDOW + STEP if not established else 5 * STREAM_WINDOW_MAX + STRANGER_WINDOW)
        assert received[index] <= stream.limit
        assert stream.window <= STREAM_WINDOW_MAX


def test_windows_stop_growing_at_the_total() -> None:
    credit = Credit()
    credit.establish()
    streams = [StreamCredit() for _ in range(100)]
    for stream in streams:
        credit.add(stream)
    for _ in range(10):
        for stream in streams:
            size = stream.limit - stream.consumed
            credit.consume(stream, size, stream.limit, open_ended=True)
    assert sum(stream.window for stream in streams) <= TOTAL_WINDOWS
    assert max(stream.window for stream in streams) == STREAM_WINDOW_MAX


@pytest.mark.parametrize(("round_trip", "window"), [(0.001, STREAM_WINDOW), (0.040, STREAM_WINDOW_MAX)])
def test_a_window_grows_where_the_round_trip_holds_a_quick_reader_up(round_trip: float, window: int) -> None:
    """Every 10 ms half a window arrives and is read at once: that fills one on a short way, and not on a long one."""
    credit = Credit()
    credit.establish()
    stream = StreamCredit()
    credit.add(stream)
    now = 100.0
    for _ in range(20):
        now += 0.010
        size = stream.window // 2
        received = stream.consumed + size
        assert received <= stream.limit
        credit.consume(stream, size, received, open_ended=True, now=now, round_trip=round_trip)
    assert stream.window == window

