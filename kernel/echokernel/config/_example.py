"""A configuration to start from: what has to be there is written, the rest stands in comments with its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from echokernel.config._models import keys_of
from echokernel.config._toml_text import toml_key, toml_value
from echokernel.loader import load_plugins
from echokernel.registry import Factory, Registered
from echokernel.settings import ConnectSettings, ListenSettings, LogSettings, field_docs, node_model

__all__ = ["example", "plain"]


def example(names: Sequence[str]) -> str:
    """Return a TOML text that is valid with these plugins. Raises PluginError."""
    registry = load_plugins(names).registry
    lines = [
        "# A configuration for echokernel. Commented settings show their defaults.",
        '# Any value may be { env = "NAME" } or { file = "path" }.',
        "",
        f"plugins = {toml_value(list(names))}  # in this order; nothing else is imported",
        "",
        "[node]",
        *_settings(node_model(), {"name": "quickstart"}),
    ]
    for scheme, transport in registry.transports.items():
        url = f"{scheme}://127.0.0.1:4433"
        lines += ["", f"[listen.{toml_key(scheme)}]", *_settings(ListenSettings, {"url": url})]
        lines += _settings(transport.value.listen_settings, {}, skip=ListenSettings)
        lines += ["", f"# [connect.{toml_key(scheme)}]"]
        lines += _commented(
            [*_settings(ConnectSettings, {"url": url}), *_settings(transport.value.connect_settings, {})]
        )
    tables: dict[str, Mapping[str, Registered[Factory[Any]]]] = {
        "middleware": registry.middlewares,
        "authenticator": registry.authenticators,
        "service": registry.services,
    }
    for section, table in tables.items():
        for name, entry in table.items():
            lines += ["", f"# [{section}.{toml_key(name)}]"]
            lines += _commented(_settings(entry.value.settings, {}) if entry.value.settings else [])
    lines += ["", "[log]", *_settings(LogSettings, {})]
    return "\n".join(lines) + "\n"


def _settings(model: type[BaseModel], given: dict[str, Any], *, skip: type[BaseModel] | None = None) -> list[str]:
    docs = field_docs(model)
    lines: list[str] = []
    written = {name: key for key, name in reversed(keys_of(model).items())}
    for name, field in model.model_fields.items():
        if skip is not None and name in skip.model_fields:
            continue
        lines += [f"# {line}" for line in docs.get(name, "").splitlines()]
        key = toml_key(written.get(name, name))
        if name in given:
            lines.append(f"{key} = {toml_value(given[name])}")
        elif field.is_required():
            lines.append(f"{key} = {toml_value(_placeholder(field.annotation))}")
        else:
            default = field.get_default(call_default_factory=True) if not _needs_data(field) else None
            value = plain(default)
            lines.append(f'# {key} = "…"  # not set' if value is None else f"# {key} = {toml_value(value)}")
    return lines


def _commented(lines: list[str]) -> list[str]:
    return [line if line.startswith("#") else f"# {line}" for line in lines]


def _needs_data(field: Any) -> bool:
    return bool(getattr(field, "default_factory_takes_validated_data", False))


def _placeholder(annotation: Any) -> Any:
    return {int: 0, float: 0.0, bool: False}.get(annotation, "…")


def plain(value: Any) -> Any:
    """Return a default as JSON-like data; None for what is not set, and for secrets."""
    if isinstance(value, BaseModel):
        return {name: plain(item) for name, item in value if item is not None}
    if isinstance(value, SecretStr) or value is PydanticUndefined:
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
