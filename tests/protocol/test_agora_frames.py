"""The frames of Agora: what parses, what is written, and what is refused."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from echokernel_protocol import agora
from echokernel_protocol.agora import (
    AgentFrame,
    AgentRecord,
    ClientFrame,
    FrameError,
    Message,
    Registered,
    RouterAgents,
    RouterFrame,
    RouterMessage,
    RouterReplyEnd,
    Send,
    ServerFrame,
    field_text,
    parse_agent_frame,
    parse_client_frame,
    parse_router_frame,
    parse_server_frame,
    to_json,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "agora-frames.json").read_text("utf-8"))
PARSERS = {
    "client": parse_client_frame,
    "server": parse_server_frame,
    "agent": parse_agent_frame,
    "router": parse_router_frame,
}
UNIONS = {"client": ClientFrame, "server": ServerFrame, "agent": AgentFrame, "router": RouterFrame}
SEED = {
    "client": {
        "register": ("id", "name", "endpoint?"),
        "list": (),
        "send": ("to", "stream_id?", "stream?", "payload?"),
        "send_chunk": ("to", "stream_id", "chunk"),
        "send_end": ("to", "stream_id"),
        "reply": ("to", "stream_id?", "payload?"),
        "reply_chunk": ("to", "stream_id", "chunk"),
        "reply_end": ("to", "stream_id"),
    },
    "server": {
        "registered": ("id",),
        "agents": ("agents",),
        "message": ("from", "stream_id?", "stream?", "payload?"),
        "message_chunk": ("from", "stream_id", "chunk"),
        "message_end": ("from", "stream_id"),
        "reply": ("to", "stream_id?", "payload?"),
        "reply_chunk": ("to", "stream_id", "chunk"),
        "reply_end": ("to", "stream_id"),
    },
}
RECORD = {"id": "agent-1", "name": "Code Assistant", "registered_at": "2025-01-31T12:00:00Z"}
SAMPLES: dict[str, Any] = {
    "stream": True, "payload": {"ü": [1, None, "x"]}, "agents": [RECORD, {**RECORD, "card": {}}], "agent": RECORD, "seq": 7,
    "features": ["credit"], "capabilities": ["mail"], "card": {"skills": []}, "limit": 10, "hops": 1, "bytes": 65536,
    "error": {"code": "sender_gone", "message": "…"}, "credit": 65536, "window": 30.0, "resumed": False, "received": 3,
    "retry_ms": 100, "reply": True,
}  # fmt: skip
ONE_SIDED = {("list", "card"): True}


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def models(side: str) -> list[type[BaseModel]]:
    return list(get_args(get_args(UNIONS[side])[0]))


def fields(model: type[BaseModel]) -> dict[str, bool]:
    """Return the fields by their names in JSON, and whether they have to be there."""
    found = {field.serialization_alias or name: field.is_required() for name, field in model.model_fields.items()}
    return {name: required for name, required in found.items() if name != "type"}


# --- the seed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_the_unions_are_those_of_the_seed(side: str) -> None:
    found = {
        model.model_fields["type"].default: {
            name if required else f"{name}?" for name, required in fields(model).items()
        }
        for model in models(side)
    }
    assert found == {kind: set(names) for kind, names in SEED[side].items()}


@pytest.mark.parametrize(
    ("side", "frame"), [(side, frame) for side in ("client", "server") for frame in VECTORS[side]], ids=str
)
def test_the_examples_of_the_documents(side: str, frame: dict[str, Any]) -> None:
    parsed = PARSERS[side](compact(frame))
    assert to_json(parsed) == compact(frame)
    built = type(parsed).model_validate(frame)
    assert built == parsed
    assert to_json(built) == built.model_dump_json() == compact(frame), "the documents' order, without having read it"
    assert TypeAdapter(UNIONS[side]).validate_python(frame) == parsed


@pytest.mark.parametrize("side", UNIONS)
def test_every_frame_with_each_optional_field_there_and_not(side: str) -> None:
    for model in models(side):
        optional = [name for name, required in fields(model).items() if not required]
        for chosen in itertools.chain.from_iterable(itertools.combinations(optional, n) for n in (0, 1, 2, len(optional))):
            kind = model.model_fields["type"].default
            frame = {"type": kind}
            for name, required in fields(model).items():
                if required or name in chosen:
                    frame[name] = ONE_SIDED.get((kind, name), SAMPLES.get(name, "x-1"))
            if side in ("client", "server") and "agents" in frame:
                frame["agents"] = [RECORD, {**RECORD, "endpoint": "http://127.0.0.1:3000"}]
            text = compact(frame)
            parsed = PARSERS[side](text)
            assert to_json(parsed) == text
            built = model.model_validate(frame)
            assert built == parsed
            assert json.loads(to_json(built)) == json.loads(built.model_dump_json()) == frame


def test_null_is_not_absent_in_a_payload_and_is_elsewhere() -> None:
    assert to_json(Message(from_="a", payload=None)) == '{"type":"message","from":"a","payload":null}'
    assert to_json(Message(from_="a")) == '{"type":"message","from":"a"}'
    assert to_json(Message(from_="a", stream_id=None)) == '{"type":"message","from":"a"}'
    parsed = parse_server_frame('{"type":"message","from":"a","stream_id":null,"payload":null}')
    assert isinstance(parsed, Message)
    assert "payload" in parsed.model_fields_set
    assert to_json(parsed) == '{"type":"message","from":"a","stream_id":null,"payload":null}', "it was there"


def test_unknown_fields_are_dropped_and_extensions_kept_where_they_are_fields() -> None:
    text = '{"type":"message","from":"a","seq":3,"request_id":"r","later":[]}'
    assert to_json(parse_server_frame(text)) == '{"type":"message","from":"a"}'
    frame = parse_router_frame(text)
    assert isinstance(frame, RouterMessage) and isinstance(frame, Message)
    assert (frame.seq, frame.request_id) == (3, "r")
    assert to_json(frame) == '{"type":"message","from":"a","seq":3,"request_id":"r"}'


def test_a_frame_of_the_router_says_who_replied_and_why_it_ended() -> None:
    frame = parse_router_frame('{"type":"reply_end","to":"a","from":"b","stream_id":"s","error":{"code":"sender_gone"}}')
    assert isinstance(frame, RouterReplyEnd)
    assert frame.from_ == "b" and frame.error is not None and frame.error.code == "sender_gone"


# --- fidelity -------------------------------------------------------------------------------------------------------

HARD = [
    "1e400", "-0.0", "1E5", "1.0", "123456789012345678901234567890", "9" * 5000, '"\\ud800"', '"\\u00e9é"', '{"a":1,"a":2}',
    '{"b":1,"a":2}', '"\\u0000"', "[" * 100 + "]" * 100, "null", "false", '""', "{}",
]  # fmt: skip


@pytest.mark.parametrize("payload", HARD, ids=lambda text: text[:20])
def test_payloads_come_out_as_they_went_in(payload: str) -> None:
    text = f'{{"type":"send","to":"agent-2","payload":{payload}}}'
    frame = parse_client_frame(text)
    assert field_text(frame, "payload") == payload
    assert to_json(frame) == text
    assert to_json(parse_client_frame(text.encode())) == text
    spaced = f' {{ "type" :\n"send","to":"agent-2" ,\t"payload": {payload} }}\r\n'
    assert to_json(parse_client_frame(spaced)) == text


def test_a_changed_value_is_written_anew() -> None:
    frame = parse_client_frame('{"type":"send","payload":{"n":1e2},"to":"agent-2"}')
    assert isinstance(frame, Send)
    assert to_json(frame) == '{"type":"send","payload":{"n":1e2},"to":"agent-2"}'
    frame.payload["n"] = 5
    assert to_json(frame) == '{"type":"send","payload":{"n":5},"to":"agent-2"}'
    other = frame.model_copy(update={"to": "agent-3"})
    assert to_json(other) == '{"type":"send","payload":{"n":5},"to":"agent-3"}'
    assert field_text(Send(to="a"), "to") is None


def test_half_a_surrogate_pair_is_a_chunk_like_any_other() -> None:
    text = '{"type":"message_chunk","from":"a","stream_id":"s","chunk":"\\ud83d"}'
    frame = parse_server_frame(text)
    assert to_json(frame) == text
    assert to_json(type(frame).model_validate(json.loads(text))) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(payload=json_values, ascii_only=st.booleans(), to=st.text(max_size=8))
def test_any_payload_round_trips(payload: Any, ascii_only: bool, to: str) -> None:
    frame = {"type": "reply", "to": to, "payload": payload}
    text = json.dumps(frame, ensure_ascii=ascii_only, separators=(",", ":"))
    parsed = parse_client_frame(text)
    assert to_json(parsed) == text
    built = agora.Reply(to=to, payload=payload)
    assert built == parsed
    assert parse_client_frame(to_json(built)) == parsed


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-01-31T12:00:00Z", datetime(2025, 1, 31, 12, tzinfo=UTC)),
        ("2025-01-31T12:00:00.120Z", datetime(2025, 1, 31, 12, 0, 0, 120_000, tzinfo=UTC)),
        ("2025-01-31T12:00:00.123456789Z", datetime(2025, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_times_are_written_as_they_were_read(text: str, moment: datetime) -> None:
    frame = f'{{"type":"agents","agents":[{{"id":"a","name":"A","registered_at":"{text}"}}]}}'
    parsed = parse_server_frame(frame)
    assert isinstance(parsed, agora.Agents)
    record = parsed.agents[0]
    assert record.registered_at == moment and record.registered_at.tzinfo is UTC
    assert to_json(parsed) == frame
    assert to_json(record) == frame[len('{"type":"agents","agents":[') : -2]


def test_times_of_programs_become_utc() -> None:
    east = timezone(timedelta(hours=2))
    record = AgentRecord(id="a", name="A", registered_at=datetime(2025, 1, 31, 14, 0, 0, 250_000, tzinfo=east))
    assert to_json(record) == '{"id":"a","name":"A","registered_at":"2025-01-31T12:00:00.250Z"}'
    with pytest.raises(ValidationError, match="RFC 3339"):
        AgentRecord(id="a", name="A", registered_at=datetime(2025, 1, 31))
    other = AgentRecord.model_validate({**RECORD, "registered_at": "2025-01-31T14:00:00+02:00"})
    assert json.loads(to_json(other))["registered_at"] == "2025-01-31T12:00:00Z"


def test_records_keep_their_extensions_on_the_routers_side() -> None:
    record = {**RECORD, "capabilities": ["mail"], "state": "offline", "unknown": 1}
    frame = parse_router_frame(compact({"type": "agents", "agents": [record], "cursor": "c"}))
    assert isinstance(frame, RouterAgents)
    assert frame.agents[0].capabilities == ["mail"]
    assert json.loads(to_json(frame))["agents"] == [{name: record[name] for name in record if name != "unknown"}]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "", "at character 0 is ''"),
        ("   ", "", "not {"),
        ("null", "", "at character 0 is 'n', not {"),
        ("[]", "", "wanted: one JSON object"),
        ('"register"', "", "one JSON object"),
        ("{", "", "at character 1"),
        ('{"type":"list"', "", "not , or }"),
        ('{"type":"list",}', "", "at character 15 is '}'"),
        ('{"type":"list"} x', "", "something follows"),
        ("{'type':'list'}", "", "at character 1"),
        ('{"type":"send","to":"a","payload":NaN}', "", "NaN is no number"),
        ('{"type":"send","to":"a","payload":-Infinity}', "", "-Infinity is no number"),
        ('{"type":"send","to":"a","payload":' + "[" * 200_000, "", "too deep"),
        (b'{"type":"list\xff"}', "", "UTF-8"),
        ("\ufeff{}", "", "at character 0"),
        ("{}", "type", "missing; wanted: one of register, list, send"),
        ('{"type":"Send","to":"a"}', "type", '"Send"; wanted: one of'),
        ('{"type":7}', "type", "7"),
        ('{"type":["send"]}', "type", '["send"]'),
        ('{"type":"message","from":"a"}', "type", '"message"'),
        ('{"type":"ping"}', "type", '"ping"'),
        ('{"type":"send"}', "send.to", "missing; wanted: a value"),
        ('{"type":"send","to":null}', "send.to", "null; wanted: a valid string"),
        ('{"type":"send","to":["a"]}', "send.to", '["a"]'),
        ('{"type":"send","to":"a","stream":"true"}', "send.stream", '"true"; wanted: a valid boolean'),
        ('{"type":"send","to":"a","stream":1}', "send.stream", "1; wanted: a valid boolean"),
        ('{"type":"send_chunk","to":"a","stream_id":"s","chunk":7}', "send_chunk.chunk", "7; wanted: a valid string"),
        ('{"type":"register","id":"a","name":"' + "x" * 90 + '","endpoint":{}}', "register.endpoint", "{}"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_frame_is_refused_with_the_reason(text: str | bytes, field: str, says: str) -> None:
    with pytest.raises(FrameError) as caught:
        parse_client_frame(text)
    assert caught.value.field == field
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_wrong_record_is_named() -> None:
    with pytest.raises(FrameError, match=r"agents\.agents\.1\.registered_at: \"yesterday\"; wanted: a time of RFC 3339"):
        parse_server_frame(compact({"type": "agents", "agents": [RECORD, {**RECORD, "registered_at": "yesterday"}]}))


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60), json_values.map(json.dumps)))
def test_garbage_is_a_frame_error_and_nothing_else(text: str | bytes) -> None:
    for parse in PARSERS.values():
        with pytest.raises(FrameError):
            parse(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_frames_with_a_broken_place_parse_or_are_refused(data: st.DataObject) -> None:
    text = compact(data.draw(st.sampled_from(VECTORS["client"])))
    where = data.draw(st.integers(0, len(text) - 1))
    broken = text[:where] + data.draw(st.sampled_from(["", '"', "{", "]", "\\", "0", "\x00", ":"])) + text[where + 1 :]
    try:
        frame = parse_client_frame(broken)
    except FrameError:
        return
    assert parse_client_frame(to_json(frame)) == frame


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"x"], ids=repr)
def test_a_payload_that_json_does_not_have_is_not_written(value: object) -> None:
    with pytest.raises(FrameError, match=r"^payload: .*wanted: what JSON has"):
        to_json(Send(to="a", payload=value))


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", UNIONS)
def test_the_schemas_name_every_frame(side: str) -> None:
    schema = getattr(agora, f"{side}_frame_schema")()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["discriminator"]["propertyName"] == "type"
    assert set(schema["discriminator"]["mapping"]) == {model.model_fields["type"].default for model in models(side)}
    assert all("type" in schema["$defs"][model.__name__]["required"] for model in models(side))
    if side == "server":
        assert schema["$defs"]["Message"]["required"] == ["type", "from"]


def test_frames_are_values() -> None:
    frame = Registered(id="agent-1")
    assert frame == parse_server_frame('{"type":"registered","id":"agent-1"}')
    with pytest.raises(ValidationError):
        frame.id = "agent-2"


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = "import sys, echokernel_protocol; print('pydantic' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_all_is_what_the_module_defines() -> None:
    from echokernel_protocol.agora import frames

    assert sorted(frames.__all__) == frames.__all__
    assert all(name in vars(agora) for name in frames.__all__)
