"""The hello: the first frame each way. A Map, then (from the dialer) credentials as raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.maps import encode_map, take_map

ALPN: Final = "echostream/1"
"""Names the protocol's major version."""
MINOR: Final = 0
MAX_HELLO: Final = 16 * 1024
"""Bytes of the hello's frame."""
MAX_SERIALIZERS: Final = 3
HELLO_TIMEOUT: Final = 5.0
"""Seconds within which the acceptor answers."""


class HelloRefused(ProtocolViolation):
    """Two nodes that cannot talk: no serializer in common, or an unmet ``require``."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=Code.INCOMPATIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What one end announces. The other end obeys these limits towards it."""

    minor: int = MINOR
    node: str = ""
    """The node's name, for people."""
    boot: str = ""
    """A random text that changes with every start of the node."""
    features: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    """Features without which this end does not want to talk."""
    serializers: tuple[str, ...] = ()
    """In the order of preference; in the acceptor's answer: what slots 1 to 3 mean."""
    max_frame: int = 65_536
    """Longest payload of one frame, in bytes."""
    max_message: int = 4_194_304
    """Longest payload with its body, in bytes."""
    max_requests: int = 1_024
    """Requests from the other end that may be open at a time."""
    max_request_bytes: int = 16_777_216
    """Bytes of their frames and bodies together."""
    event_limit: int = 8_388_608
    """Bytes of events, bodies included, that the other end may have sent in this session so far."""
    timeout: int = 10_000
    """Milliseconds that this end's requests have when they carry no ``$timeout``; 0: for ever."""
    assumed: str = ""
    """From a dialer that goes by an answer of an earlier session before this one's is here: :func:`assumption` of it."""
    credentials: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not 16_384 <= self.max_frame <= 16_777_216:
            raise ProtocolViolation(f"hello: max_frame is {self.max_frame:,}; wanted 16,384 to 16,777,216 bytes")
        for name in ("max_message", "event_limit", "max_request_bytes"):
            if getattr(self, name) < self.max_frame:
                raise ProtocolViolation(
                    f"hello: {name} is {getattr(self, name):,}, less than max_frame ({self.max_frame:,} bytes)"
                )
        if self.max_requests < 1:
            raise ProtocolViolation("hello: max_requests is 0; wanted at least 1")

    def encode(self) -> bytes:
        """Return the payload of the ``$hello`` frame. Raises ValueError for one that is too long."""
        entries = {name: write(getattr(self, name)) for name, (write, _) in _KEYS.items()}
        data = encode_map({key: value for key, value in entries.items() if value}) + self.credentials
        if len(data) > MAX_HELLO - 64:
            raise ValueError(
                f"the hello with its credentials takes {len(data):,} bytes; the limit is {MAX_HELLO - 64:,}"
            )
        return data

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Return the hello in ``payload``; unknown keys are ignored. Raises ProtocolViolation."""
        entries, position = take_map(payload)
        known: dict[str, Any] = {}
        for key, value in entries.items():
            if key in _KEYS:
                try:
                    known[key] = _KEYS[key][1](value)
                except ValueError as error:
                    raise ProtocolViolation(f"hello: {key} is {value[:40]!r}, which is not a number") from error
        return cls(**known, credentials=payload[position:])


def _write_list(values: Sequence[str]) -> str:
    return ",".join(values)


def _read_list(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _read_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ValueError(text)
    return int(text)


# key: (to text, from text), in the order in which they travel
_KEYS: Final[dict[str, tuple[Callable[[Any], str], Callable[[str], Any]]]] = {
    item.name: (_write_list, _read_list)
    if item.type.startswith("tuple")
    else (str, str if item.type == "str" else _read_number)
    for item in fields(Hello)
    if item.name != "credentials"
}


def answer_hello(theirs: Hello, ours: Hello) -> Hello:
    """Return the acceptor's answer: our limits, the lower minor, the shared features, the serializers for slots 1 to 3.

    Raises HelloRefused naming what is missing.
    """
    check_requirements(theirs, ours)
    shared = tuple(name for name in ours.serializers if name in theirs.serializers)[:MAX_SERIALIZERS]
    if not shared and (theirs.serializers or ours.serializers):
        raise HelloRefused(
            f"no serializer in common: we have {', '.join(ours.serializers) or 'none'}; "
            f"the peer has {', '.join(theirs.serializers) or 'none'}"
        )
    return Hello(
        **{item.name: getattr(ours, item.name) for item in fields(Hello)}
        | {
            "minor": min(theirs.minor, ours.minor),
            "features": tuple(name for name in ours.features if name in theirs.features),
            "serializers": shared,
            "assumed": "",
            "credentials": b"",
        }
    )


def check_requirements(theirs: Hello, ours: Hello) -> None:
    """Raise HelloRefused when one end requires a feature that the other one does not have."""
    for wants, has, who in ((theirs, ours, "the peer requires"), (ours, theirs, "this node requires")):
        missing = [name for name in wants.require if name not in has.features]
        if missing:
            raise HelloRefused(
                f"{who} {', '.join(missing)}; the other end has {', '.join(has.features) or 'no features'}"
            )
