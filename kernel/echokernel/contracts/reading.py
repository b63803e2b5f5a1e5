"""A description that was written down: what ``echokernel describe --json`` prints, read again."""

from __future__ import annotations

import json
from typing import Any

from echokernel.errors import InvalidArgument
from echokernel_protocol.describe import Description, MethodDescription, MethodKind, PluginDescription
from echokernel_protocol.frames import check_method

__all__ = ["read_description"]

_SCHEMAS = ("parameters", "items", "result")


def read_description(text: str, where: str) -> Description:
    """Return the description that ``text`` is as JSON. Raises InvalidArgument, which begins with ``where``."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{where}: no JSON, but what `echokernel describe --json` prints is wanted: {error}"
        ) from None
    found = _object(value, where)
    methods = [_method(each, f"{where}: methods[{at}]") for at, each in enumerate(_list(found, "methods", where))]
    if len({(method.kind, method.name) for method in methods}) != len(methods):
        raise InvalidArgument(f"{where}: a method is described twice")
    return Description(
        node=_text(found, "node", where),
        version=_text(found, "version", where),
        runtime=_text(found, "runtime", where),
        serializers=tuple(str(name) for name in _list(found, "serializers", where)),
        plugins=tuple(_plugin(each, where) for each in _list(found, "plugins", where)),
        methods=tuple(sorted(methods, key=lambda method: (method.kind, method.name))),
    )


def _plugin(value: Any, where: str) -> PluginDescription:
    found = _object(value, f"{where}: plugins")
    return PluginDescription(*(_text(found, key, f"{where}: plugins") for key in ("name", "distribution", "version")))


def _method(value: Any, where: str) -> MethodDescription:
    found = _object(value, where)
    name, kind = _text(found, "name", where), _text(found, "kind", where)
    kinds = {each.name.lower(): each for each in MethodKind}
    if kind not in kinds:
        raise InvalidArgument(f"{where}: kind {kind!r}, one of {', '.join(kinds)} is wanted")
    try:
        check_method(name)
        schemas = {key: "" if found.get(key) is None else json.dumps(found[key]) for key in _SCHEMAS}
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where}: {error}") from None
    return MethodDescription(
        kind=kinds[kind],
        name=name,
        signature=_text(found, "signature", where),
        doc=_text(found, "doc", where),
        shape=_text(found, "shape", where),
        parameters=schemas["parameters"],
        items=schemas["items"],
        result=schemas["result"],
        streaming_request=found.get("streaming_request") is True,
        streaming_response=found.get("streaming_response") is True,
        concurrent=found.get("concurrent") is True,
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidArgument(
            f"{where}: {type(value).__name__}, where an object of `echokernel describe --json` is wanted"
        )
    return value


def _list(found: dict[str, Any], key: str, where: str) -> list[Any]:
    value = found.get(key)
    if not isinstance(value, list):
        raise InvalidArgument(f"{where}: {key!r} is no list; write the file with `echokernel describe URL --json`")
    return value


def _text(found: dict[str, Any], key: str, where: str) -> str:
    value = found.get(key, "")
    if not isinstance(value, str):
        raise InvalidArgument(f"{where}: {key!r} is no text")
    return value
