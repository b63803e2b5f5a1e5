"""List the installed plugins without importing any, or describe one, which imports it.

Exit code 1: one of them cannot be used; the list is printed all the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from echokernel.cli import DONE, FAILED, fail

if TYPE_CHECKING:
    from pydantic import BaseModel

    from echokernel.loader import InstalledPlugin
    from echokernel.registry import Registry


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=["info"], help="describe one plugin")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the plugin to describe")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.installed import installed_plugins  # not by way of the loader, which needs pluggy

    plugins = installed_plugins()
    if arguments.action is None:
        return _list(plugins, as_json=arguments.json)
    if arguments.name is None:
        return fail("echokernel plugins info wants a NAME", 2)
    return _info(arguments.name, plugins, as_json=arguments.json)


def _list(plugins: list[InstalledPlugin], *, as_json: bool) -> int:
    from echokernel.cli._output import print_json, print_table

    if as_json:
        print_json([_as_dict(plugin) for plugin in plugins])
    elif not plugins:
        print("no plugins are installed; a good start: pip install 'echokernel[quic,msgpack]'")
    else:
        rows = [
            [
                plugin.name,
                plugin.version,
                plugin.distribution,
                f"v{plugin.api}",
                _source(plugin),
                plugin.problem or "ok",
            ]
            for plugin in plugins
        ]
        print_table(["NAME", "VERSION", "DISTRIBUTION", "API", "SOURCE", "STATE"], rows)
    return FAILED if any(plugin.trouble for plugin in plugins) else DONE


def _info(name: str, plugins: list[InstalledPlugin], *, as_json: bool) -> int:
    from echokernel.cli._output import print_json
    from echokernel.loader import PluginFailure, PluginLoader

    loader = PluginLoader(environ={}, installed=plugins)
    found = next((plugin for plugin in plugins if plugin.name == name), None)
    problem = None
    try:
        loader.load(name)
    except PluginFailure as error:
        if found is None:
            return fail(error.reason + "; " + error.remedy, FAILED)
        problem = str(error)
    assert found is not None
    provided = dict(_provided(loader.registry))
    settings = dict(_settings(loader.registry))
    if as_json:
        described = {
            section: {key: {"type": kind, "default": default, "about": about} for key, kind, default, about in options}
            for section, options in settings.items()
        }
        print_json({**_as_dict(found), "problem": problem, "provides": provided, "settings": described})
    else:
        print(f"{found.name} {found.version}  ({found.distribution}, API {found.api}, {_source(found)})")
        for kind, names in provided.items():
            print(f"  {kind}: {', '.join(names)}")
        for section, options in settings.items():
            print(f"\n[{section}]")
            for key, kind, default, about in options:
                print(f"  {key} ({kind}{', default ' + default if default else ', required'})")
                for line in about.splitlines():
                    print(f"      {line}")
    return DONE if problem is None else fail(problem, FAILED)


def _provided(registry: Registry) -> Iterator[tuple[str, list[str]]]:
    tables: dict[str, list[str]] = {
        "transports": list(registry.transports),
        "serializers": list(registry.serializers),
        "middleware": list(registry.middlewares),
        "handlers": [entry.value.name for entry in registry.handlers],
        "discovery": list(registry.discoveries),
        "reconnect policies": list(registry.reconnects),
        "authenticators": list(registry.authenticators),
        "services": list(registry.services),
        "commands": list(registry.commands),
        "checks": list(registry.checks),
    }
    for kind, names in tables.items():
        if names:
            yield kind, names


def _settings(registry: Registry) -> Iterator[tuple[str, list[tuple[str, str, str, str]]]]:
    for scheme, transport in registry.transports.items():
        yield f"listen.NAME, url {scheme}://…", _options(transport.value.listen_settings)
        yield f"connect.NAME, url {scheme}://…", _options(transport.value.connect_settings)
    tables: dict[str, Any] = {
        "middleware": registry.middlewares,
        "authenticator": registry.authenticators,
        "service": registry.services,
    }
    for section, table in tables.items():
        for name, entry in table.items():
            if entry.value.settings is not None:
                yield f"{section}.NAME, use = {name}", _options(entry.value.settings)
    without_section: dict[str, Any] = {"discovery": registry.discoveries, "reconnect policy": registry.reconnects}
    for kind, others in without_section.items():
        for name, other in others.items():
            if other.value.settings is not None:
                yield f"{kind} {name}, in code", _options(other.value.settings)


def _options(model: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    """Return name, type, default (empty: required) and description of each setting."""
    from echokernel.config._example import plain
    from echokernel.config._models import keys_of
    from echokernel.config._toml_text import toml_value
    from echokernel.settings import field_docs

    docs, written = field_docs(model), {name: key for key, name in reversed(keys_of(model).items())}
    options = []
    for name, field in model.model_fields.items():
        kind = getattr(field.annotation, "__name__", None) if isinstance(field.annotation, type) else None
        text = kind or str(field.annotation).replace("typing.", "").replace("pydantic.types.", "")
        default = "" if field.is_required() else _default(plain(field.get_default()), toml_value)
        options.append((written.get(name, name), text, default, docs.get(name, "")))
    return options


def _default(value: Any, show: Any) -> str:
    return "none" if value is None else str(show(value))


def _source(plugin: InstalledPlugin) -> str:
    return f"editable {plugin.location}" if plugin.editable else "installed"


def _as_dict(plugin: InstalledPlugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "version": plugin.version,
        "distribution": plugin.distribution,
        "api": plugin.api,
        "location": plugin.location,
        "editable": plugin.editable,
        "problem": plugin.problem,
    }
