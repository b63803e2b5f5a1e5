"""The shape of a type, as one line of text: what values of it look like on the wire, whatever they are called in Python.

Two ends that wrote a method's types down separately compare shapes; a client without types builds them from a shape.

==============================  ====================================================================================
annotation                      shape
==============================  ====================================================================================
``None bool int float``         ``unit bool i64 f64``; sized types by their names in lower case: ``u8`` ``f32`` ``char``
``str bytes``                   ``str bytes``; ``datetime date time timedelta uuid decimal`` by theirs
``list[T]``, ``tuple[T, ...]``  ``seq(T)``; ``set[T]``: ``set(T)``; ``dict[K, V]``: ``map(K,V)``
``tuple[T, U]``                 ``tuple(T,U)``; a NamedTuple likewise; fixed arrays: ``array(T,3)``
``T | None``                    ``option(T)``; other unions: ``union(T,U)``
dataclass, model, TypedDict     ``struct:Name{x:f64,"not an identifier":str}``, keys that may be missing with ``?``
Enum, Literal                   ``enum:Name{A:1,B:2}`` and ``literal(1,"two")``, the values as JSON
a type inside itself            ``^n``: the n-th struct around it, counted outwards from 0
``Any``                         ``any``
==============================  ====================================================================================
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import hashlib
import json
import re
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Any

from echokernel.types import Length, Scalar

__all__ = ["PLAIN", "NoShape", "fingerprint", "shape"]

MAX_SHAPE = 16_384  # characters; a type that needs more is left alone
PLAIN: dict[Any, str] = {
    None: "unit",
    types.NoneType: "unit",
    Any: "any",
    object: "any",
    bool: "bool",
    int: "i64",
    float: "f64",
    str: "str",
    bytes: "bytes",
    bytearray: "bytes",
    memoryview: "bytes",
    datetime.datetime: "datetime",
    datetime.date: "date",
    datetime.time: "time",
    datetime.timedelta: "timedelta",
    uuid.UUID: "uuid",
    decimal.Decimal: "decimal",
}
_SEQUENCES = (list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection)
_SETS = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)
_MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_LABEL = re.compile(r'(struct|enum):\w*(?={)')
_ANYTHING = re.compile(r'(?<![\w":])any(?=[,)}\n]|$)|:any(?=[,}])')
_UNIONS = (typing.Union, types.UnionType)


class NoShape(TypeError):
    """A type that has none: nothing is known about its values."""


def shape(annotation: Any) -> str:
    """Return the shape of a type. Raises NoShape."""
    try:
        text = _Writer().write(annotation)
    except RecursionError:
        raise NoShape("it is nested too deeply") from None
    if len(text) > MAX_SHAPE:
        raise NoShape(f"its shape has {len(text):,} characters")
    return text


def fingerprint(text: str) -> str:
    """Return 16 hex digits that two shapes share when they are equal; the names of classes do not count.

    Empty where there is nothing to compare: for no shape, and for one in which a type says nothing (``any``).
    """
    if not text or _ANYTHING.search(text):
        return ""
    return hashlib.sha256(_LABEL.sub(r"\1", text).encode()).hexdigest()[:16]


class _Writer:
    """Writes one shape; knows which structs it is inside of."""

    def __init__(self) -> None:
        self._around: list[Any] = []
        self._written = 0

    def write(self, annotation: Any, variables: Mapping[Any, Any] | None = None) -> str:
        text = self._write(annotation, variables or {})
        self._written += len(text)
        if self._written > 16 * MAX_SHAPE:  # parts are counted once for each level, or doubling types would take for ever
            raise NoShape("its shape is too long")
        return text

    def _write(self, annotation: Any, variables: Mapping[Any, Any]) -> str:
        if isinstance(annotation, typing.TypeVar):
            bound = variables.get(annotation, annotation.__bound__)
            return self.write(Any if bound is None else bound)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        try:
            if origin is None and annotation in PLAIN:  # a generic's hash takes as long as it has parts: not asked for
                return PLAIN[annotation]
        except TypeError:  # cannot be hashed
            raise NoShape(f"{annotation!r} is no type") from None
        if origin is typing.Annotated:
            return self._annotated(arguments[0], annotation.__metadata__, variables)
        if isinstance(annotation, typing.NewType):
            return self.write(annotation.__supertype__, variables)
        if hasattr(annotation, "__value__") and type(annotation).__name__ == "TypeAliasType":
            return self.write(annotation.__value__, variables)
        if origin is typing.Literal:
            return f"literal({','.join(_json(value) for value in arguments)})"
        if origin in _UNIONS:
            return self._union(arguments, variables)
        if origin in (typing.Required, typing.NotRequired) or getattr(origin, "_name", "") == "ReadOnly":
            return self.write(arguments[0], variables)
        if origin is tuple or annotation is tuple:
            return self._tuple(arguments, annotation is tuple, variables)
        kind = origin or annotation
        for kinds, name, count in ((_SEQUENCES, "seq", 1), (_SETS, "set", 1), (_MAPS, "map", 2)):
            if kind in kinds:
                parts = [self.write(argument, variables) for argument in arguments or (Any,) * count]
                return f"{name}({','.join(parts)})"
        if isinstance(kind, type):
            return self._class(kind, arguments, variables)
        raise NoShape(f"{annotation!r} has no shape")

    def _annotated(self, inner: Any, metadata: tuple[Any, ...], variables: Mapping[Any, Any]) -> str:
        for mark in metadata:
            if isinstance(mark, Scalar):
                return mark.name
            if isinstance(mark, Length) and typing.get_origin(inner) is not None:
                return f"array({self.write((*typing.get_args(inner), Any)[0], variables)},{mark.items})"
        return self.write(inner, variables)

    def _union(self, arms: tuple[Any, ...], variables: Mapping[Any, Any]) -> str:
        rest = [arm for arm in arms if arm not in (None, types.NoneType)]
        parts = [self.write(arm, variables) for arm in rest]
        text = parts[0] if len(parts) == 1 else f"union({','.join(parts)})"
        return f"option({text})" if len(rest) < len(arms) else text

    def _tuple(self, parts: tuple[Any, ...], bare: bool, variables: Mapping[Any, Any]) -> str:
        if bare or (len(parts) == 2 and parts[1] is Ellipsis):
            return f"seq({self.write(Any if bare else parts[0], variables)})"
        return f"tuple({','.join(self.write(part, variables) for part in parts)})"

    def _class(self, kind: Any, arguments: tuple[Any, ...], variables: Mapping[Any, Any]) -> str:
        if issubclass(kind, enum.Enum):
            members = ",".join(f"{_key(member.name)}:{_json(member.value)}" for member in kind)
            return f"enum:{_label(kind)}{{{members}}}"
        fields = _fields(kind)
        if fields is None:
            if issubclass(kind, (str, bytes, int, float)) and kind.__mro__[1] in PLAIN:
                return PLAIN[kind.__mro__[1]]
            raise NoShape(f"{kind.__qualname__} has no shape")
        own = tuple(
            variables.get(argument, argument) if isinstance(argument, typing.TypeVar) else argument
            for argument in arguments
        )
        bound = dict(zip(getattr(kind, "__parameters__", ()), own, strict=False))
        if issubclass(kind, tuple):
            return f"tuple({','.join(self.write(annotation, bound) for _, annotation, _ in fields)})"
        this = kind, own
        if this in self._around:
            return f"^{len(self._around) - 1 - self._around.index(this)}"
        self._around.append(this)
        parts = [f"{_key(name)}{'' if needed else '?'}:{self.write(part, bound)}" for name, part, needed in fields]
        self._around.pop()
        return f"struct:{_label(kind)}{{{','.join(parts)}}}"


def _fields(kind: Any) -> list[tuple[str, Any, bool]] | None:
    """Return name, annotation and presence of a class's fields, in their order; None for a class that has none."""
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__pydantic_fields__"):
        if kind.__pydantic_root_model__:
            raise NoShape(f"{kind.__qualname__} is a model of one value")
        found = kind.__pydantic_fields__.items()
        return [
            (name, typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation, True)
            for name, field in found
        ]
    elif issubclass(kind, dict) and hasattr(kind, "__required_keys__"):  # typing's and typing_extensions'
        hints = _hints(kind)
        # in a module with postponed annotations __required_keys__ does not know of NotRequired
        return [
            (name, hint, name in kind.__required_keys__ and typing.get_origin(hint) is not typing.NotRequired)
            for name, hint in hints.items()
        ]
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        names = list(kind._fields)
    else:
        return None
    hints = _hints(kind)
    return [(name, hints.get(name, Any), True) for name in names]


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception as error:
        raise NoShape(f"{kind.__qualname__}: an annotation cannot be resolved: {error}") from error


def _key(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else json.dumps(name)


def _label(kind: type) -> str:
    return re.sub(r"\W", "_", kind.__name__.partition("[")[0], flags=re.ASCII)


def _json(value: Any) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bytes):
        value = value.hex()
    try:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError):
        raise NoShape(f"{value!r} cannot be written as JSON") from None
