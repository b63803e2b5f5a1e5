"""Types of the standard library that serde does not have, as the usual crates of Rust write them.

datetime, date and time are ISO 8601 text (chrono), UUID is 16 bytes with their length (uuid), Decimal is text
(rust_decimal), and a timedelta is seconds and nanoseconds (i64, u32): the nanoseconds always count forwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from echokernel_postcard.shapes import Converted, Plain, Shape, Tuple
from echokernel_postcard.wire import Unfit, wanted

_LONGEST = 64  # characters; with nanoseconds and a zone it is 35
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NANOSECONDS = 1_000_000_000


def _text(kind: type, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def unpack(text: str) -> Any:
        try:
            if len(text) <= _LONGEST:
                return parse(text)
        except (ValueError, OverflowError):
            pass
        raise Unfit(f"text that is no {kind.__name__} in ISO 8601")

    return unpack


def _pack_datetime(value: Any) -> str:
    if not isinstance(value, datetime):
        raise wanted("datetime", value)
    if value.utcoffset() is None:
        return datetime.isoformat(value)
    try:
        return datetime.isoformat(value.astimezone(UTC)).replace("+00:00", "Z")
    except OverflowError:
        raise Unfit("in UTC this datetime is out of range") from None


def _parse_datetime(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    return value if value.tzinfo is None else value.astimezone(UTC)


def _pack_date(value: Any) -> str:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise wanted("date", value)
    return date.isoformat(value)


def _pack_time(value: Any) -> str:
    if not isinstance(value, time):
        raise wanted("time", value)
    return time.isoformat(value)


def _pack_timedelta(value: Any) -> tuple[int, int]:
    if not isinstance(value, timedelta):
        raise wanted("timedelta", value)
    return value.days * 86_400 + value.seconds, value.microseconds * 1000


def _unpack_timedelta(parts: tuple[int, int]) -> timedelta:
    seconds, nanoseconds = parts
    if nanoseconds >= _NANOSECONDS:
        raise Unfit(f"{nanoseconds} nanoseconds; there are fewer than {_NANOSECONDS} in a second")
    try:
        return timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
    except OverflowError:
        raise Unfit("a duration beyond the range of timedelta") from None


def _pack_uuid(value: Any) -> bytes:
    if not isinstance(value, UUID):
        raise wanted("UUID", value)
    return value.bytes


def _unpack_uuid(data: bytes) -> UUID:
    if len(data) != 16:
        raise Unfit(f"a UUID has 16 bytes; this one has {len(data)}")
    return UUID(bytes=data)


def _pack_decimal(value: Any) -> str:
    if not isinstance(value, Decimal):
        raise wanted("Decimal", value)
    if not value.is_finite():
        raise Unfit("a Decimal that is no finite number")
    return Decimal.__str__(value)


def _unpack_decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise Unfit("text that is no decimal number")
    return Decimal(text)


def _pack_bytearray(value: Any) -> Any:
    return value


def conventional(kind: Any) -> Shape | None:
    """Return the shape of a type of the standard library, None for any other."""
    if kind is datetime:
        return Converted(Plain("str"), _pack_datetime, _text(datetime, _parse_datetime))
    if kind is date:
        return Converted(Plain("str"), _pack_date, _text(date, date.fromisoformat))
    if kind is time:
        return Converted(Plain("str"), _pack_time, _text(time, time.fromisoformat))
    if kind is timedelta:
        return Converted(Tuple((Plain("i64"), Plain("u32"))), _pack_timedelta, _unpack_timedelta)
    if kind is UUID:
        return Converted(Plain("bytes"), _pack_uuid, _unpack_uuid)
    if kind is Decimal:
        return Converted(Plain("str"), _pack_decimal, _unpack_decimal)
    if kind is bytearray:
        return Converted(Plain("bytes"), _pack_bytearray, bytearray)
    return None
