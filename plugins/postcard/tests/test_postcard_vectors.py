"""The specification's examples, and vectors derived by hand from it: at least three for each type of serde's data model.

``postcard_spec.json`` has the tables of the pages "Wire Format" (varint encoded integers, canonicalization, f32, f64).
The sections are those of the page "Wire Format", version 1: "1 - bool" to "29 - struct_variant".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType

import pytest

from echokernel import F32, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128, Char, Length, SerializationError, USize
from echokernel_postcard import PostcardSerializer

SPEC = json.loads((Path(__file__).parent / "postcard_spec.json").read_text("utf-8"))
TYPES: dict[str, Any] = {"bool": bool, "u8": U8, "i8": I8, "u16": U16, "i16": I16, "u32": U32, "i32": I32}
TYPES |= {"u64": U64, "i64": I64, "u128": U128, "i128": I128, "f32": F32, "f64": float}
SERIALIZER = PostcardSerializer()


@pytest.mark.parametrize("vector", SPEC["accept"], ids=lambda vector: f"{vector['type']} {vector['value']}")
def test_the_examples_of_the_specification(vector: Any) -> None:
    codec = SERIALIZER.codec(TYPES[vector["type"]])
    assert codec.encode(vector["value"]).hex() == vector["hex"]
    assert codec.decode(bytes.fromhex(vector["hex"])) == vector["value"]


@pytest.mark.parametrize("vector", SPEC["accept_non_canonical"], ids=lambda vector: str(vector["hex"]))
def test_varints_with_excess_bytes_are_accepted(vector: Any) -> None:
    assert SERIALIZER.codec(TYPES[vector["type"]]).decode(bytes.fromhex(vector["hex"])) == vector["value"]
    row = bytes([40]) + bytes.fromhex(vector["hex"]) * 40
    assert SERIALIZER.codec(list[TYPES[vector["type"]]]).decode(row) == [vector["value"]] * 40  # type: ignore[misc]


@pytest.mark.parametrize("vector", SPEC["reject"], ids=lambda vector: str(vector["hex"]))
def test_what_the_specification_rejects_is_rejected(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    with pytest.raises(SerializationError):
        SERIALIZER.codec(TYPES[vector["type"]]).decode(data)
    for count in (1, 40):
        with pytest.raises(SerializationError):
            SERIALIZER.codec(list[TYPES[vector["type"]]]).decode(bytes([count]) + data * count)  # type: ignore[misc]


@pytest.mark.parametrize(("name", "most"), SPEC["max_varint_bytes"].items())
def test_varints_have_their_greatest_length(name: str, most: int) -> None:
    codec = SERIALIZER.codec(TYPES[name])
    assert codec.decode(b"\x80" * (most - 1) + b"\0") == 0
    with pytest.raises(SerializationError, match=f"more than {most} bytes"):
        codec.decode(b"\x80" * most + b"\0")
    bits = int(name[1:])
    spare = 7 * most - bits  # bits of the last byte that have to be zero
    if spare:
        with pytest.raises(SerializationError, match=f"does not fit into {bits} bits"):
            codec.decode(b"\x80" * (most - 1) + bytes([1 << (7 - spare)]))


class Colour(Enum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


Wide = Enum("Wide", [f"M{number}" for number in range(300)])


@dataclass
class Unit:
    pass


@dataclass
class Empty:
    """Another unit struct: names are not on the wire."""


@dataclass
class Holder:
    unit: Unit
    after: U8


@dataclass
class Meters:
    value: U16


@dataclass
class Label:
    text: str


@dataclass
class Pixel:
    x: I16
    y: I16


@dataclass
class Person:
    name: str
    age: U8
    mail: str | None


class Rgb(NamedTuple):
    r: U8
    g: U8
    b: U8


class Pair(NamedTuple):
    left: int
    right: str


class Single(NamedTuple):
    only: U32


Metres = NewType("Metres", U32)  # type: ignore[valid-newtype]
Name = NewType("Name", str)
Shape = Unit | Meters | Rgb | Pixel | Label
OFF = Literal["off", "slow", "fast"]

VECTORS: list[tuple[str, Any, Any, str]] = [
    ("1 - bool", bool, False, "00"),
    ("1 - bool", bool, True, "01"),
    ("1 - bool", tuple[bool, bool], (True, False), "0100"),
    ("2 - i8", I8, 0, "00"),
    ("2 - i8", I8, -128, "80"),
    ("2 - i8", I8, 127, "7f"),
    ("3 - i16", I16, -2, "03"),
    ("3 - i16", I16, 300, "d804"),  # 600 = 0b100_1011000
    ("3 - i16", I16, -32768, "ffff03"),
    ("4 - i32", I32, 1, "02"),
    ("4 - i32", I32, -8193, "818001"),  # 16385
    ("4 - i32", I32, 2**31 - 1, "feffffff0f"),
    ("4 - i32", I32, -(2**31), "ffffffff0f"),
    ("5 - i64", int, -1, "01"),
    ("5 - i64", int, 64, "8001"),
    ("5 - i64", I64, 2**63 - 1, "feffffffffffffffff01"),
    ("5 - i64", int, -(2**63), "ffffffffffffffffff01"),
    ("6 - i128", I128, -1, "01"),
    ("6 - i128", I128, 8192, "808001"),
    ("6 - i128", I128, 2**127 - 1, "fe" + "ff" * 17 + "03"),
    ("6 - i128", I128, -(2**127), "ff" * 18 + "03"),
    ("7 - u8", U8, 0, "00"),
    ("7 - u8", U8, 128, "80"),
    ("7 - u8", U8, 255, "ff"),
    ("8 - u16", U16, 300, "ac02"),
    ("8 - u16", U16, 127, "7f"),
    ("8 - u16", U16, 65535, "ffff03"),
    ("9 - u32", U32, 1, "01"),
    ("9 - u32", U32, 65536, "808004"),
    ("9 - u32", U32, 2**32 - 1, "ffffffff0f"),
    ("10 - u64", U64, 150, "9601"),
    ("10 - u64", U64, 2**35, "808080808001"),
    ("10 - u64", U64, 2**64 - 1, "ffffffffffffffffff01"),
    ("isize and usize", USize, 16384, "808001"),
    ("11 - u128", U128, 5, "05"),
    ("11 - u128", U128, 2**64, "80808080808080808002"),
    ("11 - u128", U128, 2**128 - 1, "ff" * 18 + "03"),
    ("12 - f32", F32, 0.0, "00000000"),
    ("12 - f32", F32, 1.0, "0000803f"),
    ("12 - f32", F32, -2.5, "000020c0"),
    ("12 - f32", F32, float("inf"), "0000807f"),
    ("13 - f64", float, 0.0, "0000000000000000"),
    ("13 - f64", float, 1.0, "000000000000f03f"),
    ("13 - f64", float, -2.5, "00000000000004c0"),
    ("14 - char", Char, "a", "0161"),
    ("14 - char", Char, "ü", "02c3bc"),
    ("14 - char", Char, "😀", "04f09f9880"),
    ("15 - string", str, "", "00"),
    ("15 - string", str, "hi", "026869"),
    ("15 - string", str, "grün", "056772c3bc6e"),
    ("15 - string", str, "a" * 128, "8001" + "61" * 128),
    ("16 - byte array", bytes, b"", "00"),
    ("16 - byte array", bytes, b"\x00\xff", "0200ff"),
    ("16 - byte array", bytes, bytes(300), "ac02" + "00" * 300),
    ("17 - option", int | None, None, "00"),
    ("17 - option", int | None, 1, "0102"),
    ("17 - option", str | None, "", "0100"),
    ("17 - option", U8 | None, 0, "0100"),
    ("18 - unit", None, None, ""),
    ("18 - unit", tuple[None, U8], (None, 7), "07"),
    ("18 - unit", list[None], [None, None, None], "03"),
    ("19 - unit_struct", Unit, Unit(), ""),
    ("19 - unit_struct", Empty, Empty(), ""),
    ("19 - unit_struct", Holder, Holder(Unit(), 9), "09"),
    ("20 - unit_variant", Colour, Colour.RED, "00"),
    ("20 - unit_variant", Colour, Colour.BLUE, "02"),
    ("20 - unit_variant", Wide, list(Wide)[299], "ab02"),
    ("20 - unit_variant", OFF, "slow", "01"),
    ("20 - unit_variant", Shape, Unit(), "00"),
    ("21 - newtype_struct", Metres, 300, "ac02"),
    ("21 - newtype_struct", Name, "hi", "026869"),
    ("21 - newtype_struct", Meters, Meters(5), "05"),
    ("22 - newtype_variant", Shape, Meters(300), "01ac02"),
    ("22 - newtype_variant", Shape, Label("hi"), "04026869"),
    ("22 - newtype_variant", Single | Meters, Single(1), "0001"),
    ("23 - seq", list[int], [], "00"),
    ("23 - seq", list[int], [1, -1, 64], "0302018001"),
    ("23 - seq", list[str], ["a", ""], "02016100"),
    ("23 - seq", tuple[U8, ...], (1, 2), "020102"),
    ("23 - seq", list[list[bool]], [[True], []], "02010100"),
    ("24 - tuple", tuple[int, str], (1, "a"), "020161"),
    ("24 - tuple", tuple[()], (), ""),
    ("24 - tuple", tuple[U8, U8, U8], (1, 2, 3), "010203"),
    ("24 - tuple", Annotated[list[U8], Length(3)], [1, 2, 3], "010203"),
    ("24 - tuple", Annotated[bytes, Length(2)], b"\x01\x02", "0102"),
    ("25 - tuple_struct", Rgb, Rgb(255, 0, 1), "ff0001"),
    ("25 - tuple_struct", Pair, Pair(-1, "x"), "010178"),
    ("25 - tuple_struct", Single, Single(128), "8001"),
    ("26 - tuple_variant", Shape, Rgb(1, 2, 3), "02010203"),
    ("26 - tuple_variant", Pair | Rgb, Pair(0, ""), "000000"),
    ("26 - tuple_variant", Pair | Rgb, Rgb(0, 0, 9), "01000009"),
    ("27 - map", dict[str, U8], {}, "00"),
    ("27 - map", dict[str, U8], {"a": 1, "b": 2}, "02016101016202"),
    ("27 - map", dict[U8, list[int]], {5: [1]}, "01050102"),
    ("28 - struct", Person, Person("Al", 30, None), "02416c1e00"),
    ("28 - struct", Person, Person("", 0, "m"), "000001016d"),
    ("28 - struct", Pixel, Pixel(-1, 64), "018001"),
    ("29 - struct_variant", Shape, Pixel(1, -1), "030201"),
    ("29 - struct_variant", Person | Pixel, Person("A", 1, None), "0001410100"),
    ("29 - struct_variant", Person | Pixel, Pixel(0, 0), "010000"),
]
IDS = [f"{section}: {value!r:.30}" for section, _, value, _ in VECTORS]


@pytest.mark.parametrize(("section", "type_", "value", "wire"), VECTORS, ids=IDS)
def test_vectors_by_hand(section: str, type_: Any, value: Any, wire: str) -> None:
    codec = SERIALIZER.codec(type_)
    assert codec.encode(value).hex() == wire
    for data in (bytes.fromhex(wire), bytearray.fromhex(wire), memoryview(b"-" + bytes.fromhex(wire))[1:]):
        back = codec.decode(data)  # type: ignore[arg-type]
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize(("section", "type_", "value", "wire"), VECTORS, ids=IDS)
def test_every_prefix_and_every_longer_payload_is_refused(section: str, type_: Any, value: Any, wire: str) -> None:
    codec, data = SERIALIZER.codec(type_), bytes.fromhex(wire)
    for end in range(len(data)):
        with pytest.raises(SerializationError, match=r"at byte \d+"):
            codec.decode(data[:end])
    for tail in (b"\0", b"\xff", data + b"\0"):
        with pytest.raises(SerializationError, match="left over"):
            codec.decode(data + tail)


def test_every_type_has_three_vectors() -> None:
    sections = [section for section, *_ in VECTORS]
    numbers = {section.split()[0] for section in sections}
    assert numbers >= {str(number) for number in range(1, 30)}
    assert all(sections.count(section) >= 3 for section in sections if section[0].isdigit())
