"""What a dialer remembers of an answer, and when it may go by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.early import assumption, fits, recall, remember
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import encode_method
from echokernel_protocol.hello import Hello, answer_hello

OURS = Hello(serializers=("postcard", "msgpack"), credentials=b"canary")
ANSWER = Hello(node="n", boot="b", serializers=("msgpack",))


def test_an_answer_is_recalled_for_the_same_offer_and_holds_no_credentials() -> None:
    data = remember(OURS, ANSWER)
    assert recall(data, OURS) == ANSWER
    assert recall(data, replace(OURS, credentials=b"other", node="other")) == ANSWER
    assert b"canary" not in data


@pytest.mark.parametrize(
    "change", [{"serializers": ("postcard",)}, {"features": ("x",)}, {"require": ("x",)}, {"minor": 1}]
)
def test_another_offer_may_get_another_answer(change: Any) -> None:
    assert recall(remember(OURS, ANSWER), replace(OURS, **change)) is None


@given(st.binary(max_size=200))
def test_a_memory_of_something_else_is_no_memory(data: bytes) -> None:
    assert recall(data, OURS) is None
    assert recall(None, OURS) is None


@pytest.mark.parametrize(
    ("change", "fitting"),
    [
        ({}, True),
        ({"boot": "another", "node": "another"}, True),
        ({"max_frame": 131_072, "max_message": 8_000_000, "max_requests": 2_000}, True),
        ({"serializers": ("postcard",)}, False),
        ({"serializers": ("msgpack", "postcard")}, False),
        ({"features": ("x",)}, False),
        ({"minor": 1}, False),
        ({"timeout": 5}, False),
        ({"max_frame": 65_535}, False),
        ({"max_message": 4_000_000}, False),
        ({"max_requests": 1_023}, False),
        ({"max_request_bytes": 16_777_215}, False),
        ({"event_limit": 8_388_607}, False),
    ],
)
def test_what_was_sent_has_to_mean_the_same_and_be_within_the_limits(change: Any, fitting: bool) -> None:
    assert fits(assumption(ANSWER), replace(ANSWER, **change)) is fitting


@given(st.text(max_size=60))
def test_an_assumption_of_any_text_is_a_violation_or_does_not_fit(text: str) -> None:
    try:
        assert not fits(text, ANSWER)
    except ProtocolViolation:
        pass


def test_the_channel_holds_what_is_behind_a_hello_that_assumes() -> None:
    answer = answer_hello(OURS, ANSWER)
    dialer = Channel(Role.DIALER, replace(OURS, assumed=assumption(answer)))
    acceptor = Channel(Role.ACCEPTOR, ANSWER)
    dialer.send_hello()
    dialer.assume(answer)
    assert dialer.phase is Phase.ASSUMED
    dialer.call(encode_method("m", 0x10), b"x")
    data = dialer.data_to_send(9999)
    assert acceptor.receive(data) == []
    assert acceptor.phase is Phase.DECIDING
    acceptor.accept(answer)
    assert [frame[2] for frame in acceptor.receive(b"")] == ["m"]
    assert dialer.receive(acceptor.data_to_send(0)) == []
    assert dialer.phase is Phase.OPEN


def test_an_acceptor_that_does_not_keep_to_the_assumption_is_a_violation() -> None:
    dialer = Channel(Role.DIALER, replace(OURS, assumed=assumption(ANSWER)))
    acceptor = Channel(Role.ACCEPTOR, ANSWER)
    dialer.send_hello()
    dialer.assume(ANSWER)
    acceptor.receive(dialer.data_to_send(0))
    acceptor.accept(replace(ANSWER, serializers=("postcard",)))
    with pytest.raises(ProtocolViolation, match="took the dialer's word for"):
        dialer.receive(acceptor.data_to_send(0))
