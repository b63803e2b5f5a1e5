"""Classes as structs: which fields they have, in which order, and how one is made of their values."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from echokernel_postcard.shapes import Field, Shape, Struct, unchecked
from echokernel_postcard.wire import Unfit, type_name, wanted

Read = Callable[..., Shape]
_MISSING = object()


def is_model(cls: Any) -> bool:
    pydantic = sys.modules.get("pydantic")  # nobody has made a model without having imported it
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def is_named_tuple(cls: Any) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def is_typed_dict(cls: Any) -> bool:
    return issubclass(cls, dict) and hasattr(cls, "__total__") and hasattr(cls, "__required_keys__")


def struct_of(struct: Struct, arguments: tuple[Any, ...], read: Read) -> Shape:
    """Fill in ``struct``, whose class is known, and return it, or what it is a mere wrapper of. Raises Unfit."""
    cls = struct.cls
    if is_model(cls):
        return _model(struct, read)
    if is_typed_dict(cls):
        return _typed_dict(struct, arguments, read)
    if dataclasses.is_dataclass(cls):
        return _dataclass(struct, arguments, read)
    return _named_tuple(struct, arguments, read)


def _hints(cls: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return the annotations of a class, with its type parameters filled in."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise Unfit(f"an annotation of {type_name(cls)} cannot be resolved: {error}") from None
    known = _variables(cls, arguments)
    return {name: substitute(hint, known) for name, hint in hints.items()} if known else hints


def _variables(cls: Any, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Return what the type variables of a class and of its bases stand for."""
    known = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    for base in getattr(cls, "__orig_bases__", ()):
        origin = typing.get_origin(base)
        if origin not in (None, typing.Generic, typing.Protocol):
            given = tuple(substitute(each, known) for each in typing.get_args(base))
            known = {**_variables(origin, given), **known}
    return known


def substitute(annotation: Any, known: Mapping[Any, Any]) -> Any:
    """Return ``annotation`` with its type variables replaced."""
    if isinstance(annotation, typing.TypeVar):
        return known.get(annotation, annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return typing.Annotated[(substitute(annotation.__origin__, known), *annotation.__metadata__)]
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or (isinstance(annotation, type) and not typing.get_args(annotation)):
        return annotation
    return annotation[tuple(known.get(each, each) for each in parameters)]


def _shape(read: Read, name: str, annotation: Any, metadata: tuple[Any, ...] = ()) -> Shape:
    try:
        return read(annotation, metadata)
    except Unfit as unfit:
        raise unfit.at(f".{name}") from None


# --- dataclasses, named tuples, typed dicts ---------------------------------------------------------------------------


def _dataclass(struct: Struct, arguments: tuple[Any, ...], read: Read) -> Struct:
    cls = struct.cls
    hints = _hints(cls, arguments)
    infos = vars(cls).get("__pydantic_fields__", {})
    for name in hints:
        if isinstance(hints[name], dataclasses.InitVar):
            raise Unfit("an InitVar is not kept, so that it cannot be sent").at(f".{name}")
    defaults: dict[str, Any] = {}
    for each in dataclasses.fields(cls):
        if not each.init:
            continue
        metadata = tuple(infos[each.name].metadata) if each.name in infos else ()
        if type(hints[each.name]) is type(typing.Annotated[int, 0]):
            metadata = ()  # the annotation has them already
        struct.fields.append(Field(each.name, _shape(read, each.name, hints[each.name], metadata), bool(each.kw_only)))
        defaults[each.name] = _default(each)
    validates = "__pydantic_validator__" in vars(cls)
    struct.checks = validates or hasattr(cls, "__post_init__")
    if struct.checks or cls.__init__ is not vars(cls).get("__init__") or not cls.__dataclass_params__.init:
        struct.build = _builder(cls, [each.name for each in struct.fields])
    if validates:
        for field in struct.fields:
            field.bare = unchecked(field.shape)
    struct.adapt = _adapter(cls, defaults)
    return struct


def _default(each: dataclasses.Field[Any]) -> Any:
    if each.default_factory is not dataclasses.MISSING:
        return each.default_factory
    return (lambda: each.default) if each.default is not dataclasses.MISSING else _MISSING


def _builder(cls: Any, names: list[str]) -> Callable[..., Any]:
    from echokernel_postcard.validation import guarded

    make = guarded(cls)

    def build(*values: Any) -> Any:
        return make(**dict(zip(names, values, strict=True)))

    return build


def _named_tuple(struct: Struct, arguments: tuple[Any, ...], read: Read) -> Struct:
    cls = struct.cls
    hints = _hints(cls, arguments)
    for name in cls._fields:
        if name not in hints:
            raise Unfit("it has no type; use typing.NamedTuple").at(f".{name}")
        struct.fields.append(Field(name, _shape(read, name, hints[name])))
    plain = _adapter(cls, dict.fromkeys(cls._fields, _MISSING) | _constant(cls._field_defaults))
    count = len(cls._fields)

    def adapt(value: Any) -> Any:
        if type(value) in (tuple, list):
            if len(value) != count:
                raise Unfit(f"wanted {count} elements, not {len(value)}")
            return cls._make(value)
        return plain(value)

    struct.adapt = adapt
    return struct


def _constant(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (lambda value=value: value) for name, value in values.items()}


def _typed_dict(struct: Struct, arguments: tuple[Any, ...], read: Read) -> Struct:
    cls = struct.cls
    struct.kind = "mapping"
    hints = _hints(cls, arguments)
    for name, hint in hints.items():
        hint, required = _required(hint, name in cls.__required_keys__)
        struct.fields.append(Field(name, _shape(read, name, hint), absent=not required))

    def adapt(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wanted("dict", value)
        for each in struct.fields:
            if not each.absent and each.name not in value:
                raise Unfit(f"the field {each.name!r} is missing")
        return value

    struct.adapt = adapt
    return struct


def _required(hint: Any, required: bool) -> tuple[Any, bool]:
    """Return a field's type without its qualifiers: those of a future annotation are not seen by the class itself."""
    name = str(typing.get_origin(hint))
    if name.endswith("NotRequired"):
        return typing.get_args(hint)[0], False
    if name.endswith(".Required"):
        return typing.get_args(hint)[0], True
    return hint, required


def _adapter(cls: Any, defaults: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return what takes subclasses as they are and mappings by their keys, as a self-describing format would."""

    def adapt(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise wanted(type_name(cls), value)
        made = types.SimpleNamespace()
        for name, default in defaults.items():
            if name not in value and default is _MISSING:
                raise Unfit(f"the field {name!r} is missing")
            setattr(made, name, value[name] if name in value else default())
        return made

    return adapt


# --- pydantic models --------------------------------------------------------------------------------------------------


def _model(struct: Struct, read: Read) -> Shape:
    from echokernel_postcard.validation import guarded

    cls = struct.cls
    if not cls.__pydantic_complete__:
        try:
            cls.model_rebuild()
        except Exception as error:
            raise Unfit(f"{type_name(cls)} is not fully defined: {type(error).__name__}") from error
    decorators = cls.__pydantic_decorators__
    if decorators.field_serializers or decorators.model_serializers:
        raise Unfit(f"{type_name(cls)} has serializers of its own, and postcard sends fields by their types")
    if cls.model_config.get("extra") == "allow":
        raise Unfit(f"{type_name(cls)} allows extra fields, which have no place in a struct")
    defaults: dict[str, Any] = {}
    for name, info in cls.model_fields.items():
        if info.exclude:
            continue  # never sent: it has its default at the receiver
        struct.fields.append(Field(name, _shape(read, name, info.annotation, tuple(info.metadata))))
        defaults[name] = _MISSING if info.is_required() else _model_default(info)
    struct.checks = any(
        getattr(decorators, kind) for kind in ("validators", "field_validators", "root_validators", "model_validators")
    )
    validate = cls.__pydantic_validator__.validate_python
    names = [each.name for each in struct.fields]
    is_root = cls.__pydantic_root_model__

    def build(*values: Any) -> Any:
        if is_root:
            return validate(values[0])
        return validate(dict(zip(names, values, strict=True)), by_alias=False, by_name=True)

    struct.build = guarded(build)
    for each in struct.fields:
        each.bare = unchecked(each.shape)
    plain = _adapter(cls, defaults)

    def adapt(value: Any) -> Any:
        if is_root and not isinstance(value, cls):
            return types.SimpleNamespace(root=value)
        return plain(value)

    struct.adapt = adapt
    return struct


def _model_default(info: Any) -> Callable[[], Any]:
    return lambda: info.get_default(call_default_factory=True, validated_data={})
