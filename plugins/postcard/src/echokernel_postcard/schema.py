"""Annotations to shapes. What has no place in postcard's data model is an Unfit that names place and reason."""

from __future__ import annotations

import collections
import collections.abc
import sys
import types
import typing
from dataclasses import is_dataclass
from enum import Enum, Flag
from typing import Any, Literal, NewType, TypeVar, Union

from echokernel.types import Length, Scalar
from echokernel_postcard.classes import is_model, is_named_tuple, is_typed_dict, struct_of
from echokernel_postcard.conventions import conventional
from echokernel_postcard.shapes import (
    Checked,
    Choice,
    Enumeration,
    Map,
    Named,
    Option,
    Plain,
    Sequence,
    Shape,
    Struct,
    Tuple,
    hashable,
    unchecked,
)
from echokernel_postcard.validation import checker, constraints
from echokernel_postcard.wire import INTEGERS, MAX_DEPTH, MAX_ITEMS, Unfit, type_name, wanted

_SCALARS: dict[Any, str] = {bool: "bool", int: "i64", float: "f64", str: "str", bytes: "bytes"}
_SCALARS |= {None: "unit", types.NoneType: "unit"}
_LISTS: tuple[Any, ...] = (list, collections.abc.Sequence, collections.abc.MutableSequence)
_LISTS += (collections.abc.Iterable, collections.abc.Collection)
_SETS = {set: set, collections.abc.Set: set, collections.abc.MutableSet: set, frozenset: frozenset}
_MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_HINT = "give it a type: int, list[str], a dataclass, …"


class Reader:
    """Reads one annotation; classes that occur twice have one shape."""

    def __init__(self) -> None:
        self._structs: dict[Any, Struct] = {}
        self._named: dict[int, tuple[Any, Named]] = {}
        self._open: set[int] = set()
        self._depth = 0

    def read(self, annotation: Any, metadata: tuple[Any, ...] = ()) -> Shape:
        """Return the shape of ``annotation``. Raises Unfit."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unfit(f"types nested more than {MAX_DEPTH} deep")
        try:
            return self._read(annotation, metadata)
        finally:
            self._depth -= 1

    def _read(self, annotation: Any, metadata: tuple[Any, ...]) -> Shape:
        annotation, metadata = _unwrap(annotation, metadata)
        limits = constraints(metadata)
        markers = [each for each in metadata if isinstance(each, Scalar | Length)]
        shape = self._bare(annotation, markers)
        if not limits:
            return shape
        check = checker(typing.Annotated[(annotation, *markers, *limits)], type_name(annotation))
        return Checked(shape, check, unchecked(shape))

    def _bare(self, annotation: Any, markers: list[Scalar | Length]) -> Shape:
        fixed = None
        for marker in markers:
            if isinstance(marker, Length):
                fixed = marker.items
            else:
                return _scalar(annotation, marker)
        origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
        shape = self._simple(annotation) or self._collection(origin, arguments, fixed)
        if shape is None:
            shape = self._other(annotation, origin, arguments)
        if fixed is not None:
            shape = _fixed(shape, fixed)
        return shape

    def _simple(self, annotation: Any) -> Shape | None:
        try:
            name = _SCALARS.get(annotation)
        except TypeError:
            return None
        return Plain(name) if name else conventional(annotation)

    def _collection(self, origin: Any, arguments: tuple[Any, ...], fixed: int | None) -> Shape | None:
        if origin in _LISTS:
            return Sequence(self._inner(arguments, 0, "[]"))
        if origin in _SETS:
            inner = self._inner(arguments, 0, "[]")
            if not hashable(inner):
                raise Unfit(f"a set cannot hold {type_name(arguments[0])}: it has no hash").at("[]")
            return Sequence(inner, _SETS[origin])
        if origin is collections.deque:
            return Sequence(self._inner(arguments, 0, "[]"), collections.deque)
        if origin in _MAPS:
            key, value = self._inner(arguments, 0, "[key]"), self._inner(arguments, 1, "[value]")
            if not hashable(key):
                raise Unfit(f"a map cannot have {type_name(arguments[0])} as its key: it has no hash").at("[key]")
            return Map(key, value)
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return Sequence(self._inner(arguments, 0, "[]"), tuple)
            if arguments == ((),):  # tuple[()] on some Pythons
                arguments = ()
            return Tuple(tuple(self._at(f"[{place}]", each) for place, each in enumerate(arguments)))
        return None

    def _inner(self, arguments: tuple[Any, ...], place: int, step: str) -> Shape:
        if len(arguments) <= place:
            raise Unfit(f"it does not say of what; {_HINT}").at(step)
        return self._at(step, arguments[place])

    def _at(self, step: str, annotation: Any) -> Shape:
        try:
            return self.read(annotation)
        except Unfit as unfit:
            raise unfit.at(step) from None

    def _other(self, annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Shape:
        if annotation in (Any, object):
            raise Unfit(f"{type_name(annotation)} says nothing about the bytes; {_HINT}")
        if origin in (Union, types.UnionType):
            return self._union(arguments)
        if origin is Literal:
            return literal(arguments)
        if isinstance(annotation, NewType):
            return self.read(annotation.__supertype__)
        if hasattr(annotation, "__value__") or hasattr(origin, "__value__"):
            return self._alias(annotation, origin, arguments)
        if isinstance(annotation, TypeVar):
            raise Unfit(f"the type variable {annotation.__name__} stands for nothing here; write the type in brackets")
        if isinstance(annotation, str | typing.ForwardRef):
            raise Unfit(f"the name {type_name(annotation)} cannot be resolved")
        if isinstance(origin, type) and issubclass(origin, Enum):
            return enumeration(origin)
        if isinstance(origin, type) and (is_typed_dict(origin) or is_dataclass(origin) or is_model(origin)):
            return self._struct(origin, arguments)
        if isinstance(origin, type) and is_named_tuple(origin):
            return self._struct(origin, arguments)
        raise Unfit(f"postcard has no form for {type_name(annotation)}")

    def _struct(self, cls: Any, arguments: tuple[Any, ...]) -> Shape:
        key = (cls, arguments)
        known = self._structs.get(key)
        if known is not None:
            known.recursive = known.recursive or id(known) in self._open
            return known
        struct = self._structs[key] = Struct(cls, "class")
        self._open.add(id(struct))
        try:
            return struct_of(struct, arguments, self.read)
        finally:
            self._open.discard(id(struct))

    def _alias(self, annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Shape:
        """Return what ``type Name = …`` stands for; it may hold itself."""
        if arguments:
            raise Unfit("an alias with type parameters; write what it stands for")
        known = self._named.get(id(annotation))
        if known is not None:
            known[1].recursive = known[1].recursive or id(known[1]) in self._open
            return known[1] if known[1].recursive or known[1].inner is None else known[1].inner
        named = Named()
        self._named[id(annotation)] = (annotation, named)
        self._open.add(id(named))
        named.inner = self.read(_value_of(annotation))
        self._open.discard(id(named))
        return named if named.recursive else named.inner

    def _union(self, members: tuple[Any, ...]) -> Shape:
        there = [member for member in members if member not in (None, types.NoneType)]
        literals = [each for each in there if typing.get_origin(each) is Literal]
        if not there:
            return Plain("unit")
        if len(there) == 1:
            shape = self.read(there[0])
        elif len(literals) == len(there):
            shape = literal(tuple(value for each in there for value in typing.get_args(each)))
        else:
            shape = self._choice(there)
        return shape if len(there) == len(members) else Option(shape)

    def _choice(self, members: list[Any]) -> Choice:
        shapes, classes = [], []
        for place, member in enumerate(members):
            shape = self._at(f"[variant {place}]", member)
            bare = shape.inner if isinstance(shape, Checked) else shape
            if isinstance(bare, Struct) and bare.kind == "class":
                cls = bare.cls
            elif isinstance(bare, Enumeration) and isinstance(bare.values[0], Enum):
                cls = type(bare.values[0])
            else:
                raise Unfit(
                    f"members of a union are told apart by their class, and {type_name(member)} is no dataclass, model, "
                    "named tuple or enum; make each a field of a dataclass of its own"
                )
            if cls in classes:
                raise Unfit(f"two members of a union are of one class, {type_name(cls)}")
            shapes.append(shape)
            classes.append(cls)
        return Choice(tuple(shapes), _picker(classes))


def _unwrap(annotation: Any, metadata: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation, metadata = annotation.__origin__, (*annotation.__metadata__, *metadata)
        elif str(origin).endswith((".Required", ".ReadOnly", ".Final")):
            (annotation,) = typing.get_args(annotation)
        else:
            return annotation, metadata


def _value_of(alias: Any) -> Any:
    """Return what an alias stands for; one of typing_extensions may have it as text."""
    value = alias.__value__
    if not isinstance(value, str):
        return value
    try:
        names, holder = vars(sys.modules[alias.__module__]), types.SimpleNamespace(__annotations__={"value": value})
        return typing.get_type_hints(holder, names, include_extras=True)["value"]
    except Exception as error:
        raise Unfit(f"the alias {alias.__name__} cannot be resolved: {error}") from None


def _scalar(annotation: Any, marker: Scalar) -> Plain:
    base = {"f32": float, "char": str}.get(marker.name, int)
    known = INTEGERS.keys() | {"f32", "char"}
    if marker.name not in known or annotation is not base:
        raise Unfit(f"{type_name(annotation)} cannot be marked as {marker.name}")
    return Plain(marker.name)


def _fixed(shape: Shape, items: int) -> Shape:
    if items > MAX_ITEMS:
        raise Unfit(f"an array of {items} elements, at most {MAX_ITEMS} fit")
    if isinstance(shape, Plain) and shape.name == "bytes":
        return Plain("bytes", fixed=items)
    if isinstance(shape, Sequence) and shape.make in (None, tuple):
        return Sequence(shape.inner, shape.make, fixed=items)
    raise Unfit("Length is for list, tuple[T, ...] and bytes")


def enumeration(cls: type[Enum]) -> Enumeration:
    """Return the variants of an enum, in the order of their definition."""
    if issubclass(cls, Flag):
        raise Unfit(
            f"members of {type_name(cls)} combine, so that they have no position; send its value as an int type"
        )
    members = tuple(cls)
    if not members:
        raise Unfit(f"{type_name(cls)} has no members")
    places: dict[Any, int] = {}
    for place, member in enumerate(members):
        places[cls, member] = place
        try:
            places.setdefault((type(member.value), member.value), place)
        except TypeError:
            pass  # a value without a hash names no member
    return Enumeration(members, _finder(places, type_name(cls)))


def literal(values: tuple[Any, ...]) -> Enumeration:
    """Return the values of a Literal as variants, in the order in which they stand."""
    values = tuple(dict.fromkeys((type(value), value) for value in values))
    places = {key: place for place, key in enumerate(values)}
    return Enumeration(tuple(value for _, value in values), _finder(places, "one of the values of the Literal"))


def _finder(places: dict[Any, int], name: str) -> Any:
    def find(value: Any) -> int:
        try:
            return places[type(value), value]
        except (KeyError, TypeError):
            raise wanted(name, value) if "one of" not in name else Unfit(f"wanted {name}") from None

    return find


def _picker(classes: list[Any]) -> Any:
    places = {cls: place for place, cls in enumerate(classes)}
    names = ", ".join(map(type_name, classes))

    def pick(value: Any) -> int:
        place = places.get(type(value))
        if place is not None:
            return place
        for place, cls in enumerate(classes):
            if isinstance(value, cls):
                return place
        raise wanted(f"one of {names}", value)

    return pick
