"""The client's side of the talk as a value, against the real router in memory: no sockets, no tasks, no clock."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from echokernel import InvalidArgument, ProtocolError
from echokernel_agora import Limits, Router, TooLarge
from echokernel_agora.conversation import Conversation, Got, encoded, json_text
from echokernel_agora.redial import CAP, Pace, Redial


class Wire:
    """One connection between a conversation and a router; what is written to it is lost when it is cut."""

    holds = False

    def __init__(self, router: Router, conversation: Conversation) -> None:
        self.router, self.conversation = router, conversation
        self.incoming: list[bytes] = []
        self.peer = router.attach(self)
        self.again: list[bytes] | None = None
        router.receive(self.peer, conversation.hello())
        (got,) = self.take(1)
        assert got.type == "registered"
        self.again = conversation.registered(got)
        for frame in self.again or ():
            router.receive(self.peer, frame)

    def write(self, frame: bytes) -> bool:
        self.incoming.append(frame)
        return True

    def close(self, code: int, reason: str) -> None:
        self.incoming.append(b'{"type":"closed"}')

    def probe(self) -> None: ...

    def taken(self) -> None: ...

    def take(self, most: int | None = None) -> list[Got]:
        """Read what came, at most so many frames."""
        texts = self.incoming[:most]
        del self.incoming[:most]
        return [got for text in texts if (got := self.conversation.receive(text)) is not None]

    def send(self, to: str, payload: Any) -> None:
        frame = encoded({"type": "send", "to": to, "payload": payload})
        for written in self.conversation.relay(to, frame):
            self.router.receive(self.peer, written)

    def ack(self) -> None:
        if (frame := self.conversation.ack()) is not None:
            self.router.receive(self.peer, frame)

    def cut(self) -> None:
        self.router.detach(self.peer, resumable=True)


def agent(id: str, **options: Any) -> Conversation:
    return Conversation({"id": id, "name": id}, **options)


def payloads(found: list[Got]) -> list[Any]:
    return [json.loads(bytes(got.payload)) for got in found if got.type == "message"]


def test_a_client_without_features_is_one_of_the_seed() -> None:
    conversation = agent("a", features=())
    assert json.loads(conversation.hello()) == {"type": "register", "id": "a", "name": "a"}
    Wire(Router(), conversation)
    assert not conversation.extended
    assert conversation.features == frozenset()
    assert conversation.blocked("b") == ""
    frame = encoded({"type": "send", "to": "b", "payload": None, "id": None})
    assert conversation.relay("b", frame) == [frame] == [b'{"type":"send","to":"b","payload":null}']
    assert not conversation.resumable


def test_credit_is_spent_and_comes_back_when_the_receiver_has_read() -> None:
    router = Router(Limits(credit_window=1000))
    a, b = Wire(router, agent("a")), Wire(router, agent("b"))
    sent = 0
    while not a.conversation.blocked("b"):
        a.send("b", "x" * 100)
        sent += 1
    assert sent == 8, "139 bytes each: the eighth begins within the window"
    assert a.conversation.blocked("b") == "b reads more slowly than it is sent to"
    assert a.conversation.blocked("c") == "", "others have credit of their own"
    assert [got.type for got in a.take()] == [], "and no error came"
    assert len(payloads(b.take())) == sent
    b.ack()
    a.take()
    assert a.conversation.blocked("b") == ""


def test_acknowledgements_come_in_batches() -> None:
    router = Router()
    a, b = Wire(router, agent("a")), Wire(router, agent("b"))
    for n in range(63):
        a.send("b", n)
    b.take()
    assert not b.conversation.ack_due
    a.send("b", 63)
    b.take()
    assert b.conversation.ack_due
    assert json.loads(b.conversation.ack() or b"") == {"type": "ack", "seq": 64}
    assert b.conversation.ack() is None
    a.send("b", "x" * 20_000)
    b.take()
    assert b.conversation.ack_due, "many bytes count as many frames: somebody waits for credit"


def test_what_the_router_may_not_have_is_kept_until_it_says_so() -> None:
    a = Wire(Router(Limits(frame_burst=1e6, credit_window=10**9)), agent("a"))
    for n in range(63):
        a.send("a", n)
    assert [got.id for got in a.take() if got.type == "pong"] == []
    a.send("a", 63)
    assert [got.id for got in a.take() if got.type == "pong"] == ["sent-64"]
    assert not a.conversation._kept
    for _ in range(600):
        a.conversation.relay("a", b"{}")
    assert a.conversation.blocked("a") == "the router has not taken what was sent before"


@pytest.mark.parametrize("seed", range(30))
def test_lost_connections_lose_and_double_nothing(seed: int) -> None:
    chance = random.Random(seed)
    router = Router(Limits(takeovers=10**6, frame_burst=1e6, byte_rate=1e9, self_per_minute=0))
    conversations = {id: agent(id) for id in ("a", "b")}
    wires = {id: Wire(router, conversation) for id, conversation in conversations.items()}
    sent: dict[str, list[int]] = {"a": [], "b": []}
    got: dict[str, list[int]] = {"a": [], "b": []}
    for number in range(300):
        id, other = chance.choice([("a", "b"), ("b", "a")])
        wire = wires[id]
        match chance.randrange(10):
            case 0:  # what is on its way to it is lost with the connection
                wire.cut()
                wires[id] = Wire(router, conversations[id])
                assert wires[id].again is not None
                got[id] += payloads(wires[id].take(chance.randrange(5)))
            case 1:  # so is what it has sent last
                if not conversations[id].blocked(other):
                    frame = encoded({"type": "send", "to": other, "payload": number})
                    conversations[id].relay(other, frame)
                    sent[id].append(number)
                    wire.cut()
                    wires[id] = Wire(router, conversations[id])
            case 2:
                wire.ack()
            case 3 | 4 | 5:
                got[id] += payloads(wire.take(chance.randrange(10)))
            case _:
                if not conversations[id].blocked(other):
                    wire.send(other, number)
                    sent[id].append(number)
    for id, wire in wires.items():
        got[id] += payloads(wire.take())
        wire.ack()
    assert got == {"a": sent["b"], "b": sent["a"]}


def test_a_frame_that_comes_twice_is_taken_once() -> None:
    conversation = agent("a")
    Wire(Router(), conversation)
    text = b'{"type":"message","from":"b","payload":1,"seq":1}'
    assert conversation.receive(text) is not None
    assert conversation.receive(text) is None


def test_what_is_sent_again_is_paid_from_the_new_credit() -> None:
    router = Router(Limits(credit_window=1000))
    a, b = Wire(router, agent("a")), Wire(router, agent("b"))
    while not a.conversation.blocked("b"):
        a.conversation.relay("b", encoded({"type": "send", "to": "b", "payload": "x" * 100}))
    a.cut()
    again = Wire(router, a.conversation)
    assert again.again is not None
    assert len(again.again) == 8
    assert a.conversation.blocked("b"), "the router counts them, too"
    assert len(payloads(b.take())) == 8
    assert [got.code for got in again.take() if got.type == "error"] == []


def test_a_router_that_forgot_is_noticed() -> None:
    conversation = agent("a")
    first = Wire(Router(), conversation)
    first.send("a", 1)
    assert conversation.resumable
    second = Wire(Router(), conversation)
    assert second.again is None
    assert not conversation._kept, "whoever waits for it is told, and it is not sent twice"
    second.send("a", 2)
    assert payloads(second.take()) == [2]


def test_a_frame_that_would_cost_the_connection_is_refused_here() -> None:
    with pytest.raises(TooLarge, match="1,048,577 bytes; at most 1,048,576 may travel in one"):
        agent("a").relay("b", b"x" * (1024 * 1024 + 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", {1: {2}}, object()], ids=repr)
def test_what_has_no_json_is_the_callers_mistake(value: object) -> None:
    with pytest.raises(InvalidArgument, match="the payload has no JSON"):
        json_text(value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"type":5}', b'{"type":"message","from":[]}', b"\xff"], ids=repr)
def test_a_router_that_talks_nonsense_is_an_error_and_no_crash(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="the router sent what is no frame"):
        agent("a").receive(text)


def test_odd_texts_keep_their_bytes() -> None:
    conversation = agent("a")
    got = conversation.receive(rb'{"type":"message","from":"b","payload":{"n":1e400,"s":"\ud83d"}}')
    assert got is not None
    assert bytes(got.payload) == rb'{"n":1e400,"s":"\ud83d"}'
    got = conversation.receive(rb'{"type":"reply_chunk","to":"a","from":"b","stream_id":"s","chunk":"\ud83d"}')
    assert got is not None
    assert json.loads(bytes(got.chunk)) == "\ud83d"
    assert bytes(json_text("\ud83d")) == rb'"\ud83d"'


# --- when to come back, and how fast to send ------------------------------------------------------------------------


@pytest.mark.parametrize("down", [0.2, 1.0, 3.0, 20.0])
def test_500_clients_come_back_within_5_s_and_not_all_at_once(down: float) -> None:
    back = []
    for seed in range(500):
        redial, now = Redial(random.Random(seed)), 0.0
        while now < down or not back or now == 0.0:
            now += redial.pause()
            if now >= down:
                break
        back.append(now - down)
    back.sort()
    assert back[int(0.95 * 500)] <= 5.0
    assert back[-1] <= CAP
    assert max(Counter(int(each * 10) for each in back).values()) <= 100, "a fifth within 100 ms"


def test_a_connection_that_lasted_begins_from_the_start() -> None:
    redial = Redial(random.Random(1))
    for _ in range(20):
        redial.pause()
    redial.connected(1.0)
    assert max(redial.pause() for _ in range(200)) > 3
    redial.connected(60.0)
    assert redial.pause() <= 0.8


def test_the_pace_lets_a_burst_through_and_then_900_frames_a_second() -> None:
    pace, now, sent = Pace(now=0.0), 0.0, 0
    while now < 3.0:
        pause = pace.pause(now=now)
        if pause:
            now += pause
        else:
            pace.sent(100)
            sent += 1
    assert 1500 + 2690 <= sent <= 1500 + 2710
    pace.hold(2.0)
    assert pace.pause(now=now) == pytest.approx(2.0, abs=0.01)
