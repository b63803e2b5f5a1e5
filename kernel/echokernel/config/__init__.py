"""A node's configuration: read, validated as a whole before anything starts, shown with the origin of each value."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echokernel.config._parts import ConnectConfig, ListenConfig, PartConfig
from echokernel.config._problems import InvalidConfig, Location, Problem
from echokernel.config._sources import Document, read_document
from echokernel.limits import Limits
from echokernel.loader import Loaded, PluginLoader

if TYPE_CHECKING:
    from pydantic import BaseModel

    from echokernel.config._toml_index import KeyPath
    from echokernel.registry import Registry
    from echokernel.settings import LogSettings, NodeSettings

__all__ = [
    "Config",
    "ConnectConfig",
    "Entry",
    "InvalidConfig",
    "ListenConfig",
    "Location",
    "PartConfig",
    "Problem",
    "config_example",
    "config_schema",
    "load_config",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One effective value, JSON-like, secrets as ``***``; ``origin`` says where it was set, or ``default``."""

    path: tuple[str, ...]
    value: Any
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A valid configuration. Nothing has been started, and nothing but plugins has been imported."""

    path: Path
    loaded: Loaded
    node: NodeSettings
    limits: Limits
    log: LogSettings
    listen: Mapping[str, ListenConfig]
    connect: Mapping[str, ConnectConfig]
    middleware: Sequence[PartConfig]
    """In the order of ``node.middleware``, outermost first."""
    authenticators: Mapping[str, PartConfig]
    services: Mapping[str, PartConfig]
    _document: Document = field(repr=False)
    _models: Sequence[tuple[KeyPath, BaseModel]] = field(repr=False)

    @property
    def registry(self) -> Registry:
        """What the plugins registered."""
        return self.loaded.registry

    def problem(self, kind: str, path: KeyPath, message: str) -> Problem:
        """Return a mistake at ``path`` that showed up after validation, located like the others."""
        noted = len(self._document.problems)
        self._document.problem(kind, path, message)
        return self._document.problems.pop(noted)

    def declares(self, section: str) -> bool:
        """Whether something stands in ``section``, right or wrong."""
        return bool(self._document.data.get(section))

    def effective(self) -> list[Entry]:
        """Return every value in effect, defaults included, section by section."""
        from echokernel.settings import node_model

        plugins = self._document.get(("plugins",)) or []
        origin = self._document.origin(("plugins",)) if plugins else "default"
        entries = [Entry(("plugins",), list(plugins), origin)]
        models: dict[KeyPath, list[BaseModel]] = {("node",): [node_model().model_validate({})], ("log",): []}
        for path, model in self._models:
            if path in (("node",), ("log",)):
                models[path] = [model]
            else:
                models.setdefault(path, []).append(model)
        for path, parts in models.items():
            for part in parts:
                entries += self._entries(path, part)
        return entries

    def _entries(self, path: KeyPath, model: BaseModel) -> list[Entry]:
        from echokernel.config._models import keys_of

        written = {name: key for key, name in reversed(keys_of(type(model)).items())}
        entries: list[Entry] = []
        for name in type(model).model_fields:
            value = getattr(model, name)
            here = (*path, written.get(name, name))
            present = self._document.get(here) is not None
            origin = self._document.origin(here) if present else "default"
            entries.append(Entry(tuple(map(str, here)), _shown(value, here, self._document), origin))
        return entries


def load_config(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    without: Sequence[str] = (),
) -> Config:
    """Read and validate the TOML file at ``path``; import the plugins that it names, and start nothing.

    ``overrides``: texts like ``node.name=quickstart``; they win over ``ECHOKERNEL__NODE__NAME`` in ``environ``, which
    wins over the file. ``without``: plugins to leave out. Raises InvalidConfig, a ConfigError whose message has a line
    for every mistake.
    """
    config, problems = read_config(path, overrides=overrides, environ=environ, without=without)
    if problems:
        raise InvalidConfig(problems)
    return config


def read_config(
    path: str | Path, *, overrides: Sequence[str], environ: Mapping[str, str], without: Sequence[str]
) -> tuple[Config, list[Problem]]:
    """Return what is right in a configuration, and all that is wrong. Raises InvalidConfig where nothing is right."""
    from echokernel.config._check import Checker

    document = read_document(path, overrides, environ)
    checker = Checker(document, PluginLoader(without=without, environ=environ))
    checker.check(without)
    config = Config(
        path=document.path,
        loaded=checker.loaded,
        node=checker.node,
        limits=checker.limits,
        log=checker.log,
        listen=checker.listen,
        connect=checker.connect,
        middleware=checker.middleware,
        authenticators=checker.authenticators,
        services=checker.services,
        _document=document,
        _models=checker.models,
    )
    return config, list(document.problems)


def config_schema(registry: Registry) -> dict[str, Any]:
    """Return the JSON Schema of a configuration that may use everything in ``registry``; for editors."""
    from echokernel.config._schema import schema

    return schema(registry)


def config_example(names: Sequence[str]) -> str:
    """Return a commented configuration that uses these plugins and no others. Raises PluginError."""
    from echokernel.config._example import example

    return example(names)


def _shown(value: Any, path: KeyPath, document: Document) -> Any:
    """Return ``value`` as JSON has it. Secrets and everything that was referenced, which may be one, are ``***``."""
    from pydantic import BaseModel, SecretBytes, SecretStr

    if any(path[: len(reference)] == reference for reference in document.references):
        return "***"
    if isinstance(value, SecretStr | SecretBytes):
        return "***"
    if isinstance(value, BaseModel):
        return {name: _shown(getattr(value, name), (*path, name), document) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(key): _shown(item, (*path, str(key)), document) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(item, (*path, number), document) for number, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return json.loads(json.dumps(value))  # an enum of strings becomes its string
    return str(value)
