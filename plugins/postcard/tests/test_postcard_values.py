"""What goes through and comes back: the types of the README's table, and whatever hypothesis thinks of."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType, TypedDict

from echokernel import F32, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128, Char, Length, SerializationError
from echokernel_postcard import PostcardSerializer

T = TypeVar("T")
SERIALIZER = PostcardSerializer()


def through(value: Any, type_: Any) -> Any:
    codec = SERIALIZER.codec(type_)
    data = codec.encode(value)
    back = codec.decode(data)
    padded = data + bytes(5000)  # long enough for the decoder of views
    with pytest.raises(SerializationError):
        codec.decode(memoryview(padded))  # type: ignore[arg-type]
    return back


class Word(StrEnum):
    YES = "yes"
    NO = "no"


class Partial(TypedDict):
    name: str
    size: NotRequired[int]
    note: NotRequired[str | None]
    tags: NotRequired[list[str]]


class Empty(TypedDict):
    pass


@dataclass
class Base:
    id: int


@dataclass
class Derived(Base):
    name: str = ""
    derived: bool = field(default=True, init=False)


@dataclass
class Pair(Generic[T]):
    left: T
    right: list[T]


@dataclass
class IntPair(Pair[int]):
    label: str = ""


@dataclass
class Chain:
    value: U8
    next: Chain | None = None


@dataclass
class Leaf:
    value: int


@dataclass
class Fork:
    left: Leaf | Fork
    right: Leaf | Fork


Alias = TypeAliasType("Alias", Base)
Json = TypeAliasType("Json", "dict[str, Json] | None")  # type: ignore[misc]


class Renamed(pydantic.BaseModel):
    user_name: str = pydantic.Field(alias="userName")


class Secretive(pydantic.BaseModel):
    name: str
    secret: str = pydantic.Field(default="none", exclude=True)


class Sized(pydantic.BaseModel):
    level: U8
    levels: list[Annotated[U8, pydantic.Field(ge=2)]]


class Family(pydantic.BaseModel):
    name: str
    children: list[Family] = []


class Names(pydantic.RootModel[list[str]]):
    pass


class Content(pydantic.BaseModel, Generic[T]):
    content: T


class Stepping(pydantic.BaseModel):
    steps: list[Annotated[int, pydantic.AfterValidator(lambda value: value + 1)]]


@pydantic.dataclasses.dataclass
class Checked:
    age: Annotated[int, pydantic.Field(ge=0)]
    rank: int = pydantic.Field(default=3, gt=1)


class Point(NamedTuple):
    x: int
    y: float = 0.0


CASES: list[tuple[Any, Any]] = [
    (Word, Word.NO),
    (Partial, {"name": "a"}),
    (Partial, {"name": "a", "size": 5, "note": None, "tags": ["x"]}),
    (Empty, {}),
    (Derived, Derived(1, "a")),
    (Pair[str], Pair("a", ["b"])),
    (IntPair, IntPair(1, [2], "x")),
    (Pair[Pair[int]], Pair(Pair(1, []), [Pair(2, [3])])),
    (Chain, Chain(1, Chain(2, Chain(3)))),
    (Fork, Fork(Leaf(1), Fork(Leaf(2), Leaf(3)))),
    (Json, {"a": {"b": None}}),
    (tuple[Alias, Alias | Leaf, int], (Base(1), Base(2), 3)),
    (Renamed, Renamed(userName="ada")),
    (Sized, Sized(level=255, levels=[2])),
    (Family, Family(name="a", children=[Family(name="b")])),
    (Names, Names(["a"])),
    (Content[int], Content[int](content=1)),
    (list[Content[str]], [Content[str](content="a")]),
    (Checked, Checked(age=1, rank=2)),
    (Sequence[int], [1, 2]),
    (Iterable[str], ["a"]),
    (Mapping[str, int], {"a": 1}),
    (bytearray, bytearray(b"ab")),
    (deque[str], deque(["a"])),
    (Literal["a", "b"] | None, "b"),
    (Literal["a"] | Literal["b"], "b"),
    (Literal[Word.YES], Word.YES),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dict[Point, int], {Point(1, 2.0): 3}),
    (set[UUID], {UUID(int=1)}),
    (Annotated[tuple[U8, ...], Length(2)], (1, 2)),
    (Annotated[list[tuple[int, str]], Length(1)], [(1, "a")]),
    (list[Annotated[bytes, Length(2)]], [b"ab", b"cd"]),
    (list[None], [None] * 1000),
    (Point | Leaf | None, Leaf(1)),
    (Point | Leaf | None, None),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (list[F32], [1.5, math.inf]),
    (list[bool], [True, False] * 50),
    (tuple[str | None, int | None, bytes | None], (None, None, b"x" * 200)),
]


@pytest.mark.parametrize(("type_", "value"), CASES, ids=lambda each: str(each)[:40])
def test_a_value_of_its_type_comes_back(type_: Any, value: Any) -> None:
    back = through(value, type_)
    assert back == value
    assert type(back) is type(value)
    codec = SERIALIZER.codec(type_)
    data = codec.encode(value)
    for end in range(len(data)):
        with pytest.raises(SerializationError):
            codec.decode(data[:end])


def test_conventions_on_the_wire() -> None:
    encode = SERIALIZER.serialize
    india = timezone(timedelta(hours=5, minutes=30))
    assert encode(datetime(2024, 5, 17, 17, 30, tzinfo=india), datetime) == b"\x142024-05-17T12:00:00Z"
    assert encode(datetime(2024, 5, 17, 12), datetime) == b"\x132024-05-17T12:00:00"
    assert encode(date(2024, 2, 29), date) == b"\x0a2024-02-29"
    assert encode(time(1, 2, 3, 500000), time) == b"\x0f01:02:03.500000"
    assert encode(UUID(int=1), UUID) == b"\x10" + bytes(15) + b"\1"
    assert encode(Decimal("1.50"), Decimal) == b"\x041.50"
    assert encode(timedelta(seconds=-1.5), timedelta).hex() == "03" + "80cab5ee01"  # -2 s and 500,000,000 ns
    assert encode({"name": "a"}, Partial).hex() == "0161000000"
    assert encode({"name": "a", "note": None}, Partial).hex() == "016100010000"


def test_rust_writes_nanoseconds_and_they_are_cut() -> None:
    assert SERIALIZER.deserialize(b"\x1e2024-05-17T12:00:00.123456789Z", datetime) == datetime(
        2024, 5, 17, 12, 0, 0, 123456, tzinfo=UTC
    )
    assert SERIALIZER.deserialize(b"\x02\xe7\x07", timedelta) == timedelta(seconds=1)


def test_floats_of_32_bits_are_rounded_to_the_nearest() -> None:
    (nearest,) = struct.unpack("<f", struct.pack("<f", 0.1))
    assert nearest != 0.1
    assert through(0.1, F32) == nearest
    assert through([0.1] * 3, list[F32]) == [nearest] * 3
    assert math.isnan(through(math.nan, F32))
    for value in (3.5e38, -3.5e38, 1e300):
        with pytest.raises(SerializationError, match="beyond the range of its float type"):
            SERIALIZER.serialize(value, F32)
        with pytest.raises(SerializationError, match=r"\[1\]: a number beyond"):
            SERIALIZER.serialize([1.0, value], list[F32])


def test_near_relatives_travel_as_what_they_are() -> None:
    class Text(str):
        def __str__(self) -> str:
            return "never asked"

    class Number(int):
        pass

    assert through(Text("a"), str) == "a"
    assert through(Number(5), int) == 5
    assert through([Number(5), 6], list[int]) == [5, 6]
    assert type(through(5, float)) is float
    assert [type(each) for each in through([1, 2.5], list[float])] == [float, float]
    assert through((1, 2), list[int]) == [1, 2]
    assert through([1, "a"], tuple[int, str]) == (1, "a")
    assert through(memoryview(b"ab"), bytes) == b"ab"
    assert through(Derived(1, "a"), Base) == Base(1)
    assert through({"id": 1, "name": "x"}, Derived) == Derived(1, "x")
    assert through({"id": 1}, Derived) == Derived(1, ""), "defaults"
    assert through((1, 2.0), Point) == Point(1, 2.0)
    assert through("yes", Word) == Word.YES
    assert through(["a"], Names) == Names(["a"])


def test_excluded_fields_stay_here_and_validators_run_once() -> None:
    assert SERIALIZER.serialize(Secretive(name="a", secret="b"), Secretive) == b"\x01a"
    assert through(Secretive(name="a", secret="b"), Secretive).secret == "none"
    assert through(Stepping.model_construct(steps=[1]), Stepping).steps == [2]
    assert through(1, Annotated[int, pydantic.AfterValidator(lambda value: value + 1)]) == 2
    stepping = Annotated[int, pydantic.AfterValidator(lambda value: value + 1)]
    assert through([1], Annotated[list[stepping], pydantic.Field(min_length=1)]) == [2]  # type: ignore[valid-type]


def test_a_codec_is_made_once_per_type() -> None:
    serializer = PostcardSerializer()
    assert serializer.codec(list[int]) is serializer.codec(list[int])
    odd = Annotated[int, {"un": "hashable"}]
    assert serializer.codec(odd) is serializer.codec(odd)
    for number in range(300):
        serializer.codec(Annotated[None, [number]])
    assert len(serializer._odd) <= 256


DYNAMIC: list[tuple[Any, Any, Any]] = [
    (None, None, None),
    (True, bool, True),
    (-5, int, -5),
    (1.5, float, 1.5),
    ("a", str, "a"),
    (b"a", bytes, b"a"),
    (bytearray(b"a"), bytes, b"a"),
    ([1, 2], list[int], [1, 2]),
    ({3}, set[int], {3}),
    ((1, "a"), tuple[int, str], (1, "a")),
    ({"a": [1.5]}, dict[str, list[float]], {"a": [1.5]}),
    (Word.NO, Word, Word.NO),
    (Base(5), Base, Base(5)),
    (Point(1, 2.0), Point, Point(1, 2.0)),
    (Sized(level=5, levels=[]), Sized, Sized(level=5, levels=[])),
    ((Chain(5), 1), tuple[Chain, int], (Chain(5), 1)),
    (UUID(int=5), UUID, UUID(int=5)),
    (date(2024, 1, 1), date, date(2024, 1, 1)),
    (datetime(2024, 1, 1), datetime, datetime(2024, 1, 1)),
    (timedelta(1), timedelta, timedelta(1)),
    (Decimal("1.0"), Decimal, Decimal("1.0")),
]


@pytest.mark.parametrize(("value", "type_", "seen"), DYNAMIC, ids=lambda each: str(each)[:30])
def test_a_value_without_a_type_is_what_its_own_type_is(value: Any, type_: Any, seen: Any) -> None:
    assert SERIALIZER.deserialize(SERIALIZER.serialize(value), type_) == seen


# --- hypothesis -------------------------------------------------------------------------------------------------------


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


TEXT = st.text(st.characters(codec="utf-8"))
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, integers(64, True)),
    (float, st.floats(allow_nan=False)),
    (str, TEXT),
    (bytes, st.binary()),
    (F32, st.floats(width=32, allow_nan=False)),
    (Char, st.characters(codec="utf-8")),
    (Word, st.sampled_from(Word)),
    (Literal["a", 1, True], st.sampled_from(["a", 1, True])),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (datetime, st.datetimes() | st.datetimes(timezones=st.just(UTC))),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
]
for _signed, _family in ((False, (U8, U16, U32, U64, U128)), (True, (I8, I16, I32, I64, I128))):
    LEAVES += [(kind, integers(8 << place, _signed)) for place, kind in enumerate(_family)]
HASHABLE = [leaf for leaf in LEAVES if leaf[0] is not None]
TypeAndValues = tuple[Any, st.SearchStrategy[Any]]


def containers(inner: st.SearchStrategy[TypeAndValues]) -> st.SearchStrategy[TypeAndValues]:
    def struct_of(fields: list[TypeAndValues]) -> TypeAndValues:
        names = [f"field{place}" for place in range(len(fields))]
        made = make_dataclass("Made", [(name, kind) for name, (kind, _) in zip(names, fields, strict=True)])
        return made, st.builds(made, **{name: values for name, (_, values) in zip(names, fields, strict=True)})

    def union_of(members: list[TypeAndValues]) -> TypeAndValues:
        structs = [struct_of([member]) for member in members]
        kind = structs[0][0]
        for other, _ in structs[1:]:
            kind = kind | other
        return kind, st.one_of([values for _, values in structs])

    return st.one_of(
        inner.map(lambda each: (list[each[0]], st.lists(each[1], max_size=40))),
        inner.map(lambda each: (tuple[each[0], ...], st.lists(each[1], max_size=3).map(tuple))),
        inner.filter(lambda each: each[0] is not None).map(lambda each: (each[0] | None, st.none() | each[1])),
        st.lists(inner, max_size=4).map(
            lambda each: (tuple[tuple(kind for kind, _ in each)], st.tuples(*(values for _, values in each)))  # type: ignore[misc]
        ),
        st.tuples(st.sampled_from(HASHABLE), inner).map(
            lambda each: (dict[each[0][0], each[1][0]], st.dictionaries(each[0][1], each[1][1], max_size=3))  # type: ignore[name-defined]
        ),
        st.sampled_from(HASHABLE).map(lambda each: (set[each[0]], st.sets(each[1], max_size=3))),
        st.sampled_from(HASHABLE).map(lambda each: (frozenset[each[0]], st.frozensets(each[1], max_size=3))),
        st.lists(inner, max_size=4).map(struct_of),
        st.lists(inner, min_size=2, max_size=3).map(union_of),
    )


ANY_TYPE = st.recursive(st.sampled_from(LEAVES), containers, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(ANY_TYPE, st.data())
def test_any_value_of_any_type_comes_back(of: TypeAndValues, data: st.DataObject) -> None:
    type_, values = of
    value = data.draw(values)
    codec = PostcardSerializer().codec(type_)
    wire = codec.encode(value)
    back = codec.decode(wire)
    assert back == value
    assert type(back) is type(value)
    assert codec.decode(codec.encode(back)) == value
    if wire:
        with pytest.raises(SerializationError):
            codec.decode(wire[:-1])


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9000, 9000), max_size=120))
def test_rows_of_integers_are_one_after_the_other(values: list[int]) -> None:
    single = SERIALIZER.codec(int)
    wire = SERIALIZER.serialize(values, list[int])
    assert wire == bytes([len(values)]) + b"".join(map(single.encode, values))
    assert SERIALIZER.deserialize(wire, list[int]) == values


@pytest.mark.parametrize("kind", [U16, U32, U64, U128, I16, I32, I64, I128], ids=lambda kind: kind.__metadata__[0].name)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 5000, 8192, 8193, 20_000])
@pytest.mark.parametrize("bits", [6, 7, 14, 15, 21, 28, 29, 128])
def test_rows_of_every_width_and_length(kind: Any, count: int, bits: int) -> None:
    marker = kind.__metadata__[0]
    high = min(marker.maximum, 2**bits - 1)
    low = max(marker.minimum, -high - 1)
    values = [low + (high - low) * place // count for place in range(count)] + [high, low, 0]
    codec = SERIALIZER.codec(tuple[list[kind], U8])
    data = codec.encode((values, 200))
    assert codec.decode(data) == (values, 200)
    single = SERIALIZER.codec(kind)
    assert data[-1 - sum(len(single.encode(value)) for value in values[-3:]) : -1] == b"".join(
        map(single.encode, values[-3:])
    )
