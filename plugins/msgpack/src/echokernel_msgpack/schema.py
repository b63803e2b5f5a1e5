"""pydantic's schema of an annotation, made as strict as MessagePack allows.

pydantic knows two temperaments. Lax would take ``"10"`` for an int; strict would refuse ``[1, 2]`` for a tuple, which
has no other form on the wire. So the schema is rewritten once: what the wire has a type for (integers, floats, text,
bytes, booleans, timestamps) is strict, what it has not (tuples, sets, UUID, Decimal, enums, dataclasses, …) is lax
behind a guard that lets only its own wire form through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator

from echokernel_msgpack.wire import Unfit

_STRICT = frozenset({"int", "float", "str", "bytes", "bool", "datetime", "date", "time"})
_INEXPRESSIBLE = {
    "is-instance": "an instance of a class that pydantic does not know",
    "is-subclass": "a class",
    "callable": "a function",
    "generator": "a generator",
    "arguments": "arguments of a call",
    "complex": "a complex number",
}
_CHILDREN = frozenset(
    {"schema", "items_schema", "keys_schema", "values_schema", "extras_schema", "extras_keys_schema"}
    | {"choices", "fields", "steps", "definitions"}
)


class Inspected:
    """An annotation's schema: ``core`` as pydantic made it, ``validate`` strict, and what its maps may look like."""

    __slots__ = ("aliases", "core", "text_keys", "validate")

    def __init__(self, type_: Any) -> None:
        self.core = cast("dict[str, Any]", TypeAdapter(type_).core_schema)
        nodes = list(_walk(self.core))
        self.text_keys = all(_has_text_keys(node) for node in nodes)
        self.aliases = any("validation_alias" in node for node in nodes)
        # Without _use_prebuilt=False, each pydantic model inside would bring its own lax validator along.
        validator = SchemaValidator(cast("CoreSchema", _strict(self.core)), _use_prebuilt=False)
        self.validate: Callable[..., Any] = validator.validate_python


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node
        for child in _branches(node).values():
            yield from _walk(child)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _walk(item)


def _branches(node: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(node.get("type"), str):
        return node  # fields or choices by name
    if node["type"] == "lax-or-strict":
        return {"lax_schema": node["lax_schema"]}
    if node["type"] == "json-or-python":
        return {"json_schema": node["json_schema"]}
    return {key: child for key, child in node.items() if key in _CHILDREN}


def _has_text_keys(node: dict[str, Any]) -> bool:
    if node["type"] == "dict":
        keys = node.get("keys_schema", {"type": "any"})
        return keys["type"] in ("str", "bytes", "uuid", "date", "time", "timedelta", "decimal")
    return node["type"] not in ("any", "json")


def _strict(node: Any) -> Any:
    if isinstance(node, (list, tuple)):
        return type(node)(_strict(item) for item in node)
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    branches = _branches(node)
    if kind == "lax-or-strict":
        return _with_ref(node, _strict(branches["lax_schema"]))
    if kind == "json-or-python":
        return _with_ref(node, _strict(branches["json_schema"]))
    if kind in _INEXPRESSIBLE:
        raise Unfit(f"MessagePack has no form for {_INEXPRESSIBLE[kind]}")
    node = node | {key: _strict(child) for key, child in branches.items()}
    if not isinstance(kind, str):
        return node
    node.pop("strict", None)
    if "config" in node:
        node["config"] = {key: value for key, value in node["config"].items() if key != "strict"}
    if kind in _STRICT:
        node["strict"] = True
    elif kind != "any":
        node["strict"] = False
    guard = _guard(kind, node)
    if guard is None:
        return node
    inner = {key: value for key, value in node.items() if key != "ref"}
    guarded = {"type": "function-before", "function": {"type": "no-info", "function": guard}, "schema": inner}
    return _with_ref(node, guarded)


def _with_ref(node: dict[str, Any], replacement: dict[str, Any]) -> dict[str, Any]:
    return replacement | {"ref": node["ref"]} if "ref" in node else replacement


def _guard(kind: str, node: dict[str, Any]) -> Callable[[Any], Any] | None:
    if kind == "enum":
        return _one_of({type(member.value) for member in node["members"]} | {node["cls"]})
    if kind == "literal":
        return _literal(node["expected"])
    return _GUARDS.get(kind)


def _literal(expected: list[Any]) -> Callable[[Any], Any]:
    """Let members of enums be named by their value, and keep True away from ``Literal[1]``."""
    members = {(type(value.value), value.value): value for value in expected if isinstance(value, Enum)}
    exact = _one_of({type(value) for value in expected} | {kind for kind, _ in members})

    def guard(value: Any) -> Any:
        value = exact(value)
        return value if isinstance(value, (list, dict)) else members.get((type(value), value), value)

    return guard


def _one_of(kinds: set[type]) -> Callable[[Any], Any]:
    """Keep 1.0 and True away from an enum of integers: they are equal, but not the same."""
    names = " or ".join(sorted(kind.__name__ for kind in kinds if kind.__module__ == "builtins"))

    def guard(value: Any) -> Any:
        if type(value) in kinds or isinstance(value, (list, dict)):
            return value
        raise PydanticCustomError("wire_type", "Input should be {names}", {"names": names})

    return guard


def _parsed(parse: Callable[[str], Any], exact: type, form: str) -> Callable[[Any], Any]:
    def guard(value: Any) -> Any:
        if type(value) is exact:
            return value
        if type(value) is str:
            try:
                return parse(value)
            except ValueError:
                pass
        raise PydanticCustomError("wire_type", "Input should be {form}", {"form": form})

    return guard


def _decimal(value: Any) -> Any:
    if type(value) in (str, int, Decimal):
        return value
    raise PydanticCustomError("wire_type", "Input should be a decimal number as text")


def _timedelta(value: Any) -> Any:
    if type(value) is timedelta or (type(value) is str and value.lstrip("+-").startswith("P")):
        return value
    raise PydanticCustomError("wire_type", "Input should be a duration as ISO 8601 text")


_GUARDS: dict[str, Callable[[Any], Any]] = {
    "datetime": _parsed(datetime.fromisoformat, datetime, "a timestamp, or a datetime as ISO 8601 text"),
    "date": _parsed(date.fromisoformat, date, "a date as ISO 8601 text"),
    "time": _parsed(time.fromisoformat, time, "a time as ISO 8601 text"),
    "uuid": _parsed(UUID, UUID, "a UUID as text"),
    "timedelta": _timedelta,
    "decimal": _decimal,
}
