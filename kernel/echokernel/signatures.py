"""A handler as others see it: its signature as Python writes it, and JSON Schemas of what goes in and comes out.

Nothing here is used for a message; a handler is described once, when somebody asks.
"""

from __future__ import annotations

import enum
import inspect
import json
import logging
import os
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from echokernel.handlers import FunctionHandler, Kind, item_type, resolve_hints, takes_session
from echokernel.types import Length, Scalar
from echokernel_protocol.describe import MethodDescription, MethodKind

logger = logging.getLogger("echokernel.introspection")

__all__ = ["annotation_text", "describe_handler", "signature_text"]

_MODULE_PATH = re.compile(r"\b(?:\w+\.)+(?=\w)")
MAX_DOC = 16_384  # characters of a docstring that travel; the rest is left to the source


def describe_handler(kind: MethodKind, name: str, handler: Any) -> MethodDescription:
    """Return how ``handler`` is called. Never raises: what cannot be said is left empty."""
    if not isinstance(handler, FunctionHandler):
        doc = inspect.cleandoc(type(handler).__doc__ or "")[:MAX_DOC]
        if doc.startswith(f"{type(handler).__name__}("):
            doc = ""  # what @dataclass writes, default values included
        return MethodDescription(
            kind=kind,
            name=name,
            doc=doc,
            streaming_response=inspect.isasyncgenfunction(getattr(handler, "handle", None)),
            concurrent=bool(getattr(handler, "concurrent", False)),
        )
    function: Callable[..., Any] = handler.function
    hints = _hints(function)
    parameters = _payload_parameters(function, hints)
    result = hints.get("return", Any)
    items = [found for parameter in parameters if (found := item_type(parameter.annotation)) is not None]
    plain = [parameter for parameter in parameters if item_type(parameter.annotation) is None]
    answers = item_type(result)
    streams_answer = answers is not None or inspect.isasyncgenfunction(function)
    return MethodDescription(
        kind=kind,
        name=name,
        signature=signature_text(handler.kind, function),
        doc=inspect.cleandoc(function.__doc__ or "")[:MAX_DOC],
        shape=handler.shape,
        parameters="" if kind is MethodKind.STREAM else _payload_schema(plain),
        items=_schema(items[0][0], "validation") if items else "",
        result=_schema(answers[0] if answers else Any if streams_answer else result, "serialization")
        if kind is MethodKind.RPC
        else "",
        streaming_request=bool(items),
        streaming_response=streams_answer,
        concurrent=handler.concurrent,
    )


def signature_text(kind: Kind, function: Callable[..., Any]) -> str:
    """Return a handler's signature as Python writes it, without modules and session: ``(a: int, b: int) -> int``."""
    hints = _hints(function)
    text = f"({', '.join(map(_parameter_text, _payload_parameters(function, hints)))})"
    return f"{text} -> {annotation_text(hints['return'])}" if kind == "rpc" and "return" in hints else text


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations; those that a type checker alone can resolve stay texts."""
    try:
        return resolve_hints(function)
    except Exception:
        return dict(getattr(function, "__annotations__", {}))


def _payload_parameters(function: Callable[..., Any], hints: dict[str, Any]) -> list[inspect.Parameter]:
    """Return the parameters that a caller fills: all but the session, with resolved annotations."""
    found = inspect.signature(function).parameters
    parameters = [parameter.replace(annotation=hints.get(name, Any)) for name, parameter in found.items()]
    return parameters[takes_session(list(found), hints) :]


def _parameter_text(parameter: inspect.Parameter) -> str:
    text = parameter.name
    if parameter.annotation is not Any:
        text += f": {annotation_text(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        # texts and objects may name what is on this machine; numbers do not
        plain = parameter.default is None or isinstance(parameter.default, bool | int | float)
        equals = "=" if parameter.annotation is Any else " = "
        text += equals + (repr(parameter.default) if plain and not isinstance(parameter.default, enum.Enum) else "...")
    return text


def annotation_text(annotation: Any) -> str:
    """Return an annotation as one would write it after importing its names: ``list[Pose] | None``."""
    if annotation in (None, types.NoneType):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, str):
        return _MODULE_PATH.sub("", annotation.strip("'\""))
    if isinstance(annotation, typing.ForwardRef):
        return annotation_text(annotation.__forward_arg__)
    if isinstance(annotation, list):  # of Callable
        return f"[{', '.join(map(annotation_text, annotation))}]"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _annotated_text(arguments[0], arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(annotation_text, arguments))
    if origin is Literal:
        return f"Literal[{', '.join(map(_literal_text, arguments))}]"
    if origin is not None:
        name = annotation_text(origin)
        inside = ", ".join(map(annotation_text, arguments))
        return f"{name}[{inside or '()'}]" if arguments or origin is tuple else name
    own_name = getattr(annotation, "__name__", None)
    if isinstance(own_name, str):
        return own_name
    text = _MODULE_PATH.sub("", str(annotation))
    return text if re.fullmatch(r"[\w\[\], .|]+", text) else "..."


def _annotated_text(annotation: Any, metadata: Sequence[Any]) -> str:
    """Return what tells about the values: the names of sized types, and lengths; constraints are in the schema."""
    text = annotation_text(annotation)
    for marker in metadata:
        if isinstance(marker, Scalar):
            text = marker.name.capitalize()  # as it is called in echokernel: U8, F32, Char
        elif isinstance(marker, Length):
            text = f"Annotated[{text}, Length({marker.items})]"
    return text


def _literal_text(value: Any) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, enum.Enum) else repr(value)


# --- JSON Schema ------------------------------------------------------------------------------------------------------


def _payload_schema(parameters: Sequence[inspect.Parameter]) -> str:
    if not parameters:
        return _schema(types.NoneType, "validation")
    if len(parameters) == 1:
        return _schema(parameters[0].annotation, "validation", (parameters[0].name,))
    types_ = tuple(parameter.annotation for parameter in parameters)
    together = tuple[types_]  # type: ignore[valid-type]
    return _schema(together, "validation", [parameter.name for parameter in parameters])


def _schema(annotation: Any, mode: Literal["validation", "serialization"], names: Sequence[str] = ()) -> str:
    """Return the JSON Schema of a type as JSON; empty where it has none. ``names``: those of its value, or of its parts."""
    from pydantic import TypeAdapter

    try:
        schema = TypeAdapter(annotation).json_schema(mode=mode)
        parts = [schema] if len(names) == 1 else schema.get("prefixItems", [])
        for name, part in zip(names, parts, strict=False):
            part.setdefault("title", name)
        return json.dumps(_without_places(schema), ensure_ascii=False, separators=(",", ":"))
    except Exception as error:  # pydantic's own, and whatever the type's hooks raise
        logger.debug("no JSON Schema for %s: %s", annotation_text(annotation), type(error).__name__)
        return ""


def _without_places(schema: Any) -> Any:
    """Return the schema without defaults that name places of this machine."""
    if isinstance(schema, list):
        return [_without_places(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_places(part) for name, part in value.items()}  # names are no keywords, not even "default"
        if key in ("properties", "$defs")
        else _without_places(value)
        for key, value in schema.items()
        if key != "default" or not _names_place(value)
    }


def _names_place(value: Any) -> bool:
    if isinstance(value, str):
        return os.path.isabs(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_names_place, parts))
