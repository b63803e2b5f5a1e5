"""What postcard is made of: varints, floats, lengths, and the error that knows where in a value it happened.

Source of all of it: the postcard wire format, version 1. Generated code does the short forms itself and comes here for
the long ones, and whenever something is wrong.
"""

from __future__ import annotations

import re
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64
"""Levels of types that hold themselves, and of containers in values without a schema; one more is refused, both ways."""
MAX_ITEMS = 1_048_576
"""Elements of one sequence, pairs of one map."""
MAX_CONTAINERS = 131_072
"""Containers and objects inside sequences and maps of one payload; elements that take no bytes count too."""

F32 = struct.Struct("<f").pack
F64 = struct.Struct("<d").pack
READ_F32 = struct.Struct("<f").unpack_from
READ_F64 = struct.Struct("<d").unpack_from

BYTES = [bytes([value]) for value in range(256)]
U = BYTES[:128] + [bytes((value & 127 | 128, value >> 7)) for value in range(128, 16384)]
"""Varints of one and two bytes."""
S = [U[2 * value] for value in range(8192)] + [U[-2 * value - 1] for value in range(-8192, 0)]
"""Signed ones, -8192 to 8191: a negative number counts from the end of a list, which is where its varint stands."""

INTEGERS = {f"{sign}{bits}": (sign == "i", bits) for bits in (8, 16, 32, 64, 128) for sign in "ui"}
"""Signed? and bits, by serde's name."""


_MARKED = re.compile(r"Annotated\[\w+, Scalar\(name='(\w+)'[^()]*\)\]")


class Unfit(Exception):
    """``problem`` with the value at ``path``; the path grows while the exception travels up. ``position``: in bytes."""

    def __init__(self, problem: str, position: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.position = position
        self.path: list[str] = []

    def at(self, step: str) -> Unfit:
        self.path.insert(0, step)
        return self

    def __str__(self) -> str:
        path = "".join(self.path).removeprefix(".")
        text = f"{path}: {self.problem}" if path else self.problem
        return text if self.position is None else f"{text} (at byte {self.position})"


def key_step(key: object) -> str:
    """Return how ``key`` reads in a path: ``.name``, ``[3]``, ``['two words']``. Long and odd keys are cut short."""
    if type(key) is str and key.isidentifier() and len(key) <= 64:
        return f".{key}"
    if type(key) is int:
        return f"[{key}]"
    if type(key) is str:
        return f"[{key[:32]!r}…]" if len(key) > 32 else f"[{key!r}]"
    return f"[a {type(key).__name__}]"


def type_name(type_: Any) -> str:
    """Return the annotation as a person would write it."""
    if type_ is None:
        return "None"
    if isinstance(type_, type) and not getattr(type_, "__args__", None):
        return type_.__qualname__.rpartition("<locals>.")[2]
    return _MARKED.sub(lambda found: found[1].capitalize(), str(type_).replace("typing.", ""))


def located(error: Exception, step: str, position: int | None = None) -> Unfit:
    """Return ``error`` as an Unfit that happened at ``step`` of something, near byte ``position``."""
    if isinstance(error, Unfit):
        unfit = error
    elif isinstance(error, IndexError | struct.error) and position is not None:
        unfit = Unfit("it is cut off")
    elif isinstance(error, UnicodeDecodeError):
        unfit = Unfit("text that is not UTF-8")
    elif isinstance(error, UnicodeEncodeError):
        unfit = Unfit("text with half of a surrogate pair has no UTF-8 form")
    elif isinstance(error, OverflowError):
        unfit = Unfit("a number beyond the range of its float type")
    elif isinstance(error, RecursionError):
        unfit = Unfit("nested too deep")
    elif isinstance(error, AttributeError) and position is None:
        unfit = Unfit(f"the object has no attribute {error.name!r}")
    else:
        unfit = Unfit(f"failed with {type(error).__name__}")
    if unfit.position is None:
        unfit.position = position
    return unfit.at(step) if step else unfit


# --- integers ---------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """Return ``value`` >= 0 seven bits a byte, the lowest first."""
    if value < 16384:
        return U[value]
    if value < 2097152:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def out_of_range(name: str) -> Unfit:
    signed, bits = INTEGERS[name]
    low, high = (f"-2^{bits - 1}", f"2^{bits - 1} - 1") if signed else ("0", f"2^{bits} - 1")
    hint = "; annotate larger ones with U64 or I128" if name == "i64" else ""
    return Unfit(f"beyond the range of {name}, {low} to {high}{hint}")


def _writer(name: str) -> Callable[[int], bytes]:
    signed, bits = INTEGERS[name]
    if bits == 8:

        def write(value: int) -> bytes:
            if (-128 <= value < 128) if signed else (0 <= value < 256):
                return BYTES[value & 255]
            raise out_of_range(name)
    elif signed:
        half = 1 << bits - 1

        def write(value: int) -> bytes:
            if -half <= value < half:
                return varint(value << 1 if value >= 0 else ~(value << 1))
            raise out_of_range(name)
    else:
        end = 1 << bits

        def write(value: int) -> bytes:
            if 0 <= value < end:
                return varint(value)
            raise out_of_range(name)

    return write


WRITE = {name: _writer(name) for name in INTEGERS}
"""Functions from an exact int to its bytes, by name; raise Unfit for one out of range."""


def _reader(bits: int) -> Callable[[Any, int], tuple[int, int]]:
    most = -(-bits // 7)

    def read(data: Any, start: int) -> tuple[int, int]:
        value = shift = 0
        position = start
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
            if position - start >= most:
                raise Unfit(f"a varint of more than {most} bytes, where {bits} bits are due", start)
            shift += 7
        if value >> bits:
            raise Unfit(f"a varint that does not fit into {bits} bits", start)
        return value, position

    return read


READ = {bits: _reader(bits) for bits in (16, 32, 64, 128)}
"""Functions from data and position to an unsigned number and the position after it, by bits."""
length = READ[64]


# --- problems, named once ---------------------------------------------------------------------------------------------


def cut(size: int, start: int, end: int) -> Unfit:
    left = max(0, end - start)
    return Unfit(f"it is cut off: a length of {size}, and {left} byte{' is' if left == 1 else 's are'} left", start)


def too_many(size: int) -> Unfit:
    return Unfit(f"{size} elements, at most {MAX_ITEMS} fit")


def too_deep() -> Unfit:
    return Unfit(f"nested more than {MAX_DEPTH} deep")


def crowded() -> Unfit:
    return Unfit(f"more than {MAX_CONTAINERS} containers in one payload")


def wrong_byte(byte: int, kind: str, position: int) -> Unfit:
    return Unfit(f"{kind} is 0 or 1; this byte is {byte}", position)


def no_variant(index: int, count: int, position: int) -> Unfit:
    return Unfit(f"variant {index}, where there are {count}", position)


def rest(count: int, position: int) -> Unfit:
    return Unfit(f"{count} byte{'s are' if count > 1 else ' is'} left over after the value", position)


def no_char(text: str) -> Unfit:
    return Unfit(f"a char is one character; this text has {len(text)}")


def wanted(kind: str, value: Any) -> Unfit:
    return Unfit(f"wanted {kind}, not {type(value).__name__}")


# --- values that are nearly right -------------------------------------------------------------------------------------


def as_int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    raise wanted("int", value)


def as_float(value: Any) -> float:
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise wanted("float", value)


def as_str(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    raise wanted("str", value)


def as_bytes(value: Any) -> bytes | bytearray | memoryview:
    if isinstance(value, memoryview):
        return value.cast("B") if value.c_contiguous else value.tobytes()
    if isinstance(value, bytes | bytearray):
        return value
    raise wanted("bytes", value)


def as_sequence(value: Any) -> Any:
    if isinstance(value, list | tuple | set | frozenset | deque):
        return value
    raise wanted("list", value)


LITTLE = sys.byteorder == "little"
