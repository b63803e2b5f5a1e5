"""What a session has learned of the peer's methods, by asking for it once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from echokernel.engine.stubs import signature_of
from echokernel.errors import (
    InvalidArgument,
    MethodNotFound,
    PermissionDenied,
    RequestTimeout,
    SerializationError,
)
from echokernel_protocol.describe import DESCRIBE, DescribeRequest, Description, MethodDescription, MethodKind
from echokernel_protocol.errors import ProtocolViolation

if TYPE_CHECKING:
    from echokernel.engine.calls import Calls
    from echokernel.engine.codecs import Codecs
    from echokernel.engine.stubs import Stub

REMEMBERED = 1024  # methods; beyond that each is asked for again
ABSENT_SECONDS = 5.0  # for which an event that nobody takes is not asked for again; handlers may come

_Key = tuple[MethodKind, str]
T = TypeVar("T")

__all__ = ["Coding", "Learning"]


@dataclass(frozen=True, slots=True)
class Coding:
    """How a method's values are coded, as far as it is known here."""

    encode: Callable[[Any], bytes]
    encode_item: Callable[[Any], bytes]
    """Of one of many values that the caller sends."""
    returns: Any
    """The type of the result, or of each of many; structs are dicts."""


def _coding(described: MethodDescription, codecs: Codecs) -> Coding:
    """Return what the description says. Raises NoShape, SerializationError, ValueError where it is of no use here."""
    from echokernel.shaped import parse_shape

    payload, items, result = described.shape.split("\n")
    name = f"{described.name}{described.signature}"
    return Coding(
        _encoder(name, parse_shape(payload), codecs),
        _encoder(name, parse_shape(items), codecs) if items else codecs.encode,
        parse_shape(result.lstrip("*")) if result else Any,
    )


def _encoder(name: str, annotation: Any, codecs: Codecs) -> Callable[[Any], bytes]:
    """Return what encodes the values of a program that does not know the type; it raises InvalidArgument, as the peer would."""
    encode = codecs.serializers[codecs.slot].codec(annotation).encode
    adapter: Any = None

    def encode_any(value: Any) -> bytes:
        nonlocal adapter
        try:
            return encode(value)
        except SerializationError as error:
            from pydantic import TypeAdapter, ValidationError

            from echokernel.shaped import plain_value

            if adapter is None:
                adapter = TypeAdapter(annotation)
            try:
                return encode(adapter.validate_python(plain_value(value)))
            except (ValidationError, SerializationError, TypeError):
                raise InvalidArgument(f"{name}: {error}") from error

    return encode_any


class Learning:
    """Asks the peer to describe its methods, each once, however many tasks want to know."""

    def __init__(self, calls: Calls, codecs: Codecs) -> None:
        self._calls = calls
        self._codecs = codecs
        self._untold = Coding(codecs.encode, codecs.encode, Any)
        self._tells = True
        """Whether the peer describes itself, as far as is known."""
        self._asking: dict[_Key, _Asking] = {}
        self._described: dict[_Key, MethodDescription] = {}
        self._learned: dict[_Key, Coding] = {}
        self._absent: dict[_Key, float] = {}
        """Events that nobody takes, and when to ask again."""

    async def learn(self, kind: MethodKind, method: str, timeout: float | None) -> tuple[Coding, float | None]:
        """Return how a method is called, without its types where the peer does not tell, and what is left of ``timeout``.

        Raises MethodNotFound, InvalidArgument for types that cannot be made here, and as a request does.
        """
        key = kind, method
        if key in self._learned:  # every message but the first
            return self._learned[key], timeout
        described, timeout = await self._describe(key, timeout)
        if key in self._learned:  # by another that waited for the same description
            return self._learned[key], timeout
        if described is None or not described.shape:
            return self._untold, timeout
        from echokernel.shapes import NoShape

        try:
            coding = _coding(described, self._codecs)
        except (NoShape, SerializationError, ValueError) as error:
            raise InvalidArgument(
                f"{method}{described.signature}: its types cannot be made here: {error}; call it with its function "
                f"({method} written down with its types): client.call(…)"
            ) from error
        _remember(self._learned, key, coding)
        return coding, timeout

    async def encode(
        self, method: str, value: Any, returns: Any, timeout: float | None
    ) -> tuple[bytes, Any, float | None]:
        """Return a request's payload, the type of its answer, and what is left of its time. Raises as :meth:`learn`, and
        InvalidArgument for a value of another type.
        """
        if not self._codecs.learns:
            return self._codecs.encode(value), returns, timeout
        coding, timeout = await self.learn(MethodKind.RPC, method, timeout)
        return coding.encode(value), coding.returns if returns is Any else returns, timeout

    async def encode_event(self, event: str, value: Any) -> bytes:
        """Return an event's payload. Raises likewise."""
        if not self._codecs.learns:
            return self._codecs.encode(value)
        coding, _ = await self.learn(MethodKind.EVENT, event, None)
        return coding.encode(value)

    async def compare(self, stub: Stub, timeout: float | None) -> None:
        """See that an event's types are those of the peer's handler. Raises InvalidArgument naming both signatures."""
        from echokernel.shapes import fingerprint

        described, _ = await self._describe((MethodKind.EVENT, stub.method), timeout)
        theirs = "" if described is None else fingerprint(described.shape)
        if described is not None and theirs and theirs != stub.fingerprint:
            raise InvalidArgument(
                f"{stub.method}: the peer's signature is {described.signature}; it was called as "
                f"{signature_of(stub.handler)}. Nothing was sent; use the same version of it on both ends."
            )
        stub.is_known = True

    async def _describe(self, key: _Key, timeout: float | None) -> tuple[MethodDescription | None, float | None]:
        """Return the description of a method, None where there is none, and what is left of ``timeout``."""
        kind, method = key
        tasks = self._calls.tasks
        if key in self._described or not self._tells or self._absent.get(key, 0) > tasks.now():
            return self._described.get(key), timeout
        limit, _ = self._calls.remaining(method, timeout)
        end = tasks.now() + limit if limit else math.inf
        try:
            with anyio.fail_after(limit or None):
                while (asking := self._asking.get(key)) is not None:
                    await asking.over.wait()  # one asks, and all that wait for it go on at once
                    if asking.is_answered:
                        break
                else:
                    await self._ask_for_all(key, max(0.001, end - tasks.now()) if limit else 0)
        except TimeoutError:
            raise RequestTimeout(
                f"{method}: the peer did not tell its types within the deadline; nothing was sent"
            ) from None
        found = self._described.get(key)
        if found is None and self._tells:
            if kind is MethodKind.RPC:
                raise MethodNotFound(f"no method {method!r} here")  # the peer's own words
            _remember(self._absent, key, tasks.now() + ABSENT_SECONDS)
        return found, max(0.001, end - tasks.now()) if limit else timeout

    async def _ask_for_all(self, key: _Key, timeout: float) -> None:
        asking = self._asking[key] = _Asking()
        try:
            await self._ask(key, timeout)
            asking.is_answered = True
        finally:  # where it failed or was cancelled, one of those that wait asks again
            del self._asking[key]
            asking.over.set()

    async def _ask(self, key: _Key, timeout: float) -> None:
        question = DescribeRequest((key[1],), schemas=False).encode()
        try:
            answer = await self._calls.request_raw(DESCRIBE, question, timeout)
            methods = Description.decode(answer).methods
        except (PermissionDenied, MethodNotFound):
            self._tells = False
            return
        except ProtocolViolation as violation:
            raise self._calls.blame(violation, "description") from None
        for each in methods:
            if (each.kind, each.name) == key:
                _remember(self._described, key, each)


class _Asking:
    """A question that is under way, and whether it has had an answer when it is over."""

    __slots__ = ("is_answered", "over")

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.is_answered = False


def _remember(known: dict[_Key, T], key: _Key, value: T) -> None:
    if len(known) >= REMEMBERED:
        known.clear()
    known[key] = value
