"""What the router promises: registration, messages, streams, replies, features, and an outcome for each frame."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from agora_world import World

from echokernel_agora import Principal

Make = Callable[..., World]
TEAM = Principal("team-a", ids=("team-a/*",), reaches=("team-a/*",))


# -- registration ------------------------------------------------------------------------------------------------------


def test_register_and_list_as_the_documents_have_it(world: World) -> None:
    one = world.connect()
    one.say("register", id="agent-1", name="Code Assistant", endpoint="http://127.0.0.1:3000")
    assert one.one() == {"type": "registered", "id": "agent-1"}
    one.say("list")
    assert one.texts[-1] == (
        b'{"type":"agents","agents":[{"id":"agent-1","name":"Code Assistant","endpoint":"http://127.0.0.1:3000",'
        b'"registered_at":"2026-01-31T12:00:00.000Z"}]}'
    )


def test_an_update_keeps_the_time_of_the_registration_and_an_absent_endpoint_is_absent(world: World) -> None:
    agent = world.agent("a", endpoint="http://127.0.0.1:1")
    world.now += 5
    agent.say("register", id="a", name="Newer", endpoint=None)
    assert agent.one() == {"type": "registered", "id": "a"}
    agent.say("list", id="7")
    assert agent.one() == {
        "type": "agents",
        "id": "7",
        "agents": [{"id": "a", "name": "Newer", "registered_at": "2026-01-31T12:00:00.000Z"}],
    }


def test_who_leaves_is_not_listed_and_list_needs_no_registration(world: World) -> None:
    world.agent("a").leave()
    world.agent("b")
    other = world.connect()
    other.say("list")
    assert [record["id"] for record in other.one()["agents"]] == ["b"]


def test_one_connection_is_one_agent(world: World) -> None:
    agent = world.agent("a").register("b")
    assert agent.one()["code"] == "already_registered"
    assert list(world.router.agents) == ["a"]


def test_an_id_of_another_live_connection_is_taken_over_by_nobody_without_a_proof(world: World) -> None:
    old = world.agent("a")
    other = world.connect().register("a")
    assert other.one()["code"] == "id_in_use"
    assert old.closed is None
    assert old.probed == 1, "a dead connection must be found, or its owner never comes back"


def test_the_same_principal_takes_its_id_over_and_streams_of_the_old_connection_end(world: World) -> None:
    principal = Principal("alice")
    old, peer = world.agent("a", principal), world.agent("b")
    old.say("send", to="b", stream=True, stream_id="s")
    peer.say("send", to="a", stream=True, stream_id="t")
    peer.take()
    new = world.connect(principal).register("a")
    assert old.closed is not None
    assert old.closed[0] == 4409
    assert new.one() == {"type": "registered", "id": "a"}
    gone, ended = peer.take()
    assert (gone["code"], gone["stream_id"]) == ("receiver_gone", "t")
    assert (ended["type"], ended["stream_id"], ended["error"]["code"]) == ("message_end", "s", "sender_gone")
    old.leave()
    assert world.router.agents["a"].peer is new.peer, "the old connection's end is not the new one's"
    assert world.connect(Principal("bob")).register("a").one()["code"] == "id_in_use"


def test_a_war_for_an_id_ends(world: World) -> None:
    principal = Principal("alice")
    fighters = [world.connect(principal).register("a") for _ in range(5)]
    assert [fighter.closed is not None and fighter.closed[0] for fighter in fighters] == [4409, 4409, 4409, False, 4409]
    assert fighters[-1].take()[0]["code"] == "id_in_use"
    assert fighters[-1].closed is not None
    assert "changed its connection 3 times" in fighters[-1].closed[1]
    world.pass_time(11)
    assert world.connect(principal).register("a").one()["type"] == "registered"


def test_a_token_limits_ids_and_what_is_seen(world: World) -> None:
    assert world.connect(TEAM).register("other").one()["code"] == "forbidden"
    member, stranger = world.agent("team-a/1", TEAM), world.agent("other")
    member.say("list")
    assert [record["id"] for record in member.one()["agents"]] == ["team-a/1"]
    member.say("send", to="other", payload=1)
    hidden = member.one()
    member.say("send", to="nobody", payload=1)
    absent = member.one()
    assert {**hidden, "to": ""} == {**absent, "to": ""}, "what is forbidden looks like what does not exist"
    assert not stranger.take()


def test_pages_capabilities_and_cards(world: World) -> None:
    for number in range(5):
        world.agent(f"a{number}", capabilities=["mail"] if number % 2 else [], card={"skills": [number]})
    asking = world.connect()
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for wanted in (2, 2, 1):
        asking.say("list", limit=2, **cursor)
        answer = asking.one()
        assert len(answer["agents"]) == wanted
        seen += [record["id"] for record in answer["agents"]]
        cursor = {"cursor": answer["cursor"]} if "cursor" in answer else {}
    assert seen == ["a0", "a1", "a2", "a3", "a4"]
    assert not cursor
    asking.say("list", capability="mail", card=True)
    assert [(record["id"], record["card"]) for record in asking.one()["agents"]] == [
        ("a1", {"skills": [1]}),
        ("a3", {"skills": [3]}),
    ]
    asking.say("list", cursor="x")
    assert asking.one()["code"] == "bad_request"


def test_presence_for_those_that_asked_for_it(world: World) -> None:
    watcher, plain = world.agent("w", features=["presence", "later"]), world.agent("p")
    watcher.say("watch")
    plain.say("watch")
    assert plain.one()["code"] == "bad_request"
    other = world.agent("a", features=["resume"])
    other.register("a", name="New name")
    other.leave(resumable=True)
    world.pass_time(31)
    assert [(each["event"], each["agent"]["id"], each["agent"].get("state")) for each in watcher.take()] == [
        ("online", "a", None),
        ("changed", "a", None),
        ("offline", "a", "offline"),
        ("gone", "a", "offline"),
    ]
    assert not plain.take()
    watcher.say("unwatch")
    world.agent("c")
    assert not watcher.take()


# -- messages ----------------------------------------------------------------------------------------------------------


def test_a_message_has_its_sender_stamped_and_other_fields_dropped(world: World) -> None:
    one, two = world.agent("agent-1"), world.agent("agent-2")
    one.say_text('{"type":"send","from":"forged","to":"agent-2","payload":{"action":"query"},"extra":1,"id":"m1"}')
    assert two.texts[-1] == b'{"type":"message","from":"agent-1","id":"m1","payload":{"action":"query"}}'
    assert not one.take(), "silence is for those that arrive"


@pytest.mark.parametrize(
    "payload",
    [
        "9223372036854775808",
        "1e400",
        "-0.0",
        '{"b":1,"a":2,"b":3}',
        r'"\u0000 \ud800 \uD83D\uDE00 \/"',
        '"grüß 💬"',
        "[" * 100 + "]" * 100,
        "null",
        "false",
        ' { "spaced" : [ 1 , 2 ] } ',
        '""',
    ],
)
def test_a_payload_arrives_as_the_bytes_that_it_was(world: World, payload: str) -> None:
    one, two = world.agent("a"), world.agent("b")
    one.say_text(f'{{"type":"send","to":"b","payload":{payload}}}')
    assert two.texts[-1] == f'{{"type":"message","from":"a","payload":{payload.strip()}}}'.encode()
    two.say_text(f'{{"payload" :{payload}, "to":"a" ,"type": "reply"}}')
    assert one.texts[-1] == f'{{"type":"reply","to":"a","from":"b","payload":{payload.strip()}}}'.encode()


def test_a_message_without_payload_with_stream_id_and_with_stream_false(world: World) -> None:
    one, two = world.agent("a"), world.agent("b")
    one.say("send", to="b")
    one.say("send", to="b", stream_id="only a name")
    one.say("send", to="b", stream=False, stream_id="x", payload=None)
    assert two.take() == [
        {"type": "message", "from": "a"},
        {"type": "message", "from": "a", "stream_id": "only a name"},
        {"type": "message", "from": "a", "stream_id": "x", "stream": False, "payload": None},
    ]
    assert not world.router.snapshot()["streams"]


def test_an_unknown_receiver_is_an_error_that_names_the_request(world: World) -> None:
    agent = world.agent("a")
    agent.say("send", to="b", payload={"request_id": "r1", "x": [1]})
    error = agent.one()
    assert (error["type"], error["code"], error["to"], error["request_id"]) == ("error", "no_such_agent", "b", "r1")
    agent.say("send", to="b", request_id=12345678901234567890, id="m", payload=[1])
    error = agent.one()
    assert (error["request_id"], error["id"]) == (12345678901234567890, "m")


def test_who_is_not_registered_may_not_send_and_stays_connected(world: World) -> None:
    guest = world.connect().say("send", to="a", payload=1)
    assert guest.one()["code"] == "not_registered"
    assert guest.closed is None


def test_an_agent_may_send_to_itself_and_loops_are_ended(make_world: Make) -> None:
    world = make_world(self_per_minute=3, pair_per_minute=4)
    agent, other = world.agent("a"), world.agent("b")
    for _ in range(4):
        agent.say("send", to="a", payload=1)
    assert [each.get("code", each["type"]) for each in agent.take()] == ["message", "message", "message", "loop"]
    for _ in range(5):
        agent.say("send", to="b", payload=1)
        other.say("reply", to="a", payload=1)
    assert [each.get("code", each["type"]) for each in agent.take()] == ["reply"] * 4 + ["loop"]
    assert [each.get("code", each["type"]) for each in other.take()] == ["message"] * 4 + ["loop"]
    world.now += 60
    agent.say("send", to="a", payload=1)
    assert agent.one()["type"] == "message"
    agent.say("send", to="b", hops=8)
    assert agent.one()["code"] == "loop"
    agent.say("send", to="b", hops=7)
    assert other.one()["hops"] == 8


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_stream_and_a_streamed_reply(world: World) -> None:
    one, two = world.agent("agent-1"), world.agent("agent-2")
    one.say("send", to="agent-2", stream_id="stream-1", stream=True, payload={"action": "query"})
    one.say("send_chunk", to="agent-2", stream_id="stream-1", chunk="This is")
    one.say("send_chunk", to="agent-2", stream_id="stream-1", chunk=" a segment")
    one.say("send_end", to="agent-2", stream_id="stream-1")
    assert [text.decode() for text in two.texts[1:]] == [
        '{"type":"message","from":"agent-1","stream_id":"stream-1","stream":true,"payload":{"action": "query"}}',
        '{"type":"message_chunk","from":"agent-1","stream_id":"stream-1","chunk":"This is"}',
        '{"type":"message_chunk","from":"agent-1","stream_id":"stream-1","chunk":" a segment"}',
        '{"type":"message_end","from":"agent-1","stream_id":"stream-1"}',
    ]
    two.say("reply", to="agent-1", stream_id="stream-1", payload={"request_id": "r1"})
    two.say("reply_chunk", to="agent-1", stream_id="stream-1", chunk="so")
    two.say("reply_end", to="agent-1", stream_id="stream-1")
    assert [text.decode() for text in one.texts[1:]] == [
        '{"type":"reply","to":"agent-1","from":"agent-2","stream_id":"stream-1","payload":{"request_id": "r1"}}',
        '{"type":"reply_chunk","to":"agent-1","from":"agent-2","stream_id":"stream-1","chunk":"so"}',
        '{"type":"reply_end","to":"agent-1","from":"agent-2","stream_id":"stream-1"}',
    ]
    assert not world.router.snapshot()["streams"]


def test_the_same_stream_id_of_two_senders_and_of_both_directions_is_not_the_same_stream(world: World) -> None:
    a, b, c = world.agent("a"), world.agent("b"), world.agent("c")
    a.say("send", to="c", stream=True, stream_id="s")
    b.say("send", to="c", stream=True, stream_id="s")
    a.say("reply", to="c", stream=True, stream_id="s")
    assert len(world.router.snapshot()["streams"]) == 3
    a.say("send", to="c", stream=True, stream_id="s")
    assert a.one()["code"] == "stream_exists"
    a.say("send_end", to="c", stream_id="s").say("send", to="c", stream=True, stream_id="s")
    assert not a.take(), "an id is free after its end"
    assert [each["from"] for each in c.take()] == ["a", "b", "a", "a", "a"]


def test_a_stream_needs_an_id_and_a_reply_with_stream_false_is_one_message(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True)
    assert agent.one()["code"] == "bad_request"
    agent.say("reply", to="b", stream_id="s", stream=False)
    assert other.one() == {"type": "reply", "to": "b", "from": "a", "stream_id": "s", "stream": False}
    assert not world.router.snapshot()["streams"]


def test_chunks_and_ends_without_a_stream_are_told_once(world: World) -> None:
    agent = world.agent("a")
    world.agent("b")
    for _ in range(3):
        agent.say("send_chunk", to="b", stream_id="s", chunk="x")
    assert agent.one()["code"] == "no_such_stream"
    agent.say("send", to="b", stream=True, stream_id="s").say("send_end", to="b", stream_id="s")
    agent.say("send_end", to="b", stream_id="s").say("send_end", to="b", stream_id="s")
    assert [each["code"] for each in agent.take()] == ["no_such_stream"], "after its end it is told again, once"


def test_a_stream_that_cannot_begin_is_one_error_whatever_follows(world: World) -> None:
    agent = world.agent("a")
    agent.say("send", to="b", stream=True, stream_id="s")
    for _ in range(3):
        agent.say("send_chunk", to="b", stream_id="s", chunk="x")
    agent.say("send_end", to="b", stream_id="s")
    assert agent.one()["code"] == "no_such_agent"
    assert world.router.counters.errored == 5


def test_the_receiver_leaves_in_the_middle_of_a_stream(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    other.leave()
    for _ in range(3):
        agent.say("send_chunk", to="b", stream_id="s", chunk="x")
    agent.say("send_end", to="b", stream_id="s")
    error = agent.one()
    assert (error["code"], error["to"], error["stream_id"]) == ("receiver_gone", "b", "s")
    world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    assert not agent.take()


def test_the_sender_leaves_in_the_middle_of_a_stream(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s").say("reply", to="b", stream_id="t")
    other.take()
    agent.leave()
    ends = sorted(other.take(), key=lambda each: str(each["type"]))
    assert [(each["type"], each["stream_id"], each["error"]["code"]) for each in ends] == [
        ("message_end", "s", "sender_gone"),
        ("reply_end", "t", "sender_gone"),
    ]


def test_a_stream_can_be_broken_off_by_its_sender_and_stopped_by_its_receiver(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    agent.say("send_end", to="b", stream_id="s", error={"code": "cancelled", "message": "enough"})
    assert other.take()[-1]["error"] == {"code": "cancelled", "message": "enough"}
    agent.say("send", to="b", stream=True, stream_id="s")
    other.say("stop", from_="a", stream_id="s")
    error = agent.one()
    assert (error["code"], error["stream_id"]) == ("stream_stopped", "s")
    agent.say("send_chunk", to="b", stream_id="s", chunk="x").say("send_end", to="b", stream_id="s")
    assert not agent.take()
    assert other.take()[-1]["error"]["code"] == "stream_stopped", "every stream that began has an end"
    other.say("stop", from_="a", stream_id="s")
    assert other.one()["code"] == "no_such_stream"


def test_a_stream_on_which_nothing_comes_ends_on_both_sides(make_world: Make) -> None:
    world = make_world(stream_idle=5.0)
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    other.take()
    world.pass_time(7)
    assert agent.one()["code"] == "stream_idle"
    assert other.one()["error"]["code"] == "stream_idle"
    assert not world.router.snapshot()["streams"]


def test_streams_are_bounded(make_world: Make) -> None:
    world = make_world(streams=10, frame_burst=1e6)
    agent = world.agent("a")
    other = world.agent("b")
    for number in range(12):
        agent.say("send", to="b", stream=True, stream_id=f"s{number}")
    assert [each["code"] for each in agent.take()] == ["too_many_streams"] * 2
    assert len(other.take()) == 10


# -- slow and dying ----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_and_what_waits_arrives_in_order(make_world: Make) -> None:
    world = make_world(queue_frames=3)
    agent, other = world.agent("a"), world.agent("b")
    other.stop_reading()
    for number in range(5):
        agent.say("send", to="b", payload=number, id=str(number))
    assert [(each["code"], each["id"]) for each in agent.take()] == [("receiver_slow", "3"), ("receiver_slow", "4")]
    world.check()
    other.read_on()
    assert [each["payload"] for each in other.take()] == [0, 1, 2]


def test_a_stream_to_a_slow_receiver_is_broken_once_and_its_receiver_knows(make_world: Make) -> None:
    world = make_world(queue_frames=3)
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    other.stop_reading()
    for number in range(6):
        agent.say("send_chunk", to="b", stream_id="s", chunk=str(number))
    error = agent.one()
    assert (error["code"], error["stream_id"]) == ("receiver_slow", "s")
    agent.say("send_end", to="b", stream_id="s")
    assert not agent.take()
    other.read_on()
    assert [each.get("chunk", each.get("error", {}).get("code")) for each in other.take()] == [
        None,
        "0",
        "1",
        "2",
        "receiver_slow",
    ]


def test_the_end_of_a_stream_that_does_not_fit_breaks_it(make_world: Make) -> None:
    world = make_world(queue_frames=1)
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    other.stop_reading()
    agent.say("send_chunk", to="b", stream_id="s", chunk="x").say("send_end", to="b", stream_id="s")
    assert agent.one()["code"] == "receiver_slow"
    other.read_on()
    assert [each["type"] for each in other.take()] == ["message", "message_chunk", "message_end"]
    agent.say("send", to="b", stream=True, stream_id="s")
    assert not agent.take(), "the id is free again"


def test_bytes_are_bounded_too_and_one_long_frame_fits_an_empty_queue(make_world: Make) -> None:
    world = make_world(queue_bytes=1000)
    agent, other = world.agent("a"), world.agent("b")
    other.stop_reading()
    agent.say("send", to="b", payload="x" * 5000)
    assert not agent.take()
    agent.say("send", to="b", payload="x")
    assert agent.one()["code"] == "receiver_slow"


def test_one_sender_does_not_hold_up_what_others_send(world: World) -> None:
    flood, other, target = world.agent("flood"), world.agent("other"), world.agent("t")
    target.stop_reading()
    for number in range(20):
        flood.say("send", to="t", payload="x" * 30_000, id=str(number))
    other.say("send", to="t", payload="quick")
    target.read_on()
    payloads = [each["payload"][:5] for each in target.take()]
    assert payloads.index("quick") <= 3, "it waited for a turn of 64 KiB, not for everything"
    assert payloads.count("xxxxx") == 20


def test_errors_go_before_messages_that_wait(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b")
    agent.stop_reading()
    other.say("send", to="a", payload=1)
    agent.say("send", to="nobody").say("ping", id="p")
    agent.read_on()
    assert [each["type"] for each in agent.take()] == ["error", "pong", "message"]


def test_who_reads_nothing_is_closed_and_the_senders_are_told(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    other.stop_reading()
    agent.say("send", to="b", id="m1").say("send_chunk", to="b", stream_id="s", chunk="x")
    world.pass_time(9)
    assert other.closed is None
    world.pass_time(3)
    assert other.closed is not None
    assert other.closed[0] == 1013
    told = agent.take()
    assert [(each["code"], each.get("id"), each.get("stream_id")) for each in told] == [
        ("receiver_gone", "m1", None),
        ("receiver_gone", None, "s"),
    ]
    assert "b" not in world.router.agents


def test_who_does_not_even_read_errors_is_closed(make_world: Make) -> None:
    world = make_world(control_bytes=2000, frame_burst=1e6)
    agent = world.agent("a")
    agent.stop_reading()
    for _ in range(50):
        agent.say("send", to="nobody")
    assert agent.closed is not None
    assert agent.closed[0] == 1013


def test_rates(make_world: Make) -> None:
    world = make_world(frame_rate=10.0, frame_burst=5.0, rate_patience=3.0)
    agent, other = world.agent("a"), world.agent("b")
    for number in range(7):
        agent.say("send", to="b", payload=number)
    refused = agent.take()
    assert refused[0]["code"] == "rate_limited"
    assert 0 < refused[0]["retry_ms"] <= 200
    assert 4 <= len(other.take()) <= 5
    world.now += 1
    agent.say("send", to="b", payload="again")
    assert other.one()["payload"] == "again"
    while world.now < 1005:
        world.now += 0.02
        agent.say("send", to="b", payload=1)
    assert agent.closed is not None
    assert agent.closed[0] == 1008


def test_a_stream_that_loses_a_chunk_to_the_rate_is_broken(make_world: Make) -> None:
    world = make_world(frame_rate=1.0, frame_burst=4.0)
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    for _ in range(5):
        agent.say("send_chunk", to="b", stream_id="s", chunk="x")
    assert agent.one()["code"] == "rate_limited"
    assert other.take()[-1]["error"]["code"] == "rate_limited", "a gap must not look like a whole"


def test_ten_bad_frames_within_ten_seconds(world: World) -> None:
    agent = world.agent("a")
    for _ in range(9):
        agent.say_text("{")
    world.now += 11
    agent.say_text("{")
    assert agent.closed is None
    assert {each["code"] for each in agent.take()} == {"bad_request"}
    for _ in range(9):
        agent.say_text("{")
    assert agent.closed is not None
    assert agent.closed[0] == 1008


def test_a_connection_that_registers_nobody_is_closed(world: World) -> None:
    guest = world.connect()
    world.pass_time(29)
    assert guest.closed is None
    world.pass_time(3)
    assert guest.closed is not None
    assert guest.closed[0] == 4408


# -- features ----------------------------------------------------------------------------------------------------------


def test_features_are_granted_by_name_and_others_see_nothing_of_them(world: World) -> None:
    agent = world.connect().register("a", features=["receipt", "credit", "later"])
    assert agent.one() == {"type": "registered", "id": "a", "features": ["credit", "receipt"], "credit": 65536}


def test_receipts(world: World) -> None:
    agent, other = world.agent("a", features=["receipt"]), world.agent("b")
    agent.say("send", to="b", id="m1").say("send", to="b")
    assert agent.one() == {"type": "receipt", "id": "m1", "to": "b", "status": "delivered"}
    other.stop_reading()
    agent.say("send", to="b", id="m2")
    assert not agent.take()
    other.read_on()
    assert agent.one()["id"] == "m2"
    agent.say("send", to="c", id="m3")
    assert (error := agent.one())["type"] == "error"
    assert error["id"] == "m3"


def test_credit_pauses_a_sender_and_nothing_is_lost(make_world: Make) -> None:
    world = make_world(queue_frames=3, credit_window=4000)
    agent, other = world.agent("a", features=["credit"]), world.agent("b")
    other.stop_reading()
    left, sent = 4000, 0
    while left > 0:
        before = world.router.counters.bytes_in
        agent.say("send", to="b", payload="x" * 300)
        left -= world.router.counters.bytes_in - before
        sent += 1
    assert sent > 10, "more than the bound for those that cannot be paused"
    assert not agent.take()
    agent.say("send", to="b", payload="too much", id="z")
    assert [each["code"] for each in agent.take()] == ["credit_exceeded"]
    other.read_on()
    assert len(other.take()) == sent
    granted = sum(each["bytes"] for each in agent.take())
    assert granted >= 3000, "all but what is kept back to save frames"
    agent.say("send", to="b", payload="on")
    assert other.one()["payload"] == "on"


def test_credit_comes_back_for_what_never_arrives(make_world: Make) -> None:
    world = make_world(credit_window=400)
    agent = world.agent("a", features=["credit"])
    for _ in range(50):
        agent.say("send", to="nobody", payload="x" * 100)
    answers = agent.take()
    assert not [each for each in answers if each.get("code") == "credit_exceeded"]
    assert sum(each["bytes"] for each in answers if each["type"] == "credit") > 5000


def test_resume_replays_what_was_not_acknowledged(world: World) -> None:
    agent = world.agent("a")
    other = world.connect().register("b", features=["resume", "receipt"])
    hello = other.one()
    assert (hello["resumed"], hello["received"], hello["window"]) == (False, 0, 30.0)
    agent.say("send", to="b", stream=True, stream_id="s")
    for number in range(4):
        agent.say("send_chunk", to="b", stream_id="s", chunk=str(number))
    assert [each["seq"] for each in other.take()] == [1, 2, 3, 4, 5]
    other.say("reply", to="a", payload=1).say("ack", seq=2)
    assert world.router.waiting() == (3, 0)
    other.leave(resumable=True)
    agent.take()
    agent.say("send_chunk", to="b", stream_id="s", chunk="4").say("list")
    assert [each.get("state") for each in agent.one()["agents"]] == [None, "offline"]
    assert world.router.waiting() == (0, 4)
    world.check()
    back = world.connect().register("b", features=["resume"], resume=hello["resume"], seq=3)
    answer, *replayed = back.take()
    assert (answer["resumed"], answer["received"]) == (True, 1)
    assert [(each["seq"], each["chunk"]) for each in replayed] == [(4, "2"), (5, "3"), (6, "4")]
    back.say("ack", seq=6)
    assert world.router.waiting() == (0, 0)
    agent.say("send_end", to="b", stream_id="s")
    assert back.one()["type"] == "message_end"


def test_a_window_that_is_over_and_a_wrong_token_are_told(world: World) -> None:
    agent = world.agent("a", features=["receipt"])
    other = world.connect().register("b", features=["resume"])
    token = other.one()["resume"]
    other.leave(resumable=True)
    agent.say("send", to="b", id="m1")
    assert agent.one() == {"type": "receipt", "id": "m1", "to": "b", "status": "stored"}
    world.pass_time(32)
    error = agent.one()
    assert (error["code"], error["id"]) == ("receiver_gone", "m1")
    back = world.connect().register("b", features=["resume"], resume=token, seq=0)
    assert back.one()["resumed"] is False
    assert world.connect().register("b", resume="wrong").one()["code"] == "id_in_use"


def test_a_number_that_was_never_sent_is_no_resume(world: World) -> None:
    agent = world.agent("a")
    other = world.connect().register("b", features=["resume"])
    token = other.one()["resume"]
    agent.say("send", to="b", payload=1)
    other.leave(resumable=True)
    back = world.connect().register("b", features=["resume"], resume=token, seq=7)
    assert back.one()["resumed"] is False
    assert agent.one()["code"] == "receiver_gone"


def test_an_error_waits_for_one_that_will_come_back(world: World) -> None:
    agent = world.connect().register("a", features=["resume"])
    token = agent.one()["resume"]
    other = world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="s")
    agent.leave(resumable=True)
    other.leave()
    back = world.connect().register("a", features=["resume"], resume=token, seq=0)
    assert [each.get("code", each["type"]) for each in back.take()] == ["registered", "receiver_gone"]


# -- the seed's clients ------------------------------------------------------------------------------------------------

SEED = {"registered", "agents", "message", "message_chunk", "message_end", "reply", "reply_chunk", "reply_end"}


def test_who_asks_for_nothing_sees_the_seeds_frames_and_errors_only(world: World) -> None:
    plain, rich = world.agent("a"), world.agent("b", features=["receipt", "credit", "resume", "presence"])
    plain.say("send", to="b", payload=1, id="x").say("list").say("send", to="nobody")
    rich.say("send", to="a", stream=True, stream_id="s", id="y").say(
        "send_end", to="a", stream_id="s", error={"code": "x"}
    )
    rich.leave(resumable=True)
    plain.say("send", to="b", payload=1, id="z")
    world.pass_time(40)
    assert {json.loads(text)["type"] for text in plain.texts} <= SEED | {"error"}


def test_strict_seed_is_the_seeds_frames_and_fields(make_world: Make) -> None:
    world = make_world(strict_seed=True)
    agent = world.connect().register("a", features=["receipt"], capabilities=["x"])
    assert agent.one() == {"type": "registered", "id": "a"}
    other = world.agent("b")
    agent.say("list", id="1")
    assert set(agent.one()["agents"][0]) == {"id", "name", "registered_at"}
    agent.say("send", to="nobody").say("ping").say_text("{").say("watch")
    agent.say("reply", to="b", payload=1, id="x", stream=False)
    assert other.one() == {"type": "reply", "to": "b", "payload": 1}
    agent.say("send", to="b", stream=True, stream_id="s")
    agent.leave()
    assert other.take()[-1] == {"type": "message_end", "from": "a", "stream_id": "s"}
    assert {json.loads(text)["type"] for text in agent.texts} == {"registered", "agents"}


def test_events_name_who_came_and_went_and_no_payload(world: World) -> None:
    agent = world.agent("a")
    agent.say("send", to="nobody", payload="secret")
    agent.leave()
    assert [name for name, _ in world.events] == ["connected", "registered", "disconnected"]
    assert "secret" not in str(world.events)


def test_an_operator_disconnects_an_agent(world: World) -> None:
    agent = world.agent("a")
    assert world.router.disconnect("a")
    assert not world.router.disconnect("a")
    assert agent.closed is not None
    assert agent.closed[0] == 1008
    assert not world.router.snapshot()["agents"]
