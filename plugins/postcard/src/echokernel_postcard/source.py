"""Python source that is being written: lines, the names that they use, and one function for each shape that needs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from echokernel_postcard.shapes import Shape


class Source:
    """Text made of this package's own words and of names of fields, which are identifiers; values come in by name."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = dict(names)
        self.lines: list[str] = []
        self._functions: dict[int, str] = {}
        self._kept: list[Any] = []
        self._count = 0

    def number(self) -> int:
        self._count += 1
        return self._count

    def name(self, value: Any) -> str:
        """Return a name by which the source finds ``value``."""
        name = f"n{self.number()}"
        self.names[name] = value
        return name

    def function(self, shape: Shape, write: Callable[[Shape, str], list[str]]) -> str:
        """Return the name of the function for ``shape``; ``write`` makes its lines when it is needed first."""
        name = self._functions.get(id(shape))
        if name is None:
            name = self._functions[id(shape)] = f"f{self.number()}"
            self._kept.append(shape)  # its id stays its own
            self.lines += write(shape, name)
        return name

    def run(self, name: str) -> Callable[[Any], Any]:
        """Execute all of it, and return the function called ``name``."""
        exec("\n".join(self.lines), self.names)
        function: Callable[[Any], Any] = self.names[name]
        return function


def indent(lines: list[str], levels: int = 1) -> list[str]:
    return [f"{'    ' * levels}{line}" for line in lines]
