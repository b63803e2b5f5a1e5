"""What is refused, on which side, and in which words."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgpack
import pydantic
import pytest

from echokernel.errors import SerializationError
from echokernel_msgpack import MsgpackSerializer

CANARY = "canary-7f3a"


class Level(IntEnum):
    LOW = 1


class Colour(Enum):
    RED = "red"


@dataclass
class Item:
    price: float
    tag: Any = None


@dataclass
class Order:
    id: int
    orders: list[Item] = field(default_factory=list)


class Model(pydantic.BaseModel):
    id: int
    when: datetime | None = None


def refused(action: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(SerializationError) as caught:
        action(*arguments)
    assert type(caught.value) is SerializationError
    return str(caught.value)


@pytest.mark.parametrize(
    ("type_", "wire"),
    [
        (int, "10"),
        (int, 10.0),
        (int, True),
        (int, None),
        (float, "1.5"),
        (float, True),
        (str, 10),
        (str, b"abc"),
        (bytes, "abc"),
        (bool, 1),
        (bool, "true"),
        (None, 0),
        (None, []),
        (list[int], ["1"]),
        (list[int], {"a": 1}),
        (list[int], "12"),
        (tuple[int, int], [1]),
        (tuple[int, int], [1, 2, 3]),
        (tuple[int, int], [1, "2"]),
        (set[str], "abc"),
        (dict[str, int], [["a", 1]]),
        (dict[str, int], {b"a": 1}),
        (dict[int, int], {"1": 1}),
        (UUID, b"0123456789abcdef"),
        (UUID, "no"),
        (Decimal, 1.5),
        (Decimal, True),
        (date, 0),
        (date, "0"),
        (date, "2024-01-01T00:00:00"),
        (time, 3600),
        (time, "3600"),
        (timedelta, 5),
        (timedelta, "5"),
        (datetime, 1700000000),
        (datetime, 1.5),
        (datetime, "1700000000"),
        (Level, "1"),
        (Level, 1.0),
        (Level, True),
        (Level, 2),
        (Colour, "RED"),
        (Literal[1], True),
        (Literal[1], 1.0),
        (Literal["a"], "b"),
        (Item, {"price": "1"}),
        (Item, {}),
        (Item, [1.0]),
        (Item, {"price": None}),
        (Model, {"id": "1"}),
        (Model, {"id": 1, "when": 12}),
        (list[Model], [{"id": "1"}]),
        (dict[str, Model], {"a": {"id": "1"}}),
        (Annotated[int, pydantic.Field(gt=0)], 0),
    ],
    ids=repr,
)
def test_the_wrong_thing_is_refused_on_both_sides(type_: Any, wire: Any) -> None:
    codec = MsgpackSerializer().codec(type_)
    refused(codec.decode, msgpack.packb(wire))
    refused(codec.encode, wire)


def test_the_sender_hears_type_and_place() -> None:
    codec = MsgpackSerializer().codec(Order)
    orders = [Item(1.0), Item(2.0), Item(3.0), Item(CANARY)]  # type: ignore[arg-type]
    message = refused(codec.encode, Order(1, orders))
    assert message == "msgpack cannot encode Order: orders[3].price: Input should be a valid number, not str"


def test_the_receiver_hears_type_and_place() -> None:
    data = msgpack.packb({"id": 1, "orders": [{"price": 1.0}, {"price": CANARY}]})
    message = refused(MsgpackSerializer().codec(Order).decode, data)
    assert message == "not a valid Order: orders[1].price: Input should be a valid number, not str"


def test_a_missing_field_is_named() -> None:
    data = msgpack.packb({"id": 1, "orders": [{}]})
    message = refused(MsgpackSerializer().codec(Order).decode, data)
    assert message == "not a valid Order: orders[0].price: Field required"


def test_members_of_a_union_are_not_places() -> None:
    codec = MsgpackSerializer().codec(dict[str, list[int | Colour]])
    message = refused(codec.decode, msgpack.packb({"a b": [1, 1.5]}))
    assert message.startswith("not a valid dict[str, list[int | ")
    assert "['a b'][1]: Input should be a valid integer" in message


def test_many_mistakes_are_cut_short() -> None:
    message = refused(MsgpackSerializer().codec(list[int]).decode, msgpack.packb(["a"] * 50))
    assert message.endswith("; and 47 more")


@pytest.mark.parametrize("type_", [Order, Any])
def test_a_type_without_a_form_is_named_with_its_place(type_: Any) -> None:
    value = Order(1, [Item(1.0), Item(1.0, tag={"a": [0, io.BytesIO()]})])
    message = refused(MsgpackSerializer().codec(type_).encode, value)
    assert message == (
        "msgpack cannot encode Order: orders[1].tag.a[1]: MessagePack has no form for a value of type BytesIO"
    )


def test_a_whole_value_without_a_form_is_named() -> None:
    message = refused(MsgpackSerializer().codec(Any).encode, object())
    assert message == "msgpack cannot encode object: MessagePack has no form for a value of type object"


@pytest.mark.parametrize("type_", [io.BytesIO, Callable[[], int], "NoSuchName", type[int], list[io.BytesIO]])
def test_a_type_that_cannot_be_expressed_is_refused_when_the_codec_is_made(type_: Any) -> None:
    assert refused(MsgpackSerializer().codec, type_).startswith("msgpack cannot express ")


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**400])
def test_integers_have_64_bits(value: int) -> None:
    serializer = MsgpackSerializer()
    pairs: list[tuple[Any, Any]] = [(int, value), (Any, value), (Order, Order(value))]
    for type_, sent in (*pairs, (list[int], [value]), (tuple[int, int], (1, value))):
        message = refused(serializer.codec(type_).encode, sent)
        assert "an integer has at most 64 bits here; send a larger one as str" in message
        assert str(value) not in message
    assert "id: an integer" in refused(serializer.codec(Order).encode, Order(value))
    codec = serializer.codec(Order)
    assert codec.decode(codec.encode(Order(5))) == Order(5), "it works on after an error"


@pytest.mark.parametrize("type_", [str, Any, list[str], dict[str, str]])
def test_half_a_surrogate_pair_is_refused(type_: Any) -> None:
    value: Any = {str: "\ud800", Any: "\ud800", list[str]: ["\ud800"], dict[str, str]: {"\ud800": ""}}[type_]
    assert "surrogate" in refused(MsgpackSerializer().codec(type_).encode, value)


def test_a_naive_datetime_needs_an_annotation() -> None:
    message = refused(MsgpackSerializer().serialize, {"when": datetime(2024, 1, 1)})
    assert message.startswith("msgpack cannot encode dict: when: a datetime without a time zone")


def test_a_datetime_outside_of_utc_is_refused() -> None:
    from datetime import timezone

    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
    assert "out of range" in refused(MsgpackSerializer().codec(datetime).encode, early)
    edge = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert MsgpackSerializer().deserialize(MsgpackSerializer().serialize(edge)) == edge


def test_keys_that_are_no_keys_are_refused() -> None:
    assert "a tuple cannot be the key of a map" in refused(MsgpackSerializer().serialize, {(1, 2): 3})
    key = UUID(int=1)
    assert "look the same on the wire" in refused(MsgpackSerializer().serialize, {key: 1, str(key): 2})


def test_a_failing_validator_or_serializer_of_the_program_is_a_serialization_error() -> None:
    class Broken(pydantic.BaseModel):
        id: int

        @pydantic.field_validator("id")
        @classmethod
        def _look(cls, value: int) -> int:
            if value > 1:
                raise ZeroDivisionError
            return value

        @pydantic.field_serializer("id")
        def _show(self, value: int) -> int:
            if value > 0:
                raise RuntimeError
            return value

    codec = MsgpackSerializer().codec(Broken)
    assert "ZeroDivisionError" in refused(codec.decode, msgpack.packb({"id": 2}))
    assert "model_dump() failed" in refused(codec.encode, Broken(id=1))
    assert codec.decode(codec.encode(Broken(id=0))) == Broken(id=0)


def test_an_object_that_lost_a_field_is_refused() -> None:
    order = Order(1)
    del order.id
    assert "no attribute 'id'" in refused(MsgpackSerializer().codec(Order).encode, order)


@pytest.mark.parametrize("type_", [int, Order, Model, list[int], dict[str, int], Literal["a"], Level, UUID, None])
def test_errors_never_hold_the_payload(type_: Any) -> None:
    import traceback

    codec = MsgpackSerializer().codec(type_)
    for action, argument in (
        (codec.encode, CANARY),
        (codec.encode, {"id": CANARY}),
        (codec.decode, msgpack.packb(CANARY)),
        (codec.decode, msgpack.packb({"id": CANARY})),
        (codec.decode, msgpack.packb([CANARY])),
    ):
        with pytest.raises(SerializationError) as caught:
            action(argument)
        assert CANARY not in "".join(traceback.format_exception(caught.value, limit=0))
