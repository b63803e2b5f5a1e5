"""What a type is to postcard: a tree of serde's data model, with what Python needs to make the values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from echokernel_postcard.wire import INTEGERS


@dataclass(eq=False, slots=True)
class Shape:
    """One type. Shapes are compared by identity: generated code has one function for each."""


@dataclass(eq=False, slots=True)
class Plain(Shape):
    """A scalar: an integer by name, ``bool f32 f64 char str bytes unit``; or ``fixed`` bytes without a length."""

    name: str
    fixed: int | None = None


@dataclass(eq=False, slots=True)
class Option(Shape):
    inner: Shape


@dataclass(eq=False, slots=True)
class Converted(Shape):
    """A Python type that travels as another: ``pack`` gives that, ``unpack`` reads it. Both raise Unfit."""

    inner: Shape
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


@dataclass(eq=False, slots=True)
class Checked(Shape):
    """A type with constraints; ``check`` returns the value as the constraints want it, or raises Unfit."""

    inner: Shape
    check: Callable[[Any], Any]
    bare: Shape
    """``inner`` without the constraints inside it: ``check`` looks at them too, and a validator runs once."""


@dataclass(eq=False, slots=True)
class Enumeration(Shape):
    """Unit variants: ``values`` by their index, ``find`` from a value to its index; raises Unfit."""

    values: tuple[Any, ...]
    find: Callable[[Any], int]


@dataclass(eq=False, slots=True)
class Sequence(Shape):
    """``make`` is None for a list, else what makes the value of one. ``fixed``: the length, where it is not written."""

    inner: Shape
    make: Callable[[list[Any]], Any] | None = None
    fixed: int | None = None


@dataclass(eq=False, slots=True)
class Tuple(Shape):
    items: tuple[Shape, ...]


@dataclass(eq=False, slots=True)
class Map(Shape):
    key: Shape
    value: Shape


@dataclass(eq=False, slots=True)
class Field:
    name: str
    shape: Shape
    keyword: bool = False
    """Whether the constructor takes it by name only."""
    absent: bool = False
    """Whether it may be missing: an option on the wire."""
    bare: Shape | None = None
    """What a receiver reads, where the class itself looks at the constraints."""


@dataclass(eq=False, slots=True)
class Struct(Shape):
    """Fields in order. ``build`` makes the value of values in that order; None: the plain constructor cannot fail."""

    cls: Any
    kind: Literal["class", "mapping"]
    fields: list[Field] = field(default_factory=list)
    build: Callable[..., Any] | None = None
    checks: bool = False
    """Whether ``build`` may refuse values of the right types; then the sender calls it too."""
    recursive: bool = False
    adapt: Callable[[Any], Any] | None = None
    """Makes something with the right attributes of a value that is no exact instance; raises Unfit."""


@dataclass(eq=False, slots=True)
class Choice(Shape):
    """A tagged union: ``pick`` returns the variant's index for a value; raises Unfit."""

    members: tuple[Shape, ...]
    pick: Callable[[Any], int]


@dataclass(eq=False, slots=True)
class Named(Shape):
    """What a named alias stands for, which may hold itself."""

    inner: Shape | None = None
    recursive: bool = False


def is_flat(shape: Shape) -> bool:
    """Whether it is written in a fixed number of pieces, without a function of its own."""
    match shape:
        case Plain() | Enumeration():
            return True
        case Option(inner) | Converted(inner) | Checked(inner):
            return is_flat(inner)
    return False


def smallest(shape: Shape | None, known: dict[int, int] | None = None) -> int:
    """Return a number of bytes that every value of it takes at least. ``known`` are those of its parts, by id."""
    known = {} if known is None else known
    if shape is None or id(shape) in known:
        return known.get(id(shape), 0)
    known[id(shape)] = 0  # inside of itself
    size = 1
    match shape:
        case Plain(name, fixed):
            size = fixed if fixed is not None else {"unit": 0, "f32": 4, "f64": 8}.get(name, 1)
        case Converted(inner) | Checked(inner) | Named(inner):
            size = smallest(inner, known)
        case Sequence(inner, _, fixed) if fixed is not None:
            size = fixed * smallest(inner, known)
        case Tuple(items):
            size = sum(smallest(item, known) for item in items)
        case Struct():
            size = sum(1 if each.absent else smallest(each.shape, known) for each in shape.fields)
    known[id(shape)] = size
    return size


def weight(shape: Shape | None, known: dict[int, int] | None = None) -> int:
    """Return how many containers a value of it always has; those in sequences, options and unions count when they come."""
    known = {} if known is None else known
    if shape is None or id(shape) in known:
        return known.get(id(shape), 0)
    known[id(shape)] = 0  # what holds itself counts where it is read
    count = 0
    match shape:
        case Converted(inner) | Checked(inner) | Named(inner):
            count = weight(inner, known)
        case Sequence(inner, _, fixed):
            count = 1 + (fixed or 0) * max(weight(inner, known), 0 if smallest(inner) else 1)
        case Map():
            count = 1
        case Tuple(items):
            count = 1 + sum(weight(item, known) for item in items)
        case Struct():
            count = 1 + sum(weight(each.shape, known) for each in shape.fields if not each.absent)
    known[id(shape)] = count
    return count


def charge(cost: int | str) -> list[str]:
    """Return the lines of source that count containers, which ``cost`` says, and refuse too many."""
    return [f"room[0] -= {cost}", "if room[0] < 0: raise crowded()"] if cost else []


def price(shape: Shape) -> int:
    """Return what an element of a sequence counts: its containers, and one where it takes no bytes."""
    return max(weight(shape), 0 if smallest(shape) else 1)


def hashable(shape: Shape | None) -> bool:
    """Whether values of it can be keys."""
    match shape:
        case Option(inner) | Checked(inner):
            return hashable(inner)
        case Tuple(items):
            return all(map(hashable, items))
        case Sequence(inner, make):
            return make in (tuple, frozenset) and hashable(inner)
        case Struct():
            return shape.kind == "class" and shape.cls.__hash__ is not None
        case Choice(members):
            return all(map(hashable, members))
        case Map():
            return False
        case Converted(inner):
            return not isinstance(inner, Sequence | Map)
        case Named(inner):
            return inner is not None and hashable(inner)
    return True


def unchecked(shape: Shape) -> Shape:
    """Return ``shape`` without the constraints that a validator of the whole applies; objects in it are left alone."""
    match shape:
        case Checked():
            return shape.bare
        case Option(inner):
            return Option(unchecked(inner))
        case Sequence(inner, make, fixed):
            return Sequence(unchecked(inner), make, fixed)
        case Tuple(items):
            return Tuple(tuple(map(unchecked, items)))
        case Map(key, value):
            return Map(unchecked(key), unchecked(value))
    return shape


ROWS = frozenset(INTEGERS) | {"f32", "f64", "bool"}
"""Scalars of which sequences are coded at once."""
