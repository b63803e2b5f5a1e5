"""Results for people and for programs."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["count", "duration", "harmless", "print_json", "print_table", "printable_json", "size", "to_json"]

_CONTROLS = {**dict.fromkeys([*range(32), *range(127, 160)], "\ufffd"), ord("\n"): "\n", ord("\t"): "\t"}
# what JSON leaves as it is, and would drive a terminal or turn the direction of writing; halves of characters cannot go out
_UNSEEN = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def harmless(text: str) -> str:
    """Return a text of a peer's without what would make a terminal do something."""
    return text.translate(_CONTROLS)


def count(number: int, what: str) -> str:
    """Return ``1 session``, ``1,000 sessions``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(value: float) -> str:
    """Return bytes as ``17 B``, ``1.2 kB``, ``3.4 MB``: powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.95:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Return ``0.4 s``, ``12 s``, ``3 min 4 s``, ``5 h 6 min``, ``7 d 8 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h"
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print ``value`` as JSON on stdout."""
    print(printable_json(value, indent=indent))


def printable_json(value: Any, *, indent: int | None = 2) -> str:
    """Return ``value`` as JSON in which all that cannot be seen, or would drive a terminal, is written as an escape."""
    return _UNSEEN.sub(_escaped, to_json(value, indent=indent))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON; what JSON does not have becomes text, bytes as base64."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=indent, default=str)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with rich, where it is installed and somebody looks at a terminal; otherwise in plain columns."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        try:
            from rich.box import SIMPLE_HEAD
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False)
            for row in rows:
                table.add_row(*map(Text, row))
            Console(file=sys.stdout).print(table)
            return
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    return value
