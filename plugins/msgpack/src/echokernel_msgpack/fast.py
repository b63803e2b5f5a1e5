"""Shortcuts for the values that make up most messages, generated once per type.

A shortcut takes values whose types are exactly the annotated ones and nothing that needs a second look: no
constraints, no validators, no subclasses. Whatever else it meets goes the checked way, which also finds the words for
what is wrong. So a shortcut changes the time and no result; tests/test_msgpack_fast.py compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any

import msgpack

from echokernel_msgpack.wire import MAX_ITEMS

_LEAVES: dict[str, type] = {"int": int, "str": str, "float": float, "bytes": bytes, "bool": bool, "none": NoneType}
_DEFAULT_KEYS = frozenset({"schema", "default", "default_factory", "default_factory_takes_data"})
_FIELD_KEYS = frozenset({"name", "schema", "init", "init_only", "kw_only", "frozen"})
_DATACLASS_KEYS = frozenset({"cls", "cls_name", "config", "fields", "frozen", "post_init", "ref", "schema", "slots"})
_ARGUMENT_KEYS = frozenset({"collect_init_only", "computed_fields", "dataclass_name", "fields"})
_MODEL_KEYS = frozenset({"cls", "config", "custom_init", "root_model", "ref", "schema"})
_CONFIG_KEYS = frozenset({"title", "frozen", "from_attributes", "arbitrary_types_allowed"})
_KEEP = 64 * 1024  # bytes; a packer that grew beyond is replaced, or one large message would keep its size for ever
_MAX_FAST = 1024  # bytes; decoded before the structure was looked at, so small enough that no bomb fits in

Part = tuple[str, str]
"""Two expressions: a test that the value is exact, and what it becomes."""


def compile_encoder(core: dict[str, Any], slow: Callable[[Any], bytes]) -> Callable[[Any], bytes] | None:
    """Return a faster ``slow``, or None if the type has no shortcut. ``core`` is pydantic's schema of the type."""
    source = _Source(core)
    part = source.encoded(source.root, "value")
    if part is None:
        return None

    def renew() -> None:
        source.names["pack"] = msgpack.Packer(buf_size=512).pack

    renew()
    source.names |= {"slow": slow, "renew": renew}
    # What is packed holds exact built-in values only, so packing runs no Python code that could come back here.
    return source.define(
        "encode",
        "def encode(value):",
        "    try:",
        f"        if {part[0]}:",
        f"            data = pack({part[1]})",
        f"            if len(data) > {_KEEP}:",
        "                renew()",
        "            return data",
        "    except Exception:",
        "        renew()",
        "    return slow(value)",
    )


def compile_decoder(core: dict[str, Any], slow: Callable[[bytes], Any]) -> Callable[[bytes], Any] | None:
    """Return a faster ``slow``, or None if the type has no shortcut: at most one map, as no key may come twice."""
    source = _Source(core)
    core = source.root
    source.names |= {"slow": slow, "unpackb": msgpack.unpackb}
    fields = _fields(core) if core["type"] == "dataclass" else None
    if fields is None:
        part = source.decoded(core, "wire")
        prepare, test, result = "b''", part and part[0], part and part[1]
        lines: list[str] = []
    else:
        made = core["cls"]
        if core["post_init"] or hasattr(made, "__pydantic_validator__") or made.__new__ is not object.__new__:
            return None
        parts = {name: source.decoded(schema, f"f{place}") for place, (name, schema) in enumerate(fields.items())}
        test = None if None in parts.values() else " and ".join(part[0] for part in parts.values() if part)
        keywords = any(field.get("kw_only") for field in core["schema"]["fields"])
        arguments = [f"{name}={part[1]}" if keywords else part[1] for name, part in parts.items() if part]
        result = f"{source.name(core['cls'])}({', '.join(arguments)})"
        prepare = repr(msgpack.Packer().pack_map_header(len(fields)))
        lines = [f"            f{place} = wire[{name!r}]" for place, name in enumerate(fields)]
    if not test:
        return None
    arrays = "" if source.arrays else ", max_array_len=0"
    return source.define(
        "decode",
        "def decode(data):",
        "    try:",
        f"        if len(data) <= {_MAX_FAST} and data.startswith({prepare}):",
        f"            wire = unpackb(data{arrays})",
        *([f"            if len(wire) != {len(fields)}: return slow(data)"] if fields else []),
        *lines,
        f"            if {test}:",
        f"                return {result}",
        "    except Exception:",
        "        pass",
        "    return slow(data)",
    )


class _Source:
    """The code of one shortcut and the names that it uses."""

    def __init__(self, core: dict[str, Any]) -> None:
        self.names: dict[str, Any] = {"NoneType": NoneType, "each": _each}
        self.arrays = False
        self._count = 0
        self._definitions: dict[str, dict[str, Any]] = {}
        self._classes: dict[int, str | None] = {}
        if core["type"] == "definitions":
            self._definitions = {node["ref"]: node for node in core["definitions"]}
            core = core["schema"]
        self.root = self.resolved(core)

    def resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        if node["type"] == "definition-ref" and _bare(node, {"schema_ref"}):
            return self._definitions.get(node["schema_ref"], node)
        return node

    def name(self, value: Any = None) -> str:
        self._count += 1
        self.names[f"n{self._count}"] = value
        return f"n{self._count}"

    def define(self, name: str, *lines: str) -> Callable[[Any], Any]:
        exec("\n".join(lines), self.names)  # words of this module and names of fields, which are identifiers
        function: Callable[[Any], Any] = self.names[name]
        return function

    def same(self, node: dict[str, Any], var: str) -> str | None:
        """Return the test for what looks alike here and on the wire: scalars and lists of them, possibly None."""
        if node["type"] == "nullable" and _bare(node, {"schema"}):
            inner = self.same(node["schema"], var)
            return inner and f"({var} is None or {inner})"
        if node["type"] == "list" and _bare(node, {"items_schema"}):
            return self.only(node.get("items_schema"), var, "list")
        kind = _scalar(node)
        return f"type({var}) is {kind.__name__}" if kind else None

    def only(self, item: dict[str, Any] | None, var: str, kind: str) -> str | None:
        """Return the test for a list or tuple that holds scalars of one type only."""
        types = item and _scalars(item)
        if not types:
            return None
        self.arrays = True
        known = self.name(types.issuperset)
        return f"(type({var}) is {kind} and len({var}) <= {MAX_ITEMS} and {known}(map(type, {var})))"

    def encoded(self, node: dict[str, Any], var: str) -> Part | None:
        test = self.same(node, var) or self.tuple(node, var, "tuple") or self.dict(node, var)
        if test:
            return test, var
        if node["type"] == "nullable" and _bare(node, {"schema"}):
            inner = self.encoded(node["schema"], var)
            return inner and (f"({var} is None or {inner[0]})", f"(None if {var} is None else {inner[1]})")
        made = f"m{var}"
        if node["type"] == "list" and _bare(node, {"items_schema"}):
            convert = "items_schema" in node and self.encode_class(node["items_schema"])
            return (f"({made} := each({convert}, {var})) is not None", made) if convert else None
        convert = self.encode_class(node)
        return (f"({made} := {convert}({var})) is not None", made) if convert else None

    def encode_class(self, node: dict[str, Any]) -> str | None:
        """Return the name of a function that makes a dict of an exact instance, and None of anything else."""
        node = self.resolved(node)
        if id(node) not in self._classes:
            self._classes[id(node)] = None  # a class that holds itself has no shortcut: its depth needs watching
            self._classes[id(node)] = self._class_encoder(node)
        return self._classes[id(node)]

    def _class_encoder(self, node: dict[str, Any]) -> str | None:
        fields = _fields(node) if node["type"] in ("dataclass", "model") else None
        if fields is None:
            return None
        parts = [self.encoded(schema, f"f{place}") for place, schema in enumerate(fields.values())]
        if None in parts:
            return None
        name = self.name()
        items = ", ".join(f"{field!r}: {part[1]}" for field, part in zip(fields, parts, strict=True) if part)
        self.define(
            name,
            f"def {name}(value):",
            f"    if type(value) is {self.name(node['cls'])}:",
            *[f"        f{place} = value.{field}" for place, field in enumerate(fields)],
            f"        if {' and '.join(part[0] for part in parts if part)}:",
            f"            return {{{items}}}",
        )
        return name

    def decoded(self, node: dict[str, Any], var: str) -> Part | None:
        test = self.same(node, var)
        if test:
            return test, var
        test = self.tuple(node, var, "list")
        return (test, f"tuple({var})") if test else None

    def tuple(self, node: dict[str, Any], var: str, kind: str) -> str | None:
        if node["type"] != "tuple" or not _bare(node, {"items_schema", "variadic_item_index"}):
            return None
        items = node["items_schema"]
        if "variadic_item_index" in node:
            return self.only(items[0], var, kind) if len(items) == 1 else None
        types = [_scalar(item) for item in items]
        if None in types or len(types) > 64:
            return None
        self.arrays = True
        tests = [f"type({var}[{place}]) is {type.__name__}" for place, type in enumerate(types) if type]
        return "(" + " and ".join([f"type({var}) is {kind}", f"len({var}) == {len(types)}", *tests]) + ")"

    def dict(self, node: dict[str, Any], var: str) -> str | None:
        if node["type"] != "dict" or not _bare(node, {"keys_schema", "values_schema"}) or "values_schema" not in node:
            return None
        types = _scalars(node["values_schema"])
        if not types or _scalar(node.get("keys_schema", node)) is not str:
            return None
        keys, values = self.name({str}.issuperset), self.name(types.issuperset)
        size = f"len({var}) <= {MAX_ITEMS}"
        return f"(type({var}) is dict and {size} and {keys}({var}) and {values}(map(type, {var}.values())))"


def _each(convert: Callable[[Any], Any], items: Any) -> list[Any] | None:
    if type(items) is not list or len(items) > MAX_ITEMS:
        return None
    converted = [convert(item) for item in items]
    return None if None in converted else converted


def _bare(node: dict[str, Any], keys: set[str] | frozenset[str]) -> bool:
    """Whether ``node`` says nothing beyond ``keys``: no constraint, no serializer of its own, nothing new."""
    return node.keys() <= keys | {"type", "metadata"}


def _scalar(node: dict[str, Any]) -> type | None:
    return _LEAVES.get(node["type"]) if _bare(node, frozenset()) else None


def _scalars(node: dict[str, Any]) -> frozenset[type] | None:
    """Return the types of a scalar, or of one that may also be None."""
    if node["type"] == "nullable" and _bare(node, {"schema"}):
        inner = _scalar(node["schema"])
        return frozenset({inner, NoneType}) if inner else None
    kind = _scalar(node)
    return frozenset({kind}) if kind else None


def _fields(node: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Return the fields of a plain dataclass or model by name, None where anything is special about it."""
    inner = node["schema"]
    if not set(node.get("config", ())) <= _CONFIG_KEYS or inner.get("computed_fields"):
        return None
    if node["type"] == "dataclass":
        plain = _bare(node, _DATACLASS_KEYS) and _bare(inner, _ARGUMENT_KEYS)
        if not plain or "__dataclass_params__" not in vars(node["cls"]):
            return None
        named = {field["name"]: field for field in inner["fields"]}
    else:
        plain = _bare(node, _MODEL_KEYS) and _bare(inner, {"computed_fields", "fields", "model_name"})
        if not plain or node.get("root_model") or node.get("custom_init"):
            return None
        named = inner["fields"]
    if not 0 < len(named) <= 255:
        return None
    fields = {}
    for name, field in named.items():
        if not _bare(field, _FIELD_KEYS) or field.get("init") is False or field.get("init_only"):
            return None
        schema = field["schema"]
        if schema["type"] == "default":
            if not _bare(schema, _DEFAULT_KEYS):
                return None
            schema = schema["schema"]
        fields[name] = schema
    return fields
