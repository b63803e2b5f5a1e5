"""The channel: calls, order, credit and link, as two values that are handed each other's bytes."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from echokernel_protocol.channel import (
    ACK_DELAY,
    ALL_POSITIONS,
    FRAME_CHARGE,
    MAX_PONGS,
    MAX_POSITIONS,
    Announced,
    Channel,
    Phase,
    Role,
)
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import Flags, MessageType, encode_frame, encode_method
from echokernel_protocol.hello import Hello, answer_hello
from echokernel_protocol.link import Ack, GoAway

ADD = encode_method("math.add", 0x10)
LOG = encode_method("log", 0x10)
PLENTY = 1 << 30
REQUEST, RESPONSE, EVENT, STREAM = range(4)


def pair(ours: Hello | None = None, theirs: Hello | None = None) -> tuple[Channel, Channel]:
    """Return dialer and acceptor, open."""
    dialer = Channel(Role.DIALER, ours or Hello(serializers=("msgpack",)))
    acceptor = Channel(Role.ACCEPTOR, theirs or Hello(serializers=("msgpack",)))
    dialer.send_hello()
    assert acceptor.receive(dialer.data_to_send(0)) == []
    assert acceptor.peer is not None
    acceptor.accept(answer_hello(acceptor.peer, acceptor.ours))
    assert dialer.receive(acceptor.data_to_send(0)) == []
    assert dialer.phase is acceptor.phase is Phase.OPEN
    return dialer, acceptor


def raw(
    channel: Channel, message_type: int, request_id: int, method: str, flags: int = 0, payload: bytes = b""
) -> None:
    """Hand a channel one frame, right or wrong."""
    channel.receive(encode_frame(message_type, request_id, encode_method(method, flags), payload))


# --- hello ----------------------------------------------------------------------------------------------------------


def test_nothing_comes_before_the_hello() -> None:
    for frame in [(REQUEST, 1, "math.add"), (EVENT, 0, "log"), (RESPONSE, 0, "$hello"), (REQUEST, 0, "$ping")]:
        with pytest.raises(ProtocolViolation, match="before the hello was answered"):
            raw(Channel(Role.ACCEPTOR, Hello()), *frame)


def test_the_dialer_waits_for_the_answer() -> None:
    acceptor = Channel(Role.ACCEPTOR, Hello())
    dialer = Channel(Role.DIALER, Hello())
    dialer.send_hello()
    hello = dialer.data_to_send(0)
    with pytest.raises(ProtocolViolation, match="before the hello was answered"):
        acceptor.receive(hello + encode_frame(EVENT, 0, LOG, b""))


def test_a_hello_is_at_most_16_kib() -> None:
    with pytest.raises(ProtocolViolation, match="the limit here is 16,384"):
        Channel(Role.ACCEPTOR, Hello()).receive((20_000).to_bytes(4, "big"))
    with pytest.raises(ValueError, match="the limit is 16,320"):
        Channel(Role.DIALER, Hello(credentials=bytes(16_400))).send_hello()


def test_a_refusal_says_why() -> None:
    dialer, acceptor = Channel(Role.DIALER, Hello(credentials=b"x")), Channel(Role.ACCEPTOR, Hello())
    dialer.send_hello()
    acceptor.receive(dialer.data_to_send(0))
    assert acceptor.peer is not None
    assert acceptor.peer.credentials == b"x"
    acceptor.refuse(ErrorInfo(Code.UNAUTHENTICATED, "who are you?"))
    dialer.receive(acceptor.data_to_send(0))
    assert dialer.phase is acceptor.phase is Phase.REFUSED
    assert dialer.refusal == ErrorInfo(Code.UNAUTHENTICATED, "who are you?")


def test_a_second_hello_and_serializers_that_were_not_offered_are_violations() -> None:
    dialer, acceptor = pair()
    with pytest.raises(ProtocolViolation, match="a second hello"):
        raw(acceptor, REQUEST, 0, "$hello", Flags.METADATA, Hello().encode())
    dialer = Channel(Role.DIALER, Hello(serializers=("msgpack",)))
    with pytest.raises(ProtocolViolation, match="were not offered: cbor"):
        raw(dialer, RESPONSE, 0, "$hello", Flags.METADATA, Hello(serializers=("cbor",)).encode())


# --- calls ----------------------------------------------------------------------------------------------------------


def test_a_call_goes_there_and_back() -> None:
    dialer, acceptor = pair()
    request_id = dialer.call(ADD, b"ab")
    assert acceptor.receive(dialer.data_to_send(PLENTY)) == [(REQUEST, 1, "math.add", 0x10, b"ab")]
    acceptor.respond(request_id, 0x10, b"c")
    assert dialer.receive(acceptor.data_to_send(PLENTY)) == [(RESPONSE, 1, "", 0x10, b"c")]
    assert dialer.open_calls == acceptor.open_peer_calls == 0


def test_ids_are_odd_from_the_dialer_and_even_from_the_acceptor() -> None:
    dialer, acceptor = pair()
    assert [dialer.call(ADD, b""), dialer.open_flow(LOG, b""), dialer.call(ADD, b"")] == [1, 3, 5]
    assert [acceptor.call(ADD, b""), acceptor.open_flow(LOG, b"")] == [2, 4]


def test_an_id_is_closed_by_its_response_alone() -> None:
    dialer, acceptor = pair()
    request_id = dialer.call(ADD, b"")
    dialer.cancel(request_id)
    dialer.cancel(request_id)
    frames = acceptor.receive(dialer.data_to_send(PLENTY))
    assert [(frame[0], frame[1], frame[3]) for frame in frames] == [(REQUEST, 1, 0x10), (REQUEST, 1, Flags.CANCEL)]
    assert dialer.open_calls == 1
    acceptor.respond(request_id, Flags.ERROR, ErrorInfo(Code.CANCELLED, "").encode())
    assert len(dialer.receive(acceptor.data_to_send(PLENTY))) == 1
    assert dialer.open_calls == 0
    with pytest.raises(KeyError):
        acceptor.respond(request_id, 0, b"again")


def test_late_frames_of_closed_ids_are_dropped_and_counted() -> None:
    dialer, acceptor = pair()
    request_id = dialer.call(ADD, b"")
    acceptor.receive(dialer.data_to_send(PLENTY))
    acceptor.respond(request_id, 0, b"")
    answer = acceptor.data_to_send(PLENTY)
    dialer.receive(answer)
    assert dialer.receive(answer) == []
    raw(acceptor, REQUEST, request_id, "", Flags.CANCEL)
    assert (dialer.late, acceptor.late) == (1, 1)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((RESPONSE, 2, ""), "a response to id 2, for which no request is open"),
        ((RESPONSE, 1, ""), "a response to id 1"),
        ((RESPONSE, 0, ""), "a response to id 0"),
        ((REQUEST, 2, "m"), "odd from the dialer"),
        ((REQUEST, 0, "m"), "id 0 after 0"),
        ((REQUEST, 1, ""), "the first frame of id 1 names no method"),
        ((REQUEST, 7, "", Flags.CANCEL), "id 7 was never opened"),
        ((REQUEST, 1, "", Flags.END), "belongs on a call stream"),
        ((EVENT, 5, "log"), "an event with a request id"),
        ((EVENT, 0, ""), "without a name"),
        ((STREAM, 2, "", Flags.CANCEL), "not one of ours to stop"),
        ((STREAM, 1, "", Flags.CANCEL), "comes from its receiver"),
        ((STREAM, 1, "", Flags.END), "id 1 was never opened"),
        ((REQUEST, 1, "m", Flags.BODY, b"\x05x"), "more than the body's length"),
        ((REQUEST, 1, "m", Flags.BODY, b""), "without the body's length"),
        (
            (REQUEST, 1, "m", Flags.BODY, b"\x80\x80\x80\x80\x10"),
            "a message of 4,294,967,296 bytes; the limit here is 4,194,304",
        ),
        ((EVENT, 0, "$ack", 0, b"\x09\x00\x00\x00"), "takes back credit, or acknowledges what was never sent"),
        ((EVENT, 0, "$ack", 0, b"\x09"), "an .ack is not valid"),
        ((RESPONSE, 0, "$ping", 0, b""), "answered with something else"),
        ((EVENT, 0, "$goaway", Flags.METADATA, b"\x01\x04last\x01x"), "a .goaway is not valid"),
    ],
)
def test_a_peer_that_breaks_a_rule_is_told_which(frame: tuple[int, int, str], message: str) -> None:
    with pytest.raises(ProtocolViolation, match=message):
        raw(pair()[1], *frame)


def test_a_request_id_is_never_used_again() -> None:
    dialer, acceptor = pair()
    dialer.call(ADD, b"")
    data = dialer.data_to_send(PLENTY)
    acceptor.receive(data)
    with pytest.raises(ProtocolViolation, match="id 1 after 1: ids rise, are never used again"):
        acceptor.receive(data)


def test_open_requests_are_bounded_at_both_ends() -> None:
    dialer, acceptor = pair(theirs=Hello(serializers=("msgpack",), max_requests=2))
    dialer.call(ADD, b"")
    assert dialer.may_call(0)
    dialer.call(ADD, b"")
    assert not dialer.may_call(0)
    dialer.call(ADD, b"")  # one too many, in spite of that
    with pytest.raises(ProtocolViolation, match="more than 2 open requests") as caught:
        acceptor.receive(dialer.data_to_send(PLENTY))
    assert caught.value.code == Code.LIMIT_EXCEEDED


def test_bytes_of_open_requests_are_bounded_and_come_back() -> None:
    dialer, acceptor = pair(
        theirs=Hello(serializers=("msgpack",), max_frame=16_384, max_message=16_384, max_request_bytes=16_384)
    )
    assert dialer.may_call(16_384)  # one alone always may
    request_id = dialer.call(ADD, bytes(16_000))
    assert not dialer.may_call(1_000)
    assert dialer.may_call(16_384 - 16_000 - 2 * FRAME_CHARGE)
    acceptor.receive(dialer.data_to_send(PLENTY))
    acceptor.respond(request_id, 0, b"")
    dialer.receive(acceptor.data_to_send(PLENTY))
    assert dialer.may_call(16_000)


def test_a_body_counts_with_its_frame() -> None:
    dialer, acceptor = pair()
    dialer.call(encode_method("load", Flags.BODY), b"\x80\x80\x80\x01", 2_097_152)
    ((_, _, _, _, announced),) = acceptor.receive(dialer.data_to_send(PLENTY))
    assert announced == Announced(number=1, length=2_097_152, metadata=b"", size=2_097_156)
    assert dialer._call_bytes == acceptor._peer_call_bytes == 2_097_156 + FRAME_CHARGE


# --- order ----------------------------------------------------------------------------------------------------------


def test_counted_frames_leave_in_order_and_link_frames_before_them() -> None:
    dialer, acceptor = pair()
    dialer.emit(LOG, b"1")
    dialer.call(ADD, b"2")
    dialer.emit(LOG, b"3")
    dialer.ping(5)
    data = dialer.data_to_send(PLENTY)
    assert data.index(b"$ping") < data.index(b"log")
    assert [frame[4] for frame in acceptor.receive(data)] == [b"1", b"2", b"3"]
    assert acceptor.received == dialer.sent == 3


def test_what_the_transport_has_no_room_for_waits() -> None:
    dialer, acceptor = pair()
    for _ in range(10):
        dialer.emit(LOG, bytes(1_000))
    assert len(acceptor.receive(dialer.data_to_send(2_500))) == 3
    assert dialer.outbox_size > 7_000
    dialer.ping(1)
    assert acceptor.receive(dialer.data_to_send(0)) == []  # a link frame needs no room
    assert acceptor.data_to_send(0) == b""  # its answer does
    acceptor_pong = acceptor.data_to_send(1)
    dialer.receive(acceptor_pong)
    assert dialer.take_pongs() == [1]
    assert len(acceptor.receive(dialer.data_to_send(PLENTY))) == 7
    assert dialer.outbox_size == 0


# --- credit ---------------------------------------------------------------------------------------------------------


def test_events_wait_for_credit_and_an_ack_brings_it() -> None:
    window = Hello(serializers=("msgpack",), max_frame=16_384, max_message=16_384, event_limit=16_384)
    dialer, acceptor = pair(theirs=window)
    size = 1_000
    sent = 0
    while dialer.may_emit(size):
        dialer.emit(LOG, bytes(size))
        sent += 1
    assert sent == 16_384 // (size + FRAME_CHARGE)
    frames = acceptor.receive(dialer.data_to_send(PLENTY))
    acceptor.take_events(size * 2, 2, now=10.0)
    assert not acceptor.has_data
    assert acceptor.next_time == 10.0 + ACK_DELAY
    acceptor.handle_time(10.0 + ACK_DELAY)
    assert acceptor.has_data
    dialer.receive(acceptor.data_to_send(PLENTY))
    dialer.emit(LOG, bytes(size))
    dialer.emit(LOG, bytes(size))
    assert not dialer.may_emit(size)
    acceptor.take_events(size * 8, 8, now=11.0)  # a quarter of the window: at once
    assert acceptor.has_data
    assert len(frames) == sent


def test_events_beyond_the_credit_close_the_connection() -> None:
    small = Hello(serializers=("msgpack",), max_frame=16_384, max_message=16_384, event_limit=16_384)
    dialer, acceptor = pair(theirs=small)
    for _ in range(300):
        dialer.emit(LOG, b"")
    with pytest.raises(ProtocolViolation, match="events beyond the 16,384 bytes") as caught:
        acceptor.receive(dialer.data_to_send(PLENTY))
    assert caught.value.code == Code.LIMIT_EXCEEDED


# --- link -----------------------------------------------------------------------------------------------------------


def test_a_peer_that_pings_and_never_reads_is_closed() -> None:
    acceptor = pair()[1]
    for _ in range(MAX_PONGS):
        raw(acceptor, REQUEST, 0, "$ping", 0, b"\x01")
    with pytest.raises(ProtocolViolation, match="pings faster than their answers are read"):
        raw(acceptor, REQUEST, 0, "$ping", 0, b"\x01")


def test_after_goaway_later_ids_are_never_run() -> None:
    dialer, acceptor = pair()
    dialer.call(ADD, b"")
    acceptor.receive(dialer.data_to_send(PLENTY))
    acceptor.go_away(GoAway(last=acceptor.last_peer_id, reason="update"))
    dialer.call(ADD, b"")
    assert acceptor.receive(dialer.data_to_send(PLENTY)) == []
    dialer.receive(acceptor.data_to_send(PLENTY))
    assert dialer.goaway == GoAway(last=1, reason="update")
    with pytest.raises(ProtocolViolation, match="takes back an earlier one"):
        raw(dialer, EVENT, 0, "$goaway", Flags.METADATA, GoAway(last=99).encode())


def test_an_ack_never_takes_credit_back() -> None:
    dialer, _ = pair()
    with pytest.raises(ProtocolViolation, match="takes back credit"):
        raw(dialer, EVENT, 0, "$ack", 0, Ack(0, 1).encode())


def test_a_channel_that_ends_within_a_frame_was_cut() -> None:
    _, acceptor = pair()
    acceptor.end_of_stream()
    acceptor.receive(b"\x00\x00\x00\x09abc")
    with pytest.raises(ProtocolViolation, match="the channel ended within a frame") as caught:
        acceptor.end_of_stream()
    assert caught.value.code == Code.TRUNCATED


def test_names_with_a_dollar_that_are_no_link_frames_are_ordinary() -> None:
    dialer, acceptor = pair()
    dialer.call(encode_method("$describe"), b"")
    assert acceptor.receive(dialer.data_to_send(PLENTY))[0][2] == "$describe"
    raw(acceptor, EVENT, 0, "$future")


# --- flows ----------------------------------------------------------------------------------------------------------


def test_a_flow_opens_and_ends_on_the_channel() -> None:
    dialer, acceptor = pair()
    flow = dialer.open_flow(encode_method("audio"), b"")
    dialer.end_flow(flow, 5)
    dialer.end_flow(flow, 5)
    frames = acceptor.receive(dialer.data_to_send(PLENTY))
    assert [(frame[0], frame[1], frame[2], frame[3], frame[4]) for frame in frames] == [
        (STREAM, 1, "audio", 0, b""),
        (STREAM, 1, "", Flags.END, b"\x05"),
    ]
    assert dialer.open_flows == 0


def test_either_end_may_end_a_flow_early_and_crossing_is_harmless() -> None:
    dialer, acceptor = pair()
    flow = dialer.open_flow(encode_method("audio"), b"")
    acceptor.receive(dialer.data_to_send(PLENTY))
    acceptor.stop_flow(flow)
    dialer.abort_flow(flow, ErrorInfo(13, "broken"))
    assert acceptor.receive(dialer.data_to_send(PLENTY)) == []
    assert dialer.receive(acceptor.data_to_send(PLENTY)) == []
    assert (dialer.late, acceptor.late) == (1, 1)


# --- two channels, any history --------------------------------------------------------------------------------------


class Conversation(RuleBasedStateMachine):
    """Two ends, frames in flight, against a plain model: what was put in comes out, once, in order, within the limits."""

    def __init__(self) -> None:
        super().__init__()
        limits = Hello(
            serializers=("msgpack",),
            max_frame=16_384,
            max_message=16_384,
            max_requests=3,
            max_request_bytes=20_000,
            event_limit=16_384,
        )
        self.ends = pair(limits, limits)
        self.wire: tuple[deque[bytes], deque[bytes]] = (deque(), deque())  # towards end 0, towards end 1
        self.put: tuple[list[bytes], list[bytes]] = ([], [])  # events by the end that sent them
        self.got: tuple[list[bytes], list[bytes]] = ([], [])
        self.taken = [0, 0]
        self.asked: tuple[set[int], set[int]] = (set(), set())
        self.open: tuple[list[int], list[int]] = ([], [])  # requests that an end has to answer
        self.answers = [0, 0]
        self.now = 0.0
        self.number = 0

    @rule(end=st.integers(0, 1), size=st.integers(0, 9_000))
    def call(self, end: int, size: int) -> None:
        if self.ends[end].may_call(size):
            self.asked[end].add(self.ends[end].call(ADD, bytes(size)))

    @rule(end=st.integers(0, 1), size=st.integers(4, 9_000))
    def emit(self, end: int, size: int) -> None:
        if self.ends[end].may_emit(size):
            self.number += 1
            payload = self.number.to_bytes(4, "big").ljust(size, b".")
            self.ends[end].emit(LOG, payload)
            self.put[end].append(payload)

    @precondition(lambda self: self.asked[0] or self.asked[1])
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        end = data.draw(st.sampled_from([end for end in (0, 1) if self.asked[end]]))
        self.ends[end].cancel(data.draw(st.sampled_from(sorted(self.asked[end]))))

    @rule(end=st.integers(0, 1), room=st.integers(0, 30_000))
    def send(self, end: int, room: int) -> None:
        data = self.ends[end].data_to_send(room)
        if data:
            self.wire[1 - end].append(data)

    @rule(end=st.integers(0, 1), cut=st.integers(1, 5_000))
    def deliver(self, end: int, cut: int) -> None:
        if not self.wire[end]:
            return
        data = self.wire[end].popleft()
        if len(data) > cut:
            self.wire[end].appendleft(data[cut:])
        for message_type, request_id, _, flags, payload in self.ends[end].receive(data[:cut]):
            if message_type == EVENT:
                assert isinstance(payload, bytes)
                self.got[end].append(payload)
            elif message_type == RESPONSE:
                self.asked[end].remove(request_id)
                self.answers[end] += 1
            elif not flags & Flags.CANCEL:
                self.open[end].append(request_id)

    @rule(end=st.integers(0, 1))
    def answer(self, end: int) -> None:
        if self.open[end]:
            self.ends[end].respond(self.open[end].pop(0), 0x10, b"done")

    @rule(end=st.integers(0, 1))
    def handle(self, end: int) -> None:
        waiting = self.got[end][self.taken[end] :]
        if waiting:
            self.ends[end].take_events(sum(map(len, waiting)), len(waiting), self.now)
            self.taken[end] = len(self.got[end])

    @rule(seconds=st.floats(0, 0.1))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for end in self.ends:
            end.handle_time(self.now)

    @invariant()
    def events_arrive_in_order(self) -> None:
        for end in (0, 1):
            assert self.got[end] == self.put[1 - end][: len(self.got[end])]

    @invariant()
    def limits_hold(self) -> None:
        for end in self.ends:
            assert end.open_calls <= 3
            assert end.open_peer_calls <= 3

    def teardown(self) -> None:
        """Let everything finish: nothing may be lost, and all credit comes back."""
        for _ in range(200):
            self.now += 1.0
            for end in (0, 1):
                self.handle(end)
                while self.open[end]:
                    self.answer(end)
                self.ends[end].handle_time(self.now)
                self.send(end, PLENTY)
                while self.wire[end]:
                    self.deliver(end, PLENTY)
        for end in (0, 1):
            assert self.got[end] == self.put[1 - end]
            assert not self.asked[end]
            assert self.ends[end].may_emit(16_384 - FRAME_CHARGE)
            assert self.ends[end].sent == self.ends[1 - end].received


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_message_types_are_what_the_wire_says() -> None:
    assert [kind.name for kind in MessageType] == ["REQUEST", "RESPONSE", "EVENT", "STREAM"]


def test_positions_of_flows_travel_in_acks() -> None:
    dialer, acceptor = pair()
    flow = dialer.open_flow(encode_method("audio", 0), b"")
    acceptor.receive(dialer.data_to_send(PLENTY))
    acceptor.take_flow(flow, 3, 10.0)
    assert (acceptor.has_data, acceptor.next_time) == (False, 10.0 + ACK_DELAY)
    acceptor.handle_time(10.0 + ACK_DELAY)
    assert acceptor.next_time is None
    assert dialer.receive(acceptor.data_to_send(PLENTY)) == []
    assert dialer.take_positions() == [(flow, 3)]
    assert dialer.positions == []
    for position in range(16):
        assert not acceptor.has_data
        acceptor.take_flow(flow, position, 11.0)
    assert acceptor.has_data
    dialer.receive(acceptor.data_to_send(PLENTY))
    assert dialer.take_positions() == [(flow, position) for position in range(16)]
    acceptor.take_flow(flow, ALL_POSITIONS, 12.0)
    assert acceptor.has_data
    dialer.receive(acceptor.data_to_send(PLENTY))
    assert dialer.take_positions() == [(flow, ALL_POSITIONS)]


def test_positions_wait_for_room_and_are_bounded() -> None:
    dialer, acceptor = pair()
    for position in range(MAX_POSITIONS + 5):
        acceptor.take_flow(1, position, 10.0)
        assert acceptor.data_to_send(0) == b""
        acceptor.handle_time(20.0)
        assert acceptor.next_time is None  # else its timer would fire again and again
    assert acceptor.has_data
    dialer.receive(acceptor.data_to_send(1))
    assert len(dialer.take_positions()) == MAX_POSITIONS
