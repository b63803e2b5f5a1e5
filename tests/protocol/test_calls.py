"""Calls on streams of their own: one half at a time, as a value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_protocol.calls import CallFrame, CallReader, encode_call_frame
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import Flags, MessageType, encode_frame, encode_method
from echokernel_protocol.maps import encode_map

REQUEST, RESPONSE = MessageType.REQUEST, MessageType.RESPONSE
MAX_FRAME = 64
CALL = encode_method("count", 0x10)
ITEM = encode_method("", 0x10)
END = encode_method("", Flags.END)


def reader(kind: MessageType = REQUEST, max_message: int = 1_000) -> CallReader:
    if kind is REQUEST:
        return CallReader(kind, max_frame=MAX_FRAME, max_message=max_message)
    return CallReader(kind, max_frame=MAX_FRAME, max_message=max_message, request_id=3, slot=0x10)


def frame(head: bytes, payload: bytes = b"", metadata: bytes = b"", kind: MessageType = REQUEST, id: int = 3) -> bytes:
    return encode_call_frame(kind, id, head, payload, metadata=metadata, max_frame=MAX_FRAME)


@given(
    st.lists(st.binary(max_size=300), max_size=5),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_a_half_survives_however_it_is_cut(payloads: list[bytes], metadata: dict[str, str], sizes: list[int]) -> None:
    first = frame(CALL, b"first", encode_map(metadata) if metadata else b"")
    data = first + b"".join(frame(ITEM, payload) for payload in payloads) + frame(END)
    half, found, position, turn = reader(), [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        found += half.receive(data[position : position + size])
        position, turn = position + size, turn + 1
    half.end_of_stream()
    assert found[0] == CallFrame(3, "count", found[0].flags, b"first", metadata)
    assert [item.payload for item in found[1:]] == [*payloads, b""]
    assert [item.kind for item in found[1:]] == [0] * len(payloads) + [Flags.END]
    assert (half.request_id, half.slot) == (3, 0x10)


@given(st.lists(st.binary(max_size=100), max_size=4), st.data())
def test_a_half_that_is_cut_short_is_a_truncation(payloads: list[bytes], data: st.DataObject) -> None:
    whole = frame(CALL) + b"".join(frame(ITEM, payload) for payload in payloads) + frame(END)
    half = reader()
    half.receive(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ProtocolViolation) as caught:
        half.end_of_stream()
    assert caught.value.code == Code.TRUNCATED


@given(st.binary(max_size=200), st.sampled_from([REQUEST, RESPONSE]))
def test_garbage_is_frames_or_a_violation(data: bytes, kind: MessageType) -> None:
    try:
        reader(kind).receive(data)
    except ProtocolViolation:
        pass


def test_a_long_payload_follows_its_frame_at_once() -> None:
    data = frame(CALL, b"x" * 500, encode_map({"a": "b"}))
    assert data.endswith(b"x" * 500)
    (call,) = reader().receive(data)
    assert (call.payload, call.metadata, call.flags & Flags.BODY) == (b"x" * 500, {"a": "b"}, 0)


def test_trailers_travel_with_the_end_of_an_answer() -> None:
    (end,) = reader(RESPONSE).receive(frame(END, b"", encode_map({"rows": "3"}), RESPONSE))
    assert (end.kind, end.metadata) == (Flags.END, {"rows": "3"})


@pytest.mark.parametrize(
    ("kind", "data", "wanted"),
    [
        (REQUEST, frame(ITEM), "begins with something other"),
        (REQUEST, frame(END), "begins with something other"),
        (REQUEST, frame(CALL, id=0), "begins with something other"),
        (REQUEST, frame(CALL) + frame(CALL), "id 3 on the stream of call 3"),
        (REQUEST, frame(CALL) + frame(ITEM, id=5), "id 5 on the stream of call 3"),
        (REQUEST, frame(CALL) + frame(encode_method("", 0x20)), "another serializer"),
        (REQUEST, frame(CALL) + frame(encode_method("", Flags.CANCEL)), "flags 0x02"),
        (REQUEST, frame(CALL) + frame(END) + frame(ITEM), "behind its end"),
        (REQUEST, frame(CALL) + frame(END, b"value"), "no value"),
        (REQUEST, frame(CALL) + frame(ITEM, b"", encode_map({"a": "b"})), "metadata belongs"),
        (REQUEST, frame(CALL, kind=RESPONSE), "type 1"),
        (RESPONSE, frame(ITEM, kind=RESPONSE, id=5), "id 5"),
        (RESPONSE, frame(CALL, kind=RESPONSE), "id 3 on the stream of call 3"),
        (RESPONSE, frame(ITEM, b"", encode_map({"a": "b"}), RESPONSE), "metadata belongs"),
        (REQUEST, encode_frame(REQUEST, 3, encode_method("count", Flags.BODY), b"\x01\x01"), "more than the body"),
        (REQUEST, encode_frame(REQUEST, 3, encode_method("count", Flags.BODY), b""), "without the body's length"),
        (REQUEST, frame(CALL, b"x" * 1_001), "limit here is 1,000"),
    ],
)
def test_what_may_not_travel_on_a_call_is_named(kind: MessageType, data: bytes, wanted: str) -> None:
    with pytest.raises(ProtocolViolation, match=wanted):
        reader(kind).receive(data)


def test_a_body_is_judged_before_it_is_waited_for() -> None:
    head = frame(CALL, b"x" * 1_001)[:-1_001]
    with pytest.raises(ProtocolViolation) as caught:
        reader().receive(head)
    assert caught.value.code == Code.LIMIT_EXCEEDED
