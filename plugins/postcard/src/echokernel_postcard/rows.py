"""Lists of numbers and booleans, a hundred thousand at a time: by C code where all of them have one width."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from echokernel_postcard.lanes import MIN_COUNT, read_lanes, write_lanes
from echokernel_postcard.wire import (
    INTEGERS,
    LITTLE,
    WRITE,
    S,
    U,
    Unfit,
    as_float,
    as_int,
    cut,
    located,
    wanted,
    wrong_byte,
)

_ZIGZAG = bytes((value << 1 if value < 128 else ~((value - 256) << 1)) & 255 for value in range(256))
"""Signed bytes as they are in memory to zigzag; those of two bytes as varints become something above 127, or nonsense."""
_UNZIGZAG = bytes((value >> 1 ^ -(value & 1)) & 255 for value in range(256))
_LARGE = bytes(range(128, 256))
_BITS = b"\0\1"

Writer = Callable[[Sequence[Any]], bytes]
"""Values to the bytes of all of them, without their number."""
Reader = Callable[[Any, int, int], tuple[list[Any], int]]
"""Data, position and number to values and the position after them."""


def _each(values: Sequence[Any], check: Callable[[Any], Any]) -> list[Any]:
    """Return the values as what they are made of; names the place of one that is wrong."""
    checked: list[Any] = []
    try:
        for value in values:
            checked.append(check(value))
    except Exception as error:
        raise located(error, f"[{len(checked)}]") from None
    return checked


def _integers(name: str) -> Writer:
    signed, bits = INTEGERS[name]
    write, table = WRITE[name], S if signed else U
    lowest, highest = (-8192, 8192) if signed else (0, 16384)
    least, most = (-128, 127) if signed else (0, 255)

    def pack(values: Sequence[Any]) -> bytes:
        if not {int}.issuperset(map(type, values)):
            values = _each(values, as_int)
        low, high = min(values, default=0), max(values, default=0)
        if bits == 8:
            if least <= low and high <= most:
                return array("b", values).tobytes() if signed else bytes(values)
        elif signed and low >= -64 and high < 64:
            return array("b", values).tobytes().translate(_ZIGZAG)
        elif not signed and low >= 0 and high < 128:
            return bytes(values)
        elif lowest <= low and high < highest:
            return b"".join([table[value] for value in values])
        if bits > 16 and len(values) >= MIN_COUNT:
            data = write_lanes(values, signed)
            if data is not None:
                return data
        return b"".join(_each(values, write))

    return pack


def _floats(code: str) -> Writer:
    def pack(values: Sequence[Any]) -> bytes:
        if not {float, int}.issuperset(map(type, values)):
            values = _each(values, as_float)
        try:
            numbers = array(code, values)
        except OverflowError:
            numbers = array(code, _each(values, as_float))
        if code == "f":
            _see_that_they_fit(numbers, values)
        if not LITTLE:
            numbers.byteswap()
        return numbers.tobytes()

    return pack


def _see_that_they_fit(numbers: array[float], values: Sequence[float]) -> None:
    infinite = float("inf")
    if infinite in numbers or -infinite in numbers:
        for place, value in enumerate(values):
            if abs(numbers[place]) == infinite and abs(value) != infinite:
                raise Unfit("a number beyond the range of its float type").at(f"[{place}]")


def _booleans(values: Sequence[Any]) -> bytes:
    if not {bool}.issuperset(map(type, values)):
        place = next(place for place, value in enumerate(values) if type(value) is not bool)
        raise wanted("bool", list(values)[place]).at(f"[{place}]")
    return bytes(values)


WRITE_ROW: dict[str, Writer] = {name: _integers(name) for name in INTEGERS}
WRITE_ROW |= {"f32": _floats("f"), "f64": _floats("d"), "bool": _booleans}


# --- reading ----------------------------------------------------------------------------------------------------------


def _varints(name: str) -> Reader:
    signed, bits = INTEGERS[name]
    most = -(-bits // 7)
    longest = most * 7
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def read(data: Any, position: int, count: int) -> tuple[list[Any], int]:
        chunk = _take(bytes(data[position : position + count * most]), count, position)
        end = position + len(chunk)
        if len(chunk) == count:  # one byte each
            if not signed:
                return list(chunk), end
            return memoryview(chunk.translate(_UNZIGZAG)).cast("b").tolist(), end
        if count >= MIN_COUNT and len(chunk) <= 4 * count:
            quick = read_lanes(chunk, count, signed)
            if quick is not None and (bits > 16 or (low <= min(quick) and max(quick) <= high)):
                return quick, end
        values: list[int] = []
        append = values.append
        value = shift = 0
        for byte in chunk:
            if byte > 127:
                value |= (byte & 127) << shift
                shift += 7
                if shift >= longest:
                    raise Unfit(f"a varint of more than {most} bytes", position).at(f"[{len(values)}]")
                continue
            if shift:
                value |= byte << shift
                if shift + 7 >= bits and value >> bits:
                    raise Unfit(f"a varint that does not fit into {bits} bits", position).at(f"[{len(values)}]")
                append(value >> 1 ^ -(value & 1) if signed else value)
                value = shift = 0
            else:
                append(byte >> 1 ^ -(byte & 1) if signed else byte)
        return values, end

    return read


def _take(chunk: bytes, count: int, position: int) -> bytes:
    """Return the beginning of ``chunk`` that holds ``count`` varints, by halving: counting is C, looking is not."""
    there = len(chunk.translate(None, _LARGE))
    if there < count:
        raise Unfit(f"it is cut off: wanted {count} integers, and {there} are left", position).at(f"[{there}]")
    if there == count:
        return chunk[: len(chunk.rstrip(_LARGE))]
    low, found, high = 0, 0, len(chunk)
    while high - low > 1 and found < count:
        middle = (low + high) // 2
        more = len(chunk[low:middle].translate(None, _LARGE))
        if found + more <= count:
            low, found = middle, found + more
        else:
            high = middle
    return chunk[: len(chunk[:low].rstrip(_LARGE))]


def _octets(signed: bool) -> Reader:
    def read(data: Any, position: int, count: int) -> tuple[list[Any], int]:
        chunk = data[position : position + count]
        return (memoryview(chunk).cast("b").tolist() if signed else list(chunk)), position + count

    return read


def _fixed(code: str, size: int) -> Reader:
    def read(data: Any, position: int, count: int) -> tuple[list[Any], int]:
        end = position + count * size
        numbers = array(code)
        numbers.frombytes(data[position:end])
        if not LITTLE:
            numbers.byteswap()
        return numbers.tolist(), end

    return read


def _bits(data: Any, position: int, count: int) -> tuple[list[Any], int]:
    chunk = bytes(data[position : position + count])
    if chunk.translate(None, _BITS):
        place = next(place for place, byte in enumerate(chunk) if byte > 1)
        raise wrong_byte(chunk[place], "a bool", position + place).at(f"[{place}]")
    return list(map(bool, chunk)), position + count


def _checked(reader: Reader, size: int) -> Reader:
    def read(data: Any, position: int, count: int) -> tuple[list[Any], int]:
        if count * size > len(data) - position:
            raise cut(count * size, position, len(data))
        return reader(data, position, count)

    return read


READ_ROW: dict[str, Reader] = {name: _checked(_varints(name), 1) for name, (_, bits) in INTEGERS.items() if bits > 8}
READ_ROW |= {"u8": _checked(_octets(False), 1), "i8": _checked(_octets(True), 1), "bool": _checked(_bits, 1)}
READ_ROW |= {"f32": _checked(_fixed("f", 4), 4), "f64": _checked(_fixed("d", 8), 8)}
