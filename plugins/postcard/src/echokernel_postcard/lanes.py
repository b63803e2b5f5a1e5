"""Rows of varints through one large integer: every element gets a lane of 32 bits, and each operation does all of them.

A loop over 100,000 elements takes ten times as long. The lanes hold varints of up to four bytes; longer ones, and what is
wrong with them, are left to the loop.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import compress

from echokernel_postcard.wire import LITTLE

MIN_COUNT = 32
"""Elements from which on it is worth it."""
_BLOCK = 8192  # elements at a time: beyond the size of the processor's caches large integers become slower
_LARGE = bytes(range(128, 256))
_ENDS = bytes(byte < 128 for byte in range(256))


@lru_cache(maxsize=64)
def _every(pattern: int, count: int) -> int:
    """Return ``pattern`` in each of ``count`` lanes."""
    return int.from_bytes(pattern.to_bytes(4, "little") * count, "little")


def _rounded(count: int) -> int:
    """Return a number of lanes of which there are few different ones, so that patterns are kept."""
    return min(_BLOCK, 1 << (count - 1).bit_length())


def read_lanes(chunk: bytes, count: int, signed: bool) -> list[int] | None:
    """Return the ``count`` varints that ``chunk`` consists of; None where one has more than four bytes."""
    ends = chunk.translate(_ENDS)
    width = next((width for width in range(1, 5) if bytes(width) not in ends), 0)
    if not width:
        return None
    starts = b"\1" + ends[:-1]
    columns = [bytes(compress(chunk[place:] + bytes(place), starts)) for place in range(width - 1)]
    # The last byte of an element stands in the last column; where the element is shorter, it is masked out below.
    columns.append(chunk.translate(None, _LARGE))
    values: list[int] = []
    for begin in range(0, count, _BLOCK):
        found = _lanes_to_values([column[begin : begin + _BLOCK] for column in columns], signed)
        if found is None:
            return None
        values += found
    return values


def _lanes_to_values(columns: list[bytes], signed: bool) -> list[int] | None:
    count = len(columns[0])
    lanes = _rounded(count)
    buffer = bytearray(4 * lanes)
    for place, column in enumerate(columns):
        buffer[place : 4 * count : 4] = column
    raw = int.from_bytes(buffer, "little")
    goes_on = _every(1, lanes)
    value = 0
    for place in range(4):
        value |= (raw >> place & goes_on * (127 << 7 * place)) if place else raw & goes_on * 127
        goes_on &= raw >> 8 * place + 7
        if not goes_on:
            break
    else:
        return None
    if signed:
        sign = value & _every(1, lanes)
        value = (value ^ sign) >> 1 ^ (sign << 32) - sign
    numbers = array("i" if signed else "I", value.to_bytes(4 * lanes, "little"))
    if not LITTLE:
        numbers.byteswap()
    return numbers.tolist()[:count]


def write_lanes(values: Sequence[int], signed: bool) -> bytes | None:
    """Return ``values`` as varints; None where one takes more than four bytes."""
    try:
        numbers = array("i", values)  # one of 32 bits without a sign is too long anyway
    except OverflowError:
        return None
    if not LITTLE:
        numbers.byteswap()
    data = numbers.tobytes()
    parts = []
    for begin in range(0, len(data), 4 * _BLOCK):
        part = _values_to_bytes(data[begin : begin + 4 * _BLOCK], signed)
        if part is None:
            return None
        parts.append(part)
    return b"".join(parts)


def _values_to_bytes(data: bytes, signed: bool) -> bytes | None:
    count = len(data) // 4
    lanes = _rounded(count)
    value = int.from_bytes(data, "little")
    if signed:
        sign = value >> 31 & _every(1, lanes)
        value = (value << 1 & _every(0xFFFF_FFFE, lanes)) ^ (sign << 32) - sign
    if value & _every(0xF000_0000, lanes):
        return None
    ones, most = _every(1, lanes), _every(0x7FFF_FFFF, lanes)
    out, there = value & ones * 127, ones
    for place in (1, 2, 3):
        above = value >> 7 * place & _every(0xFFFF_FFFF >> 7 * place, lanes)
        if not above:
            break
        more = (above + most) >> 31 & ones
        out |= more << 8 * place - 1 | (value & ones * (127 << 7 * place)) << place
        there |= more << 8 * place
    # Of bytes that are there, only that of the number 0 is zero: without one, all zeros can go.
    full = out.to_bytes(4 * lanes, "little")
    short = full.translate(None, b"\0")
    if len(short) == there.bit_count() - (lanes - count):
        return short
    return bytes(compress(full, there.to_bytes(4 * lanes, "little")[: 4 * count]))
