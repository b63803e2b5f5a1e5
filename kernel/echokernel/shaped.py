"""Types made from shapes, for a program that calls what it has no types for: dicts for structs, plain values for the rest."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import keyword
import typing
from typing import Any

from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from echokernel import types
from echokernel.shape_tree import Node, Part, read_tree
from echokernel.shapes import PLAIN, NoShape, shape

__all__ = ["parse_shape", "plain_value"]

_KINDS: dict[str, Any] = {text: kind for kind, text in reversed(PLAIN.items())}
_KINDS |= {
    mark.name: annotation
    for annotation in map(vars(types).get, types.__all__)
    for mark in getattr(annotation, "__metadata__", ())
}
_KINDS["unit"] = None


@functools.lru_cache(maxsize=1_024)
def parse_shape(text: str) -> Any:
    """Return an annotation with this shape. Raises NoShape for what is none, and for what no Python type looks like.

    Structs become TypedDicts, so their values are dicts; those that are arms of a union become dataclasses, which say which
    arm they are. Enums become new Enum classes with the same members.
    """
    tree = read_tree(text)
    try:
        annotation = _Maker().make(tree)
        again = read_tree(shape(annotation))
    except (TypeError, ValueError, SyntaxError, AttributeError) as error:
        if isinstance(error, NoShape):
            raise
        raise NoShape(f"a shape that no type can have here: {error}") from None
    if again.form() != tree.form():  # options of options, members of a name that enums keep for themselves
        raise NoShape(f"a shape that no type has here; the nearest one has {again.text()}")
    return annotation


class _Maker:
    """Makes the types of one tree."""

    def __init__(self) -> None:
        self._around: list[Any] = []

    def make(self, node: Node, arm: bool = False) -> Any:
        kind = node.kind
        if kind.startswith("^"):
            return self._around[-1 - int(kind[1:])]
        if kind == "struct":
            return self._struct(node, arm)
        if kind == "enum":
            return enum.Enum(node.label or "Unnamed", [(_own(part.name), json.loads(part.value)) for part in node.parts])
        if kind == "literal":
            values = tuple(json.loads(part.value) for part in node.parts)
            if not values or any(isinstance(value, list | dict) for value in values):
                raise NoShape("a literal that is none, or no single value")
            return typing.Literal[values]
        parts = [self.make(part.node, kind == "union") for part in node.parts if part.node is not None]
        if not parts and kind != "tuple":
            if kind not in _KINDS:
                raise NoShape(f"a shape with a type {kind!r}, which is unknown here")
            return _KINDS[kind]
        return self._composed(node, parts)

    def _composed(self, node: Node, parts: list[Any]) -> Any:
        kind = node.kind
        if kind == "tuple":
            return tuple[tuple(parts)] if parts else tuple[()]  # type: ignore[misc]
        if kind == "map":
            return dict[parts[0], parts[1]]  # type: ignore[valid-type]
        if kind == "union":
            return typing.Union[tuple(parts)]  # noqa: UP007 - it is made of values
        if kind == "option":
            return typing.Union[parts[0], None]  # noqa: UP007
        if kind == "array":
            return typing.Annotated[list[parts[0]], types.Length(node.size)]  # type: ignore[valid-type]
        return (set if kind == "set" else list)[parts[0]]

    def _struct(self, node: Node, arm: bool) -> Any:
        label = node.label or "Unnamed"
        made: Any = type(label, (), {}) if arm else TypedDict(label, {})  # type: ignore[operator]
        self._around.append(made)
        made.__annotations__ = {_field(part, arm): self.make(part.node) for part in node.parts if part.node is not None}
        self._around.pop()
        if arm:
            return dataclasses.dataclass(made)
        made.__required_keys__ = frozenset(part.name for part in node.parts if part.needed)
        made.__optional_keys__ = frozenset(made.__annotations__) - made.__required_keys__
        return made


def _field(part: Part, arm: bool) -> str:
    """Return a field's name. Raises NoShape for one that no attribute can have."""
    if arm and (not part.name.isidentifier() or keyword.iskeyword(part.name)):
        raise NoShape(f"a struct in a union with a field {part.name!r}, which is no identifier")
    return _own(part.name) if arm else part.name


def _own(name: str) -> str:
    """Return a name that is the program's own. Raises NoShape for one of Python's: ``__class__``, ``_missing_``."""
    if len(name) > 2 and name.startswith("_") and name.endswith("_"):
        raise NoShape(f"a name {name!r}, which belongs to Python")
    return name


def plain_value(value: Any) -> Any:
    """Return a value with dicts in place of dataclasses and models, for types that were made from shapes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(type(value), "__pydantic_fields__"):
        return {name: plain_value(getattr(value, name)) for name in type(value).__pydantic_fields__}
    if isinstance(value, dict):
        return {key: plain_value(part) for key, part in value.items()}
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return type(value)(map(plain_value, value))
    return value
