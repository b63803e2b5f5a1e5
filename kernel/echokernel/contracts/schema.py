"""The JSON Schemas of a description as one: definitions shared where they are equal, and nothing that leads elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from echokernel_protocol.describe import Description, MethodDescription, MethodKind

__all__ = ["Contract", "MethodSchemas", "Names", "Schema", "json_schema", "merge", "read_schema", "walk"]

Schema: TypeAlias = "dict[str, Any] | bool"
MAX_DEPTH = 128  # levels of JSON; deeper ones would exhaust the stack of whoever walks them
REF: Final = "#/$defs/"
_ROUNDS = 64  # definitions that differ only so many references away are not shared


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas"})
_ONE = words("""
    additionalProperties contains else if items not propertyNames then unevaluatedItems unevaluatedProperties
""")
_MANY = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
# identifiers and references that are not to a definition beside it: a tool that follows them would ask somebody else
_DROPPED = words("""
    $anchor $dynamicAnchor $dynamicRef $id $recursiveAnchor $recursiveRef $schema $vocabulary id
""")
_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and name in _TYPES for name in names) and len(set(names)) == len(names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


_PLAIN: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("title", "description", "format", "pattern", "$comment"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), lambda value: isinstance(value, bool)),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "required": _is_names,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "examples": lambda value: isinstance(value, list),
    "type": _is_type,
}
"""Keywords of known form; one of another form is left out."""


@dataclass(frozen=True, slots=True)
class MethodSchemas:
    """A method with its schemas; None where it has none. References lead to the definitions of the contract."""

    method: MethodDescription
    parameters: Schema | None
    items: Schema | None
    result: Schema | None


@dataclass(frozen=True, slots=True)
class Contract:
    """A description with schemas that share their definitions."""

    description: Description
    definitions: dict[str, Schema]
    """By name, ``[A-Za-z0-9_.-]+``; sorted."""
    methods: tuple[MethodSchemas, ...]


def read_schema(text: str) -> Schema | None:
    """Return the schema that ``text`` is, definitions included; None for no text, and for what is no schema."""
    if not text:
        return None
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict | bool) or _too_deep(value):
        return None
    if value is True or value is False:
        return value
    definitions = value.pop("$defs", None)
    known = definitions if isinstance(definitions, dict) else {}
    known = {name: part for name, part in known.items() if isinstance(part, dict | bool)}
    cleaned = _clean(value, known)
    assert isinstance(cleaned, dict)
    return {"$defs": {name: _clean(part, known) for name, part in known.items()}, **cleaned} if known else cleaned


def merge(description: Description) -> Contract:
    """Return the description's schemas as one, in a stable order."""
    parts: list[tuple[int, str, Schema]] = []
    methods = sorted(description.methods, key=lambda method: (method.kind, method.name))
    for name in ("parameters", "items", "result"):  # what goes in has the first choice of names
        for number, method in enumerate(methods):
            found = read_schema(getattr(method, name))
            if found is not None:
                parts.append((number, name, _as_definition(found, method)))
    keys = _keys([part for _, _, part in parts])
    names: dict[str, str] = {}  # of definitions, by what they are
    given = Names()
    definitions: dict[str, Schema] = {}
    found_parts: dict[tuple[int, str], Schema] = {}
    for (number, part_name, schema), own in zip(parts, keys, strict=True):
        renamed: dict[str, str] = {}
        for name in sorted(own):
            if own[name] not in names:
                suffix = "_Output" if part_name == "result" else ""
                names[own[name]] = given.pick(re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "_", suffix)
            renamed[name] = names[own[name]]
        for name, new in renamed.items():
            if new not in definitions:
                assert isinstance(schema, dict)
                definitions[new] = rename(schema["$defs"][name], renamed)
        rest = {key: value for key, value in schema.items() if key != "$defs"} if isinstance(schema, dict) else schema
        found_parts[number, part_name] = rename(rest, renamed)
    return Contract(
        description,
        dict(sorted(definitions.items())),
        tuple(
            MethodSchemas(method, *(found_parts.get((number, name)) for name in ("parameters", "items", "result")))
            for number, method in enumerate(methods)
        ),
    )


def json_schema(contract: Contract) -> dict[str, Any]:
    """Return one JSON Schema, 2020-12: ``requests`` and ``events`` have a property for each method."""
    groups: dict[str, dict[str, Any]] = {}
    for entry in contract.methods:
        method = entry.method
        if method.kind is MethodKind.STREAM:
            continue  # bytes have no schema
        parts = {"parameters": entry.parameters, "items": entry.items, "result": entry.result}
        group = groups.setdefault("requests" if method.kind is MethodKind.RPC else "events", {})
        group[method.name] = {
            "type": "object",
            **({"description": method.doc} if method.doc else {}),
            "properties": {name: part for name, part in parts.items() if part is not None},
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": contract.description.node or "echokernel node",
        "type": "object",
        "properties": {name: {"type": "object", "properties": group} for name, group in groups.items()},
        "$defs": contract.definitions,
    }


class Names:
    """Names that have been given."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._numbers: dict[str, int] = {}

    def pick(self, name: str, suffix: str = "") -> str:
        """Return ``name``, or one like it that has not been given yet."""
        found = name + suffix if name in self._taken else name
        while found in self._taken:
            self._numbers[name] = self._numbers.get(name, 1) + 1  # kept: a peer may have 100,000 of one name
            found = f"{name}_{self._numbers[name]}"
        self._taken.add(found)
        return found


def walk(schema: Schema, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Schema:
    """Return a clean schema with ``change`` made in it and all schemas inside, the innermost first."""
    if isinstance(schema, bool):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _BY_NAME:
            made[key] = {name: walk(part, change) for name, part in value.items()}
        elif key in _MANY or (key == "items" and isinstance(value, list)):
            made[key] = [walk(part, change) for part in value]
        elif key in _ONE:
            made[key] = walk(value, change)
        else:
            made[key] = value
    return change(made)


def rename(schema: Schema, names: dict[str, str], prefix: str = REF) -> Schema:
    """Return the schema with other names for the definitions it refers to."""

    def one(text: str) -> str:
        return prefix + names[text.removeprefix(REF)]

    def change(part: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in part:
            part["$ref"] = one(part["$ref"])
        if "discriminator" in part:
            found = part["discriminator"]
            part["discriminator"] = {**found, "mapping": {key: one(text) for key, text in found["mapping"].items()}}
        return part

    return walk(schema, change)


def references(schema: Schema) -> list[str]:
    """Return the names of the definitions that a clean schema refers to, in their order."""
    found: list[str] = []

    def look(part: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in part:
            found.append(part["$ref"].removeprefix(REF))
        return part

    walk(schema, look)
    return found


# --- reading ----------------------------------------------------------------------------------------------------------


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError(f"{text} is no number of JSON's")
    return number


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for each in level if isinstance(each, dict | list) for part in _parts(each)]
        if not level:
            return False
    return True


def _parts(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)


def _clean(schema: Any, known: dict[str, Any]) -> Schema:
    """Return a schema whose keywords have the form they should have; anything at all is accepted where there is none."""
    if not isinstance(schema, dict):
        return schema if isinstance(schema, bool) else True
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DROPPED or key in ("$defs", "definitions") or (key in _PLAIN and not _PLAIN[key](value)):
            continue
        if key in _BY_NAME:
            if isinstance(value, dict):
                made[key] = {name: _clean(part, known) for name, part in value.items()}
        elif key in _MANY:
            if isinstance(value, list) and value:
                made[key] = [_clean(part, known) for part in value]
        elif key in _ONE:
            made[key] = _clean(value, known)
        elif key == "$ref":
            name = _local(value, known)
            if name is not None:
                made[key] = REF + name
        elif key == "discriminator":
            if _is_discriminator(value, known):
                mapping = {each: REF + str(_local(text, known)) for each, text in value["mapping"].items()}
                made[key] = {"mapping": mapping, "propertyName": value["propertyName"]}
        else:
            made[key] = value
    return made


def _local(value: Any, known: dict[str, Any]) -> str | None:
    if not isinstance(value, str) or not value.startswith(REF):
        return None
    name = value.removeprefix(REF).replace("~1", "/").replace("~0", "~")
    return name if name in known else None


def _is_discriminator(value: Any, known: dict[str, Any]) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("propertyName"), str)
        and isinstance(value.get("mapping"), dict)
        and all(_local(text, known) is not None for text in value["mapping"].values())
    )


def _as_definition(schema: Schema, method: MethodDescription) -> Schema:
    """Return a schema that is a class's, and not inside another, as a reference to a definition: others may use it, too."""
    if isinstance(schema, bool):
        return schema
    title, definitions = schema.get("title"), schema.get("$defs", {})
    is_class = "properties" in schema or ("enum" in schema and f"enum:{title}{{" in method.shape)
    if not is_class or not isinstance(title, str) or not title or title in definitions:
        return schema
    body = {key: value for key, value in schema.items() if key != "$defs"}
    return {"$defs": {**definitions, title: body}, "$ref": REF + title}


# --- sharing ----------------------------------------------------------------------------------------------------------


def _keys(schemas: list[Schema]) -> list[dict[str, str]]:
    """Return for each schema what its definitions are, by name: equal for two that say the same, whatever they refer to.

    Each round looks one reference further, until no two that were equal are found to differ.
    """
    bodies = [schema.get("$defs", {}) if isinstance(schema, dict) else {} for schema in schemas]
    links = [{name: references(body) for name, body in own.items()} for own in bodies]
    keys = [{name: _digest(name, json.dumps(body, sort_keys=True)) for name, body in own.items()} for own in bodies]
    count = len({key for own in keys for key in own.values()})
    for _ in range(_ROUNDS):
        keys = [
            {name: _digest(key, *(own[target] for target in links[at][name])) for name, key in own.items()}
            for at, own in enumerate(keys)
        ]
        before, count = count, len({key for own in keys for key in own.values()})
        if before == count:
            return keys
    return [{name: _digest(key, str(at)) for name, key in own.items()} for at, own in enumerate(keys)]


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
