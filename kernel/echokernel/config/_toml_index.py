"""Where each key of a TOML text stands: ``tomllib`` keeps no positions, and error messages need them.

A scanner for text that ``tomllib`` has accepted; tests compare the two on generated documents. A path is a tuple of
keys, and of numbers for the elements of arrays. What cannot be found is looked for one level up.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Index", "KeyPath", "Position", "index"]

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n\r]*")  # to the end of the value; a date and its time are parted by a space
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")


class Position(NamedTuple):
    """Line and column, both counted from 1, columns in characters."""

    line: int
    column: int


class Index:
    """The positions of one text. ``complete`` is False where the scanner lost its way."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        scanner = _Scanner(text)
        try:
            scanner.scan()
        except (ValueError, IndexError, RecursionError):
            self.complete = False  # what was found up to here still serves
        else:
            self.complete = True
        self._offsets, self._inline = scanner.offsets, scanner.inline

    @property
    def offsets(self) -> Mapping[KeyPath, int]:
        """Every path that was found, with the offset of its first mention."""
        return dict(self._offsets)

    def locate(self, path: KeyPath) -> Position:
        """Return where ``path`` is first written, or the nearest table around it; (1, 1) for the whole text."""
        while path and path not in self._offsets:
            path = path[:-1]
        return self.position(self._offsets[path]) if path else Position(1, 1)

    def is_inline(self, path: KeyPath) -> bool:
        """Whether the table at ``path`` is written as a value, ``{ … }``."""
        return path in self._inline or not self.complete

    def position(self, offset: int) -> Position:
        """Return the position of the character at ``offset``."""
        line = bisect_right(self._starts, offset)
        return Position(line, offset - self._starts[line - 1] + 1)


def index(text: str) -> Index:
    """Return the index of ``text``. Never raises."""
    return Index(text)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tables: dict[KeyPath, int] = {}  # arrays of tables, with the number of tables so far
        self.offsets: dict[KeyPath, int] = {}
        self.inline: set[KeyPath] = set()

    def scan(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            if self._text.startswith("[[", self._at):
                table = self._header("]]")
            elif self._text[self._at] == "[":
                table = self._header("]")
            else:
                self._pair(table)

    def _header(self, end: str) -> KeyPath:
        self._at += len(end)
        parts = self._key()
        path: KeyPath = ()
        for number, (part, offset) in enumerate(parts, start=1):
            path = (*path, part)
            self.offsets.setdefault(path, offset)
            if end == "]]" and number == len(parts):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:  # [a.b] after [[a]] belongs to the last table of a
                path = (*path, self._tables[path] - 1)
                self.offsets.setdefault(path, offset)
        self._expect(end)
        return path

    def _pair(self, table: KeyPath) -> None:
        path = table
        for part, offset in self._key():
            path = (*path, part)
            self.offsets.setdefault(path, offset)
        self._expect("=")
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        parts: list[tuple[str, int]] = []
        while True:
            self._skip(_SPACE)
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                parts.append((tomllib.loads(f"k={self._text[start : self._at]}")["k"], start))
            else:
                match = _BARE_KEY.match(self._text, start)
                if match is None:
                    raise ValueError(f"no key at offset {start}")
                self._at = match.end()
                parts.append((match[0], start))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            start = self._at
            self._skip(_BARE_VALUE)
            if self._at == start:
                raise ValueError(f"no value at offset {start}")

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip(_BLANK)
            if self._text[self._at] == "]":
                self._at += 1
                return
            element = (*path, number)
            self.offsets.setdefault(element, self._at)
            self._value(element)
            self._skip(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1
            number += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.inline.add(path)
        self._at += 1
        while True:
            self._skip(_BLANK)
            if self._text[self._at] == "}":
                self._at += 1
                return
            if self._text[self._at] == ",":
                self._at += 1
            else:
                self._pair(path)

    def _string(self) -> None:
        quote = self._text[self._at]
        long = self._text.startswith(quote * 3, self._at)
        end = quote * 3 if long else quote
        self._at += len(end)
        while not self._text.startswith(end, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
            if self._at >= len(self._text):
                raise ValueError("a string does not end")
        self._at += len(end)
        if long:  # up to two quotes before the closing three belong to the string
            for _ in range(2):
                if self._text.startswith(quote, self._at):
                    self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()

    def _expect(self, what: str) -> None:
        if not self._text.startswith(what, self._at):
            raise ValueError(f"no {what} at offset {self._at}")
        self._at += len(what)
