"""What a session has learned of the peer's methods, by asking for it once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echokernel.engine.stubs import signature_of
from echokernel.errors import InvalidArgument, MethodNotFound, PermissionDenied, SerializationError
from echokernel_protocol.describe import DESCRIBE, DescribeRequest, Description, MethodDescription, MethodKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from echokernel.engine.calls import Calls
    from echokernel.engine.codecs import Codecs
    from echokernel.engine.stubs import Stub

REMEMBERED = 1024  # methods; beyond that each is asked for again

__all__ = ["Learned", "Learning"]


class Learned:
    """A method of the peer's, as its own description has it: how to code what goes in and what comes out."""

    __slots__ = ("encode", "encode_item", "returns")

    def __init__(self, described: MethodDescription, codecs: Codecs) -> None:
        """Raises NoShape, SerializationError for a description that is of no use here."""
        from echokernel.shaped import parse_shape

        payload, items, result = described.shape.split("\n")
        name = f"{described.name}{described.signature}"
        self.encode = _encoder(name, parse_shape(payload), codecs)
        self.encode_item = _encoder(name, parse_shape(items), codecs) if items else None
        self.returns: Any = parse_shape(result.lstrip("*")) if result else Any
        """The type of the result, or of each of many; structs are dicts."""


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
        self._described: dict[tuple[MethodKind, str], MethodDescription | None] = {}
        self._learned: dict[tuple[MethodKind, str], Learned | None] = {}

    async def learn(self, kind: MethodKind, method: str, timeout: float | None) -> Learned | None:
        """Return how a method is called; None where the peer does not tell. Raises MethodNotFound, and as a request does."""
        key = kind, method
        if key not in self._learned:
            described = await self._describe(kind, method, timeout)
            learned = None
            if described is not None and described.shape:
                from echokernel.shapes import NoShape

                try:
                    learned = Learned(described, self._codecs)
                except (NoShape, SerializationError, ValueError) as error:
                    raise InvalidArgument(
                        f"{method}{described.signature}: its types cannot be made here: {error}; call it with its function "
                        f"({method} written down with its types): client.call(…)"
                    ) from error
            if len(self._learned) >= REMEMBERED:
                self._learned.clear()
            self._learned[key] = learned
        return self._learned[key]

    async def compare(self, stub: Stub, timeout: float | None) -> None:
        """See that an event's types are those of the peer's handler. Raises InvalidArgument naming both signatures."""
        from echokernel.shapes import fingerprint

        described = await self._describe(MethodKind.EVENT, stub.method, timeout)
        if described is not None and described.shape and fingerprint(described.shape) != stub.fingerprint:
            raise InvalidArgument(
                f"{stub.method}: the peer's signature is {described.signature}; it was called as "
                f"{signature_of(stub.handler)}. Nothing was sent; use the same version of it on both ends."
            )
        stub.is_known = True

    async def _describe(self, kind: MethodKind, method: str, timeout: float | None) -> MethodDescription | None:
        key = kind, method
        if key not in self._described:
            question = DescribeRequest((method,), schemas=False).encode()
            try:
                answer = await self._calls.request_raw(DESCRIBE, question, timeout)
            except (PermissionDenied, MethodNotFound):
                return None  # it does not describe itself
            found = {each.kind: each for each in Description.decode(answer).methods if each.name == method}
            if kind is MethodKind.RPC and kind not in found:
                raise MethodNotFound(f"no method {method!r} here")  # the peer's own words
            if len(self._described) >= REMEMBERED:
                self._described.clear()
            self._described[key] = found.get(kind)
        return self._described[key]


