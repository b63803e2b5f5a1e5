"""What AI agents and the router Agora send each other: one JSON object in each WebSocket text frame. No IO.

:data:`ClientFrame` and :data:`ServerFrame` are the seed's unions, told apart by ``type``, with its fields and no others.
:data:`AgentFrame` and :data:`RouterFrame` are all that this router takes and sends: subclasses with more fields, more types.

An absent field is None and is not written; a payload of null is in ``model_fields_set`` and is. Unknown fields are dropped. A
parsed frame remembers how its fields were written, and :func:`to_json` writes them so again, in that order, while their values
are those that were read: ``1e400`` (as a value ``inf``), ``-0.0``, equal keys and escapes come out as they went in.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from echokernel_protocol.agora.frames import *  # noqa: F403  # its __all__ is the list
from echokernel_protocol.agora.frames import AgentFrame, ClientFrame, RouterFrame, ServerFrame


class FrameError(ValueError):
    """``field`` of a text (``""``: all of it) is not that of a frame: what was ``seen``, and what was ``wanted``."""

    def __init__(self, field: str, seen: str, wanted: str) -> None:
        super().__init__(f"{field or 'the frame'}: {seen}; wanted: {wanted}")
        self.field, self.seen, self.wanted = field, seen, wanted


def parse_client_frame(text: str | bytes) -> ClientFrame:
    """Return the seed's frame that an agent sent. Raises FrameError."""
    frame: ClientFrame = _parse(text, _CLIENT)
    return frame


def parse_server_frame(text: str | bytes) -> ServerFrame:
    """Return the seed's frame that a router sent. Raises FrameError."""
    frame: ServerFrame = _parse(text, _SERVER)
    return frame


def parse_agent_frame(text: str | bytes) -> AgentFrame:
    """Return the frame that an agent sent, with extensions. Raises FrameError."""
    frame: AgentFrame = _parse(text, _AGENT)
    return frame


def parse_router_frame(text: str | bytes) -> RouterFrame:
    """Return the frame that a router sent, with extensions. Raises FrameError."""
    frame: RouterFrame = _parse(text, _ROUTER)
    return frame


def client_frame_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of :data:`ClientFrame`."""
    return TypeAdapter[Any](ClientFrame).json_schema()


def server_frame_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of :data:`ServerFrame`."""
    return TypeAdapter[Any](ServerFrame).json_schema()


def agent_frame_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of :data:`AgentFrame`."""
    return TypeAdapter[Any](AgentFrame).json_schema()


def router_frame_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of :data:`RouterFrame`."""
    return TypeAdapter[Any](RouterFrame).json_schema()


def field_text(frame: BaseModel, name: str) -> str | None:
    """Return how a field was written, by its name in JSON; None where it was absent or the frame was not parsed."""
    texts: dict[str, str] = frame.__dict__.get(_TEXTS, {})
    return texts.get(name)


def to_json(frame: BaseModel) -> str:
    """Return a frame as compact JSON. Raises FrameError for values that JSON does not have: NaN, infinity, other types."""
    texts: dict[str, str] = frame.__dict__.get(_TEXTS, {})
    values = frame.model_dump()
    parts = []
    for name in [*texts, *(name for name in values if name not in texts)]:
        text, value = texts.get(name), values.get(name)
        if text is None or _written(name, _DECODER.decode(text), True) != _written(name, value, True):
            text = _written(name, value, False)
        parts.append(f'"{name}":{text}')
    return f"{{{','.join(parts)}}}"


def _written(name: str, value: object, comparing: bool) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=comparing, sort_keys=comparing)
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError(name, str(error), "what JSON has") from None
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def _table(union: Any) -> dict[str, type[BaseModel]]:
    return {model.model_fields["type"].default: model for model in union.__origin__.__args__}


_CLIENT, _SERVER, _AGENT, _ROUTER = map(_table, (ClientFrame, ServerFrame, AgentFrame, RouterFrame))
_TEXTS = "_texts"  # beside the fields, where neither == nor model_dump looks


def _parse(text: str | bytes, table: Any) -> Any:
    try:
        values, texts = _members(text if isinstance(text, str) else str(text, "utf-8"))
    except RecursionError:
        raise FrameError("", "arrays or objects too deep within each other", "fewer") from None
    except ValueError as error:
        raise FrameError("", str(error), "one JSON object in UTF-8") from None
    kind = values.get("type")
    model = table.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise FrameError("type", _shown(kind) if "type" in values else "missing", f"one of {', '.join(table)}")
    try:
        frame = model.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, missing = ".".join(map(str, (kind, *first["loc"]))), first["type"] == "missing"
        wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise FrameError(where, "missing" if missing else _shown(first["input"]), "a value" if missing else wanted) from None
    known = {field.serialization_alias or name for name, field in model.model_fields.items()}
    frame.__dict__[_TEXTS] = {name: said for name, said in texts.items() if name in known}
    return frame


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _integer(text: str) -> Any:
    return int(text) if len(text) < 4000 else float(text)  # Python's limit for digits is 4,300; the text is kept


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_integer)
_SPACE = re.compile(r"[ \t\n\r]*")


def _members(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return an object's members, and how each is written; of equal names the last. Raises ValueError."""
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}

    def after(position: int, wanted: str) -> int:
        """Return where the space at ``position`` ends; there must be one of the ``wanted`` characters."""
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing, too
        if wanted and (position == len(text) or text[position] not in wanted):
            raise ValueError(f"at character {position} is {text[position : position + 1]!r}, not {' or '.join(wanted)}")
        return position

    position = after(after(0, "{") + 1, '"}')
    while text[position] != "}":
        name, end = _DECODER.raw_decode(text, after(position, '"'))
        start = after(after(end, ":") + 1, "")
        value, end = _DECODER.raw_decode(text, start)
        texts.pop(name, None)
        values[name], texts[name] = value, text[start:end]
        position = after(end, ",}")
        if text[position] == ",":
            position = after(position + 1, '"')
    if after(position + 1, "") != len(text):
        raise ValueError(f"something follows at character {position + 1}")
    return values, texts
