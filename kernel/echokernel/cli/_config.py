"""Describe configurations: their JSON Schema for editors, a commented example, or the values in effect."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from echokernel.cli import DONE
from echokernel.cli._config_arguments import add_config_arguments

if TYPE_CHECKING:
    from echokernel.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="schema|example|show")
    actions.add_parser("schema", help="JSON Schema over the installed plugins; editors read a line `#:schema FILE`")
    example = actions.add_parser("example", help="a commented configuration")
    example.add_argument("names", nargs="*", metavar="PLUGIN", help="plugins to use; default: all that are installed")
    show = actions.add_parser("show", help="every value in effect, as TOML; secrets are ***")
    add_config_arguments(show)
    show.add_argument("--origin", action="store_true", help="say where each value was set")
    show.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "schema":
        return _schema()
    if arguments.action == "example":
        return _example(arguments.names)
    return _show(arguments)


def _schema() -> int:
    from echokernel.cli._output import print_json
    from echokernel.config import config_schema
    from echokernel.loader import PluginFailure, PluginLoader, installed_plugins

    installed = installed_plugins()
    loader = PluginLoader(installed=installed)
    for name in dict.fromkeys(plugin.name for plugin in installed):
        try:
            loader.load(name)
        except PluginFailure as error:
            print(f"left out: {error}", file=sys.stderr)
    print_json(config_schema(loader.registry))
    return DONE


def _example(names: list[str]) -> int:
    from echokernel.config import config_example
    from echokernel.loader import installed_plugins

    print(config_example(names or [plugin.name for plugin in installed_plugins() if plugin.trouble is None]), end="")
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import print_json
    from echokernel.config import load_config

    config = load_config(arguments.file, overrides=arguments.overrides, without=arguments.without)
    if arguments.json:
        rows = [{"key": list(e.path), "value": e.value, "origin": e.origin} for e in config.effective()]
        print_json(rows)
    else:
        _print_toml(config, origins=arguments.origin)
    return DONE


def _print_toml(config: Config, *, origins: bool) -> None:
    from echokernel.config._toml_text import toml_key, toml_value

    table: tuple[str, ...] = ()
    for entry in config.effective():
        if entry.path[:-1] != table:
            table = entry.path[:-1]
            print(f"\n[{'.'.join(map(toml_key, table))}]")
        if entry.value is None:
            line = f"# {toml_key(entry.path[-1])} is not set"
        else:
            line = f"{toml_key(entry.path[-1])} = {toml_value(entry.value)}"
        print(f"{line:50}  # {entry.origin}" if origins and entry.value is not None else line)
