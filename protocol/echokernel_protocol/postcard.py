"""The few postcard encodings that frames are made of. Source: postcard wire format, version 1.

Values for users are coded by serializers; this is what the wire itself needs: varints, strings, byte strings.
"""

from __future__ import annotations

MAX_U64 = (1 << 64) - 1

_ONE_BYTE = [bytes([value]) for value in range(128)]


class Truncated(Exception):
    """The bytes end within a value; more may be on its way."""


class Malformed(Exception):
    """The bytes cannot be a value of this type, whatever follows."""


def encode_varint(value: int) -> bytes:
    """Return ``value``, 0 to 2^64-1, as a varint: seven bits a byte, the lowest first."""
    if 0 <= value < 128:
        return _ONE_BYTE[value]
    if value < 0 or value > MAX_U64:
        raise ValueError(f"{value} is no u64")
    if value < 16_384:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 127:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_bytes(data: bytes) -> bytes:
    """Return ``data`` with its length before it."""
    return encode_varint(len(data)) + data


def encode_str(text: str) -> bytes:
    """Return ``text`` as UTF-8 with its length in bytes before it."""
    return encode_bytes(text.encode())


def take_varint(data: bytes, position: int, *, maximum: int = MAX_U64) -> tuple[int, int]:
    """Return the varint at ``position`` and the position after it.

    Raises Truncated, and Malformed for more than 10 bytes or a value above ``maximum``.
    """
    value = shift = 0
    end = len(data)
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 128:
            if value > maximum:
                raise Malformed(f"varint {value} is above {maximum}")
            return value, position
        shift += 7
        if shift > 63:
            raise Malformed("a varint of more than 10 bytes")
    raise Truncated


def take_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    """Return the byte string at ``position`` and the position after it. Raises Truncated."""
    length, position = take_varint(data, position)
    end = position + length
    if end > len(data):
        raise Truncated
    return data[position:end], end


def take_str(data: bytes, position: int) -> tuple[str, int]:
    """Return the string at ``position`` and the position after it. Raises Truncated, UnicodeDecodeError."""
    raw, position = take_bytes(data, position)
    return raw.decode("utf-8"), position
