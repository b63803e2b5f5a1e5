"""What a type looks like on the wire, as a line of text: written, compared, and read again."""

from __future__ import annotations

import datetime
import decimal
import enum
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, TypeVar

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel import F32, I128, U8, Char, rpc
from echokernel.shape_tree import MAX_DEPTH
from echokernel.shaped import parse_shape, plain_value
from echokernel.shapes import MAX_SHAPE, NoShape, fingerprint, shape
from echokernel.types import Length

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    DARK = "dark"


@dataclass
class Node:
    value: int
    next: Optional[Node]  # noqa: UP045 - as a user may write it


@dataclass
class Page(Generic[T]):
    items: list[T]
    more: bool = False


@dataclass
class Circle:
    radius: float


@dataclass
class Square:
    side: float


class Order(pydantic.BaseModel):
    price: Annotated[float, pydantic.Field(gt=0)]
    amount: U8
    page: Page[str] = pydantic.Field(default_factory=lambda: Page([]))


class Point(NamedTuple):
    x: int
    name: str


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


Meters = NewType("Meters", float)


class Slim(str):
    pass


SHAPES = [
    (None, "unit"),
    (bool, "bool"),
    (int, "i64"),
    (float, "f64"),
    (str, "str"),
    (bytes, "bytes"),
    (Any, "any"),
    (U8, "u8"),
    (I128, "i128"),
    (F32, "f32"),
    (Char, "char"),
    (Annotated[int, pydantic.Field(ge=0)], "i64"),
    (datetime.datetime, "datetime"),
    (datetime.timedelta, "timedelta"),
    (uuid.UUID, "uuid"),
    (decimal.Decimal, "decimal"),
    (list[int], "seq(i64)"),
    (list, "seq(any)"),
    (Sequence[int], "seq(i64)"),
    (tuple[int, ...], "seq(i64)"),
    (tuple[int, str], "tuple(i64,str)"),
    (tuple[()], "tuple()"),
    (set[str], "set(str)"),
    (dict[str, list[int]], "map(str,seq(i64))"),
    (Mapping[str, int], "map(str,i64)"),
    (Annotated[list[float], Length(3)], "array(f64,3)"),
    (int | None, "option(i64)"),
    (Circle | Square, "union(struct:Circle{radius:f64},struct:Square{side:f64})"),
    (Circle | Square | None, "option(union(struct:Circle{radius:f64},struct:Square{side:f64}))"),
    (Literal[1, "two", None], 'literal(1,"two",null)'),
    (Color, 'enum:Color{RED:1,DARK:"dark"}'),
    (Node, "struct:Node{value:i64,next:option(^0)}"),
    (Page[int], "struct:Page{items:seq(i64),more:bool}"),
    (Page[Page[int]], "struct:Page{items:seq(struct:Page{items:seq(i64),more:bool}),more:bool}"),
    (Order, "struct:Order{price:f64,amount:u8,page:struct:Page{items:seq(str),more:bool}}"),
    (Point, "tuple(i64,str)"),
    (Movie, "struct:Movie{title:str,year?:i64}"),
    (Meters, "f64"),
    (Slim, "str"),
    (TypedDict("Odd", {"not-a-name": int}), 'struct:Odd{"not-a-name":i64}'),
]


@pytest.mark.parametrize(("annotation", "text"), SHAPES, ids=[text[:40] for _, text in SHAPES])
def test_the_shape_of(annotation: Any, text: str) -> None:
    assert shape(annotation) == text
    assert shape(parse_shape(text)) == text, "and it can be read again"


class Strange:
    pass


def test_what_has_no_shape_says_so() -> None:
    for annotation in (Strange, list[Strange], 7, [int]):
        with pytest.raises(NoShape):
            shape(annotation)


def test_a_type_that_doubles_at_each_level_is_given_up_in_time() -> None:
    annotation: Any = int
    for _ in range(40):
        annotation = tuple[annotation, annotation]
    began = time.process_time()
    with pytest.raises(NoShape, match="too long"):
        shape(annotation)
    assert time.process_time() - began < 1


def test_names_of_classes_do_not_count_and_everything_else_does() -> None:
    renamed = shape(Circle).replace("Circle", "Disc")
    assert fingerprint(renamed) == fingerprint(shape(Circle))
    assert fingerprint(shape(Circle).replace("radius", "r")) != fingerprint(shape(Circle))
    assert fingerprint("i64") != fingerprint("u8")


def test_a_handler_knows_its_shape() -> None:
    @rpc
    async def move(to: Point, speed: float) -> bool:
        return True

    @rpc
    async def odd(what: Strange) -> None: ...

    assert move.shape == "tuple(tuple(i64,str),f64)\n\nbool"
    assert odd.shape == ""


NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)
LEAVES = st.sampled_from(["unit", "bool", "i64", "u8", "i128", "f32", "char", "str", "bytes", "datetime", 'literal(1,"a")'])
TEXTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda part: f"seq({part})"),
        inner.filter(lambda part: not part.startswith(("option", "unit"))).map(lambda part: f"option({part})"),
        st.tuples(inner, inner).map(lambda parts: f"map({parts[0]},{parts[1]})"),
        st.lists(inner, max_size=3).map(lambda parts: f"tuple({','.join(parts)})"),
        st.tuples(inner, st.integers(0, 9)).map(lambda parts: f"array({parts[0]},{parts[1]})"),
        st.tuples(NAMES, st.dictionaries(NAMES, inner, max_size=3)).map(
            lambda parts: f"struct:{parts[0]}{{{','.join(f'{name}:{part}' for name, part in parts[1].items())}}}"
        ),
    ),
    max_leaves=8,
)


@given(TEXTS)
def test_what_is_read_is_written_alike(text: str) -> None:
    assert shape(parse_shape(text)) == text


def test_what_is_no_shape_is_refused_whatever_it_is() -> None:
    seed = random.Random(5)
    texts = [text for _, text in SHAPES if len(text) > 3]
    refused = 0
    for _ in range(20_000):
        text = list(seed.choice(texts))
        for _ in range(seed.randrange(1, 4)):
            place = seed.randrange(len(text))
            text[place : place + seed.randrange(2)] = seed.choice('(){},:?^"19abstructenum\\\n')
        try:
            parse_shape("".join(text))
        except NoShape:
            refused += 1
    assert refused > 10_000
    for hostile in ("seq(" * 500 + "i64" + ")" * 500, "^0", "struct:A{a:^7}", "x" * (MAX_SHAPE + 1), "literal(" + "[" * 9000):
        with pytest.raises(NoShape):
            parse_shape(hostile)
    assert MAX_DEPTH < 100


@pytest.mark.parametrize(
    "text",
    [
        "union(struct:A{class:i64},struct:B{x:i64})",
        "union(struct:A{__class__:i64},struct:B{x:i64})",
        "enum:E{mro:1}",
        "enum:E{_ignore_:1}",
        "enum:E{__init__:1}",
        "enum:E{_missing_:1,B:2}",
        "enum:E{A:1,B:1}",
        "literal()",
        "literal([1])",
        'literal({"a":1})',
        "literal(1,1)",
        "option(option(i64))",
        "option(unit)",
        "union(i64,i64)",
        "union(option(i64),str)",
        "union(union(i64,str),bytes)",
        "u7",
        "seq()",
    ],
)
def test_a_shape_that_no_python_type_has_is_refused_and_not_bent(text: str) -> None:
    with pytest.raises(NoShape):
        parse_shape(text)


def test_plain_values_are_dicts_all_the_way_down() -> None:
    @dataclass
    class Box:
        nodes: list[Node]
        named: dict[str, Circle] = field(default_factory=dict)

    assert plain_value(Box([Node(1, Node(2, None))], {"a": Circle(1.0)})) == {
        "nodes": [{"value": 1, "next": {"value": 2, "next": None}}],
        "named": {"a": {"radius": 1.0}},
    }
    assert plain_value((1, {2}, Point(1, "a"))) == (1, {2}, Point(1, "a"))
