"""Types made from shapes, for a program that calls what it has no types for: dicts for structs, plain values for the rest."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import re
import typing
from collections.abc import Callable
from typing import Any

from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from echokernel import types
from echokernel.shapes import MAX_SHAPE, PLAIN, NoShape

__all__ = ["parse_shape", "plain_value"]

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"\d{1,9}")
MAX_DEPTH = 64  # levels; a peer's text must not exhaust the stack
_BY_NAME = {text: kind for kind, text in reversed(PLAIN.items())}
_SIZED: dict[str, Any] = {
    mark.name: annotation
    for annotation in map(vars(types).get, types.__all__)
    for mark in getattr(annotation, "__metadata__", ())
}
_DECODER = json.JSONDecoder()


@functools.lru_cache(maxsize=1_024)
def parse_shape(text: str) -> Any:
    """Return an annotation with this shape. Raises NoShape for what is none.

    Structs become TypedDicts, so their values are dicts; those that are arms of a union become dataclasses, which say which
    arm they are. Enums become new Enum classes with the same members.
    """
    if len(text) > MAX_SHAPE:
        raise NoShape(f"a shape of {len(text):,} characters")
    reader = _Reader(text)
    annotation = reader.read()
    if reader.position != len(text):
        raise reader.wrong("the end")
    return annotation


class _Reader:
    def __init__(self, text: str) -> None:
        self.position = 0
        self._text = text
        self._structs: list[Any] = []
        self._depth = 0

    def wrong(self, wanted: str) -> NoShape:
        return NoShape(f"a shape with {self._text[self.position :][:20]!r} where {wanted} is wanted")

    def read(self, arm: bool = False) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NoShape(f"a shape of more than {MAX_DEPTH} levels")
        annotation = self._read(arm)
        self._depth -= 1
        return annotation

    def _read(self, arm: bool) -> Any:
        if self._take("^"):
            return self._outer()
        name = self._match(_WORD, "a type")
        if name in ("struct", "enum"):
            self._expect(":")
            label = self._match(_WORD, "a name") if self._peek() != "{" else "Unnamed"
            return self._struct(label, arm) if name == "struct" else self._enum(label)
        if self._peek() != "(":
            return self._plain(name)
        self._expect("(")
        if name == "literal":
            return typing.Literal[tuple(self._row(")", self._json))]
        if name == "array":
            item = self.read()
            self._expect(",")
            length = int(self._match(_NUMBER, "a length"))
            self._expect(")")
            return typing.Annotated[list[item], types.Length(length)]  # type: ignore[valid-type]
        parts = self._row(")", functools.partial(self.read, name == "union"))
        return self._composed(name, parts)

    def _plain(self, name: str) -> Any:
        if name in _BY_NAME:
            kind = _BY_NAME[name]
            return None if name == "unit" else kind
        if name not in _SIZED:
            raise NoShape(f"a shape with a type {name!r}, which is unknown here")
        return _SIZED[name]

    def _composed(self, name: str, parts: list[Any]) -> Any:
        count = len(parts)
        if name == "tuple":
            return tuple[tuple(parts)] if parts else tuple[()]  # type: ignore[misc]
        if name == "seq" and count == 1:
            return list[parts[0]]  # type: ignore[valid-type]
        if name == "set" and count == 1:
            return set[parts[0]]  # type: ignore[valid-type]
        if name == "map" and count == 2:
            return dict[parts[0], parts[1]]  # type: ignore[valid-type]
        if name == "option" and count == 1:
            return typing.Union[parts[0], None]  # noqa: UP007 - it is made of values
        if name == "union" and count > 1:
            return typing.Union[tuple(parts)]  # noqa: UP007
        raise NoShape(f"a shape with {name} of {count}")

    def _struct(self, label: str, arm: bool) -> Any:
        self._expect("{")
        made: Any = type(label, (), {}) if arm else TypedDict(label, {})  # type: ignore[operator]
        self._structs.append(made)
        fields = self._row("}", self._field)
        self._structs.pop()
        if len({name for name, _, _ in fields}) < len(fields):
            raise NoShape(f"a struct {label} with a field twice")
        hints = {name: annotation for name, annotation, _ in fields}
        made.__annotations__ = hints
        if arm:
            if any(not name.isidentifier() for name in hints):
                raise NoShape(f"a struct {label} in a union with a field that is no identifier")
            return dataclasses.dataclass(made)
        made.__required_keys__ = frozenset(name for name, _, needed in fields if needed)
        made.__optional_keys__ = frozenset(hints) - made.__required_keys__
        return made

    def _field(self) -> tuple[str, Any, bool]:
        name = self._name()
        needed = not self._take("?")
        self._expect(":")
        return name, self.read(), needed

    def _enum(self, label: str) -> Any:
        self._expect("{")

        def member() -> tuple[str, Any]:
            name = self._name()
            self._expect(":")
            return name, self._json()

        members = self._row("}", member)
        try:
            return enum.Enum(label, members)
        except (TypeError, ValueError) as error:
            raise NoShape(f"an enum {label} that cannot be made: {error}") from None

    def _outer(self) -> Any:
        level = int(self._match(_NUMBER, "a level"))
        if level >= len(self._structs):
            raise NoShape(f"a shape with ^{level} inside {len(self._structs)} structs")
        return self._structs[-1 - level]

    # --- text --------------------------------------------------------------------------------------------------

    def _row(self, end: str, part: Callable[[], Any]) -> list[Any]:
        found: list[Any] = []
        if self._take(end):
            return found
        while True:
            found.append(part())
            if self._take(end):
                return found
            self._expect(",")

    def _name(self) -> str:
        if self._peek() != '"':
            return self._match(_WORD, "a name")
        name = self._json()
        assert isinstance(name, str)
        return name

    def _json(self) -> Any:
        try:
            value, self.position = _DECODER.raw_decode(self._text, self.position)
        except (ValueError, RecursionError):
            raise self.wrong("a value") from None
        return value

    def _peek(self) -> str:
        return self._text[self.position : self.position + 1]

    def _take(self, sign: str) -> bool:
        if self._peek() != sign:
            return False
        self.position += 1
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self.wrong(repr(sign))

    def _match(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self.position)
        if found is None:
            raise self.wrong(wanted)
        self.position = found.end()
        return found.group()


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
