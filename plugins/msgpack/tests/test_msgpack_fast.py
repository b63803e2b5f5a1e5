"""The generated shortcuts and the checked way never differ."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any

import msgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel.errors import SerializationError
from echokernel.serializer import Codec
from echokernel_msgpack import MsgpackSerializer, serializer
from echokernel_msgpack.fast import compile_decoder, compile_encoder
from echokernel_msgpack.schema import Inspected


@dataclass
class Flat:
    id: int
    name: str
    price: float
    data: bytes
    note: str | None = None
    tags: list[str] = field(default_factory=list)
    corner: tuple[int, int] = (0, 0)


@dataclass(slots=True, frozen=True, kw_only=True)
class Slotted:
    id: int
    on: bool = False


@dataclass
class Outer:
    flat: Flat
    others: list[Slotted]
    maybe: Slotted | None = None
    table: dict[str, int] = field(default_factory=dict)


Wide = make_dataclass("Wide", [(f"field{number}", int) for number in range(40)])


class Model(pydantic.BaseModel):
    id: int
    flat: Flat | None = None


class Careful(pydantic.BaseModel):
    id: Annotated[int, pydantic.Field(ge=0)]


@dataclass
class Guarded:
    id: int

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError("must not be negative")


class Derived(Flat):
    pass


TYPES: list[Any] = [
    Flat,
    Slotted,
    Outer,
    Wide,
    Model,
    Careful,
    Guarded,
    Derived,
    int,
    str,
    float,
    bytes,
    bool,
    None,
    int | None,
    list[int],
    list[str | None],
    list[Slotted],
    tuple[int, str],
    tuple[int, ...],
    tuple[()],
    dict[str, int],
    dict[str, bytes | None],
]
FLATS = st.builds(
    Flat,
    st.integers(-(2**65), 2**65),
    st.text(st.characters()),
    st.floats() | st.integers(0, 5),
    st.binary(),
    st.none() | st.text(),
    st.lists(st.text(), max_size=3),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
SLOTTED = st.builds(Slotted, id=st.integers() | st.text(), on=st.booleans())
TABLES = st.dictionaries(st.text(), st.integers(), max_size=3)
VALUES = (
    FLATS
    | SLOTTED
    | st.builds(Outer, FLATS, st.lists(SLOTTED, max_size=3), st.none() | SLOTTED, TABLES)
    | st.builds(Model.model_construct, id=st.integers() | st.none(), flat=st.none() | FLATS)
    | st.builds(Careful.model_construct, id=st.integers(-3, 3))
    | st.builds(Derived, st.integers(0, 9), st.text(), st.floats(), st.binary())
    | st.none()
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.text()
    | st.binary()
    | st.lists(st.integers() | st.none() | st.text() | SLOTTED, max_size=4)
    | st.tuples(st.integers(), st.text())
    | st.dictionaries(st.text() | st.integers(), st.integers() | st.binary() | st.none(), max_size=3)
)


def ways(type_: Any) -> tuple[Codec, Codec]:
    """Return the codec with shortcuts and the one without."""
    inspected = Inspected(type_)
    check = serializer._checker(inspected.validate, "it", aliases=inspected.aliases)
    slow = Codec(
        serializer._checked_encoder(check, type_), serializer._checked_decoder(check, type_, inspected.text_keys)
    )
    return MsgpackSerializer().codec(type_), slow


WAYS = [ways(type_) for type_ in TYPES]


def outcome(action: Callable[[Any], Any], argument: Any) -> Any:
    try:
        result = action(argument)
    except SerializationError as error:
        return str(error)
    return repr(result), type(result)


@given(VALUES)
def test_encoding_is_the_same_both_ways(value: Any) -> None:
    for fast, slow in WAYS:
        assert outcome(fast.encode, value) == outcome(slow.encode, value)


WIRE = st.dictionaries(
    st.sampled_from(["id", "name", "price", "data", "note", "tags", "corner", "on", "flat", "others"]),
    st.none()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.booleans()
    | st.lists(st.integers(0, 5) | st.text(), max_size=2),
)


@given(WIRE | VALUES, st.booleans())
def test_decoding_is_the_same_both_ways(value: Any, cut: bool) -> None:
    try:
        data = MsgpackSerializer().serialize(value)
    except SerializationError:
        return
    for fast, slow in WAYS:
        payload = data[:-1] if cut else data
        assert outcome(fast.decode, payload) == outcome(slow.decode, payload)


@given(st.binary(max_size=60))
def test_garbage_is_the_same_both_ways(data: bytes) -> None:
    for fast, slow in WAYS:
        assert outcome(fast.decode, data) == outcome(slow.decode, data)


@pytest.mark.parametrize(
    ("type_", "encoder", "decoder"),
    [
        (Flat, True, True),
        (Slotted, True, True),
        (Wide, True, True),
        (Outer, True, False),  # more than one map: a key that comes twice must be seen
        (Model, True, False),  # its own __init__ makes models
        (Guarded, True, False),
        (Derived, False, False),
        (Careful, False, False),
        (tuple[int, int], True, True),
        (list[float], True, True),
        (None, True, True),
        (dict[str, int], True, False),
        (dict[int, int], False, False),
        (list[Any], False, False),
        (Annotated[int, pydantic.Field(gt=0)], False, False),
        (int | str, False, False),
    ],
)
def test_which_types_have_shortcuts(type_: Any, encoder: bool, decoder: bool) -> None:
    core = Inspected(type_).core

    def slow(value: Any) -> Any:
        raise AssertionError

    assert (compile_encoder(core, slow) is not None, compile_decoder(core, slow) is not None) == (encoder, decoder)


def test_shortcuts_are_taken() -> None:
    value = Flat(1, "a", math.pi, b"x", None, ["t"], (1, 2))
    core = Inspected(Flat).core

    def slow(value: Any) -> Any:
        raise AssertionError("the checked way was taken")

    encode, decode = compile_encoder(core, slow), compile_decoder(core, slow)
    assert encode is not None
    assert decode is not None
    assert decode(encode(value)) == value


def test_a_wide_class_and_a_large_message_work_and_leave_nothing_behind() -> None:
    codec = MsgpackSerializer().codec(Wide)
    value = Wide(*range(40))
    assert codec.decode(codec.encode(value)) == value
    flat = MsgpackSerializer().codec(Flat)
    large = Flat(1, "x" * 3_000_000, 0.0, bytes(1_000_000))
    assert flat.decode(flat.encode(large)) == large
    small = Flat(1, "", 0.0, b"")
    assert flat.decode(flat.encode(small)) == small


def test_a_view_of_a_larger_buffer_can_be_decoded() -> None:
    for type_, value in ((Flat, Flat(1, "a", 1.0, b"")), (Outer, Outer(Flat(1, "a", 1.0, b""), [])), (int, 5)):
        codec = MsgpackSerializer().codec(type_)
        view: Any = memoryview(b"--" + codec.encode(value))[2:]
        assert codec.decode(view) == value


def test_shortcuts_do_not_take_wrong_floats_for_right_ones() -> None:
    codec = MsgpackSerializer().codec(list[float])
    assert [type(number) for number in codec.decode(msgpack.packb([1, 2.5]))] == [float, float]
    single = b"\xca" + struct.pack(">f", 1.5)
    assert MsgpackSerializer().deserialize(single, float) == 1.5
