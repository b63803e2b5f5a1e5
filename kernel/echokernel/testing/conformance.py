"""What every serializer has to do: the same values for the same types, and the same refusals.

A test of a serializer runs over :data:`CASES` with :func:`check_case`, or calls :func:`check_serializer` for everything
at once. Importing this imports pydantic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from functools import partial
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from echokernel.errors import SerializationError
from echokernel.serializer import Serializer
from echokernel.types import F32, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128, Char, Length, USize

__all__ = ["CASES", "Case", "check_case", "check_serializer"]

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 20


@dataclass
class Item:
    price: float
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    id: UUID
    items: list[Item] = field(default_factory=list)
    note: str | None = None
    colour: Colour = Colour.RED
    tags: frozenset[str] = frozenset()


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Guarded:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Options(TypedDict):
    name: str
    size: int


class Customer(BaseModel):
    id: int
    age: Annotated[int, Field(ge=0)] = 0
    orders: list[Order] = []


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: float


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: float


Shape = Annotated[Circle | Square, Field(discriminator="kind")]
UserId = NewType("UserId", int)
Positive = Annotated[int, Field(gt=0)]
NOON = datetime(2024, 5, 17, 12, 0, 0, 123456, tzinfo=UTC)
ORDER = Order(
    id=UUID(int=7), items=[Item(1.5, "tea"), Item(2.0)], note="grüß", colour=Colour.BLUE, tags=frozenset("ab")
)


@dataclass(frozen=True, slots=True)
class Case:
    """One demand: ``name`` says what; of a ``type``, these ``values`` come back and those in ``wrong`` are refused."""

    name: str
    type: Any
    values: tuple[Any, ...]
    wrong: tuple[Any, ...] = ()


def _integer(name: str, type_: Any, low: int, high: int) -> Case:
    return Case(name, type_, (0, 1, low, high), (low - 1, high + 1, "1", 1.5, True, None))


CASES: tuple[Case, ...] = (
    Case("unit", None, (None,), (0, "", [])),
    Case("bool", bool, (True, False), (1, "true", None)),
    Case("int", int, (0, -1, 63, 64, -64, -65, 2**63 - 1, -(2**63)), ("10", 10.0, True, None, 2**64, -(2**63) - 1)),
    Case("float", float, (0.0, -1.5, 1e300, float("inf")), ("1.5", True, None)),
    Case("str", str, ("", "a", "grüß dich \N{PILE OF POO} \0", "x" * 300), (10, b"abc", None, "\ud800")),
    Case("bytes", bytes, (b"", bytes(range(256)), b"x" * 300), ("abc", 1, None)),
    _integer("u8", U8, 0, 2**8 - 1),
    _integer("u16", U16, 0, 2**16 - 1),
    _integer("u32", U32, 0, 2**32 - 1),
    _integer("u64", U64, 0, 2**64 - 1),
    _integer("usize", USize, 0, 2**64 - 1),
    _integer("i8", I8, -(2**7), 2**7 - 1),
    _integer("i16", I16, -(2**15), 2**15 - 1),
    _integer("i32", I32, -(2**31), 2**31 - 1),
    _integer("i64", I64, -(2**63), 2**63 - 1),
    Case("u128", U128, (0, 2**63), (-1, 2**128, "1")),
    Case("i128", I128, (0, -1, 2**63 - 1), (2**127, "1")),
    Case("u128 beyond 64 bits", U128, (2**64, 2**128 - 1)),
    Case("f32", F32, (0.0, 1.5, -0.25, 3.4028234663852886e38), (1e39, "1", True)),
    Case("char", Char, ("a", "ü", "\N{PILE OF POO}"), ("", "ab", 1)),
    Case("list", list[int], ([], [1], list(range(-200, 200))), (["1"], [1.5], [True], "12", 5, {"a": 1})),
    Case("list of numbers", list[float], ([], [0.5] * 100), (["1"], [True])),
    Case("list of lists", list[list[str]], ([], [[], ["a"]]), ([1], [[1]])),
    Case("list of options", list[int | None], ([1, None],), (["1"],)),
    Case("tuple", tuple[int, str], ((1, "a"),), ((1,), (1, "a", 2), ("a", 1), 5)),
    Case("tuple of many", tuple[int, ...], ((), (1, 2, 3)), (("1",),)),
    Case("empty tuple", tuple[()], ((),), ((1,),)),
    Case("array", Annotated[list[U8], Length(3)], ([1, 2, 3],), ([1, 2], [1, 2, 3, 4], [1, 2, 256])),
    Case("set", set[int], (set(), {1, 2}), ({"a"}, 1)),
    Case("frozenset", frozenset[str], (frozenset(), frozenset("ab")), (frozenset({1}),)),
    Case("deque", deque[int], (deque([1, 2]),), (deque(["a"]),)),
    Case("dict", dict[str, float], ({}, {"a": 1.5, "": 0.0}), ({1: 1.5}, {"a": "b"}, 5)),
    Case("dict of ints", dict[int, list[str]], ({1: ["a"], -2: []},), ({"1": []}, {1: [1]})),
    Case("option", int | None, (None, 0, 5), ("1", True)),
    Case("enum", Colour, tuple(Colour), ("green", 0, None)),
    Case("int enum", Level, tuple(Level), (2, "1", True, 1.0)),
    Case("literal", Literal["a", 1], ("a", 1), ("b", True, 1.0)),
    Case("named tuple", Point, (Point(1, 2.5),), (Point("a", 1.0),)),  # type: ignore[arg-type]
    Case("typed dict", Options, ({"name": "a", "size": 1},), ({"name": 1, "size": 1}, {"name": "a"}, 5)),
    Case("dataclass", Item, (Item(1.5, "a"),), (Item("1"), 5)),  # type: ignore[arg-type]
    Case("dataclass of much", Order, (ORDER, Order(id=UUID(int=0))), (Order(id="7"),)),  # type: ignore[arg-type]
    Case("recursive", Tree, (Tree(1, [Tree(2, [Tree(3)]), Tree(4)]),), (Tree(1, [Tree("a")]),)),  # type: ignore[arg-type]
    Case("generic", Box[int], (Box(5),), (Box("a"),)),
    Case("generic of classes", list[Box[Item]], ([Box(Item(1.0))],), ([Box(5)],)),
    Case("post init", Guarded, (Guarded(1, 2),)),
    Case(
        "model", Customer, (Customer(id=1), Customer(id=1, age=3, orders=[ORDER])), (Customer.model_construct(id="1"),)
    ),
    Case("constraint in a model", Customer, (), (Customer.model_construct(id=1, age=-1),)),
    Case("union of models", Shape, (Circle(radius=1.5), Square(side=2.0)), (5, Item(1.0))),
    Case("newtype", UserId, (5,), ("5",)),
    Case("constraint", Positive, (1,), (0, -5)),
    Case("constraint on items", list[Positive], ([1, 2],), ([1, 0],)),
    Case("constraint on a list", Annotated[list[int], Field(min_length=2)], ([1, 2],), ([1],)),
    Case("datetime", datetime, (NOON, datetime(2024, 5, 17, 12), datetime(1960, 1, 1, tzinfo=UTC)), (1700000000, None)),
    Case("date", date, (date(2024, 2, 29),), (0,)),
    Case("time", time, (time(23, 59, 59, 999999),), (3600,)),
    Case("timedelta", timedelta, (timedelta(days=3, microseconds=1), -timedelta(seconds=1.5), timedelta(0)), (5,)),
    Case("uuid", UUID, (UUID(int=2**127), UUID(int=0)), ("no", 5)),
    Case("decimal", Decimal, (Decimal("-0.10"), Decimal("1E+30")), (1.5, True)),
)
"""What is demanded of every serializer, in the order of the guide's table of types."""


def check_case(serializer: Serializer, case: Case) -> None:
    """Raise AssertionError where ``serializer`` does not do what ``case`` demands."""
    codec = serializer.codec(case.type)
    assert serializer.codec(case.type) is codec, f"{case.name}: a codec is made once"
    for value in case.values:
        data = codec.encode(value)
        assert type(data) is bytes, f"{case.name}: payloads are bytes"
        back = codec.decode(data)
        assert back == value, f"{case.name}: {value!r} came back as {back!r}"
        assert type(back) is type(value), f"{case.name}: {value!r} came back as {type(back).__name__}"
        for wrong in (data[:-1], data + b"\0"):
            _see_only_serialization_errors(codec.decode, wrong, case.name)
    for wrong in case.wrong:
        try:
            codec.encode(wrong)
        except SerializationError:
            continue
        raise AssertionError(f"{case.name}: {wrong!r} was accepted")


def check_serializer(serializer: Serializer, *, self_describing: bool, without: Collection[str] = ()) -> None:
    """Raise AssertionError naming everything that ``serializer`` does otherwise.

    ``self_describing``: whether a payload can be read without its type. ``without``: names of cases that do not apply.
    """
    problems: list[str] = []
    unknown = set(without) - {case.name for case in CASES}
    assert not unknown, f"no cases are called {sorted(unknown)}"
    for case in CASES:
        if case.name not in without:
            _note(problems, case.name, partial(check_case, serializer, case))
    _note(problems, "any", partial(check_any, serializer, self_describing=self_describing))
    _note(problems, "garbage", partial(check_garbage, serializer))
    _note(problems, "types without a form", partial(check_inexpressible, serializer))
    assert not problems, "\n".join(problems)


def _note(problems: list[str], name: str, check: Callable[[], None]) -> None:
    try:
        check()
    except AssertionError as problem:
        problems.append(str(problem))
    except Exception as error:
        problems.append(f"{name}: {type(error).__name__}: {error}")


def check_any(serializer: Serializer, *, self_describing: bool) -> None:
    """Values of no known type: they are written, and read where the format describes itself, else refused."""
    codec = serializer.codec(Any)
    for value in (None, True, 5, -70, 1.5, "text", [1, "a"], {"a": [1]}):
        data = codec.encode(value)
        if self_describing:
            assert codec.decode(data) == value, f"any: {value!r} came back as {codec.decode(data)!r}"
        elif value is not None:
            told = ""
            try:
                read = codec.decode(data)
            except SerializationError as error:
                told = str(error)
            assert told, f"any: {value!r} was read as {read!r} without a type"
            assert "returns=" in told, "any: the error says how to give a type"
    assert serializer.deserialize(codec.encode((10, 20)), tuple[int, int]) == (10, 20), "any: arguments without a type"
    assert serializer.deserialize(codec.encode(Item(1.5, "a")), Item) == Item(1.5, "a"), "any: objects without a type"
    try:
        codec.encode(object())
    except SerializationError:
        return
    raise AssertionError("any: an object of no known kind was accepted")


def check_garbage(serializer: Serializer) -> None:
    """Bytes that nobody sent: a SerializationError or a value, and nothing else."""
    pieces = (
        b"",
        b"\0",
        b"\xff" * 20,
        b"\x80" * 40,
        b"\xdd\xff\xff\xff\xff",
        b"{" * 5000,
        b"[" * 5000,
        bytes(range(256)),
    )
    for type_ in (int, str, bytes, list[int], dict[str, int], Order, Tree, Customer, Any):
        for data in pieces:
            _see_only_serialization_errors(serializer.codec(type_).decode, data, "garbage")


def check_inexpressible(serializer: Serializer) -> None:
    """Types that no serializer has a form for are refused when the codec is made."""
    for type_ in (Callable[[], int], "NoSuchName", type[int]):
        try:
            serializer.codec(type_)
        except SerializationError:
            continue
        raise AssertionError(f"a codec was made for {type_!r}")


def _see_only_serialization_errors(decode: Callable[[bytes], Any], data: bytes, name: str) -> None:
    try:
        decode(data)
    except SerializationError:
        pass
    except Exception as error:
        raise AssertionError(f"{name}: {data[:20]!r} raised {type(error).__name__}") from error
