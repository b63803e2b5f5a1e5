"""``$clock`` payloads and the marks of stream data: round trips, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_protocol.clock import ClockAnswer, ClockProbe, decode_clock
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import Flags, FrameDecoder
from echokernel_protocol.timestamped import Timestamped, decode_data, encode_data_frame

u64 = st.integers(0, (1 << 64) - 1)
u32 = st.integers(0, (1 << 32) - 1)
answers = st.builds(ClockAnswer, u32, u64, u64, u64, u64, u64, u64, st.booleans())


@given(st.one_of(answers, st.builds(ClockProbe, u32)))
def test_probes_and_answers_come_back(value: ClockProbe | ClockAnswer) -> None:
    assert decode_clock(value.encode()) == value


@given(st.binary(max_size=90))
def test_any_bytes_are_one_of_them_or_refused(data: bytes) -> None:
    try:
        value = decode_clock(data)
    except ProtocolViolation:
        return
    assert value is None or decode_clock(value.encode()) == value


def test_an_unknown_kind_is_passed_over() -> None:
    assert decode_clock(b"\x02anything") is None


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x05\x00", b"\x01\x00" + b"\x00" * 6, b"\x01\x00" + b"\x00" * 6 + b"\x02"]
)
def test_what_is_cut_too_long_or_no_flag_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_clock(data)


@given(u64, u32, st.binary(max_size=50), st.booleans(), st.booleans())
def test_a_data_frame_says_whether_its_stamp_is_synchronised(
    wall_time: int, seq: int, data: bytes, synced: bool, opened_synced: bool
) -> None:
    ((_, flow_id, method, flags, payload),) = FrameDecoder(1_000).feed(
        encode_data_frame(7, wall_time, seq, data, synced)
    )
    assert (flow_id, method) == (7, "")
    frame = decode_data(flags, payload, opened_synced)
    assert (frame, frame.synced) == (Timestamped(wall_time, seq, data), synced and opened_synced)


@pytest.mark.parametrize("flags", [Flags.END, Flags.CANCEL, Flags.ERROR | Flags.METADATA, Flags.BODY])
def test_other_flags_are_no_data(flags: int) -> None:
    with pytest.raises(ProtocolViolation, match="stream data with the flags"):
        decode_data(flags, b"\x00\x00\x00")
