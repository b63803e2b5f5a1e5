"""Frames as the router reads and writes them: checked, but payloads stay the bytes that they are.

The models of :mod:`echokernel_protocol.agora` are for programs. The router needs no values of payloads, cards and chunks: it
checks that they are JSON and passes their text on, with big numbers, key order, duplicate keys and escapes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from json.decoder import JSONDecoder
from typing import Any, NoReturn

import msgspec
from msgspec import Raw

__all__ = [
    "Ack",
    "BadFrame",
    "Chunk",
    "ClientFrame",
    "End",
    "Listing",
    "Ping",
    "Register",
    "Reply",
    "ReplyChunk",
    "ReplyEnd",
]
__all__ += ["Send", "SendChunk", "SendEnd", "Stop", "Unwatch", "Watch", "decode", "error", "quoted", "request_id_of"]

ID = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
MOST_MEMBERS = 64  # of a frame that has to be read slowly: no frame has a quarter of that
MOST_NAME, MOST_TEXT = 256, 128  # characters of a name; of stream ids, frame ids, request ids
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they make a text look like another one
NOTHING = Raw()
QUOTE, BRACE = b'"{'
encode = msgspec.json.Encoder().encode


class BadFrame(Exception):
    """A text that is no frame which a client may send: the message names the field, what was seen and what was wanted."""


class Register(msgspec.Struct, tag_field="type", tag="register"):
    id: str
    name: str
    endpoint: str | None = None
    features: list[str] | None = None
    capabilities: list[str] | None = None
    card: Raw = NOTHING
    resume: str | None = None
    seq: int | None = None


class Listing(msgspec.Struct, tag_field="type", tag="list"):
    id: str | None = None
    limit: int | None = None
    cursor: str | None = None
    capability: str | None = None
    card: bool | None = None


class Send(msgspec.Struct, tag_field="type", tag="send", gc=False):
    to: str
    stream_id: str | None = None
    stream: bool | None = None
    payload: Raw = NOTHING
    id: str | None = None
    request_id: str | int | None = None
    hops: int | None = None


class Reply(Send, tag_field="type", tag="reply", gc=False):
    pass


class Chunk(msgspec.Struct, gc=False):
    to: str
    stream_id: str
    chunk: Raw
    id: str | None = None


class SendChunk(Chunk, tag_field="type", tag="send_chunk", gc=False):
    pass


class ReplyChunk(Chunk, tag_field="type", tag="reply_chunk", gc=False):
    pass


class Reason(msgspec.Struct):
    code: str
    message: str | None = None


class End(msgspec.Struct, gc=False):
    to: str
    stream_id: str
    id: str | None = None
    error: Reason | None = None


class SendEnd(End, tag_field="type", tag="send_end", gc=False):
    pass


class ReplyEnd(End, tag_field="type", tag="reply_end", gc=False):
    pass


class Ping(msgspec.Struct, tag_field="type", tag="ping"):
    id: str | None = None


class Watch(msgspec.Struct, tag_field="type", tag="watch"):
    pass


class Unwatch(msgspec.Struct, tag_field="type", tag="unwatch"):
    pass


class Ack(msgspec.Struct, tag_field="type", tag="ack"):
    seq: int


class Stop(msgspec.Struct, tag_field="type", tag="stop", rename={"from_": "from"}):
    from_: str
    stream_id: str
    reply: bool | None = None


ClientFrame = (
    Register
    | Listing
    | Send
    | SendChunk
    | SendEnd
    | Reply
    | ReplyChunk
    | ReplyEnd
    | Ping
    | Watch
    | Unwatch
    | Ack
    | Stop
)
_decode = msgspec.json.Decoder(ClientFrame).decode
SEED_KINDS = ("register", "list", "send", "send_chunk", "send_end", "reply", "reply_chunk", "reply_end")
KINDS = (*SEED_KINDS, "ping", "watch", "unwatch", "ack", "stop")


def decode(text: bytes) -> Any:
    """Return the frame of a JSON text, which is valid UTF-8. Raises BadFrame."""
    try:
        frame = _decode(text)
    except msgspec.ValidationError as problem:
        _explain(text, problem)
    except msgspec.DecodeError as problem:
        if "escape" not in str(problem) and "truncated" not in str(problem):  # said of an escape near the end, too
            raise BadFrame(f"this is not JSON: {_inner(problem)}") from None
        frame = _with_odd_escapes(text, problem)
    except RecursionError:
        raise BadFrame("the JSON is nested too deeply; wanted: fewer than some hundred levels") from None
    _check(frame)
    return frame


def _check(frame: Any) -> None:
    """Check what types cannot say: lengths, characters, and chunks that are strings."""
    kind = type(frame)
    if kind is Register:
        return _check_register(frame)
    if kind in RELAYED:
        if not 0 < len(frame.to) <= MOST_TEXT:
            raise BadFrame(
                f"`to` has {len(frame.to)} characters; wanted: the id of an agent, 1 to {MOST_TEXT} characters"
            )
        if frame.id is not None:
            _check_text("id", frame.id)
    if kind is Send or kind is Reply:
        if frame.stream_id is not None:
            _check_text("stream_id", frame.stream_id)
        if isinstance(frame.request_id, str):
            _check_text("request_id", frame.request_id)
        if frame.hops is not None and frame.hops < 0:
            raise BadFrame("`hops` is negative; wanted: how many routers the frame has passed")
    elif kind in RELAYED or kind is Stop:
        _check_text("stream_id", frame.stream_id)
        if isinstance(frame, Chunk) and memoryview(frame.chunk)[0] != QUOTE:
            raise BadFrame("`chunk` is not a string; wanted: text, structured data belongs in a payload")
    elif (kind is Listing or kind is Ping) and frame.id is not None:
        _check_text("id", frame.id)
    return None


RELAYED = frozenset({Send, SendChunk, SendEnd, Reply, ReplyChunk, ReplyEnd})
"""Types of frames that go to another agent."""


def _check_text(field: str, text: str) -> None:
    if not 0 < len(text) <= MOST_TEXT or not text.isprintable():
        raise BadFrame(f"`{field}` is {seen(text)}; wanted: 1 to {MOST_TEXT} printable characters")


def _check_register(frame: Register) -> None:
    if not ID.fullmatch(frame.id):
        raise BadFrame(f"`id` is {seen(frame.id)}; wanted: 1 to 128 characters of A-Z a-z 0-9 . _ : / @ -")
    name = frame.name
    if not 0 < len(name) <= MOST_NAME or any(each in BIDI or unicodedata.category(each) in _UNSEEN for each in name):
        raise BadFrame(f"`name` is {seen(name)}; wanted: 1 to {MOST_NAME} characters, none of them control characters")
    if frame.endpoint is not None and (len(frame.endpoint) > 2048 or not _URL.fullmatch(frame.endpoint)):
        raise BadFrame(f"`endpoint` is {seen(frame.endpoint)}; wanted: a URL, as http://127.0.0.1:3000, or nothing")
    for capability in frame.capabilities or ():
        _check_text("capabilities", capability)
    if frame.card and memoryview(frame.card)[0] != BRACE:
        raise BadFrame("`card` is not an object")


_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:[^\s\x00-\x1f]+")


def seen(text: str) -> str:
    """Return a text as an error shows it: quoted, escaped and short."""
    shown = ascii(text[:40]) + ("…" if len(text) > 40 else "")
    return f"{shown} ({len(text)} characters)" if len(text) > 40 else shown


def _inner(problem: Exception) -> str:
    return str(problem).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")


def _explain(text: bytes, problem: Exception) -> NoReturn:
    """Turn what msgspec says into what the sender of the frame can use."""
    said = str(problem)
    if said.startswith("Object missing required field `type`"):
        raise BadFrame("`type` is missing; wanted one of: " + ", ".join(KINDS)) from None
    if "$.type" in said:
        kind = _value_of(text, "type")
        raise BadFrame(f"`type` is {_shown(kind)}; wanted one of: {', '.join(KINDS)}") from None
    if said.startswith("Object missing required field"):
        raise BadFrame(f"{said.removeprefix('Object missing required field ')} is missing") from None
    what, _, where = said.rpartition(" - at `$.")
    if not what:
        raise BadFrame(f"the frame is not an object: {said}") from None
    field = where.rstrip("`")
    expected = re.fullmatch(r"Expected `(.*?)`, got `(.*?)`", what)
    if expected is None:
        raise BadFrame(f"`{field}`: {what}") from None
    raise BadFrame(f"`{field}` is of the type {expected[2]}; wanted: {expected[1].replace(' | ', ' or ')}") from None


def _value_of(text: bytes, field: str) -> Any:
    try:
        return json.loads(text)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _shown(value: Any) -> str:
    return seen(value) if isinstance(value, str) else f"of the type {type(value).__name__}"


def _with_odd_escapes(text: bytes, problem: Exception) -> Any:
    r"""Decode a frame whose payload, card or chunk has half a surrogate pair, as ``"\ud83d"``.

    The grammar of JSON allows that, and a payload is passed on as it is. msgspec does not: what it stumbles over is cut out
    with the standard library's scanner, and put back as bytes.
    """
    try:
        rest, kept = _cut(text.decode())
        frame = _decode(rest.encode())
        if {field for field in kept if not hasattr(frame, field)}:
            raise ValueError
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise BadFrame(f"this is not JSON: {_inner(problem)}") from None
    for field, value in kept.items():
        setattr(frame, field, Raw(value.encode()))
    return frame


_SPACE = re.compile(r"[ \t\n\r]*")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_SCANNER = JSONDecoder(parse_constant=_no_constant, parse_int=len, parse_float=len)  # numbers of any length are fine


def _cut(text: str) -> tuple[str, dict[str, str]]:
    """Return an object's text without payload, card and chunk, and the texts of these. Raises ValueError."""
    kept: dict[str, str] = {}
    parts: list[str] = []
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
    if text[at : at + 1] != "{":
        raise ValueError("not an object")
    at += 1
    for _ in range(MOST_MEMBERS):
        start = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        key, at = _SCANNER.raw_decode(text, start)
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise ValueError("not a member")
        begin = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        _, at = _SCANNER.raw_decode(text, begin)
        value = text[begin:at]
        if key in ("payload", "card", "chunk"):
            kept[key], value = value, '""' if key == "chunk" else "{}" if key == "card" else "null"
        parts.append(f"{text[start:begin]}{value}")
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "}":
            return "{" + ",".join(parts) + "}" + text[at + 1 :], kept
        if text[at : at + 1] != ",":
            raise ValueError("not an object")
        at += 1
    raise ValueError("too many members")


def quoted(text: str) -> bytes:
    """Return a text as JSON."""
    return encode(text)


class _Asked(msgspec.Struct):
    request_id: str | int | None = None


class _Carries(msgspec.Struct):
    request_id: str | int | None = None
    payload: Raw = NOTHING


def request_id_of(payload: Raw | bytes) -> str | int | None:
    """Return ``request_id`` of a payload that is an object and has one, of at most 128 characters; otherwise None."""
    try:
        asked = msgspec.json.decode(payload, type=_Asked).request_id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return asked if not isinstance(asked, str) or len(asked) <= MOST_TEXT else None


def request_id_in(frame: bytes) -> str | int | None:
    """Return the request id of a relayed frame: its own, or its payload's."""
    try:
        carries = msgspec.json.decode(frame, type=_Carries)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return carries.request_id if carries.request_id is not None else request_id_of(carries.payload)


def error(code: str, message: str, **about: Any) -> bytes:
    """Return an error frame; None among ``about`` is left out."""
    fields = {"type": "error", "code": code, "message": message}
    fields.update({("from" if key == "from_" else key): value for key, value in about.items() if value is not None})
    return encode(fields)
