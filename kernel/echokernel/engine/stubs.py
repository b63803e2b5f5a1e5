"""A handler's function as its caller uses it: arguments to payload, by the types that were written down once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from echokernel.errors import EchoError, InvalidArgument, SerializationError
from echokernel.handlers import FunctionHandler

if TYPE_CHECKING:
    from echokernel.engine.codecs import Codecs

OTHER_SHAPE = b"$shape\n"
"""The details of the error that says that the peer's types are others begin with this; the peer's signature follows."""

__all__ = ["Stub", "check_claim", "signature_of"]


class Stub:
    """How a method is called with one serializer. ``is_known``: the peer's types are the same, or cannot be told."""

    __slots__ = (
        "_bind",
        "_count",
        "_encode",
        "_place",
        "encode_item",
        "fingerprint",
        "handler",
        "head",
        "is_known",
        "method",
        "returns",
    )

    @property
    def answers(self) -> bool:
        """Whether it is a request, and no event."""
        return self.handler.kind == "rpc"

    @property
    def streams(self) -> bool:
        """Whether it answers with many values."""
        return self.handler.yields

    def __init__(self, handler: FunctionHandler[Any, Any], codecs: Codecs) -> None:
        """Raises InvalidArgument for what cannot be called, or has types that the serializer cannot express."""
        from echokernel.shapes import fingerprint

        if handler.kind == "stream":
            raise InvalidArgument(f"{handler.name}: streams are opened with create_stream({handler.name!r})")
        with_session, parameters, self.returns = handler.signature
        self.handler = handler
        self.method = handler.name
        self.head = codecs.head(handler.name)
        """Name and flags, as they stand in a frame."""
        self.fingerprint = fingerprint(handler.shape)
        self.is_known = not self.fingerprint
        signature = inspect.signature(handler.function)
        self._bind = signature.replace(parameters=list(signature.parameters.values())[with_session:])
        self._place = handler.items_place
        self._count = len(parameters)
        try:
            serializer = codecs.serializers[codecs.slot]
            self._encode = serializer.codec(handler.payload_type).encode
            self.encode_item = serializer.codec(handler.item_type if handler.takes_items else Any).encode
        except SerializationError as error:
            raise InvalidArgument(f"{self.method}{signature_of(handler)}: {error}") from error

    def encode(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[bytes, Any]:
        """Return the payload, and the argument that is many values, None where there is none.

        Raises InvalidArgument for arguments that the function does not take, or not of this type.
        """
        place, items = self._place, None
        if keywords or len(arguments) != self._count + (place >= 0):
            try:
                bound = self._bind.bind(*arguments, **keywords)
            except TypeError as error:
                raise InvalidArgument(f"{self.method}{signature_of(self.handler)}: {error}") from None
            bound.apply_defaults()
            arguments = bound.args
        if place >= 0:
            items = arguments[place]
            arguments = arguments[:place] + arguments[place + 1 :]
        try:
            return self._encode(arguments if self._count > 1 else arguments[0] if self._count else None), items
        except SerializationError as error:
            raise InvalidArgument(f"{self.method}{signature_of(self.handler)}: {error}") from error

    def judge(self, error: EchoError) -> EchoError:
        """Return the error that a caller gets for what the peer answered: of two signatures it names both."""
        details = error.details
        if details is None or not details.startswith(OTHER_SHAPE):
            return error
        theirs = details[len(OTHER_SHAPE) :].decode(errors="replace")
        return InvalidArgument(
            f"{self.method}: the peer's signature is {theirs}; it was called as {signature_of(self.handler)}. "
            "Nothing was run; use the same version of it on both ends.",
            code=error.code,
        )


def check_claim(handler: Any, method: str, claim: str) -> InvalidArgument | None:
    """Return the error for a caller whose types are others than the handler's; None where they fit, or cannot be told."""
    if not isinstance(handler, FunctionHandler):
        return None
    from echokernel.shapes import fingerprint

    own = fingerprint(handler.shape)
    if not own or own == claim:
        return None
    text = signature_of(handler)
    return InvalidArgument(
        f"{method}: the signature is {text}; it was called with other types", details=OTHER_SHAPE + text.encode()
    )


def signature_of(handler: FunctionHandler[Any, Any]) -> str:
    """Return a handler's signature as Python writes it, without the session: ``(a: int, b: int) -> int``."""
    from echokernel.signatures import signature_text

    return signature_text(handler.kind, handler.function)
