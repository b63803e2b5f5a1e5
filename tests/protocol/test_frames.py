"""Frames, Maps, stamps and preludes: round trips, limits, and bytes that are none of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import (
    LEGAL,
    MAX_REQUEST_ID,
    Frame,
    FrameDecoder,
    Header,
    MessageType,
    decode_frame,
    encode_frame,
    encode_frame_on_stream,
    encode_method,
)
from echokernel_protocol.hello import Hello, HelloRefused, answer_hello
from echokernel_protocol.link import Ack, GoAway
from echokernel_protocol.maps import encode_map, take_map
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint
from echokernel_protocol.streams import Prelude, StreamKind, UnknownKind, take_prelude
from echokernel_protocol.timestamped import Timestamped, decode_timestamped, encode_timestamped

METHODS = st.text("abcXYZ019_.$/-", max_size=128)
FLAGS = st.sampled_from(sorted(LEGAL)).flatmap(
    lambda legal: st.tuples(st.just(legal[0]), st.integers(0, 3).map(lambda slot: int(legal[1]) | slot << 4))
)
METADATA = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
FRAMES = st.builds(
    lambda legal, request_id, method, payload, metadata: Frame(
        Header(MessageType(legal[0]), request_id, method, legal[1]), payload, metadata
    ),
    FLAGS,
    st.integers(0, MAX_REQUEST_ID),
    METHODS,
    st.binary(max_size=300),
    METADATA,
)


@given(FRAMES)
def test_a_frame_survives_the_wire(frame: Frame) -> None:
    assert Frame.decode(frame.encode()) == frame


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 50), min_size=1))
def test_the_decoder_does_not_care_how_the_bytes_are_cut(frames: list[Frame], sizes: list[int]) -> None:
    data = b"".join(map(encode_frame_on_stream, frames))
    decoder = FrameDecoder(2_000)
    found, position, turn = [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        found += decoder.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert [Frame.from_raw(raw) for raw in found] == frames
    assert decoder.is_empty


@given(FRAMES, st.data())
def test_a_cut_frame_is_a_violation_and_nothing_else(frame: Frame, data: st.DataObject) -> None:
    encoded = frame.encode()
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    with pytest.raises(ProtocolViolation):
        Frame.decode(cut)


@given(st.binary(max_size=200))
def test_garbage_is_a_frame_or_a_violation(data: bytes) -> None:
    try:
        frame = Frame.decode(data)
    except ProtocolViolation:
        return
    assert Frame.decode(frame.encode()) == frame


@given(st.binary(max_size=400))
def test_garbage_on_a_stream_never_crashes_the_decoder(data: bytes) -> None:
    decoder = FrameDecoder(1_000)
    try:
        decoder.feed(data)
    except ProtocolViolation as violation:
        assert violation.code in (Code.PROTOCOL_ERROR, Code.LIMIT_EXCEEDED)


def test_a_length_over_the_limit_is_refused_before_its_bytes_are_here() -> None:
    with pytest.raises(ProtocolViolation, match="a frame of 4,294,967,295 bytes; the limit here is 70,000") as caught:
        FrameDecoder(70_000).feed(b"\xff\xff\xff\xff")
    assert caught.value.code == Code.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x04\x00\x00\x00\x00", "message type 4 is unknown"),
        (b"\x00\x01\x01a\x80\x00", "flags 0x80 mean nothing"),
        (b"\x02\x00\x01a\x02\x00", "flags 0x02 mean nothing on a event frame"),
        (b"\x00\x01\x01 \x00\x00", "characters other than"),
        (b"\x00\x01\x01a\x00\x05abc", "does not end where the frame ends"),
        (b"\x00\x01\x01a\x00\x01abc", "does not end where the frame ends"),
        (b"\x00\xff\xff\xff\xff\xff\xff\xff\x7f\x01a\x00\x00", "is above"),
        (b"\x00\x01\x81\x01" + b"a" * 129 + b"\x00\x00", "129 bytes; the limit is 128"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation, match=message):
        decode_frame(data, 0, len(data), {})


def test_a_peer_that_invents_names_fills_no_memory() -> None:
    names: dict[bytes, str] = {}
    for number in range(3_000):
        data = encode_frame(0, 1, encode_method(f"m{number}"), b"")
        decode_frame(data, 4, len(data), names)
    assert len(names) == 1_024


def test_a_frame_never_shows_its_payload() -> None:
    assert "canary" not in repr(Frame(Header(MessageType.EVENT, 0, "log"), b"canary"))


@given(st.integers(0, 2**64 - 1))
def test_a_varint_survives_the_wire(value: int) -> None:
    assert take_varint(encode_varint(value), 0) == (value, len(encode_varint(value)))


def test_varints_are_bounded() -> None:
    with pytest.raises(Malformed):
        take_varint(b"\x80" * 10 + b"\x01", 0)
    with pytest.raises(Malformed):
        take_varint(b"\xff" * 9 + b"\x02", 0)
    with pytest.raises(Truncated):
        take_varint(b"\x80", 0)
    assert take_varint(b"\x80\x80\x00", 0) == (0, 3)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=60), max_size=20), st.binary(max_size=10))
def test_a_map_survives_the_wire(entries: dict[str, str], rest: bytes) -> None:
    data = encode_map(entries)
    assert take_map(data + rest) == (entries, len(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode_varint(65), "a Map of 65 entries; the limit is 64"),
        (b"\x02\x01a\x01b\x01a\x01c", "the key 'a' twice"),
        (b"\x01\x01a\x05b", "cut short"),
        (b"\x01\x01\xff\x00", "not UTF-8"),
        (b"\x40" + b"".join(b"\x02%02d\xc8\x01" % n + b"v" * 200 for n in range(64)), "more than 8,192 bytes"),
    ],
)
def test_what_is_wrong_with_a_map_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation, match=message):
        take_map(data)


def test_metadata_that_is_too_long_never_leaves() -> None:
    with pytest.raises(ValueError, match="the limit is 64"):
        encode_map({str(number): "" for number in range(65)})
    with pytest.raises(ValueError, match="the limit is 8,192"):
        encode_map({"a": "x" * 9_000})


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=100))
def test_a_stamp_survives_the_wire(wall_time: int, seq: int, data: bytes) -> None:
    assert decode_timestamped(encode_timestamped(wall_time, seq, data)) == Timestamped(wall_time, seq, data)


@given(st.binary(max_size=60))
def test_a_stamp_is_itself_or_a_violation(data: bytes) -> None:
    try:
        stamped = decode_timestamped(data)
    except ProtocolViolation:
        return
    assert decode_timestamped(encode_timestamped(stamped.wall_time, stamped.seq, stamped.data)) == stamped


@given(st.integers(0, 2**64 - 1), st.text(max_size=50), st.none() | st.binary(max_size=50))
def test_an_error_survives_the_wire(code: int, message: str, details: bytes | None) -> None:
    info = ErrorInfo(code, message, details)
    assert ErrorInfo.decode(info.encode()) == info


@given(st.binary(max_size=60))
def test_an_error_is_itself_or_a_violation(data: bytes) -> None:
    try:
        info = ErrorInfo.decode(data)
    except ProtocolViolation:
        return
    assert ErrorInfo.decode(info.encode()) == info


def test_a_long_error_message_is_cut_by_its_sender() -> None:
    assert ErrorInfo.decode(ErrorInfo(13, "x" * 10_000).encode()).message == "x" * 4_096


@pytest.mark.parametrize(
    "prelude", [Prelude(StreamKind.CHANNEL), Prelude(StreamKind.BODY, (300,)), Prelude(StreamKind.FLOW, (5, 70_000))]
)
def test_a_prelude_arrives_in_any_pieces(prelude: Prelude) -> None:
    data = prelude.encode()
    for end in range(len(data)):
        assert take_prelude(data[:end]) is None
    assert take_prelude(data + b"rest") == (prelude, b"rest")


def test_an_unknown_kind_is_told_from_a_broken_one() -> None:
    with pytest.raises(UnknownKind, match="stream kind 9 is unknown") as caught:
        take_prelude(b"\x09")
    assert caught.value.code == Code.UNKNOWN_KIND
    with pytest.raises(ProtocolViolation, match="prelude is not valid"):
        take_prelude(b"\x02" + b"\xff" * 11)


@given(
    st.builds(
        Hello,
        minor=st.integers(0, 9),
        node=st.text("abc é", max_size=30),
        features=st.lists(st.sampled_from("abcd"), unique=True).map(tuple),
        serializers=st.lists(st.sampled_from(["postcard", "msgpack", "cbor"]), unique=True).map(tuple),
        max_frame=st.integers(16_384, 65_536),
        timeout=st.integers(0, 10**9),
        credentials=st.binary(max_size=100),
    )
)
def test_a_hello_survives_the_wire(hello: Hello) -> None:
    assert Hello.decode(hello.encode()) == hello


@given(st.binary(max_size=200))
def test_a_hello_is_one_or_a_violation(data: bytes) -> None:
    try:
        Hello.decode(data)
    except ProtocolViolation:
        pass


def test_a_hello_ignores_what_it_does_not_know() -> None:
    assert Hello.decode(encode_map({"colour": "blue", "node": "n"})) == Hello(node="n")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"max_frame": "many"}, "max_frame is 'many', which is not a number"),
        ({"max_frame": "-1"}, "which is not a number"),
        ({"max_frame": "100"}, "max_frame is 100; wanted 16,384"),
        ({"max_message": "1000"}, "max_message is 1,000, less than max_frame"),
        ({"event_limit": "1000"}, "event_limit is 1,000, less than max_frame"),
        ({"max_requests": "0"}, "max_requests is 0"),
    ],
)
def test_what_is_wrong_with_a_hello_is_said(entries: dict[str, str], message: str) -> None:
    with pytest.raises(ProtocolViolation, match=message):
        Hello.decode(encode_map(entries))


def test_a_hello_keeps_its_credentials_to_itself() -> None:
    assert "canary" not in repr(Hello(credentials=b"canary"))


def test_the_answer_fixes_what_both_have() -> None:
    theirs = Hello(minor=3, features=("a", "b"), serializers=("msgpack", "cbor", "postcard"))
    ours = Hello(minor=1, features=("b", "c"), serializers=("postcard", "msgpack"), max_requests=5)
    answer = answer_hello(theirs, ours)
    assert (answer.minor, answer.features, answer.serializers, answer.max_requests) == (
        1,
        ("b",),
        ("postcard", "msgpack"),
        5,
    )


def test_two_nodes_without_a_common_serializer_say_so() -> None:
    with pytest.raises(
        HelloRefused, match="no serializer in common: we have postcard, msgpack; the peer has cbor"
    ) as caught:
        answer_hello(Hello(serializers=("cbor",)), Hello(serializers=("postcard", "msgpack")))
    assert caught.value.code == Code.INCOMPATIBLE


def test_an_unmet_requirement_is_refused_by_name() -> None:
    with pytest.raises(HelloRefused, match="the peer requires resume; the other end has no features"):
        answer_hello(Hello(require=("resume",)), Hello())
    with pytest.raises(HelloRefused, match="this node requires x; the other end has y"):
        answer_hello(Hello(features=("y",)), Hello(require=("x",)))


@given(
    st.integers(0, 2**60),
    st.integers(0, 2**60),
    st.lists(st.integers(0, 9)),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))),
)
def test_an_ack_survives_the_wire(
    received: int, limit: int, missing: list[int], positions: list[tuple[int, int]]
) -> None:
    ack = Ack(received, limit, tuple(missing), tuple(positions))
    assert Ack.decode(ack.encode()) == ack


@given(st.binary(max_size=60))
def test_acks_and_goaways_are_themselves_or_violations(data: bytes) -> None:
    for kind in (Ack, GoAway):
        try:
            kind.decode(data)
        except ProtocolViolation:
            pass


def test_a_goaway_survives_the_wire() -> None:
    goaway = GoAway(last=7, code=22, retry_after=1_500, reason="update")
    assert GoAway.decode(goaway.encode()) == goaway
