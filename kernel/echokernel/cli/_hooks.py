"""List what a plugin may implement. `--markdown` makes docs/hooks.md."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from echokernel.cli import DONE

CONTRACTS = ("transport", "serializer", "middleware", "handlers", "discovery", "reconnect", "registry")
"""Modules whose public classes plugins implement."""
_REGISTERS = re.compile(r"``registry\.(\w+)\(")

INTRODUCTION = """\
# Hooks

What a plugin may implement. Made by `echokernel hooks --markdown`; do not edit this page, edit `hookspecs.py`.

A plugin is a module, or an object, with one or more of these functions, marked with `echokernel.hookimpl`, and an entry
point in the group `{group}`. The entry point's name is the plugin's name everywhere: in the
configuration, in logs, in messages.

```toml
[project.entry-points."{group}"]
shout = "acme_shout.plugin"
```

Each hook is called once per plugin, in the order of this page, while a node is built. It takes the registry, registers
objects, returns nothing, has no defaults and is never async: the registered objects have the async methods. A plugin
whose import or hook fails leaves nothing behind.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="the whole documentation, as Markdown")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import print_json, print_table

    rows = [(name, _first_sentence(function), method) for name, function, method in _hooks()]
    if arguments.markdown:
        print(markdown(), end="")
    elif arguments.json:
        print_json([{"hook": name, "about": about, "registers": f"registry.{method}"} for name, about, method in rows])
    else:
        print_table(["HOOK", "WHAT IT DOES"], [[f"{name}(registry)", about] for name, about, _ in rows])
    return DONE


def markdown() -> str:
    """Return ``docs/hooks.md``."""
    from echokernel.hookspecs import ENTRY_POINT_GROUP
    from echokernel.registry import Registry

    parts = [INTRODUCTION.format(group=ENTRY_POINT_GROUP)]
    for name, function, method in _hooks():
        register = getattr(Registry, method)
        parts.append(
            f"## `{name}(registry)`\n\n"
            f"{_text(function)}\n\n"
            f"```python\nregistry.{method}{_signature(register)}\n```\n\n"
            f"{_text(register)}\n" + "".join(map(_contract, _contracts(register)))
        )
    return "\n".join(parts)


def _contracts(register: Callable[..., Any]) -> list[type]:
    """Return the classes of the kernel that a method of the registry wants instances of."""
    modules = [importlib.import_module(f"echokernel.{name}") for name in CONTRACTS]
    words = re.findall(r"[A-Z]\w+", str(inspect.signature(register)))
    found = [getattr(module, word) for word in words for module in modules if word in getattr(module, "__all__", ())]
    return [value for value in dict.fromkeys(found) if isinstance(value, type)]


def _contract(contract: type) -> str:
    """Return a class as a paragraph and its members as a list."""
    lines = [f"\n`{contract.__name__}`: {' '.join(_text(contract).split())}\n\n"]
    for name, member in vars(contract).items():
        if name[0] == "_" or not inspect.isfunction(member):
            continue
        sort = "async " if inspect.iscoroutinefunction(member) else ""
        about = _text(member).partition("\n\n")[0].replace("\n", " ")
        lines.append(f"* `{sort}{name}{_signature(member)}`" + (f": {about}" if about else "") + "\n")
    return "".join(lines)


def _hooks() -> list[tuple[str, Callable[..., Any], str]]:
    from echokernel import hookspecs
    from echokernel.loader._hooking import HOOK_NAMES

    found = []
    for name in HOOK_NAMES:
        function = getattr(hookspecs, name)
        method = _REGISTERS.search(function.__doc__ or "")
        if method is None:
            raise ValueError(f"the docstring of {name} does not say which method of the registry it is for")
        found.append((name, function, method[1]))
    return found


def _text(function: Any) -> str:
    """Return a docstring as Markdown."""
    text = inspect.cleandoc(function.__doc__ or "")
    return re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", text).replace("``", "`")


def _first_sentence(function: Callable[..., Any]) -> str:
    return _text(function).split(": `registry")[0].rstrip(".").replace("`", "")


def _signature(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "self"]
    # annotations are strings already, since the module postpones them; no quotes around them
    return str(signature.replace(parameters=parameters)).replace("'", "")
