"""Results for people and for programs."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["print_json", "print_table", "to_json"]


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print ``value`` as JSON on stdout."""
    print(to_json(value, indent=indent))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON; what JSON does not have becomes text, bytes as base64."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=indent, default=str)


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
