"""Metadata: short texts that travel with a message, and which of them are passed on to nested ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from echokernel.engine.inherited import metadata as inherited_metadata
from echokernel.errors import InvalidArgument
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.maps import encode_map

if TYPE_CHECKING:
    from echokernel_protocol.frames import Frame

SHAPE = "$shape"
"""Key of the fingerprint of the types that a call was made with; only the first calls of a method have it."""
PASSED_ON = ("traceparent", "tracestate", "baggage")
"""Keys that nested messages inherit: W3C Trace Context and W3C Baggage. Everything else ends with its message."""

__all__ = ["PASSED_ON", "SHAPE", "Claim", "claimed", "encode_metadata", "encode_trailers", "passed_on", "take_timeout"]


class Claim(dict[str, str]):
    """A program's metadata, and what the kernel says of the types that its message was made with."""

    __slots__ = ("fingerprint",)

    def __init__(self, own: Mapping[str, str] | None, fingerprint: str) -> None:
        super().__init__(own or {})
        self.fingerprint = fingerprint

    def __bool__(self) -> bool:
        return True  # there is something to send, also where the program says nothing


def claimed(original: Mapping[str, str] | None, method: str, frame: Frame) -> Mapping[str, str]:
    """Return what middleware made of a message's metadata, with the kernel's claim where it is still the same message."""
    if isinstance(original, Claim) and frame.header.method == method:
        return Claim(frame.metadata, original.fingerprint)
    return frame.metadata


def passed_on() -> dict[str, str]:
    """Return what a message that is sent now inherits from the one that is being handled; usually nothing."""
    around = inherited_metadata.get()
    return {} if around is None else {key: around[key] for key in PASSED_ON if key in around}


def encode_metadata(method: str, own: Mapping[str, str] | None, kernel: Mapping[str, str]) -> bytes:
    """Return the Map of a message: inherited keys, the caller's ``own`` ones over them, and the ``kernel``'s.

    Returns ``b""`` where there is nothing to say. Raises InvalidArgument for keys that begin with ``$``, for what is no text,
    and for more than 64 entries or 8 KiB.
    """
    entries = passed_on()
    entries.update(_checked(method, own or {}))
    entries.update(kernel)
    if isinstance(own, Claim):
        entries[SHAPE] = own.fingerprint
    return _encoded(method, entries)


def encode_trailers(method: str, own: Mapping[str, str]) -> bytes:
    """Return the Map that ends an answer. Raises InvalidArgument as :func:`encode_metadata` does."""
    return _encoded(method, _checked(method, own))


def _checked(method: str, own: Mapping[str, str]) -> dict[str, str]:
    for key, value in own.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"{method}: metadata is text by text; this has {key!r}: {type(value).__name__}")
        if key.startswith("$") or not key:
            raise InvalidArgument(
                f"{method}: metadata key {key!r}: wanted a name; those that begin with $ are the kernel's"
            )
    return dict(own)


def _encoded(method: str, entries: Mapping[str, str]) -> bytes:
    if not entries:
        return b""
    try:
        return encode_map(entries)
    except ValueError as error:
        raise InvalidArgument(f"{method}: metadata: {error}") from None


def take_timeout(metadata: dict[str, str], default: float) -> float:
    """Return the seconds that a request has, 0 for no end, and take the kernel's own keys out of its metadata.

    Raises ProtocolViolation for a ``$timeout`` that is no number of milliseconds.
    """
    text = metadata.get("$timeout")
    for key in [key for key in metadata if key.startswith("$")]:
        del metadata[key]
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise ProtocolViolation(f"$timeout is {text[:20]!r}; wanted milliseconds")
    return int(text) / 1000
