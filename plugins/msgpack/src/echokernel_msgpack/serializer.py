"""The serializer: one codec per annotation, made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from echokernel import Codec, SerializationError, Serializer
from echokernel_msgpack.wire import Unfit, key_step, to_wire, type_name, unpack

_ODD_TYPES = 256  # annotations without a hash that are remembered; one that is made anew each time must not pile up


class MsgpackSerializer(Serializer):
    """MessagePack: readable without a schema, checked against the annotation on both sides.

    Thread-safe as far as the interpreter's lock goes; one instance serves a whole node.
    """

    name = "msgpack"

    def __init__(self) -> None:
        self._codecs: dict[Any, Codec] = {}
        self._odd: dict[int, tuple[Any, Codec]] = {}

    def codec(self, type: Any) -> Codec:
        """Return the codec for ``type``, the same one each time. Raises SerializationError where there can be none."""
        try:
            known = self._codecs.get(type)
        except TypeError:  # an annotation that holds something unhashable
            return self._odd_codec(type)
        if known is None:
            known = self._codecs[type] = _build(type)
        return known

    def _odd_codec(self, type: Any) -> Codec:
        known = self._odd.get(id(type))
        if known is None:
            if len(self._odd) >= _ODD_TYPES:
                self._odd.clear()
            known = self._odd[id(type)] = (type, _build(type))  # keeping the annotation keeps its id
        return known[1]


def _build(type_: Any) -> Codec:
    if type_ is Any:
        return _dynamic_codec()
    from pydantic.errors import PydanticUserError  # imported when the first type needs it, see DESIGN

    from echokernel_msgpack.fast import compile_decoder, compile_encoder
    from echokernel_msgpack.schema import Inspected

    try:
        inspected = Inspected(type_)
    except PydanticUserError as error:
        raise SerializationError(f"msgpack cannot express {type_name(type_)}: {error.message}") from error
    except Exception as error:
        raise SerializationError(f"msgpack cannot express {type_name(type_)}: {error}") from error
    check = _checker(inspected.validate, type_name(type_), aliases=inspected.aliases)
    encode, decode = _checked_encoder(check, type_), _checked_decoder(check, type_, inspected.text_keys)
    return Codec(
        encode=compile_encoder(inspected.core, encode) or encode,
        decode=compile_decoder(inspected.core, decode) or decode,
    )


def _dynamic_codec() -> Codec:
    def encode(value: Any) -> bytes:
        try:
            return _pack(to_wire(value, dynamic=True))
        except Unfit as unfit:
            raise SerializationError(f"msgpack cannot encode {type_name(type(value))}: {unfit}") from unfit.__cause__
        except Exception as error:
            name = type_name(type(value))
            raise SerializationError(f"msgpack cannot encode {name}: {type(error).__name__}") from error

    def decode(data: bytes) -> Any:
        try:
            return unpack(data, text_keys=False)
        except Unfit as unfit:
            raise SerializationError(f"not valid msgpack: {unfit}") from None

    return Codec(encode, decode)


def _checked_encoder(check: Callable[[Any], Any], type_: Any) -> Callable[[Any], bytes]:
    name = type_name(type_)

    def encode(value: Any) -> bytes:
        """Convert what is there, check it as the receiver will, and only then pack."""
        try:
            wire = to_wire(value)
            check(wire)
            return _pack(wire)
        except Unfit as unfit:
            raise SerializationError(f"msgpack cannot encode {name}: {unfit}") from unfit.__cause__
        except Exception as error:
            raise SerializationError(f"msgpack cannot encode {name}: {type(error).__name__}") from error

    return encode


def _checked_decoder(check: Callable[[Any], Any], type_: Any, text_keys: bool) -> Callable[[bytes], Any]:
    name = type_name(type_)

    def decode(data: bytes) -> Any:
        try:
            wire = unpack(data, text_keys=text_keys)
        except Unfit as unfit:
            raise SerializationError(f"not valid msgpack for {name}: {unfit}") from None
        try:
            return check(wire)
        except Unfit as unfit:
            raise SerializationError(f"not a valid {name}: {unfit}") from None
        except Exception as error:
            raise SerializationError(f"not a valid {name}: validation failed with {type(error).__name__}") from error

    return decode


def _checker(validate: Callable[..., Any], name: str, *, aliases: bool) -> Callable[[Any], Any]:
    from pydantic_core import ValidationError

    def check(wire: Any) -> Any:
        try:
            return validate(wire, by_alias=True, by_name=True) if aliases else validate(wire)
        except ValidationError as error:
            # The error itself shows the input, and payloads stay out of logs: its words only, and no cause.
            raise Unfit(_explain(error, wire)) from None

    return check


def _explain(error: Any, wire: Any) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    places = [_locate(detail, wire) for detail in details[:3]]
    told = [f"{path}: {problem}" if path else problem for path, problem in places]
    more = len(details) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _locate(detail: Any, wire: Any) -> tuple[str, str]:
    """Return where in ``wire`` the problem is, and what it is. Names of union members are not places, and left out."""
    path, missing = "", False
    for step in detail["loc"]:
        known = step in wire if isinstance(wire, dict) else isinstance(wire, list) and step in range(len(wire))
        if known:
            wire = wire[step]
        elif detail["type"] == "missing":
            missing = True
        else:
            continue
        path += key_step(step)
    problem = detail["msg"]
    if not missing and detail["type"].endswith(("_type", "_parsing")):
        problem += f", not {type(wire).__name__}"
    return path.removeprefix("."), problem


def _pack(wire: Any) -> bytes:
    try:
        data: bytes = msgpack.packb(wire, datetime=True)
    except UnicodeEncodeError:
        raise Unfit("text with half of a surrogate pair has no UTF-8 form") from None
    except ValueError as error:
        raise Unfit(str(error)) from None
    return data
