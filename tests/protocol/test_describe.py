"""What a node says about itself: round trips, and bytes that are no such thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_protocol.describe import (
    MAX_NAMES,
    DescribeRequest,
    Description,
    Health,
    HealthStatus,
    MethodDescription,
    MethodKind,
    PluginDescription,
    decode_number,
)
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.postcard import MAX_U64, encode_varint

TEXTS = st.text(max_size=30)
NAMES = st.text("abcXYZ019_.$/-", min_size=1, max_size=128)
NUMBERS = st.integers(0, MAX_U64)
METHODS = st.builds(
    MethodDescription,
    kind=st.sampled_from(MethodKind),
    name=NAMES,
    signature=TEXTS,
    doc=TEXTS,
    parameters=TEXTS,
    items=TEXTS,
    result=TEXTS,
    streaming_request=st.booleans(),
    streaming_response=st.booleans(),
    concurrent=st.booleans(),
)
DESCRIPTIONS = st.builds(
    Description,
    node=TEXTS,
    version=TEXTS,
    runtime=TEXTS,
    serializers=st.lists(TEXTS, max_size=4).map(tuple),
    plugins=st.lists(st.builds(PluginDescription, TEXTS, TEXTS, TEXTS), max_size=4).map(tuple),
    methods=st.lists(METHODS, max_size=4, unique_by=lambda method: (method.kind, method.name)).map(tuple),
)
HEALTHS = st.builds(
    Health, status=st.sampled_from(HealthStatus), uptime_ms=NUMBERS, sessions=NUMBERS, open_requests=NUMBERS
)
REQUESTS = st.builds(DescribeRequest, st.lists(NAMES, max_size=MAX_NAMES).map(tuple), st.booleans())


@given(DESCRIPTIONS)
def test_a_description_survives_the_wire(description: Description) -> None:
    assert Description.decode(description.encode()) == description


@given(HEALTHS)
def test_health_survives_the_wire(health: Health) -> None:
    assert Health.decode(health.encode()) == health


@given(REQUESTS)
def test_the_question_survives_the_wire(request: DescribeRequest) -> None:
    assert DescribeRequest.decode(request.encode()) == request


def test_no_bytes_ask_for_everything() -> None:
    assert DescribeRequest.decode(b"") == DescribeRequest((), schemas=True)


@given(st.one_of(DESCRIPTIONS, HEALTHS, REQUESTS), st.data())
def test_a_part_of_it_is_a_violation_and_so_is_more(
    value: Description | Health | DescribeRequest, data: st.DataObject
) -> None:
    encoded = value.encode()
    cut = data.draw(st.integers(1 if isinstance(value, DescribeRequest) else 0, len(encoded) - 1))
    with pytest.raises(ProtocolViolation, match=r"cut short|not valid|above"):
        type(value).decode(encoded[:cut])
    with pytest.raises(ProtocolViolation, match="1 bytes after its end"):
        type(value).decode(encoded + b"\x00")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_violation(data: bytes) -> None:
    for kind in (Description, Health, DescribeRequest):
        try:
            kind.decode(data)
        except ProtocolViolation:
            pass


METHOD = MethodDescription(kind=MethodKind.RPC, name="a")
HEAD = Description().encode()[:-1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEAD + b"\x02" + METHOD.encode() * 2, "a method twice"),
        (HEAD + encode_varint(1 << 40), r"varint \d+ is above 0"),
        (HEAD + b"\x01" + b"\x03" + METHOD.encode()[1:], "varint 3 is above 2"),
        (HEAD + b"\x01" + METHOD.encode().replace(b"\x01a\x00", b"\x01a\x08"), "varint 8 is above 7"),
        (HEAD + b"\x01" + METHOD.encode().replace(b"a", b" "), "wanted 1 to 128 characters"),
        (b"\x01\xff" + HEAD, "utf-8"),
    ],
)
def test_nonsense_in_a_description(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation, match=message):
        Description.decode(data)


def test_nonsense_in_the_others() -> None:
    with pytest.raises(ProtocolViolation, match="above 1"):
        Health.decode(b"\x02\x00\x00\x00")
    with pytest.raises(ProtocolViolation, match="above 1"):
        DescribeRequest.decode(b"\x00\x02")
    with pytest.raises(ProtocolViolation, match=f"above {MAX_NAMES}"):
        DescribeRequest.decode(DescribeRequest(("a",) * (MAX_NAMES + 1)).encode())
    assert decode_number(b"\x05", "a number") == 5
    for data in (b"", b"\x80", b"\x05\x05"):
        with pytest.raises(ProtocolViolation, match="a number"):
            decode_number(data, "a number")
