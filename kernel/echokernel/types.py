"""Annotations for what Python has only one type of: integers of a size, single floats, characters, arrays of a fixed length.

Each is an ordinary ``int``, ``float``, ``str`` or ``list`` to the program. Serializers find the marker in the metadata of
``typing.Annotated``; pydantic gets the range from it, so that every serializer and every JSON Schema knows it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Any

__all__ = [
    "F32",
    "I8",
    "I16",
    "I32",
    "I64",
    "I128",
    "U8",
    "U16",
    "U32",
    "U64",
    "U128",
    "Char",
    "Length",
    "Scalar",
    "USize",
]

_F32 = struct.Struct("<f")
_MAX_F32 = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Scalar:
    """Marks an annotation as one of serde's scalars: ``Annotated[int, Scalar("u8", 0, 255)]``.

    ``name`` is serde's: ``u8`` to ``u128``, ``i8`` to ``i128``, ``f32``, ``char``. ``minimum`` and ``maximum`` are inclusive;
    None for what is no integer.
    """

    name: str
    minimum: int | None = None
    maximum: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        schema = handler(source)
        if self.name == "char":
            return schema | {"min_length": 1, "max_length": 1}
        if self.name == "f32":
            function = {"type": "no-info", "function": round_f32}
            return {"type": "function-after", "function": function, "schema": schema}
        return schema | {"ge": self.minimum, "le": self.maximum}

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        schema = handler(core) | {"format": _FORMATS.get(self.name, self.name)}
        return schema | ({"minimum": -_MAX_F32, "maximum": _MAX_F32} if self.name == "f32" else {})


@dataclass(frozen=True, slots=True)
class Length:
    """Marks a ``list``, a ``tuple[T, ...]`` or ``bytes`` as an array of exactly ``items`` elements: serde's ``[T; N]``.

    ``Annotated[list[int], Length(3)]``. With postcard it is written without its length.
    """

    items: int

    def __post_init__(self) -> None:
        if type(self.items) is not int or self.items < 0:
            raise ValueError(f"Length takes a number of elements; this is {self.items!r}")

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return handler(source) | {"min_length": self.items, "max_length": self.items}

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        return handler(core) | {"format": "fixed"}


def round_f32(value: float) -> float:
    """Return the float of 32 bits that is nearest to ``value``. Raises ValueError for one beyond their range."""
    try:
        return float(_F32.unpack(_F32.pack(value))[0])
    except OverflowError:
        raise ValueError("beyond the range of a float of 32 bits") from None


_FORMATS = {
    f"{kind}{bits}": f"{word}int{bits}" for kind, word in (("u", "u"), ("i", "")) for bits in (8, 16, 32, 64, 128)
}
_FORMATS["f32"] = "float"

U8 = Annotated[int, Scalar("u8", 0, 2**8 - 1)]
U16 = Annotated[int, Scalar("u16", 0, 2**16 - 1)]
U32 = Annotated[int, Scalar("u32", 0, 2**32 - 1)]
U64 = Annotated[int, Scalar("u64", 0, 2**64 - 1)]
U128 = Annotated[int, Scalar("u128", 0, 2**128 - 1)]
USize = Annotated[int, Scalar("u64", 0, 2**64 - 1)]
I8 = Annotated[int, Scalar("i8", -(2**7), 2**7 - 1)]
I16 = Annotated[int, Scalar("i16", -(2**15), 2**15 - 1)]
I32 = Annotated[int, Scalar("i32", -(2**31), 2**31 - 1)]
I64 = Annotated[int, Scalar("i64", -(2**63), 2**63 - 1)]
I128 = Annotated[int, Scalar("i128", -(2**127), 2**127 - 1)]
F32 = Annotated[float, Scalar("f32")]
Char = Annotated[str, Scalar("char")]
