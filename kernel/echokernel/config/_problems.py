"""Mistakes in a configuration, all of them at once: ``file:line:column: error[kind]: …; did you mean …?``"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from echokernel._suggest import did_you_mean
from echokernel.config._toml_index import KeyPath, Position
from echokernel.errors import ConfigError

__all__ = ["InvalidConfig", "Location", "Problem", "dotted", "unknown"]


@dataclass(frozen=True, slots=True)
class Location:
    """A place in the file, or (without a position) an override such as ``--set node.name``."""

    source: str
    position: Position | None = None

    def __str__(self) -> str:
        return self.source if self.position is None else f"{self.source}:{self.position.line}:{self.position.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``kind`` is one of those listed in ``docs/configuration.md``."""

    location: Location
    kind: str
    message: str
    path: KeyPath = ()

    def __str__(self) -> str:
        return f"{self.location}: error[{self.kind}]: {self.message}"


class InvalidConfig(ConfigError):
    """The configuration is wrong: ``problems`` has every mistake, in the order of the file; overrides come last."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems), key=_order))
        super().__init__("\n".join(map(str, self.problems)))


def _order(problem: Problem) -> tuple[bool, Position, str, str]:
    position = problem.location.position
    return position is None, position or Position(0, 0), str(problem.location), problem.message


def dotted(path: KeyPath) -> str:
    """Return ``node.handlers[0]`` for ``("node", "handlers", 0)``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part.replace("_", "a").replace("-", "a").isalnum() and part.isascii()
            text += ("." if text else "") + (part if plain else f'"{part}"')
    return text


def unknown(what: str, word: str, known: Iterable[str], *, label: str) -> str:
    """Return ``WHAT; did you mean 'x'?``, or what there is: ``WHAT; LABEL: a, b``."""
    names = sorted(known)
    return f"{what}; {did_you_mean(word, names) or label + ': ' + (', '.join(names) or 'none')}"
