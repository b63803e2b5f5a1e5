"""Map: short text metadata before a payload. ``varint n · n × (key: str · value: str)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.postcard import Malformed, Truncated, encode_str, encode_varint, take_str, take_varint

MAX_ENTRIES: Final = 64
MAX_SIZE: Final = 8 * 1024
"""Bytes of an encoded Map."""


def encode_map(entries: Mapping[str, str]) -> bytes:
    """Return the wire form. Raises ValueError over 64 entries or 8 KiB."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"metadata has {len(entries)} entries; the limit is {MAX_ENTRIES}")
    data = encode_varint(len(entries)) + b"".join(encode_str(key) + encode_str(value) for key, value in entries.items())
    if len(data) > MAX_SIZE:
        raise ValueError(f"metadata takes {len(data):,} bytes; the limit is {MAX_SIZE:,}")
    return data


def take_map(data: bytes, position: int = 0) -> tuple[dict[str, str], int]:
    """Return the Map at ``position`` and the position after it. Raises ProtocolViolation."""
    start = position
    entries: dict[str, str] = {}
    try:
        count, position = take_varint(data, position)
        if count > MAX_ENTRIES:
            raise ProtocolViolation(f"a Map of {count} entries; the limit is {MAX_ENTRIES}", code=Code.LIMIT_EXCEEDED)
        for _ in range(count):
            key, position = take_str(data, position)
            value, position = take_str(data, position)
            if key in entries:
                raise ProtocolViolation(f"a Map has the key {key[:40]!r} twice")
            entries[key] = value
            if position - start > MAX_SIZE:
                raise ProtocolViolation(f"a Map of more than {MAX_SIZE:,} bytes", code=Code.LIMIT_EXCEEDED)
    except (Truncated, Malformed, UnicodeDecodeError) as error:
        raise ProtocolViolation("a Map is cut short or not UTF-8") from error
    return entries, position
