"""Sized types: ordinary numbers and texts to a program, with ranges for pydantic, JSON Schema and signatures."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from echokernel import F32, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128, Char, Length, USize, rpc
from echokernel.signatures import annotation_text, describe_handler
from echokernel.types import Scalar
from echokernel_protocol.describe import MethodKind

INTEGERS = {"u8": U8, "u16": U16, "u32": U32, "u64": U64, "u128": U128, "i8": I8, "i16": I16, "i32": I32, "i64": I64}
INTEGERS |= {"i128": I128}


@pytest.mark.parametrize(("name", "kind"), INTEGERS.items())
def test_integers_have_their_range(name: str, kind: Any) -> None:
    bits = int(name[1:])
    low, high = (0, 2**bits - 1) if name[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    adapter = TypeAdapter(kind)
    assert (adapter.validate_python(low), adapter.validate_python(high)) == (low, high)
    for wrong in (low - 1, high + 1):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
    word = ("u" if name[0] == "u" else "") + f"int{bits}"
    assert adapter.json_schema() == {"type": "integer", "minimum": low, "maximum": high, "format": word}


def test_usize_is_u64() -> None:
    assert USize == U64


def test_floats_of_32_bits_are_rounded_and_bounded() -> None:
    adapter = TypeAdapter(F32)
    assert adapter.validate_python(0.1) == struct.unpack("<f", struct.pack("<f", 0.1))[0] != 0.1
    assert adapter.validate_python(math.inf) == math.inf
    with pytest.raises(ValidationError, match="beyond the range of a float of 32 bits"):
        adapter.validate_python(1e39)
    assert adapter.json_schema()["format"] == "float"
    assert adapter.json_schema()["maximum"] == pytest.approx(3.4028235e38)


def test_a_char_is_one_character_and_an_array_has_its_length() -> None:
    for adapter, good, wrong in (
        (TypeAdapter(Char), "ü", "ab"),
        (TypeAdapter(Annotated[list[int], Length(2)]), [1, 2], [1]),
        (TypeAdapter(Annotated[tuple[int, ...], Length(2)]), (1, 2), (1, 2, 3)),
        (TypeAdapter(Annotated[bytes, Length(2)]), b"ab", b"a"),
    ):
        assert adapter.validate_python(good) == good  # type: ignore[attr-defined]
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)  # type: ignore[attr-defined]
    for wrong_length in (-1, 1.5, "3"):
        with pytest.raises(ValueError, match="Length takes a number of elements"):
            Length(wrong_length)  # type: ignore[arg-type]


def test_signatures_and_schemas_show_them() -> None:
    @rpc
    async def place(level: U8, angle: F32 | None, row: Annotated[list[U16], Length(3)]) -> USize: ...

    described = describe_handler(MethodKind.RPC, "place", place)
    assert described.signature == "(level: U8, angle: F32 | None, row: Annotated[list[U16], Length(3)]) -> U64"
    parts = json.loads(described.parameters)["prefixItems"]
    assert (parts[0]["minimum"], parts[0]["maximum"], parts[0]["format"]) == (0, 255, "uint8")
    assert (parts[2]["minItems"], parts[2]["maxItems"], parts[2]["format"]) == (3, 3, "fixed")
    assert annotation_text(Annotated[int, Scalar("i16", -(2**15), 2**15 - 1)]) == "I16"


def test_importing_them_does_not_import_pydantic() -> None:
    code = "import sys; from echokernel import U8, F32; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
