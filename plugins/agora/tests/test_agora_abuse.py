"""What clients do that mean nobody well, or mean well and err: it costs them, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from agora_world import World

Make = Callable[..., World]


def test_a_frame_that_has_to_be_read_slowly_is_a_short_one(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b")
    members = ",".join(f'"x{number}":1' for number in range(60))
    agent.say_text(r'{"type":"send","to":"b","payload":"\ud800",' + members + "}")
    assert other.one()["payload"] == "\ud800"
    agent.say_text(r'{"type":"send","to":"b","payload":"\ud800",' + members + "," + members + "}")
    assert agent.one()["code"] == "bad_request"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1/x?y#z", "mailto:a@example.org", "quic://[::1]:1"])
def test_endpoints(world: World, endpoint: str) -> None:
    assert world.connect().register("a", endpoint=endpoint).one()["type"] == "registered"
    assert world.connect().register("b", endpoint=endpoint + " ").one()["code"] == "bad_request"


def test_who_acknowledges_nothing_does_not_gather_errors_for_ever(make_world: Make) -> None:
    world = make_world(queue_frames=50)
    agent = world.agent("a", features=["resume"])
    for _ in range(60):
        agent.say("send", to="nobody")
    assert agent.closed is not None
    assert agent.closed[0] == 1013
    agent.leave()
    assert not world.router.agents


def test_who_acknowledges_nothing_is_found_stuck(world: World) -> None:
    agent, other = world.agent("a"), world.agent("b", features=["resume"])
    agent.say("send", to="b", payload=1)
    world.pass_time(8)
    other.say("ack", seq=1)
    agent.say("send", to="b", payload=2)
    world.pass_time(8)
    assert other.closed is None, "it made progress"
    world.pass_time(5)
    assert other.closed is not None
    assert other.closed[0] == 1013
    assert world.router.waiting() == (0, 1), "it may come back for it"


def test_refused_frames_cost_what_others_cost(make_world: Make) -> None:
    world = make_world(frame_rate=100.0, frame_burst=100.0, rate_patience=2.0)
    guest = world.connect()
    for _ in range(250):
        guest.say("send", to="a")
    codes = [each["code"] for each in guest.take()]
    assert codes.count("not_registered") == 100
    assert guest.closed is not None
    assert guest.closed[0] == 1008


def test_a_client_that_waits_as_long_as_it_is_told_is_not_closed(make_world: Make) -> None:
    world = make_world(frame_rate=100.0, frame_burst=10.0, rate_patience=2.0)
    agent, other = world.agent("a"), world.agent("b")
    refused = 0
    for _ in range(2000):
        agent.say("send", to="b")
        for answer in agent.take():
            refused += 1
            world.now += answer["retry_ms"] / 1000
    assert refused > 500
    assert agent.closed is None
    assert len(other.take()) == 2000 - refused


def test_acknowledging_is_not_sending(make_world: Make) -> None:
    world = make_world(frame_rate=100.0, frame_burst=100.0)
    senders = [world.agent(f"s{number}") for number in range(5)]
    receiver = world.agent("r", features=["resume"])
    for _ in range(90):
        for sender in senders:
            sender.say("send", to="r")
        for frame in receiver.take():
            receiver.say("ack", seq=frame["seq"])
    assert receiver.closed is None
    assert not [each for each in receiver.take() if each["type"] == "error"]
    for _ in range(150):
        receiver.say("ack", seq=0)
    assert receiver.take()[-1]["code"] == "rate_limited", "those that settle nothing are charged"


def test_frames_to_the_router_weigh_what_they_have(make_world: Make) -> None:
    world = make_world(byte_rate=1000.0)
    agent = world.agent("a")
    for _ in range(5):
        agent.say("ping", padding="x" * 900)
    assert [each.get("code", each["type"]) for each in agent.take()][-1] == "rate_limited"


def test_a_watcher_that_does_not_read_gets_the_last_of_each_agent(make_world: Make) -> None:
    world = make_world(control_bytes=500)
    watcher, busy = world.agent("w", features=["presence"]), world.agent("a")
    watcher.say("watch")
    watcher.stop_reading()
    for number in range(50):
        busy.register("a", name=f"Name {number}")
    world.agent("b").leave()
    assert watcher.closed is None
    watcher.read_on()
    assert [(each["event"], each["agent"]["name"]) for each in watcher.take()] == [
        ("changed", "Name 0"),
        ("changed", "Name 49"),
        ("gone", "B"),
    ]


def test_a_resume_that_would_leave_a_gap_begins_anew(world: World) -> None:
    agent, other = world.agent("a"), world.connect().register("b", features=["resume"])
    token = other.one()["resume"]
    other.say("send", to="a", stream=True, stream_id="mine")
    agent.say("send", to="b", stream=True, stream_id="theirs").say("send_chunk", to="b", stream_id="theirs", chunk="x")
    other.leave(resumable=True)
    agent.take()
    back = world.connect().register("b", features=["resume"], resume=token, seq=77)
    answer = back.one()
    assert (answer["resumed"], answer["received"]) == (False, 0)
    assert answer["resume"] != token
    told = {(each["type"], each["stream_id"], each.get("code")) for each in agent.take()}
    assert told == {("error", "theirs", "receiver_gone"), ("message_end", "mine", None)}
    back.say("send", to="a", stream=True, stream_id="mine").say("send_chunk", to="a", stream_id="mine", chunk="new")
    agent.say("send_chunk", to="b", stream_id="theirs", chunk="late")
    assert not back.take()
    assert [each["type"] for each in agent.take()] == ["message", "message_chunk"]


def test_a_token_without_the_feature_resumes_nothing(world: World) -> None:
    agent, other = world.agent("a"), world.connect().register("b", features=["resume"])
    token = other.one()["resume"]
    other.leave(resumable=True)
    agent.say("send", to="b", payload=1)
    back = world.connect().register("b", resume=token)
    assert back.one() == {"type": "registered", "id": "b"}
    assert agent.one()["code"] == "receiver_gone"


def test_streams_that_have_failed_are_not_open(make_world: Make) -> None:
    world = make_world(streams=3)
    agent, other = world.agent("a"), world.agent("b")
    for number in range(3):
        agent.say("send", to="b", stream=True, stream_id=str(number))
        other.say("stop", from_="a", stream_id=str(number))
    assert [each["code"] for each in agent.take()] == ["stream_stopped"] * 3
    agent.say("send", to="b", stream=True, stream_id="next")
    agent.say("send_chunk", to="b", stream_id="0", chunk="late")
    assert not agent.take(), "there is room, and what is late was told already"


def test_a_stream_that_failed_is_told_once_however_long_its_sender_goes_on(make_world: Make) -> None:
    world = make_world(stream_idle=5.0)
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", stream=True, stream_id="idle").say("send", to="b", stream=True, stream_id="stopped")
    other.say("stop", from_="a", stream_id="stopped")
    for _ in range(4):
        world.pass_time(3)
        agent.say("send_chunk", to="b", stream_id="stopped", chunk="x")
    world.pass_time(9)
    agent.say("send_chunk", to="b", stream_id="stopped", chunk="x").say(
        "send_chunk", to="b", stream_id="idle", chunk="x"
    )
    assert [(each["code"], each["stream_id"]) for each in agent.take()] == [
        ("stream_stopped", "stopped"),
        ("stream_idle", "idle"),
    ]


def test_one_that_floods_an_agent_leaves_room_for_others(make_world: Make) -> None:
    world = make_world(queue_frames=16)
    flood, other, target = world.agent("flood"), world.agent("other"), world.agent("t")
    target.stop_reading()
    for number in range(20):
        flood.say("send", to="t", payload=number)
    assert len(flood.take()) == 4
    for number in range(3):
        other.say("send", to="t", payload=number)
    assert len(other.take()) == 1, "two, an eighth of the queue"
    target.read_on()
    assert len(target.take()) == 18


def test_one_that_floods_with_long_frames_has_no_second_bound(make_world: Make) -> None:
    world = make_world(queue_bytes=100_000)
    flood, other, target = world.agent("flood"), world.agent("other"), world.agent("t")
    target.stop_reading()
    for _ in range(9):
        flood.say("send", to="t", payload="x" * 20_000)
    assert len(flood.take()) == 5
    for _ in range(30):
        flood.say("send", to="t", payload="x" * 1_000)  # until nothing fits any more
    assert flood.take()
    for _ in range(3):
        other.say("send", to="t", payload="x" * 5_000)
    assert other.one()["code"] == "receiver_slow", "two, an eighth of the bytes"


def test_frames_that_credit_paid_for_take_no_room_from_others(make_world: Make) -> None:
    world = make_world(queue_frames=4)
    rich, other, target = world.agent("rich", features=["credit"]), world.agent("other"), world.agent("t")
    target.stop_reading()
    for _ in range(20):
        rich.say("send", to="t")
    for _ in range(4):
        other.say("send", to="t")
    assert not rich.take()
    assert not other.take()


def test_ids_that_may_never_change_their_connection(make_world: Make) -> None:
    world = make_world(takeovers=0)
    world.agent("a")
    world.pass_time(30)


def test_strict_seed_knows_no_pages_and_no_replies_that_say_they_are_no_stream(make_world: Make) -> None:
    world = make_world(strict_seed=True, list_page=2)
    agents = [world.agent(f"a{number}") for number in range(5)]
    agents[0].say("list")
    assert len(agents[0].one()["agents"]) == 5
    agents[0].say("reply", to="a1", stream=False, stream_id="s", payload=1)
    assert json.loads(agents[1].texts[-1]) == {"type": "reply", "to": "a1", "payload": 1}


def test_whoever_wants_an_id_cannot_keep_its_owner_busy(world: World) -> None:
    owner, other = world.agent("a"), world.connect()
    for _ in range(50):
        other.say("register", id="a", name="x")
    assert owner.probed == 1
