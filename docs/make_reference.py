"""Write ``docs/reference.md``: ``python3 dev.py python docs/make_reference.py``. Edit docstrings, not that page."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import itertools
import json
import re
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

import echokernel

PAGE = Path(__file__).parent / "reference.md"
MODULES = {
    "echokernel": "The kernel. Everything here is imported with `from echokernel import …`.",
    "echokernel_quic": "The QUIC transport, from `echokernel[quic]`.",
    "echokernel_postcard": "The postcard serializer, from `echokernel[postcard]`.",
    "echokernel_msgpack": "The MessagePack serializer, from `echokernel[msgpack]`.",
    "echokernel_mdns": "Discovery on the local network, from `echokernel[mdns]`.",
    "echokernel_agora": "A WebSocket router for AI agents, from `echokernel[agora]`.",
    "echokernel_clocksync": "A shared clock, and aligned playout, from `echokernel[clocksync]`.",
    "echokernel_reconnect": "Automatic reconnection of clients, from `echokernel[reconnect]`.",
    "echokernel.testing": "What tests are made of: see [the guide](guide/testing.md).",
    "echokernel.testing.conformance": "What every serializer has to do: see [the guide](guide/serializers.md).",
}
INTRODUCTION = """\
# Reference

Every public name, with its signature and the first paragraph of its docstring; the rest of it is one `help(…)` away. Made by
`docs/make_reference.py`; do not edit this page. The [guide](README.md#guide) explains how to use them.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *map(section, MODULES)])


def section(module: str) -> str:
    """Return what the page says about one module. Raises ImportError where it is not installed."""
    names = importlib.import_module(module)
    parts = [f"## {module}\n", MODULES[module] + "\n"]
    parts += [_entry(name, getattr(names, name)) for name in names.__all__]
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        code = "\n".join(f"{name}.{member.name}" for member in value)
    elif inspect.isclass(value):
        bases = [base.__name__ for base in value.__bases__ if base.__name__ in _public(value)]
        code = f"class {name}({', '.join(bases)})" if bases else f"class {name}"
        code += _constructor(value)
    elif typing.get_origin(value) is typing.Annotated:
        return f"### {name}\n\n{_sized(value)}: see [types](guide/types.md).\n"
    elif inspect.isfunction(value):
        code = "\n".join(f"{_sort(value)}{name}{_signature(each)}" for each in typing.get_overloads(value) or [value])
    else:
        choices = f"One of {', '.join(f'`{json.dumps(each)}`' for each in typing.get_args(value))}. "
        return f"### {name}\n\n{choices if typing.get_args(value) else ''}{OTHERS[name]}\n"
    parts = [f"### {name}\n", f"```python\n{code}\n```\n"]
    about = _text(value)
    if about:
        parts.append(about + "\n")
    members = _members(value) if inspect.isclass(value) and not issubclass(value, enum.Enum) else []
    if members:
        parts.append("".join(members))
    return "\n".join(parts)


def _sized(value: Any) -> str:
    """Return what an annotated scalar is: ``int``, and from where to where."""
    base, marker = typing.get_args(value)
    between = f" from {marker.minimum:,} to {marker.maximum:,}" if marker.minimum is not None else ""
    return f"`{base.__name__}`{between}, serde's `{marker.name}`"


def _public(value: type) -> list[str]:
    home = importlib.import_module(value.__module__.partition(".")[0])
    return [*getattr(home, "__all__", ()), *echokernel.__all__]


MADE_BY_THE_KERNEL = {
    "EchoClient",
    "EchoServer",
    "MemoryConnection",
    "Nodes",
    "Registry",
    "Session",
    "StreamReceiver",
    "StreamSender",
    "StreamingCall",
}

OTHERS = {
    "Discovery": "A `MdnsDiscovery` with the default settings, ready to be used: see [discovery](guide/discovery.md).",
    "CASES": "What is demanded of every serializer: a tuple of `Case`.",
    "BroadcastPolicy": "What becomes of a broadcast at a session that is behind: see `ServerContext.broadcast`.",
    "SessionId": "The number of a session: an `int` of a type of its own for type checkers.",
    "hookimpl": "Marks a function of a plugin as the implementation of the hook of its name: see [hooks](hooks.md).",
}


def _constructor(value: type) -> str:
    """Return how to make one, as a line of its own; nothing where users do not, or where there is nothing to say."""
    kernel = getattr(value, "_is_protocol", False) or inspect.isabstract(value)
    if kernel or value.__name__ in MADE_BY_THE_KERNEL or value.__init__ is object.__init__:
        return ""
    if issubclass(value, BaseException) and "__init__" not in vars(value):
        return ""  # its base says it
    return f"\n{value.__name__}{_signature(value).removesuffix(' -> None')}"


def _members(value: type) -> list[str]:
    """Return a line for each attribute, property and method, those of bases included that are not public themselves."""
    found: dict[str, str] = {}
    public = _public(value)
    bases = [base for base in value.__mro__ if base is value or base.__name__ not in public]
    for base in (base for base in bases if base.__module__.startswith("echokernel")):
        for name, (sort, text) in _attributes(base).items():
            found.setdefault(name, f"* `{name}{sort and f': {sort}'}`" + _colon(text))
        for name, member in vars(base).items():
            if name.startswith("_") or name in found:
                continue
            if isinstance(member, property):
                found[name] = f"* `{name}`" + _colon(_text(member))
            elif isinstance(member, staticmethod | classmethod) or inspect.isfunction(member):
                function = getattr(value, name)
                found[name] = f"* `{_sort(function)}{name}{_signature(function)}`" + _colon(_text(function))
    return [line + "\n" for line in found.values()]


def _attributes(value: type) -> dict[str, tuple[str, str]]:
    """Return type and docstring of the public attributes of a class, from its body and from ``__init__``."""
    body = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, tuple[str, str]] = {}
    init = [node for node in body.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    for statements in (body.body, *(node.body for node in init)):
        for statement, after in itertools.zip_longest(statements, statements[1:]):
            name, sort = _assigned(statement, statements is body.body)
            if name and not name.startswith("_"):
                text = (
                    after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                found.setdefault(name, (sort, _markdown(str(text))))
    if issubclass(value, BaseException):
        found = {name: known for name, known in found.items() if not name.startswith("default_")}
    return found


def _assigned(statement: ast.stmt, in_class: bool) -> tuple[str, str]:
    """Return name and type of the attribute that a statement makes; empty texts where it makes none."""
    if isinstance(statement, ast.AnnAssign):
        target, sort = statement.target, ast.unparse(statement.annotation)
    elif isinstance(statement, ast.Assign) and not in_class:
        target, sort = statement.targets[0], ""
    else:
        return "", ""
    if in_class:
        return (target.id if isinstance(target, ast.Name) else ""), sort
    own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return (target.attr if own and isinstance(target, ast.Attribute) else ""), sort


def _colon(text: str) -> str:
    return f": {' '.join(text.split())}" if text else ""


def _sort(function: Any) -> str:
    return "async " if inspect.iscoroutinefunction(function) else ""


def _text(value: Any) -> str:
    """Return the first paragraph of a docstring as Markdown."""
    text = (value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)) or ""  # of a method also its base's
    text = inspect.cleandoc(text).partition("\n\n")[0]
    if text.startswith(f"{getattr(value, '__name__', '')}("):  # what @dataclass writes says nothing
        return ""
    return _markdown(text).rstrip(":")


def _markdown(text: str) -> str:
    return re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", inspect.cleandoc(text)).replace("``", "`")


class _Plain:
    """Shows itself as a text without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = []
    for name, parameter in signature.parameters.items():
        if name in ("self", "_config", "_mistakes"):
            continue
        if parameter.annotation is not parameter.empty:
            parameter = parameter.replace(annotation=_plain(parameter.annotation))
        if parameter.default is not parameter.empty:
            parameter = parameter.replace(default=_default(parameter.default))
        parameters.append(parameter)
    returns = signature.return_annotation
    if returns is not signature.empty:
        returns = _plain(returns)
    return str(signature.replace(parameters=parameters, return_annotation=returns))


def _plain(annotation: Any) -> _Plain:
    return _Plain(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))


def _default(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return _Plain(f"{type(value).__name__}.{value.name}")
    if value is Any:
        return _Plain("Any")
    if repr(value) == "<factory>":
        return _Plain("…")
    return _Plain(json.dumps(value)) if isinstance(value, str) else value


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE.name}: {PAGE.read_text('utf-8').count('### ')} names\n")
