"""The serializer: one codec per annotation, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from echokernel import Codec, SerializationError, Serializer
from echokernel_postcard.wire import MAX_CONTAINERS, Unfit, located, type_name

_ODD_TYPES = 256  # annotations without a hash that are remembered; one that is made anew each time must not pile up
_SMALL = 4096  # bytes; a view of less is copied, which takes less than working on it


class PostcardSerializer(Serializer):
    """postcard, version 1: nothing on the wire but the values, so that both ends need the same types.

    Thread-safe as far as the interpreter's lock goes; one instance serves a whole node.
    """

    name = "postcard"
    self_describing = False

    def __init__(self) -> None:
        self._codecs: dict[Any, Codec] = {}
        self._odd: dict[int, tuple[Any, Codec]] = {}

    def codec(self, type: Any) -> Codec:
        """Return the codec for ``type``, the same one each time. Raises SerializationError naming what has no form."""
        try:
            known = self._codecs.get(type)
        except TypeError:  # an annotation that holds something unhashable
            return self._odd_codec(type)
        if known is None:
            known = self._codecs[type] = self._build(type)
        return known

    def _odd_codec(self, type: Any) -> Codec:
        known = self._odd.get(id(type))
        if known is None:
            if len(self._odd) >= _ODD_TYPES:
                self._odd.clear()
            known = self._odd[id(type)] = (type, self._build(type))  # keeping the annotation keeps its id
        return known[1]

    def _build(self, type_: Any) -> Codec:
        if type_ is Any:
            return Codec(self._dynamic_encoder(), _decode_nothing)
        from echokernel_postcard.decoding import compile_decoder
        from echokernel_postcard.encoding import compile_encoder
        from echokernel_postcard.schema import Reader
        from echokernel_postcard.shapes import weight

        name = type_name(type_)
        try:
            shape = Reader().read(type_)
            if weight(shape) > MAX_CONTAINERS:
                raise Unfit(f"its arrays have {weight(shape)} containers, at most {MAX_CONTAINERS} fit")
            encode = compile_encoder(shape, lambda unfit: SerializationError(f"postcard cannot encode {name}: {unfit}"))
        except Unfit as unfit:
            raise SerializationError(f"postcard cannot express {name}: {unfit}") from unfit.__cause__
        except RecursionError as error:
            raise SerializationError(f"postcard cannot express {name}: it is nested too deep") from error

        def fail(unfit: Exception) -> SerializationError:
            return SerializationError(f"not a valid {name}: {unfit}")

        decode_view: Callable[[Any], Any] | None = None

        def decode_other(data: Any) -> Any:
            """Take what bytes can be read from. A decoder for views is compiled when there is a large one."""
            nonlocal decode_view
            try:
                view = memoryview(data)
            except TypeError:
                raise SerializationError(f"payloads are bytes; this is {data.__class__.__name__}") from None
            if view.nbytes <= _SMALL or not view.c_contiguous:
                return decode(bytes(view))
            if decode_view is None:
                decode_view = compile_decoder(shape, fail, None)
            return decode_view(view.cast("B"))

        decode = compile_decoder(shape, fail, decode_other)
        return Codec(encode, decode)

    def _dynamic_encoder(self) -> Callable[[Any], bytes]:
        from echokernel_postcard.dynamic import dynamic_encoder

        write = dynamic_encoder(lambda kind: self.codec(kind).encode)

        def encode(value: Any) -> bytes:
            try:
                return write(value)
            except Exception as error:
                if isinstance(error, SerializationError):
                    raise
                unfit = located(error, "")
                message = f"postcard cannot encode {type_name(type(value))}: {unfit}"
                raise SerializationError(message) from error.__cause__

        return encode


def _decode_nothing(data: bytes) -> Any:
    """No bytes are the unit value whatever the type; anything else needs one."""
    if len(data) == 0:
        return None
    size = "this byte needs" if len(data) == 1 else f"these {len(data)} bytes need"
    raise SerializationError(
        f"postcard payloads do not say what they are: {size} a type. Give it with "
        "returns=… where a request is made, or annotate the parameter."
    )
