"""A shape as a tree: to be compared, and to make types of. Nothing is made here: names of fields and members are any text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from echokernel.shapes import MAX_SHAPE, NoShape

__all__ = ["MAX_DEPTH", "Node", "Part", "read_tree"]

MAX_DEPTH = 64  # levels; a peer's text must not exhaust the stack
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}")
_DECODER = json.JSONDecoder()
_COUNTS = {"seq": 1, "set": 1, "map": 2, "option": 1}


@dataclass(frozen=True, slots=True)
class Part:
    """What a node is made of: a field of a struct, a member of an enum, an item, an arm."""

    name: str
    """Of a field or a member; empty for others."""
    node: Node | None = None
    needed: bool = True
    value: str = ""
    """Of a member or a literal, as JSON."""


@dataclass(frozen=True, slots=True)
class Node:
    """One type."""

    kind: str
    """The shape's word: ``i64``, ``struct``, ``seq``; ``^2`` for a type that this one is inside of."""
    label: str = ""
    """The name of a class."""
    parts: tuple[Part, ...] = ()
    size: int = 0
    """Of an array."""

    def inner(self, at: int = 0) -> Node:
        """Return the type of a part that has one."""
        node = self.parts[at].node
        assert node is not None
        return node

    def text(self) -> str:
        """Return it as a shape, with class names, at most some dozen characters of what is inside."""
        whole = self._text(labels=True)
        return whole if len(whole) <= 60 else f"{self.kind}:{self.label}{{…}}" if self.label else f"{whole[:57]}…"

    def form(self) -> str:
        """Return it as a shape without the names of classes: equal for two that look the same."""
        return self._text(labels=False)

    def _text(self, labels: bool) -> str:
        inside = [
            (f"{_key(part.name)}{'' if part.needed else '?'}:" if self.kind in ("struct", "enum") else "")
            + (part.value if part.node is None else part.node._text(labels))
            for part in self.parts
        ]
        if self.kind in ("struct", "enum"):
            return f"{self.kind}:{self.label if labels else ''}{{{','.join(inside)}}}"
        if self.kind == "array":
            return f"array({inside[0]},{self.size})"
        composed = inside or self.kind in ("tuple", "literal", "union")
        return f"{self.kind}({','.join(inside)})" if composed else self.kind


def _key(name: str) -> str:
    return name if _WORD.fullmatch(name) else json.dumps(name)


def read_tree(text: str) -> Node:
    """Return the tree of a shape. Raises NoShape for what is none."""
    if len(text) > MAX_SHAPE:
        raise NoShape(f"a shape of {len(text):,} characters")
    reader = _Reader(text)
    node = reader.read()
    reader.end()
    return node


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._position, self._depth, self._around = text, 0, 0, 0

    def end(self) -> None:
        if self._position != len(self._text):
            raise self._wrong("the end")

    def read(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NoShape(f"a shape of more than {MAX_DEPTH} levels")
        node = self._read()
        self._depth -= 1
        return node

    def _read(self) -> Node:
        if self._take("^"):
            level = int(self._match(_NUMBER, "a level"))
            if level >= self._around:
                raise NoShape(f"a shape with ^{level} inside {self._around} structs")
            return Node(f"^{level}")
        word = self._match(_WORD, "a type")
        if word in ("struct", "enum"):
            self._expect(":")
            label = "" if self._text.startswith("{", self._position) else self._match(_WORD, "a name")
            self._expect("{")
            self._around += word == "struct"
            parts = self._row("}", self._field if word == "struct" else self._member)
            self._around -= word == "struct"
            if len({part.name for part in parts}) < len(parts):
                raise NoShape(f"{word} {label} with a name twice")
            return Node(word, label, parts)
        if not self._take("("):
            return Node(word)
        if word == "literal":
            return Node(word, parts=self._row(")", lambda: Part("", value=self._value())))
        if word == "array":
            item = self.read()
            self._expect(",")
            size = int(self._match(_NUMBER, "a length"))
            self._expect(")")
            return Node(word, parts=(Part("", item),), size=size)
        parts = self._row(")", lambda: Part("", self.read()))
        if len(parts) != _COUNTS.get(word, len(parts)) or (word not in _COUNTS and word not in ("tuple", "union")):
            raise NoShape(f"a shape with {word} of {len(parts)}")
        return Node(word, parts=parts)

    def _field(self) -> Part:
        name = self._name()
        needed = not self._take("?")
        self._expect(":")
        return Part(name, self.read(), needed)

    def _member(self) -> Part:
        name = self._name()
        self._expect(":")
        return Part(name, value=self._value())

    def _row(self, end: str, part: Callable[[], Part]) -> tuple[Part, ...]:
        found: list[Part] = []
        if self._take(end):
            return ()
        while True:
            found.append(part())
            if self._take(end):
                return tuple(found)
            self._expect(",")

    def _name(self) -> str:
        if not self._text.startswith('"', self._position):
            return self._match(_WORD, "a name")
        name: str = json.loads(self._value())
        return name

    def _value(self) -> str:
        """Return the JSON value that stands here, written in one way."""
        try:
            value, self._position = _DECODER.raw_decode(self._text, self._position)
        except (ValueError, RecursionError):
            raise self._wrong("a value") from None
        return json.dumps(value, separators=(",", ":"))

    def _take(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._position)
        self._position += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._wrong(repr(sign))

    def _match(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self._position)
        if found is None:
            raise self._wrong(wanted)
        self._position = found.end()
        return found.group()

    def _wrong(self, wanted: str) -> NoShape:
        return NoShape(f"a shape with {self._text[self._position :][:20]!r} where {wanted} is wanted")
