"""The payloads of ``$describe``, ``$health`` and ``$taken``: what a node says about itself when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import check_method
from echokernel_protocol.postcard import Malformed, Truncated, encode_str, encode_varint, take_str, take_varint

DESCRIBE: Final = "$describe"
HEALTH: Final = "$health"
TAKEN: Final = "$taken"
MAX_NAMES: Final = 256
"""Methods that one ``$describe`` may ask for by name."""

_STREAMING_REQUEST, _STREAMING_RESPONSE, _CONCURRENT = 1, 2, 4
T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)
_Taker = Callable[[bytes, int], tuple[T, int]]

__all__ = [
    "DESCRIBE",
    "HEALTH",
    "MAX_NAMES",
    "TAKEN",
    "DescribeRequest",
    "Description",
    "Health",
    "HealthStatus",
    "MethodDescription",
    "MethodKind",
    "PluginDescription",
    "decode_number",
]


class MethodKind(IntEnum):
    """What a name is for."""

    RPC = 0
    EVENT = 1
    STREAM = 2


class HealthStatus(IntEnum):
    """Whether a node takes new work."""

    OK = 0
    DRAINING = 1
    """What is open may finish; new peers and new requests go elsewhere."""


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """``names: seq<str> · schemas: bool``. No bytes at all ask for everything."""

    names: tuple[str, ...] = ()
    """The methods wanted, of whatever kind; none: all of them. Those that do not exist are left out of the answer."""
    schemas: bool = True
    """Whether the JSON Schemas are wanted, too: they are most of the answer."""

    def encode(self) -> bytes:
        """Return the wire form."""
        return _sequence(map(encode_str, self.names), len(self.names)) + bytes((self.schemas,))

    @classmethod
    def decode(cls, payload: bytes) -> DescribeRequest:
        """Return what ``payload`` holds. Raises ProtocolViolation."""
        if not payload:
            return cls()
        reader = _Reader(payload, "a $describe request")
        names = reader.sequence(take_str, 1, maximum=MAX_NAMES)
        wanted = cls(names, bool(reader.number(1)))
        reader.end()
        return wanted


@dataclass(frozen=True, slots=True)
class PluginDescription:
    """``name: str · distribution: str · version: str``. The last two may be empty for a plugin that was passed in code."""

    name: str
    distribution: str = ""
    version: str = ""

    def encode(self) -> bytes:
        """Return the wire form."""
        return encode_str(self.name) + encode_str(self.distribution) + encode_str(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodDescription:
    """``kind: varint · name · flags: u8 · signature · doc · shape · parameters · items · result``, the unmarked ones strings.

    Schemas are JSON Schema (2020-12) as JSON text; empty where a type has none, or none were asked for.
    """

    kind: MethodKind
    name: str
    signature: str = ""
    """As Python writes it, without modules: ``(a: int, b: int) -> int``."""
    doc: str = ""
    shape: str = ""
    """What its messages look like on the wire: payload, items and result, a line each, empty where there is none; with
    ``streaming_response`` the result's begins with ``*``. Empty where the node cannot tell."""
    parameters: str = ""
    """Schema of the payload: ``null`` for no parameter, the parameter's, or an array for several."""
    items: str = ""
    """Schema of one item that the caller streams; only with ``streaming_request``."""
    result: str = ""
    """Schema of the result; with ``streaming_response``, of one item of it."""
    streaming_request: bool = False
    streaming_response: bool = False
    concurrent: bool = False
    """An event whose handlers run in any order and at the same time."""

    def encode(self) -> bytes:
        """Return the wire form."""
        flags = (
            _STREAMING_REQUEST * self.streaming_request
            | _STREAMING_RESPONSE * self.streaming_response
            | _CONCURRENT * self.concurrent
        )
        texts = (self.signature, self.doc, self.shape, self.parameters, self.items, self.result)
        return encode_varint(self.kind) + encode_str(self.name) + bytes((flags,)) + b"".join(map(encode_str, texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """``node · version · runtime · serializers: seq<str> · plugins: seq<Plugin> · methods: seq<Method>``."""

    node: str = ""
    """The node's name."""
    version: str = ""
    """Of echokernel."""
    runtime: str = ""
    """As in ``Python 3.11.7``."""
    serializers: tuple[str, ...] = ()
    """In the node's order of preference."""
    plugins: tuple[PluginDescription, ...] = ()
    methods: tuple[MethodDescription, ...] = ()
    """Sorted by kind and name."""

    def encode(self) -> bytes:
        """Return the wire form."""
        return self.join([method.encode() for method in self.methods])

    def join(self, methods: list[bytes]) -> bytes:
        """Return the wire form with these methods, encoded, in place of its own."""
        return (
            encode_str(self.node)
            + encode_str(self.version)
            + encode_str(self.runtime)
            + _sequence(map(encode_str, self.serializers), len(self.serializers))
            + _sequence((plugin.encode() for plugin in self.plugins), len(self.plugins))
            + _sequence(methods, len(methods))
        )

    @classmethod
    def decode(cls, payload: bytes) -> Description:
        """Return what ``payload`` holds. Raises ProtocolViolation."""
        reader = _Reader(payload, "a $describe answer")
        node, version, runtime = reader.text(), reader.text(), reader.text()
        serializers = reader.sequence(take_str, 1)
        plugins = tuple(PluginDescription(reader.text(), reader.text(), reader.text()) for _ in range(reader.count(3)))
        methods = tuple(reader.method() for _ in range(reader.count(9)))
        reader.end()
        if len({(method.kind, method.name) for method in methods}) != len(methods):
            raise ProtocolViolation("a $describe answer has a method twice")
        return cls(
            node=node, version=version, runtime=runtime, serializers=serializers, plugins=plugins, methods=methods
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """``status: varint · uptime_ms: varint · sessions: varint · open_requests: varint``."""

    status: HealthStatus = HealthStatus.OK
    uptime_ms: int = 0
    """Milliseconds since the node started."""
    sessions: int = 0
    """Sessions that the node has, the asker's included."""
    open_requests: int = 0
    """Requests of all its peers that it has not answered, this one not counted."""

    @property
    def uptime(self) -> float:
        """Seconds since the node started."""
        return self.uptime_ms / 1000

    def encode(self) -> bytes:
        """Return the wire form."""
        return b"".join(map(encode_varint, (self.status, self.uptime_ms, self.sessions, self.open_requests)))

    @classmethod
    def decode(cls, payload: bytes) -> Health:
        """Return what ``payload`` holds. Raises ProtocolViolation."""
        reader = _Reader(payload, "a $health answer")
        status = reader.member(HealthStatus)
        health = cls(status=status, uptime_ms=reader.number(), sessions=reader.number(), open_requests=reader.number())
        reader.end()
        return health


def decode_number(payload: bytes, what: str) -> int:
    """Return the one varint that ``payload`` is: question and answer of ``$taken``. Raises ProtocolViolation."""
    reader = _Reader(payload, what)
    number = reader.number()
    reader.end()
    return number


def _sequence(parts: Iterable[bytes], count: int) -> bytes:
    return encode_varint(count) + b"".join(parts)


class _Reader:
    """Takes one value after the other; whatever is wrong is a ProtocolViolation that says in what."""

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._position, self._what = data, 0, what

    def number(self, maximum: int = (1 << 64) - 1) -> int:
        return self._take(lambda data, position: take_varint(data, position, maximum=maximum))

    def text(self) -> str:
        return self._take(take_str)

    def member(self, kind: type[E]) -> E:
        return kind(self.number(maximum=max(kind)))

    def count(self, least: int, *, maximum: int | None = None) -> int:
        """Return a sequence's count, judged before anything is made of it: each item has at least ``least`` bytes."""
        room = (len(self._data) - self._position) // least
        return self.number(room if maximum is None else min(room, maximum))

    def sequence(self, take: _Taker[T], least: int, *, maximum: int | None = None) -> tuple[T, ...]:
        return tuple(self._take(take) for _ in range(self.count(least, maximum=maximum)))

    def method(self) -> MethodDescription:
        kind, name = self.member(MethodKind), self.text()
        try:
            check_method(name)
        except ValueError as error:
            raise ProtocolViolation(f"{self._what}: {error}") from None
        flags = self.number(7)
        return MethodDescription(
            kind=kind,
            name=name,
            signature=self.text(),
            doc=self.text(),
            shape=self.text(),
            parameters=self.text(),
            items=self.text(),
            result=self.text(),
            streaming_request=bool(flags & _STREAMING_REQUEST),
            streaming_response=bool(flags & _STREAMING_RESPONSE),
            concurrent=bool(flags & _CONCURRENT),
        )

    def end(self) -> None:
        if self._position != len(self._data):
            raise ProtocolViolation(f"{self._what} has {len(self._data) - self._position} bytes after its end")

    def _take(self, take: _Taker[T]) -> T:
        try:
            value, self._position = take(self._data, self._position)
        except Truncated:
            raise ProtocolViolation(f"{self._what} is cut short") from None
        except (Malformed, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"{self._what} is not valid: {error}") from None
        return value
