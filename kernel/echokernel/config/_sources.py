"""What a configuration is made of: a TOML file, the environment and ``--set``, with the origin of every value.

References, ``{ env = "NAME" }`` and ``{ file = "path" }``, are values: they are resolved after parsing, never as text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echokernel.config._problems import Location, Problem, dotted
from echokernel.config._toml_file import read_toml
from echokernel.config._toml_index import Index, KeyPath

__all__ = ["Document", "parse_override", "read_document"]

PREFIX = "ECHOKERNEL__"


@dataclass(frozen=True, slots=True)
class Override:
    """A value that did not come from the file: ``label`` says from where, ``raw`` is its text."""

    label: str
    raw: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A value that stands elsewhere: ``label`` says where, ``text`` is a secret."""

    label: str
    text: str = field(repr=False)


@dataclass(slots=True)
class Document:
    """The merged tree, where each part of it comes from, and the problems found so far."""

    path: Path
    index: Index
    data: dict[str, Any] = field(default_factory=dict)
    overrides: dict[KeyPath, Override] = field(default_factory=dict)
    references: dict[KeyPath, Reference] = field(default_factory=dict)
    unresolved: set[KeyPath] = field(default_factory=set)
    """References that led nowhere; what else is wrong with their values is not worth saying."""
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: KeyPath) -> Location:
        """Return where the value at ``path``, or what contains it, was written."""
        override = self.override_of(path)
        if override is not None:
            return Location(override.label)
        return Location(str(self.path), self.index.locate(path))

    def origin(self, path: KeyPath) -> str:
        """Return ``config.toml:3``, ``--set node.name`` and the like, for people."""
        location = self.where(path)
        text = location.source if location.position is None else f"{location.source}:{location.position.line}"
        reference = next((self.references[part] for part in _prefixes(path) if part in self.references), None)
        return f"{text}, {reference.label}" if reference else text

    def override_of(self, path: KeyPath) -> Override | None:
        return next((self.overrides[part] for part in _prefixes(path) if part in self.overrides), None)

    def problem(self, kind: str, path: KeyPath, message: str) -> None:
        """Note a mistake at ``path``. A referenced value that found its way into the message is taken out."""
        for secret, reference in self.references.items():
            related = secret[: len(path)] == path or path[: len(secret)] == secret
            if related and reference.text:
                message = message.replace(reference.text, "***")
        self.problems.append(Problem(self.where(path), kind, message, path))

    def get(self, path: KeyPath) -> Any:
        """Return the value at ``path``, None where there is none."""
        value: Any = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def table(self, path: KeyPath) -> Mapping[str, Any]:
        """Return the table at ``path``; an empty one where there is none, or something else, which is noted."""
        value = self.get(path)
        if value is None or isinstance(value, dict):
            return value or {}
        self.problem("type", path, f"{dotted(path)}: wanted a table, [{dotted(path)}]")
        return {}

    def instances(self, section: str, *, quiet: bool = False) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the named tables of ``section``, and note what is not one, unless that was done before."""
        if quiet and not isinstance(self.data.get(section), dict):
            return []
        found: list[tuple[str, Mapping[str, Any]]] = []
        for name, values in self.table((section,)).items():
            if isinstance(values, dict):
                found.append((name, values))
            elif not quiet:
                example = f"[{section}.main]" if section in ("listen", "connect") else f"[{section}.NAME]"
                self.problem("type", (section, name), f"{section}.{name}: settings stand below a name, as in {example}")
        return found


def read_document(path: str | Path, overrides: Sequence[str], environ: Mapping[str, str]) -> Document:
    """Read the file, then let the environment and ``overrides`` change it, then resolve references.

    Raises InvalidConfig where there is no TOML to go on with; everything else ends up in ``Document.problems``.
    """
    path = Path(path)
    text, data = read_toml(path)
    document = Document(path, Index(text), data)
    for name in sorted(environ):
        if name.startswith(PREFIX):
            keys = _match_case(document.data, name.removeprefix(PREFIX).split("__"))
            _apply(document, keys, environ[name], name)
    for override in overrides:
        try:
            keys, raw = parse_override(override)
        except ValueError as error:
            document.problems.append(Problem(Location(f"--set {override.partition('=')[0]}"), "set", str(error)))
        else:
            _apply(document, keys, raw, f"--set {dotted(keys)}")
    document.data = _resolve(document, document.data, (), environ)
    return document


def parse_override(text: str) -> tuple[KeyPath, str]:
    """Return the path and the raw value of ``node.name=quickstart``. Raises ValueError."""
    key, equals, raw = text.partition("=")
    if not equals:
        raise ValueError(f"wanted KEY=VALUE, as in node.name=quickstart; there is no '=' in {text!r}")
    try:
        tree: Any = tomllib.loads(f"{key.strip()} = 0")
    except tomllib.TOMLDecodeError:
        tree = {}
    keys: list[str] = []
    while isinstance(tree, dict) and len(tree) == 1:
        name, tree = next(iter(tree.items()))
        keys.append(name)
    if tree != 0:
        raise ValueError(f"{key!r} is not a key, as in node.name")
    return tuple(keys), raw.strip()


def parse_value(raw: str) -> Any:
    """Return the TOML value that ``raw`` writes; where it writes none, the text itself."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw
    return parsed["value"] if len(parsed) == 1 else raw  # several keys: it had a line break in it


def _match_case(data: Mapping[str, Any], words: Sequence[str]) -> KeyPath:
    """Environment variables are written in capitals and without dashes: find the keys that are meant."""
    keys: list[str] = []
    level: Any = data
    for word in words:
        wanted = word.lower()
        known = level if isinstance(level, dict) else {}
        key = wanted if wanted in known else next((k for k in known if k.lower().replace("-", "_") == wanted), wanted)
        keys.append(key)
        level = known.get(key)
    return tuple(keys)


def _apply(document: Document, keys: KeyPath, raw: str, label: str) -> None:
    level: Any = document.data
    for depth, key in enumerate(keys[:-1], start=1):
        level = level.setdefault(key, {})
        if not isinstance(level, dict):
            inside = dotted(keys[:depth])
            document.problems.append(
                Problem(Location(label), "set", f"{inside} is a value, not a table; set {inside} as a whole", keys)
            )
            return
    for path in [path for path in document.overrides if path[: len(keys)] == keys]:
        del document.overrides[path]  # the whole is set anew
    level[keys[-1]] = parse_value(raw)
    document.overrides[keys] = Override(label, raw)


def _resolve(document: Document, value: Any, path: KeyPath, environ: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_resolve(document, item, (*path, number), environ) for number, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (document.override_of(path) or document.index.is_inline(path)):
        (kind, name), *_ = value.items()
        if kind in ("env", "file") and isinstance(name, str):
            return _dereference(document, kind, name, path, environ)
    return {key: _resolve(document, item, (*path, key), environ) for key, item in value.items()}


def _dereference(document: Document, kind: str, name: str, path: KeyPath, environ: Mapping[str, str]) -> str:
    used = f"(used in {dotted(path)})"
    text = ""
    wrong = ""
    if kind == "env":
        if name in environ:
            text = environ[name]
        else:
            wrong = f"environment variable {name} is not set {used}"
    else:
        try:
            content = (document.path.parent / name).read_text(encoding="utf-8")
            text = content.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            wrong = f"file {name} is not UTF-8 {used}"
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            wrong = f"file {name} cannot be read: {getattr(error, 'strerror', None) or error} {used}"
    document.references[path] = Reference(f"{kind} {name}", text)
    if wrong:
        document.unresolved.add(path)
        document.problem(kind, path, wrong)
    return text


def _prefixes(path: KeyPath) -> Iterator[KeyPath]:
    for length in range(len(path), 0, -1):
        yield path[:length]
