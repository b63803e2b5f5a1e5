"""What goes through and comes back: the table of the README, and whatever hypothesis thinks of."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from echokernel_msgpack import MsgpackSerializer

T = TypeVar("T")
NOON = datetime(2024, 5, 17, 12, 0, 0, 123456, tzinfo=UTC)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Settings(TypedDict):
    name: str
    size: int


@dataclass
class Order:
    id: int
    name: str
    price: float
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    id: UUID
    orders: list[Order] = field(default_factory=list)
    note: str | None = None
    colour: Colour = Colour.RED
    corner: tuple[int, int] = (0, 0)
    tags: frozenset[str] = frozenset()
    sent: datetime | None = None
    price: Decimal = Decimal(0)


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)


class Customer(pydantic.BaseModel):
    id: int
    mail: str
    since: date = date(2020, 1, 1)
    parcels: list[Parcel] = []


class Renamed(pydantic.BaseModel):
    user_name: str = pydantic.Field(alias="userName")


class Spoken(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=lambda name: name.upper(), serialize_by_alias=True)
    word: str


class Shown(pydantic.BaseModel):
    side: int

    @pydantic.computed_field
    def area(self) -> int:
        return self.side**2


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    id: UUID
    corner: tuple[int, int]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    bark: str = "woof"


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


class Box(pydantic.BaseModel, Generic[T]):
    content: T


@pydantic.dataclasses.dataclass
class Checked:
    age: Annotated[int, pydantic.Field(ge=0)]


class Names(pydantic.RootModel[list[str]]):
    pass


PARCEL = Parcel(
    id=UUID(int=7),
    orders=[Order(1, "a", 1.5), Order(2, "b", 2.5, b"\0\xff")],
    note="fragile",
    colour=Colour.BLUE,
    corner=(3, 4),
    tags=frozenset({"x", "y"}),
    sent=NOON,
    price=Decimal("12.30"),
)

TYPED: list[tuple[Any, Any]] = [
    (None, None),
    (type(None), None),
    (bool, True),
    (int, -(2**63)),
    (int, 2**64 - 1),
    (float, 1.5),
    (float, math.inf),
    (str, "grüß dich \N{PILE OF POO} \0"),
    (bytes, bytes(range(256))),
    (list[int], [1, 2, 3]),
    (list[int], []),
    (list[int | None], [1, None]),
    (tuple[int, int], (10, 20)),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[()], ()),
    (tuple[Order, str], (Order(1, "a", 1.0), "b")),
    (set[int], {1, 2}),
    (frozenset[bytes], frozenset({b"a"})),
    (deque[int], deque([1, 2])),
    (Sequence[int], [1, 2]),
    (dict[str, float], {"a": 1.5}),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[UUID, int], {UUID(int=1): 1}),
    (dict[bytes, int], {b"\xff": 1}),
    (dict[Colour, int], {Colour.RED: 1}),
    (dict[str, list[Order]], {"a": [Order(1, "a", 1.0)]}),
    (Mapping[str, int], {"a": 1}),
    (int | str, "1"),
    (int | str, 1),
    (int | None, None),
    (datetime, NOON),
    (datetime, datetime(1960, 1, 1, tzinfo=UTC)),
    (datetime, datetime(2024, 5, 17, 12, 0, 1)),
    (datetime | None, NOON),
    (date, date(2024, 2, 29)),
    (time, time(23, 59, 59, 999999)),
    (timedelta, timedelta(days=3, microseconds=1)),
    (timedelta, -timedelta(seconds=1.5)),
    (timedelta, timedelta(0)),
    (UUID, UUID(int=2**127)),
    (Decimal, Decimal("-0.10")),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Word, Word.YES),
    (Literal[1, "a"], 1),
    (Literal["a", "b"], "b"),
    (Literal[Colour.RED], Colour.RED),
    (Point, Point(1, 2.5)),
    (list[Point], [Point(1, 2.5)]),
    (Settings, {"name": "a", "size": 1}),
    (Order, Order(1, "a", 1.5, b"x")),
    (list[Order], [Order(1, "a", 1.5, b"x")]),
    (Parcel, PARCEL),
    (Parcel, Parcel(id=UUID(int=1))),
    (Node, Node(1, [Node(2, [Node(3)])])),
    (Customer, Customer(id=1, mail="a@b", parcels=[PARCEL])),
    (list[Customer], [Customer(id=1, mail="a@b")]),
    (Renamed, Renamed(userName="ada")),
    (Spoken, Spoken(WORD="hi")),
    (list[Spoken], [Spoken(WORD="hi")]),
    (Shown, Shown(side=3)),
    (Strict, Strict(id=UUID(int=1), corner=(1, 2))),
    (Pet, Dog()),
    (list[Pet], [Cat(), Dog()]),
    (Box[int], Box[int](content=1)),
    (Box[Order], Box[Order](content=Order(1, "a", 1.0))),
    (Checked, Checked(age=3)),
    (Names, Names(["a"])),
    (Annotated[int, pydantic.Field(gt=0)], 1),
    (dict[str, Any], {"a": [1, {"b": NOON}]}),
    (list[Any], [1, "a", None]),
]


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", value))[:40]


@pytest.mark.parametrize(("type_", "value"), TYPED, ids=_name)
def test_a_value_of_its_type_comes_back(type_: Any, value: Any) -> None:
    codec = MsgpackSerializer().codec(type_)
    back = codec.decode(codec.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(("type_", "value"), TYPED, ids=_name)
def test_what_leaves_is_ordinary_messagepack(type_: Any, value: Any) -> None:
    wire = MsgpackSerializer().serialize(value, type_)
    assert msgpack.packb(msgpack.unpackb(wire, strict_map_key=False, timestamp=3), datetime=True) == wire


DYNAMIC: list[tuple[Any, Any]] = [
    (None, None),
    ([1, 2.5, "a", b"b", True, None], [1, 2.5, "a", b"b", True, None]),
    ({"a": {"b": []}}, {"a": {"b": []}}),
    ({1: "a"}, {1: "a"}),
    (NOON, NOON),
    ((1, 2), [1, 2]),
    ({3}, [3]),
    (Order(1, "a", 1.5), {"id": 1, "name": "a", "price": 1.5, "data": b""}),
    (Customer(id=1, mail="m"), {"id": 1, "mail": "m", "since": "2020-01-01", "parcels": []}),
    (Colour.RED, "red"),
    (Level.LOW, 1),
    (UUID(int=0), "00000000-0000-0000-0000-000000000000"),
    (Decimal("1.0"), "1.0"),
    (timedelta(days=1), "P1DT0.000000S"),
    (bytearray(b"a"), b"a"),
    (memoryview(b"a"), b"a"),
    (deque([1]), [1]),
]


@pytest.mark.parametrize(("value", "seen"), DYNAMIC, ids=_name)
def test_a_dynamic_value_arrives_as_what_messagepack_has(value: Any, seen: Any) -> None:
    codec = MsgpackSerializer().codec(Any)
    assert codec.decode(codec.encode(value)) == seen


def test_a_moment_keeps_its_instant_and_becomes_utc() -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2024, 5, 17, 17, 30, tzinfo=india)
    back = MsgpackSerializer().deserialize(MsgpackSerializer().serialize(moment, datetime), datetime)
    assert (back, back.tzinfo) == (moment, UTC)


def test_a_moment_of_other_languages_is_cut_to_microseconds() -> None:
    stamp = msgpack.packb(msgpack.Timestamp(seconds=1, nanoseconds=999_999_999))
    assert MsgpackSerializer().deserialize(stamp, datetime) == datetime(1970, 1, 1, 0, 0, 1, 999999, tzinfo=UTC)


def test_not_a_number_is_a_number() -> None:
    for type_ in (float, Any, list[float]):
        value: Any = [math.nan] if type_ == list[float] else math.nan
        back = MsgpackSerializer().deserialize(MsgpackSerializer().serialize(value, type_), type_)
        assert math.isnan(back[0] if isinstance(back, list) else back)


def test_an_integer_is_welcome_where_a_float_is_due() -> None:
    codec = MsgpackSerializer().codec(Order)
    sent = codec.encode(Order(1, "a", 2))
    assert codec.decode(sent) == Order(1, "a", 2.0)
    assert type(codec.decode(sent).price) is float


def test_subclasses_travel_as_what_they_are_made_of() -> None:
    class Text(str):
        def __str__(self) -> str:
            return "never asked"

    class Number(int):
        pass

    class Real(float):
        pass

    class Bytes(bytes):
        pass

    class Moment(datetime):
        pass

    value = [Text("a"), Number(1), Real(1.5), Bytes(b"b"), Moment(2024, 1, 1, tzinfo=UTC)]
    back = MsgpackSerializer().deserialize(MsgpackSerializer().serialize(value))
    assert back == ["a", 1, 1.5, b"b", datetime(2024, 1, 1, tzinfo=UTC)]


def test_models_are_read_by_alias_and_by_name() -> None:
    codec = MsgpackSerializer().codec(Renamed)
    assert codec.decode(msgpack.packb({"userName": "ada"})) == codec.decode(msgpack.packb({"user_name": "ada"}))


def test_missing_fields_take_their_defaults_and_unknown_ones_are_ignored() -> None:
    codec = MsgpackSerializer().codec(Order)
    assert codec.decode(msgpack.packb({"price": 1, "name": "a", "id": 1, "new": [1]})) == Order(1, "a", 1.0, b"")


def test_a_codec_is_made_once_per_type() -> None:
    serializer = MsgpackSerializer()
    assert serializer.codec(list[int]) is serializer.codec(list[int])
    odd = Annotated[int, {"un": "hashable"}]
    assert serializer.codec(odd) is serializer.codec(odd)
    for number in range(1000):
        serializer.codec(Annotated[None, [number]])
    assert len(serializer._odd) <= 256


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.integers(0, 99), inner, max_size=5),
    max_leaves=30,
)


@given(JSON_LIKE)
def test_any_dynamic_value_comes_back(value: Any) -> None:
    codec = MsgpackSerializer().codec(Any)
    assert codec.decode(codec.encode(value)) == value


ORDERS = st.builds(Order, st.integers(-(2**63), 2**64 - 1), st.text(), st.floats(allow_nan=False), st.binary())
PARCELS = st.builds(
    Parcel,
    id=st.uuids(),
    orders=st.lists(ORDERS, max_size=3),
    note=st.none() | st.text(),
    colour=st.sampled_from(Colour),
    corner=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    tags=st.frozensets(st.text(), max_size=3),
    sent=st.none() | st.datetimes() | st.datetimes(timezones=st.just(UTC)),
    price=st.decimals(allow_nan=False, allow_infinity=False),
)


@given(PARCELS)
def test_any_parcel_comes_back(value: Parcel) -> None:
    codec = SHARED.codec(Parcel)
    assert codec.decode(codec.encode(value)) == value


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)


@given(st.tuples(st.dates(), st.times(), st.timedeltas(), st.uuids(), DECIMALS))
def test_any_date_time_duration_and_number_comes_back(values: Any) -> None:
    codec = SHARED.codec(tuple[date, time, timedelta, UUID, Decimal])
    assert codec.decode(codec.encode(values)) == values


SHARED = MsgpackSerializer()
