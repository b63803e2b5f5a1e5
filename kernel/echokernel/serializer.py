"""What a serializer has to be: values to payload bytes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any

from echokernel.errors import SerializationError

__all__ = ["Codec", "RawSerializer", "Serializer"]


@dataclass(frozen=True, slots=True)
class Codec:
    """A serializer bound to one type: two plain functions, made once and called for every message.

    Both raise SerializationError and nothing else.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Serializer(ABC):
    """Turns values into payloads and back.

    ``type`` is an annotation (``int``, ``list[Order]``, ``tuple[int, str]``, ``None`` for the unit value), or
    ``typing.Any`` where nothing is known about the value.
    """

    name: str
    """As in the hello and the configuration: ``msgpack``."""
    self_describing: bool = True
    """Whether payloads can be read without their type. Where not, what a method's types are is asked of the peer."""

    @abstractmethod
    def codec(self, type: Any) -> Codec:
        """Return the codec for ``type``. Raises SerializationError for a type that it cannot express."""

    def serialize(self, value: Any, type: Any = Any) -> bytes:
        """Return ``value`` as payload bytes. Raises SerializationError."""
        return self.codec(type).encode(value)

    def deserialize(self, data: bytes, type: Any = Any) -> Any:
        """Return the value in ``data``, checked against ``type``. Raises SerializationError."""
        return self.codec(type).decode(data)


class RawSerializer(Serializer):
    """Slot 0 of every session: payloads are the bytes themselves, and the unit value is none."""

    name = "raw"

    def codec(self, type: Any) -> Codec:
        """Return the codec for ``bytes``, ``None`` or ``typing.Any``; other types are a SerializationError."""
        if type not in (bytes, NoneType, None, Any):
            raise SerializationError(f"raw payloads are bytes; {type!r} needs a serializer that both ends have")
        return Codec(_encode_raw, _decode_unit if type in (NoneType, None) else _same)


def _encode_raw(value: Any) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise SerializationError(f"raw payloads are bytes; this is {value.__class__.__name__}")
    return bytes(value)


def _decode_unit(data: bytes) -> None:
    if data:
        raise SerializationError(f"wanted nothing; got {len(data)} bytes")


def _same(data: bytes) -> bytes:
    return data
