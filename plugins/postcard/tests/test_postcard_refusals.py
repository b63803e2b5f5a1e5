"""What is refused, on which side, and in which words."""

from __future__ import annotations

import io
import traceback
from collections import namedtuple
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, make_dataclass
from enum import Enum, Flag
from typing import Annotated, Any, Generic, Literal, TypeVar

import pydantic
import pytest

from echokernel import F32, U8, U16, Char, EchoServer, InvalidArgument, Length, SerializationError, rpc
from echokernel.testing import MemoryTransport
from echokernel.types import Scalar
from echokernel_postcard import PostcardSerializer
from echokernel_postcard.wire import MAX_CONTAINERS, MAX_DEPTH, MAX_ITEMS

SERIALIZER = PostcardSerializer()
CANARY = "canary-7f3a"
T = TypeVar("T")


@dataclass
class Item:
    price: float
    level: U8 = 0


@dataclass
class Order:
    id: int
    orders: list[Item] = field(default_factory=list)
    by_name: dict[str, Item] = field(default_factory=dict)
    pair: tuple[int, str] | None = None


@dataclass
class Tree:
    children: list[Tree] = field(default_factory=list)


@dataclass
class Linked:
    next: Linked | None = None


@dataclass
class Line:
    name: str


@dataclass
class Shop:
    orders: list[Line]


class Broken(pydantic.BaseModel):
    id: int

    @pydantic.field_validator("id")
    @classmethod
    def _look(cls, value: int) -> int:
        if value > 1:
            raise ZeroDivisionError
        return value


def refused(action: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(SerializationError) as caught:
        action(*arguments)
    assert type(caught.value) is SerializationError
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Order("1"), "id: wanted int, not str"),  # type: ignore[arg-type]
        (Order(2**63), "id: beyond the range of i64, -2^63 to 2^63 - 1; annotate larger ones with U64 or I128"),
        (Order(1, [Item(1.0), Item(2.0), Item(3.0), Item("x")]), "orders[3].price: wanted float, not str"),  # type: ignore[arg-type]
        (Order(1, [Item(1.0, 256)]), "orders[0].level: beyond the range of u8, 0 to 2^8 - 1"),
        (Order(1, [5]), "orders[0]: wanted Item, not int"),  # type: ignore[list-item]
        (Order(1, 5), "orders: wanted list, not int"),  # type: ignore[arg-type]
        (Order(1, [], {"a b": Item(None)}), "by_name['a b'].price: wanted float, not NoneType"),  # type: ignore[arg-type]
        (Order(1, [], {5: Item(1.0)}), "by_name[key]: wanted str, not int"),  # type: ignore[dict-item]
        (Order(1, [], {}, (1, 2)), "pair[1]: wanted str, not int"),  # type: ignore[arg-type]
        (Order(1, [], {}, (1,)), "pair: wanted 2 elements, not 1"),  # type: ignore[arg-type]
        ({"orders": []}, "the field 'id' is missing"),
        ({"id": 1, "orders": [{"price": None}]}, "orders[0].price: wanted float, not NoneType"),
        (5, "wanted Order, not int"),
    ],
)
def test_the_sender_hears_type_and_place(value: Any, told: str) -> None:
    assert refused(SERIALIZER.codec(Order).encode, value) == f"postcard cannot encode Order: {told}"


GOOD = SERIALIZER.codec(Order).encode(Order(1, [Item(1.0), Item(2.0)], {"k": Item(3.0)}, (5, "xyz")))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (GOOD[:10], "orders: it is cut off: a length of 2, and 8 bytes are left (at byte 2)"),
        (GOOD[:31], "by_name.k.level: it is cut off (at byte 31)"),
        (GOOD[:1] + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + GOOD[2:], "orders: it is cut off: a length of 18446"),
        (GOOD[:1], "orders: it is cut off (at byte 1)"),
        (GOOD[:-2], "pair[1]: it is cut off: a length of 3, and 1 byte is left (at byte 35)"),
        (GOOD[:-1] + b"\xff", "pair[1]: text that is not UTF-8 (at byte 35)"),
        (GOOD[:32] + b"\x02" + GOOD[33:], "pair: an option is 0 or 1; this byte is 2 (at byte 32)"),
        (GOOD + b"\0", "1 byte is left over after the value (at byte 38)"),
    ],
)
def test_the_receiver_hears_place_and_position(data: bytes, told: str) -> None:
    message = refused(SERIALIZER.codec(Order).decode, data)
    assert message.startswith("not a valid Order: ")
    assert told in message


@pytest.mark.parametrize(
    ("type_", "data", "told"),
    [
        (bool, b"\2", "a bool is 0 or 1; this byte is 2 (at byte 0)"),
        (list[bool], b"\3\0\1\2", "[2]: a bool is 0 or 1; this byte is 2 (at byte 3)"),
        (Literal["a", "b"], b"\2", "variant 2, where there are 2 (at byte 0)"),
        (Item | Order, b"\5", "variant 5, where there are 2 (at byte 0)"),
        (Char, b"\2ab", "a char is one character; this text has 2 (at byte 1)"),
        (Char, b"\0", "a char is one character; this text has 0"),
        (list[U16], b"\2\1\xff\xff\x07", "[1]: a varint that does not fit into 16 bits (at byte 1)"),
        (list[U16], b"\2\1\xff\xff", "[1]: it is cut off: wanted 2 integers, and 1 are left (at byte 1)"),
        (dict[U8, U8], b"\2\1\1\1\2", "not a valid dict[U8, U8]: [1]: this key comes twice (at byte 4)"),
        (Annotated[int, pydantic.Field(gt=0)], b"\0", "Input should be greater than 0"),
        (Broken, b"\4", "validation failed with ZeroDivisionError"),
        (Shop, b"\4\1a\0\1b\2\xff\xfe", "orders[3].name: text that is not UTF-8 (at byte 7)"),
        (list[float], b"\1\0\0", "it is cut off: a length of 1, and 2 bytes are left (at byte 1)"),
    ],
)
def test_what_is_wrong_is_named(type_: Any, data: bytes, told: str) -> None:
    assert told in refused(SERIALIZER.codec(type_).decode, data)


@dataclass
class HasAny:
    value: Any


@dataclass
class HasInit:
    value: InitVar[int]


@dataclass
class Open(Generic[T]):
    value: T


@dataclass
class Lost:
    value: NoSuchName  # type: ignore[name-defined] # noqa: F821


class Rights(Flag):
    READ = 1


class Extra(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Shown(pydantic.BaseModel):
    secret: str

    @pydantic.field_serializer("secret")
    def _hide(self, value: str) -> str:
        return "***"


class Nothing(Enum):
    pass


Untyped = namedtuple("Untyped", "x")
DEEP: Any = int
for _ in range(MAX_DEPTH + 1):
    DEEP = list[DEEP]


@pytest.mark.parametrize(
    ("type_", "told"),
    [
        (list[Any], "[]: Any says nothing about the bytes"),
        (list, "[]: it does not say of what"),
        (dict[str, object], "[value]: object says nothing about the bytes"),
        (tuple[int, Any], "[1]: Any says nothing"),
        (int | str, "members of a union are told apart by their class, and int is no dataclass"),
        (dict[str, list[int | str]], "[value][]: members of a union"),
        (Open[int] | Open[str], "two members of a union are of one class, Open"),
        (HasAny, "value: Any says nothing"),
        (HasInit, "value: an InitVar is not kept"),
        (Open, "value: the type variable T stands for nothing here"),
        (Lost, "an annotation of Lost cannot be resolved"),
        (Rights, "members of Rights combine"),
        (Nothing, "Nothing has no members"),
        (Extra, "Extra allows extra fields"),
        (Shown, "Shown has serializers of its own"),
        (Untyped, "x: it has no type; use typing.NamedTuple"),
        (io.BytesIO, "postcard has no form for BytesIO"),
        (complex, "postcard has no form for complex"),
        (list[Callable[[], int]], "[]: postcard has no form for"),
        (type[int], "postcard has no form for"),
        ("NoSuchName", "the name NoSuchName cannot be resolved"),
        (set[list[int]], "[]: a set cannot hold list[int]"),
        (dict[Item, int], "[key]: a map cannot have Item as its key"),
        (Annotated[str, Scalar("u8", 0, 255)], "str cannot be marked as u8"),
        (Annotated[int, Scalar("u7", 0, 127)], "int cannot be marked as u7"),
        (Annotated[dict[str, int], Length(3)], "Length is for list, tuple[T, ...] and bytes"),
        (Annotated[list[int], Length(10**9)], "an array of 1000000000 elements"),
        (Annotated[list[Annotated[list[None], Length(1000)]], Length(1000)], "its arrays have 1001001 containers"),
        (Annotated[io.BytesIO, pydantic.Field(gt=0)], "postcard has no form"),
        (DEEP, "types nested more than 64 deep"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_type_that_cannot_be_expressed_is_refused_when_the_codec_is_made(type_: Any, told: str) -> None:
    message = refused(SERIALIZER.codec, type_)
    assert message.startswith("postcard cannot express ")
    assert told in message


def test_a_handler_is_refused_naming_parameter_and_reason() -> None:
    @rpc
    async def place(order: Order, amount: int | str) -> None: ...

    @rpc
    async def find(value: list[Any]) -> None: ...

    @rpc
    async def list_all() -> list[Any]: ...

    for handler, told in (
        (place, "parameter 'amount': postcard cannot express int | str: members of a union"),
        (find, "parameter 'value': postcard cannot express list[typing.Any]".replace("typing.", "")),
        (list_all, "its result: postcard cannot express list[Any]: []: Any says nothing"),
    ):
        builder = EchoServer.builder().transport(MemoryTransport()).bind("memory://a:1").serializer(SERIALIZER)
        with pytest.raises(InvalidArgument) as caught:
            builder.add_rpc(handler).build()
        assert told in str(caught.value)


def test_reading_without_a_type_says_how_to_give_one() -> None:
    message = refused(SERIALIZER.codec(Any).decode, b"\x14")
    assert "this byte needs a type" in message
    assert "returns=" in message
    assert SERIALIZER.codec(Any).decode(b"") is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2**63, "beyond the range of i64"),
        (object(), "postcard has no form for a value of type object"),
        ([1, {"a": object()}], "[1].a: postcard has no form"),
        ({"a": "\ud800"}, "a: text with half of a surrogate pair"),
        (HasAny(5), "value: Any says nothing"),
    ],
)
def test_a_value_without_a_type_may_have_no_form(value: Any, told: str) -> None:
    assert told in refused(SERIALIZER.codec(Any).encode, value)


def test_what_is_no_payload_is_named() -> None:
    assert refused(SERIALIZER.codec(int).decode, "abc") == "payloads are bytes; this is str"


def test_types_with_many_shared_parts_take_no_time() -> None:
    made: Any = make_dataclass("Part0", [("x", int)])
    for number in range(1, 30):
        made = make_dataclass(f"Part{number}", [("left", made | None), ("right", made | None)])
    codec = SERIALIZER.codec(list[made])  # a walk of every path would take 2^30 steps
    assert codec.decode(codec.encode([made(None, None)])) == [made(None, None)]


def test_what_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    tree, linked = Tree(), Linked()
    tree.children.append(tree)
    linked.next = linked
    for type_, value in ((Any, loop), (Tree, tree), (Linked, linked), (Any, tree)):
        assert f"nested more than {MAX_DEPTH} deep" in refused(SERIALIZER.codec(type_).encode, value)


def test_the_depth_is_exact_both_ways() -> None:
    def linked(levels: int) -> Linked:
        value = Linked()
        for _ in range(levels - 1):
            value = Linked(value)
        return value

    codec = SERIALIZER.codec(Linked)
    assert codec.decode(codec.encode(linked(MAX_DEPTH))) == linked(MAX_DEPTH)
    assert "nested" in refused(codec.encode, linked(MAX_DEPTH + 1))
    assert "nested" in refused(codec.decode, b"\1" * MAX_DEPTH + b"\0")


def test_sizes_are_exact_both_ways() -> None:
    numbers, trees = SERIALIZER.codec(list[U8]), SERIALIZER.codec(list[list[int]])
    assert len(numbers.decode(numbers.encode([1] * MAX_ITEMS))) == MAX_ITEMS
    assert f"at most {MAX_ITEMS} fit" in refused(numbers.encode, [1] * (MAX_ITEMS + 1))
    assert f"at most {MAX_ITEMS} fit" in refused(numbers.decode, b"\x81\x80\x40" + bytes(MAX_ITEMS + 1))
    assert len(trees.decode(trees.encode([[]] * MAX_CONTAINERS))) == MAX_CONTAINERS
    assert "containers in one payload" in refused(trees.encode, [[]] * (MAX_CONTAINERS + 1))
    assert "containers in one payload" in refused(trees.decode, b"\x81\x80\x08" + bytes(MAX_CONTAINERS + 1))


def test_a_lost_attribute_and_a_failing_property_are_named() -> None:
    item = Item(1.0)
    del item.price
    assert "no attribute 'price'" in refused(SERIALIZER.codec(Item).encode, item)


@dataclass
class Roomy:
    first: list[int] | None = None
    second: Item | Line | None = None
    third: dict[str, int] | None = None


def test_only_what_is_there_counts() -> None:
    codec = SERIALIZER.codec(list[Roomy])
    many = [Roomy()] * MAX_CONTAINERS
    assert codec.decode(codec.encode(many)) == many
    for one_more in (Roomy([]), Roomy(None, Line("")), Roomy(None, None, {})):
        assert "containers" in refused(codec.encode, [*many[1:], one_more])
        data = codec.encode([Roomy()] * (MAX_CONTAINERS - 1))
        assert "containers" in refused(codec.decode, b"\x80\x80\x08" + data[3:] + codec.encode([one_more])[1:])


@pytest.mark.parametrize("type_", [int, Order, Broken, list[int], dict[str, int], Literal["a"], F32, Char, None])
def test_errors_never_hold_the_payload(type_: Any) -> None:
    codec = SERIALIZER.codec(type_)
    for action, argument in (
        (codec.encode, CANARY),
        (codec.encode, {"id": CANARY}),
        (codec.encode, [CANARY]),
        (codec.decode, CANARY.encode() * 3),
    ):
        with pytest.raises(SerializationError) as caught:
            action(argument)
        assert CANARY not in "".join(traceback.format_exception(caught.value, limit=0))
