"""Values without a schema: each is written as what its Python type usually is. Nothing can be read without a type."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from echokernel_postcard.classes import is_model
from echokernel_postcard.wire import (
    BYTES,
    F64,
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_ITEMS,
    WRITE,
    Unfit,
    as_bytes,
    crowded,
    key_step,
    located,
    too_deep,
    too_many,
    type_name,
    varint,
)

_SEQUENCES = (list, set, frozenset, collections.deque)
_CONVENTIONAL = (datetime, date, time, timedelta, UUID, Decimal)
_write_i64 = WRITE["i64"]


def dynamic_encoder(encoder: Callable[[Any], Callable[[Any], bytes]]) -> Callable[[Any], bytes]:
    """Return a function from any value to its bytes; raises Unfit. ``encoder`` gives one for a class that is a type."""

    def encode(value: Any) -> bytes:
        out: list[Any] = []
        write(value, out, MAX_DEPTH, [MAX_CONTAINERS])
        return b"".join(out)

    def write(value: Any, out: list[Any], depth: int, room: list[int]) -> None:
        kind = type(value)
        if value is None:
            return
        if kind is bool:
            out.append(BYTES[value])
        elif isinstance(value, Enum):
            out.append(encoder(kind)(value))
        elif isinstance(value, int):
            out.append(_write_i64(int.__int__(value)))
        elif isinstance(value, float):
            out.append(F64(value))
        elif isinstance(value, str):
            data = str.__str__(value).encode()
            out += (varint(len(data)), data)
        elif isinstance(value, bytes | bytearray | memoryview):
            view = as_bytes(value)
            out += (varint(len(view)), view)
        elif isinstance(value, tuple) and not getattr(kind, "__annotations__", None):
            elements(value, out, depth, room)
        elif isinstance(value, _SEQUENCES):
            out.append(varint(len(value)))
            elements(value, out, depth, room)
        elif isinstance(value, Mapping):
            out.append(varint(len(value)))
            pairs(value, out, depth, room)
        elif isinstance(value, _CONVENTIONAL):
            base = next(base for base in _CONVENTIONAL if isinstance(value, base))
            out.append(encoder(base)(value))
        elif isinstance(value, tuple) or dataclasses.is_dataclass(kind) or is_model(kind):
            out.append(encoder(kind)(value))
        else:
            raise Unfit(f"postcard has no form for a value of type {type_name(kind)}")

    def enter(count: int, depth: int, room: list[int]) -> None:
        if depth <= 0:
            raise too_deep()
        if count > MAX_ITEMS:
            raise too_many(count)
        room[0] -= 1
        if room[0] < 0:
            raise crowded()

    def elements(value: Any, out: list[Any], depth: int, room: list[int]) -> None:
        enter(len(value), depth, room)
        place = 0
        try:
            for item in value:
                write(item, out, depth - 1, room)
                place += 1
        except Exception as error:
            raise located(error, f"[{place}]") from error.__cause__

    def pairs(value: Mapping[Any, Any], out: list[Any], depth: int, room: list[int]) -> None:
        enter(len(value), depth, room)
        for key, item in value.items():
            try:
                write(key, out, 1, room)
                write(item, out, depth - 1, room)
            except Exception as error:
                raise located(error, key_step(key)) from error.__cause__

    return encode
