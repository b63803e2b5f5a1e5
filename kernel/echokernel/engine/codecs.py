"""What a session needs to turn its own messages into bytes and answers back: made once per method and type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from echokernel.errors import InvalidArgument, ProtocolError
from echokernel.serializer import RawSerializer
from echokernel_protocol.frames import SLOT_SHIFT, check_method, encode_method

if TYPE_CHECKING:
    from echokernel.serializer import Serializer

REMEMBERED = 1024  # methods and types; a program that invents more of them pays each time instead of filling memory

__all__ = ["Codecs", "own_head"]


class Codecs:
    """Serializers by slot, and what was made of them."""

    __slots__ = ("_heads", "decoders", "encoders", "heads", "key", "learns", "serializers", "slot")

    def __init__(self, serializers: Sequence[Serializer]) -> None:
        self.serializers: tuple[Serializer, ...] = (RawSerializer(), *serializers)
        self.slot = 1 if serializers else 0
        """The slot of this end's own messages: the first serializer that both ends have."""
        self.learns = not self.serializers[self.slot].self_describing
        """Whether a method's types have to be known before it can be called."""
        self.key = self.serializers[self.slot].name, self.slot
        """Messages to sessions with equal keys have equal bytes."""
        self._heads: dict[str, bytes] = {}
        self.heads: dict[str, bytes] = {} if self.learns else self._heads
        """The second half of a frame's header, by method; empty where a method's types are looked up first."""
        self.encoders: dict[type, Callable[[Any], bytes]] = {}
        self.decoders: dict[tuple[Any, int], Callable[[bytes], Any]] = {}
        """By the wanted type and the answer's flags."""

    def head(self, method: str) -> bytes:
        """Return a method's name and flags; the kernel's own names are not remembered, so that each is looked at.

        Raises InvalidArgument for a name that cannot travel.
        """
        head = self._heads.get(method)
        if head is None:
            try:
                check_method(method)
            except ValueError as error:
                raise InvalidArgument(str(error)) from None
            slot = 0 if method.startswith("$") else self.slot  # the kernel's own methods need no serializer
            head = encode_method(method, slot << SLOT_SHIFT)
            if len(self._heads) < REMEMBERED and not method.startswith("$"):
                self._heads[method] = head
        return head

    def encode(self, value: Any) -> bytes:
        """Return a value of our own as payload. Raises SerializationError."""
        kind = value.__class__
        encode = self.encoders.get(kind)
        if encode is None:
            encode = self.serializers[self.slot].codec(kind if _has_schema(kind) else Any).encode
            if len(self.encoders) < REMEMBERED:
                self.encoders[kind] = encode
        return encode(value)

    def decoder(self, returns: Any, flags: int) -> Callable[[bytes], Any]:
        """Return what builds ``returns`` from an answer with ``flags``. Raises ProtocolError, SerializationError."""
        slot = (flags >> SLOT_SHIFT) & 3
        if slot >= len(self.serializers):
            raise ProtocolError(f"the answer uses serializer slot {slot}, which was not agreed in the hello")
        decode = self.serializers[slot].codec(returns).decode
        try:
            if len(self.decoders) < REMEMBERED:
                self.decoders[returns, flags] = decode
        except TypeError:
            pass  # an annotation that cannot be hashed
        return decode


def _has_schema(kind: type) -> bool:
    """Whether the class itself says what its values look like."""
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__pydantic_fields__")


def own_head(codecs: Codecs, method: str) -> bytes:
    """Return the head of an event or stream of a program's: the kernel's names are not for it. Raises InvalidArgument."""
    head = codecs.head(method)
    if method.startswith("$"):
        raise InvalidArgument(f"{method!r}: names that begin with $ belong to the kernel")
    return head
