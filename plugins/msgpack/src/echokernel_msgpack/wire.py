"""Values to what MessagePack has (nil, booleans, numbers, text, bytes, arrays, maps, timestamps), and bytes to those.

Nothing here knows the annotation; :mod:`echokernel_msgpack.serializer` checks against it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgpack

MAX_DEPTH = 32
"""Arrays and maps inside each other; one more is refused, coming and going."""
MAX_ITEMS = 1_048_576
"""Elements of one array, pairs of one map. A header that promises more than the payload has bytes is refused first."""
MAX_CONTAINERS = 131_072
"""Arrays and maps in one payload. A map of 3 bytes takes 232 in memory: without a bound, 4 MiB would become 320 MB."""

_SMALL = 4096  # bytes; a shorter payload cannot make the decoder reserve more than a megabyte
_SCALARS = frozenset({type(None), bool, float, str, bytes})
_NOT_CONTAINERS = bytes(set(range(256)) - set(range(0x80, 0xA0)) - {0xDC, 0xDD, 0xDE, 0xDF})


class Unfit(Exception):
    """``problem`` with the value at ``path``; the path grows while the exception travels up."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def at(self, step: str) -> Unfit:
        self.path.insert(0, step)
        return self

    def __str__(self) -> str:
        path = "".join(self.path).removeprefix(".")
        return f"{path}: {self.problem}" if path else self.problem


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
    return str(type_).replace("typing.", "")


def to_wire(value: Any, *, dynamic: bool = False) -> Any:
    """Return ``value`` made of exact ``None bool int float str bytes list dict`` and aware ``datetime`` only.

    ``dynamic``: the receiver will not know the type, so that what could not come back is refused. Raises Unfit.
    """
    return _convert(value, MAX_DEPTH, dynamic)


def _convert(value: Any, depth: int, dynamic: bool) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is int:
        if -0x8000_0000_0000_0000 <= value <= 0xFFFF_FFFF_FFFF_FFFF:
            return value
        raise Unfit("an integer has at most 64 bits here; send a larger one as str")
    if kind is list or kind is tuple:
        return _array(value, depth, dynamic)
    if kind is dict:
        return _map(value.items(), len(value), depth, dynamic)
    convert = _CONVERTERS.get(kind)
    if convert is None:
        convert = _converter(kind)
    return convert(value, depth, dynamic)


def _array(value: Iterable[Any], depth: int, dynamic: bool) -> list[Any]:
    if depth <= 0:
        raise Unfit(f"nested more than {MAX_DEPTH} deep")
    items: list[Any] = []
    try:
        for item in value:
            items.append(_convert(item, depth - 1, dynamic))
    except Unfit as unfit:
        raise unfit.at(f"[{len(items)}]") from None
    if len(items) > MAX_ITEMS:
        raise Unfit(f"{len(items)} elements, at most {MAX_ITEMS} fit")
    return items


def _map(pairs: Iterable[tuple[Any, Any]], size: int, depth: int, dynamic: bool) -> dict[Any, Any]:
    if depth <= 0:
        raise Unfit(f"nested more than {MAX_DEPTH} deep")
    if size > MAX_ITEMS:
        raise Unfit(f"{size} pairs, at most {MAX_ITEMS} fit")
    items = {}
    for key, item in pairs:
        if type(key) is not str:
            key = _key(key, dynamic)
        try:
            items[key] = _convert(item, depth - 1, dynamic)
        except Unfit as unfit:
            raise unfit.at(key_step(key)) from None
    if len(items) != size:
        raise Unfit("two keys of this map look the same on the wire")
    return items


def _key(key: Any, dynamic: bool) -> Any:
    try:
        plain = _convert(key, 0, dynamic)
    except Unfit as unfit:
        raise Unfit(f"a {type(key).__name__} cannot be the key of a map") from unfit
    return plain


def _converter(kind: type) -> Callable[[Any, int, bool], Any]:
    """Return how values of ``kind`` are converted. Raises Unfit for a type that MessagePack has no place for."""
    convert: Callable[[Any, int, bool], Any]
    pydantic = sys.modules.get("pydantic")  # nobody has a model to send without having imported it
    if issubclass(kind, Enum):
        convert = _enum
    elif pydantic is not None and issubclass(kind, pydantic.BaseModel):
        convert = _model
    elif dataclasses.is_dataclass(kind):
        convert = _dataclass(kind)
    else:
        for base, general in _BASES:
            if issubclass(kind, base):
                convert = general
                break
        else:
            raise Unfit(f"MessagePack has no form for a value of type {type_name(kind)}")
    if len(_CONVERTERS) < 10_000:  # classes made again and again must not be kept for ever
        _CONVERTERS[kind] = convert
    return convert


def _enum(value: Any, depth: int, dynamic: bool) -> Any:
    return _convert(value.value, depth, dynamic)


def _model(value: Any, depth: int, dynamic: bool) -> Any:
    try:
        return _convert(value.model_dump(round_trip=True, warnings=False), depth, dynamic)
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"{type(value).__name__}.model_dump() failed with {type(error).__name__}") from error


def _dataclass(kind: type) -> Callable[[Any, int, bool], dict[Any, Any]]:
    names = tuple(field.name for field in dataclasses.fields(kind) if field.init)

    def convert(value: Any, depth: int, dynamic: bool) -> dict[Any, Any]:
        try:
            pairs = [(name, getattr(value, name)) for name in names]
        except AttributeError as error:
            raise Unfit(f"this {type_name(kind)} has no attribute {error.name!r}") from None
        return _map(pairs, len(pairs), depth, dynamic)

    return convert


def _datetime(value: datetime, depth: int, dynamic: bool) -> datetime | str:
    if value.tzinfo is not None and value.utcoffset() is not None:
        try:
            utc = value.astimezone(UTC)
        except OverflowError:
            raise Unfit("in UTC this datetime is out of range") from None
        return utc if type(utc) is datetime else datetime.combine(utc.date(), utc.time(), UTC)
    if dynamic:
        raise Unfit("a datetime without a time zone names no moment; give it one, or annotate with datetime")
    return value.isoformat()


def duration(value: timedelta) -> str:
    """Return ISO 8601 text: ``P1DT3.5S``, ``-PT0.000001S``."""
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    return f"{sign}P{value.days}DT{value.seconds}.{value.microseconds:06d}S"


def _iso(value: date | time, depth: int, dynamic: bool) -> str:
    return value.isoformat()


def _mapping(value: Mapping[Any, Any], depth: int, dynamic: bool) -> dict[Any, Any]:
    return _map(value.items(), len(value), depth, dynamic)


def _integer(value: Any, depth: int, dynamic: bool) -> Any:
    return _convert(int.__int__(value), depth, dynamic)


_CONVERTERS: dict[type, Callable[[Any, int, bool], Any]] = {}
_BASES: tuple[tuple[Any, Callable[[Any, int, bool], Any]], ...] = (
    (datetime, _datetime),
    (date, _iso),
    (time, _iso),
    (timedelta, lambda value, depth, dynamic: duration(value)),
    (UUID, lambda value, depth, dynamic: str(value)),
    (Decimal, lambda value, depth, dynamic: str(value)),
    ((bytearray, memoryview, bytes), lambda value, depth, dynamic: bytes(value)),
    (str, lambda value, depth, dynamic: str.__str__(value)),
    (int, _integer),
    (float, lambda value, depth, dynamic: float.__float__(value)),
    ((list, tuple, set, frozenset, deque), _array),
    (Mapping, _mapping),
)


def unpack(data: bytes, *, text_keys: bool) -> Any:
    """Return the one value in ``data``; timestamps become aware datetimes. Raises Unfit.

    Whatever ``data`` holds, time and memory stay in proportion to its length. ``text_keys``: refuse keys of maps that
    are neither text nor bytes.
    """
    if type(data) is not bytes:
        data = bytes(data)
    containers = len(data.translate(None, _NOT_CONTAINERS))  # never less than there are, and no parsing
    try:
        if containers > MAX_DEPTH or len(data) > _SMALL:
            _skip(data)
        value = msgpack.unpackb(
            data,
            timestamp=3,
            strict_map_key=text_keys,
            ext_hook=_refuse_extension,
            list_hook=None if containers <= MAX_CONTAINERS else _Counter(),
            object_pairs_hook=_no_key_twice if containers <= MAX_CONTAINERS else _PairCounter(),
            max_array_len=min(len(data), MAX_ITEMS),
            max_map_len=min(len(data), MAX_ITEMS),
        )
    except Unfit:
        raise
    except msgpack.ExtraData:
        raise Unfit("bytes are left over after the value") from None
    except msgpack.StackError:
        raise Unfit(f"nested more than {MAX_DEPTH} deep") from None
    except msgpack.FormatError:
        raise Unfit("a byte that MessagePack does not have") from None
    except UnicodeDecodeError:
        raise Unfit("text that is not UTF-8") from None
    except (msgpack.OutOfData, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise Unfit(_reason(error)) from None
    if containers > MAX_DEPTH and _too_deep(value):
        raise Unfit(f"nested more than {MAX_DEPTH} deep")
    return value


def _skip(data: bytes) -> None:
    """See that ``data`` is complete before anything is reserved for it.

    An array's header makes the decoder reserve room for all elements at once. A thousand headers inside each other,
    each promising as much as the payload is long, would have it reserve gigabytes; skipping reserves nothing.
    """
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(data),
        strict_map_key=False,
        max_array_len=len(data),
        max_map_len=len(data),
        max_str_len=len(data),
        max_bin_len=len(data),
        max_ext_len=len(data),
    )
    unpacker.feed(data)
    unpacker.skip()


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, msgpack.OutOfData) or "incomplete" in text:
        return "it is cut off"
    if "exceeds max_" in text:
        return "a length is larger than the payload, or over the limit"
    if "not allowed for map key" in text or "unhashable" in text:
        return "a map has a key that cannot be one here"
    return "it is damaged"


def _too_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if isinstance(child, (list, dict))
        ]
        if not level:
            return False
    return True


def _refuse_extension(code: int, data: bytes) -> Any:
    raise Unfit(f"extension type {code} is not known; only timestamps are")


def _no_key_twice(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Unfit("a map has the same key twice")
    return value


class _Counter:
    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_CONTAINERS

    def __call__(self, value: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Unfit(f"more than {MAX_CONTAINERS} arrays and maps in one payload")
        return value


class _PairCounter(_Counter):
    __slots__ = ()

    def __call__(self, value: Any) -> Any:
        return _no_key_twice(super().__call__(value))
