"""A type as a tree that can be compared, read from a JSON Schema: for nodes that tell no shape."""

from __future__ import annotations

import json
import re
from typing import Any

from echokernel.contracts.schema import REF, Schema
from echokernel.shape_tree import MAX_DEPTH, Node, Part
from echokernel.shapes import MAX_SHAPE

__all__ = ["tree_of_schema"]

_STRINGS = {
    "binary": "bytes",
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "timedelta",
    "uuid": "uuid",
}
_SCALARS = {"null": "unit", "boolean": "bool", "integer": "i64", "number": "f64"}


def tree_of_schema(schema: Schema) -> Node:
    """Return the tree of a schema that :func:`~echokernel.contracts.schema.read_schema` made, definitions included."""
    definitions = schema.get("$defs", {}) if isinstance(schema, dict) else {}
    return _OfSchema(definitions).read(schema, ())


class _OfSchema:
    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._written = 0

    def read(self, schema: Schema | None, around: tuple[str, ...], label: str = "") -> Node:
        """Return the tree; ``around``: the structs it is inside of, those without a definition empty."""
        self._written += 1
        if not isinstance(schema, dict) or self._written > MAX_SHAPE or len(around) > MAX_DEPTH:
            return Node("any")
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(REF)
            if name in around:
                return Node(f"^{len(around) - 1 - around.index(name)}")
            inner = self._definitions[name]
            if isinstance(inner, dict) and "$ref" in inner:  # from one to the next may be for ever
                return Node("any")
            return self.read(inner, around, name)
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            parts = tuple(Part("", value=json.dumps(value, separators=(",", ":"))) for value in values)
            return Node("literal", parts=parts)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._union(schema[key], around)
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._union([{**schema, "type": each} for each in kind], around)
        if kind == "string":
            return Node(_STRINGS.get(schema.get("format", ""), "str"))
        if kind == "array":
            return self._array(schema, around)
        return self._object(schema, around, label) if kind == "object" else Node(_SCALARS.get(kind or "", "any"))

    def _union(self, arms: list[Schema], around: tuple[str, ...]) -> Node:
        read = [self.read(arm, around) for arm in arms]
        rest = [node for node in read if node.kind != "unit"]
        if not rest:
            return Node("unit")
        node = rest[0] if len(rest) == 1 else Node("union", parts=tuple(Part("", each) for each in rest))
        return Node("option", parts=(Part("", node),)) if len(rest) < len(read) else node

    def _array(self, schema: dict[str, Any], around: tuple[str, ...]) -> Node:
        if "prefixItems" in schema:
            return Node("tuple", parts=tuple(Part("", self.read(part, around)) for part in schema["prefixItems"]))
        item = (Part("", self.read(schema.get("items"), around)),)
        size = schema.get("minItems")
        if size and size == schema.get("maxItems"):
            return Node("array", parts=item, size=size)
        return Node("set" if schema.get("uniqueItems") else "seq", parts=item)

    def _object(self, schema: dict[str, Any], around: tuple[str, ...], label: str) -> Node:
        if "properties" not in schema:
            value = self.read(schema.get("additionalProperties"), around)
            return Node("map", parts=(Part("", Node("str")), Part("", value)))
        inside = (*around, label)
        return Node(
            "struct",
            re.sub(r"\W", "_", label or schema.get("title", ""), flags=re.ASCII),
            tuple(Part(name, self.read(part, inside)) for name, part in schema["properties"].items()),
        )
