"""A TOML file: its text and its content, or the one mistake in it with its place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from echokernel.config._problems import InvalidConfig, Location, Problem
from echokernel.config._toml_index import Position

__all__ = ["read_toml"]

START = Position(1, 1)
_TOML_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text and what it says. Raises InvalidConfig with the one mistake that there is no going on from."""

    def wrong(kind: str, message: str, position: Position = START) -> InvalidConfig:
        return InvalidConfig([Problem(Location(str(path), position), kind, message)])

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise wrong("file", "there is no such file; make one with: echokernel config example > config.toml") from None
    except IsADirectoryError:
        raise wrong("file", "this is a directory; name the TOML file in it") from None
    except OSError as error:
        raise wrong("file", f"it cannot be read: {error.strerror or error}") from error
    try:
        text = content.decode("utf-8-sig")  # some editors put a byte order mark in front
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        position = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise wrong(
            "encoding", f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8", position
        ) from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise wrong("toml", _TOML_POSITION.sub("", str(error)), _toml_position(text, str(error))) from error
    except RecursionError:
        raise wrong("toml", "it is nested too deeply") from None


def _toml_position(text: str, message: str) -> Position:
    """Python 3.11 to 3.13 give the position in the text of the error only."""
    match = _TOML_POSITION.search(message)
    if match is None:
        return START
    if match[1] is not None:
        return Position(int(match[1]), int(match[2]))
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))
