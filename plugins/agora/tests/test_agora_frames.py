"""Bad frames: each has an error that names the field, what was seen and what was wanted, and costs nobody else anything."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from agora_world import World
from hypothesis import given
from hypothesis import strategies as st

from echokernel_agora.frames import BadFrame, decode

GOOD: dict[str, dict[str, Any]] = {
    "register": {"id": "a", "name": "A"},
    "send_chunk": {"to": "b", "stream_id": "s", "chunk": "x"},
    "send_end": {"to": "b", "stream_id": "s"},
    "reply_chunk": {"to": "b", "stream_id": "s", "chunk": "x"},
    "reply_end": {"to": "b", "stream_id": "s"},
    "send": {"to": "b"},
    "reply": {"to": "b"},
    "ack": {"seq": 1},
    "stop": {"from": "b", "stream_id": "s"},
}
WRONG: list[Any] = [7, True, ["b"], {"b": 1}, ""]
TEXTS = {
    "empty": (b"", "it ends too early"),
    "whitespace": (b" \n ", "it ends too early"),
    "null": (b"null", "not an object"),
    "number": (b"1", "not an object"),
    "string": (b'"send"', "not an object"),
    "array": (b"[]", "not an object"),
    "thousand arrays": (b"[" * 1000 + b"]" * 1000, ""),
    "deep payload": (
        b'{"type":"send","to":"b","payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "nested too deeply",
    ),
    "byte order mark": (b'\xef\xbb\xbf{"type":"list"}', "not JSON"),
    "NaN": (b'{"type":"send","to":"b","payload":NaN}', "not JSON"),
    "Infinity": (b'{"type":"send","to":"b","payload":-Infinity}', "not JSON"),
    "trailing": (b'{"type":"list"}{}', "not JSON"),
    "duplicate type": (b'{"type":"send","type":"list","to":"b"}', "`type`"),
    "type a number": (b'{"type":1}', "`type` is of the type int; wanted one of: register, list, send"),
    "type unknown": (b'{"type":"publish"}', "`type` is 'publish'; wanted one of: register"),
    "type in capitals": (b'{"type":"Send","to":"b"}', "`type` is 'Send'"),
    "no type": (b'{"to":"b"}', "`type` is missing"),
    "to an array": (b'{"type":"send","to":["b"]}', "`to` is of the type array; wanted: str"),
    "to too long": (b'{"type":"send","to":"%b"}' % (b"b" * 129), "`to` has 129 characters"),
    "stream a string": (
        b'{"type":"send","to":"b","stream":"true"}',
        "`stream` is of the type str; wanted: bool or null",
    ),
    "chunk a number": (b'{"type":"send_chunk","to":"b","stream_id":"s","chunk":1}', "`chunk` is not a string"),
    "chunk null": (b'{"type":"send_chunk","to":"b","stream_id":"s","chunk":null}', "`chunk` is not a string"),
    "id with spaces": (
        b'{"type":"register","id":"a b","name":"A"}',
        "`id` is 'a b'; wanted: 1 to 128 characters of A-Z",
    ),
    "id too long": (b'{"type":"register","id":"%b","name":"A"}' % (b"a" * 129), "`id` is 'aaaa"),
    "name empty": (b'{"type":"register","id":"a","name":""}', "`name` is ''"),
    "name too long": (b'{"type":"register","id":"a","name":"%b"}' % (b"x" * 257), "(257 characters)"),
    "name with a control character": (b'{"type":"register","id":"a","name":"A\\u0007"}', r"`name` is 'A\x07'"),
    "name right to left": ('{"type":"register","id":"a","name":"A\u202eB"}'.encode(), r"\u202e"),
    "name with an escape": (b'{"type":"register","id":"a","name":"\\u001b[2J"}', "`name`"),
    "endpoint no URL": (b'{"type":"register","id":"a","name":"A","endpoint":"not a url"}', "`endpoint` is 'not a url'"),
    "endpoint empty": (b'{"type":"register","id":"a","name":"A","endpoint":""}', "`endpoint` is ''"),
    "card no object": (b'{"type":"register","id":"a","name":"A","card":[1]}', "`card` is not an object"),
    "features no list": (b'{"type":"register","id":"a","name":"A","features":"all"}', "`features`"),
    "stream id empty": (b'{"type":"send","to":"b","stream_id":""}', "`stream_id` is ''"),
    "stream id with a control character": (b'{"type":"send_end","to":"b","stream_id":"\\u0000"}', "`stream_id`"),
    "half an escape": (b'{"type":"send","to":"b","payload":"\\ud8"}', "not JSON"),
    "bad escape": (b'{"type":"send","to":"b","payload":"\\x"}', "not JSON"),
    "cut surrogate": (b'{"type":"send","to":"\\ud800"}', "not JSON"),
    "hops negative": (b'{"type":"send","to":"b","hops":-1}', "`hops` is negative"),
}


@pytest.mark.parametrize(("text", "said"), TEXTS.values(), ids=TEXTS)
def test_a_bad_frame_is_told_and_costs_nobody_else_anything(world: World, text: bytes, said: str) -> None:
    agent, healthy, other = world.connect(), world.agent("x"), world.agent("y")
    agent.say_text(text)
    error = agent.one()
    assert (error["type"], error["code"]) == ("error", "bad_request")
    assert said in error["message"]
    assert agent.closed is None
    healthy.say("send", to="y", payload=1)
    assert other.one()["payload"] == 1
    assert world.router.counters.bad == 1


@pytest.mark.parametrize("kind", GOOD)
def test_each_required_field_missing_null_and_ill_typed(kind: str) -> None:
    good = {"type": kind, **GOOD[kind]}
    decode(json.dumps(good).encode())
    for field in GOOD[kind]:
        without = {key: value for key, value in good.items() if key != field}
        for bad in (without, *({**good, field: wrong} for wrong in (None, *WRONG)), {**good, field: "\x07"}):
            value = bad.get(field)
            if field in ("chunk", "from") and isinstance(value, str):
                continue  # any text will do; an id that nobody has is no bad frame
            if field == "seq" and value in (7, True) and value is not True:
                continue
            if field == "to" and value == "\x07":
                continue
            with pytest.raises(BadFrame, match=f"`{field}`"):
                decode(json.dumps(bad).encode())


@pytest.mark.parametrize("field", ["stream_id", "stream", "id", "request_id", "hops"])
def test_null_is_absent(world: World, field: str) -> None:
    agent, other = world.agent("a"), world.agent("b")
    agent.say("send", to="b", **{field: None})
    assert other.one() == {"type": "message", "from": "a"}


@given(st.binary(max_size=60))
def test_garbage(data: bytes) -> None:
    text = data.decode("utf-8", "replace").encode()
    world = World()
    agent = world.connect().say_text(text)
    assert agent.one()["type"] in ("error", "agents", "pong")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_any_payload_is_passed_on_as_it_is(value: Any, ascii_only: bool) -> None:
    world = World()
    agent, other = world.agent("a"), world.agent("b")
    try:
        payload = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:  # half a surrogate pair cannot be written but as an escape
        payload = json.dumps(value).encode()
    agent.say_text(b'{"type":"send","payload":' + payload + b',"to":"b"}')
    assert other.texts[-1] == b'{"type":"message","from":"a","payload":' + payload + b"}"


def test_a_hundred_thousand_mutated_frames() -> None:
    """Half of them are JSON with wrong values, half of them have wrong bytes; none raises, and a healthy pair loses nothing."""
    mutate = random.Random(5)
    world = World(bad_frames=10**9, frame_burst=1e9, byte_rate=1e12, control_bytes=10**9)
    healthy, other, wild = world.agent("x"), world.agent("y"), world.agent("w")
    seeds = [json.dumps({"type": kind, **fields}).encode() for kind, fields in GOOD.items() if kind != "register"]
    parts = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"\\u",
        b"\\ud800",
        b"null",
        b"1e999",
        b",",
        b":",
        b"\x00",
        "💬".encode(),
        b'"to"',
        b'"x"',
    ]
    for number in range(100_000):
        frame = bytearray(mutate.choice(seeds))
        for _ in range(mutate.randint(1, 4)):
            at = mutate.randrange(len(frame) + 1)
            choice = mutate.random()
            if choice < 0.4:
                frame[at : at + mutate.randint(0, 3)] = mutate.choice(parts)
            elif choice < 0.7:
                del frame[at : at + mutate.randint(1, 8)]
            else:
                frame[at : at + 1] = bytes([mutate.randrange(32, 127)])
        wild.say_text(bytes(frame).decode("utf-8", "replace"))
        if number % 100 == 0:
            healthy.say("send", to="y", payload=number)
            wild.got.clear()
            wild.texts.clear()
    assert [each["payload"] for each in other.take()] == list(range(0, 100_000, 100))
    assert world.router.counters.bad > 50_000
    world.check()
