"""A description as TypeScript declarations: what a client in a browser or on node.js sends and gets.

Everything that comes from the peer ends up as a string literal, an identifier of ASCII letters, or the text of a comment.
"""

from __future__ import annotations

import json
import re
from typing import Any

from echokernel.contracts.schema import REF, Contract, MethodSchemas, Names, Schema, words
from echokernel_protocol.describe import MethodKind

__all__ = ["typescript"]

_RESERVED = words("""
    any arguments as async await bigint boolean break case catch class const continue debugger declare default
    delete do else enum eval export extends false finally for from function get if implements import in infer
    instanceof interface is keyof let module namespace never new null number object of package private protected
    public readonly require return set static string super switch symbol this throw true try type typeof undefined
    unique unknown var void while with yield
""")
_GROUPS = {MethodKind.RPC: "Methods", MethodKind.EVENT: "Events", MethodKind.STREAM: "Streams"}
_OWN = frozenset({*_GROUPS.values(), "Array", "AsyncIterable", "Uint8Array"})
_ABOUT = {
    MethodKind.RPC: "Requests: what they take, and what they answer.",
    MethodKind.EVENT: "Events that the node takes.",
    MethodKind.STREAM: "Streams that the node takes: frames of bytes with a time.",
}
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
# what moves a cursor, ends a line for somebody, or turns the direction of writing; and halves of characters
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_LARGEST_TUPLE = 8  # items; a longer array of a fixed length is an array
_OTHER_FORMS = frozenset({"$ref", "allOf", "anyOf", "const", "enum", "oneOf"})
_STEPS = 256  # definitions that are nothing but another one
_WIDTH = 100  # characters of a method that stand in one line


def typescript(contract: Contract) -> str:
    """Return a module of declarations, each line ended."""
    return _Writer(contract).write()


class _Writer:
    def __init__(self, contract: Contract) -> None:
        given = Names(_RESERVED | _OWN)
        self._contract = contract
        self._names = {name: given.pick(_identifier(name)) for name in contract.definitions}

    def write(self) -> str:
        about = self._contract.description
        title = f"What {about.node or 'a node'} understands: echokernel {about.version}. Made by echokernel describe."
        parts = [_comment(title)]
        parts += [self._definition(name, schema) for name, schema in self._contract.definitions.items()]
        for kind, title in _GROUPS.items():
            entries = [entry for entry in self._contract.methods if entry.method.kind is kind]
            if entries:
                methods = "".join(self._method(entry) for entry in entries)
                parts.append(f"{_comment(_ABOUT[kind])}export interface {title} {{\n{methods}}}\n")
        if len(parts) == 1:
            parts.append("export {};\n")
        return "\n".join(parts)

    def _definition(self, name: str, schema: Schema) -> str:
        about = schema.get("description", "") if isinstance(schema, dict) else ""
        head = _comment(about) if about else ""
        if isinstance(schema, dict) and "properties" in schema and not _OTHER_FORMS & schema.keys():
            return f"{head}export interface {self._names[name]} {self._fields(schema)}\n"
        written = "unknown" if self._is_endless(name) else self._type(schema)
        return f"{head}export type {self._names[name]} = {written};\n"

    def _is_endless(self, name: str) -> bool:
        """Whether a definition is itself, or a union with itself, which TypeScript refuses."""
        seen: set[str] = set()
        waiting = [self._contract.definitions[name]]
        while waiting and len(seen) < _STEPS:
            schema = waiting.pop()
            if isinstance(schema, dict):
                waiting += [part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ())]
                target = schema.get("$ref", "").removeprefix(REF)
                if target == name:
                    return True
                if target and target not in seen:
                    seen.add(target)
                    waiting.append(self._contract.definitions[target])
        return bool(waiting)

    def _method(self, entry: MethodSchemas) -> str:
        method = entry.method
        key, doc = _key(method.name), _comment(method.doc, "  ") if method.doc else ""
        if method.kind is MethodKind.STREAM:
            return f"{doc}  {key}: {{ frames: AsyncIterable<Uint8Array> }};\n"
        parts = [f"params: {self._parameters(entry)}"]
        if method.streaming_request:
            parts.append(f"items: AsyncIterable<{self._type(entry.items)}>")
        if method.kind is MethodKind.RPC:
            result = self._type(entry.result)
            parts.append(f"result: {f'AsyncIterable<{result}>' if method.streaming_response else result}")
        line = f"  {key}: {{ {'; '.join(parts)} }};\n"
        if len(line) > _WIDTH and len(parts) > 1:
            line = f"  {key}: {{\n" + "".join(f"    {part};\n" for part in parts) + "  };\n"
        return doc + line

    def _parameters(self, entry: MethodSchemas) -> str:
        schema = entry.parameters
        if isinstance(schema, dict) and schema.get("type") == "null":
            return "[]"
        names = _parameter_names(entry.method.signature)
        several = isinstance(schema, dict) and "prefixItems" in schema and "title" not in schema
        if isinstance(schema, dict) and several:
            return self._type(schema)
        title = schema.get("title") if isinstance(schema, dict) else None
        name = names[0] if len(names) == 1 else title if isinstance(title, str) else ""
        return f"[{_label(name) or 'value'}: {self._type(schema)}]" if schema is not None else "unknown[]"

    def _type(self, schema: Schema | None) -> str:
        if schema is None or schema is True:
            return "unknown"
        if schema is False:
            return "never"
        found = []
        if "$ref" in schema:
            found.append(self._names[schema["$ref"].removeprefix(REF)])
        if "const" in schema:
            found.append(_literal(schema["const"]))
        elif "enum" in schema:
            found.append(_union([_literal(value) for value in schema["enum"]]))
        found += [_union([self._type(part) for part in schema[key]]) for key in ("anyOf", "oneOf") if key in schema]
        found += [self._type(part) for part in schema.get("allOf", ())]
        if not found:
            kinds = schema.get("type")
            if kinds is None:
                kinds = "object" if "properties" in schema else "array" if "prefixItems" in schema else "unknown"
            return _union([self._plain(kind, schema) for kind in (kinds if isinstance(kinds, list) else [kinds])])
        found = [part for part in dict.fromkeys(found) if part != "unknown"] or ["unknown"]
        return found[0] if len(found) == 1 else " & ".join(map(_grouped, found))

    def _plain(self, kind: str, schema: dict[str, Any]) -> str:
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return self._object(schema)
        if kind == "string":
            return "Uint8Array" if schema.get("format") == "binary" else "string"
        return {"null": "null", "boolean": "boolean", "integer": "number", "number": "number"}.get(kind, "unknown")

    def _array(self, schema: dict[str, Any]) -> str:
        parts, items = schema.get("prefixItems"), schema.get("items")
        if parts is None:
            item = self._type(items)
            size = schema.get("minItems")
            if size is not None and size == schema.get("maxItems") and size <= _LARGEST_TUPLE:
                return f"[{', '.join([item] * size)}]"
            return f"{_grouped(item)}[]"
        least = schema.get("minItems", 0)
        labels = [_label(part.get("title", "")) if isinstance(part, dict) else "" for part in parts]
        optional = ["?" if at >= least else "" for at in range(len(parts))]
        types = [self._type(part) for part in parts]
        is_open = items is not False and schema.get("maxItems", len(parts) + 1) > len(parts)
        rest = f"{_grouped(self._type(items))}[]"
        if all(labels) and len(set(labels)) == len(labels):
            written = [f"{label}{mark}: {part}" for label, mark, part in zip(labels, optional, types, strict=True)]
            written += [f"...{Names(labels).pick('rest')}: {rest}"] * is_open
        else:
            written = [f"{_grouped(part)}?" if mark else part for mark, part in zip(optional, types, strict=True)]
            written += [f"...{rest}"] * is_open
        return f"[{', '.join(written)}]"

    def _object(self, schema: dict[str, Any]) -> str:
        if "properties" in schema:
            needed = schema.get("required", ())
            found = schema["properties"].items()
            fields = [f"{_key(name)}{'' if name in needed else '?'}: {self._type(part)}" for name, part in found]
            return f"{{ {'; '.join(fields)} }}" if fields else "{ [key: string]: unknown }"
        others = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        types = [self._type(other) for other in others if other is not None and other is not False]
        return f"{{ [key: string]: {_union(types) if types else 'unknown'} }}"

    def _fields(self, schema: dict[str, Any]) -> str:
        needed, lines = schema.get("required", ()), []
        for name, part in schema["properties"].items():
            about = part.get("description", "") if isinstance(part, dict) else ""
            mark = "" if name in needed else "?"
            lines.append((_comment(about, "  ") if about else "") + f"  {_key(name)}{mark}: {self._type(part)};\n")
        return f"{{\n{''.join(lines)}}}" if lines else "{}"


def _identifier(name: str) -> str:
    found = re.sub(r"[^A-Za-z0-9_$]", "_", name)
    return found if _IDENTIFIER.fullmatch(found) else f"_{found}"


def _label(name: str) -> str:
    """Return the name of a tuple's part; empty where it can have none."""
    if not _IDENTIFIER.fullmatch(name):
        return ""
    return f"{name}_" if name in _RESERVED else name


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return json.dumps(value) if value is None or isinstance(value, bool | int | float) else "unknown"


def _union(parts: list[str]) -> str:
    found = list(dict.fromkeys(parts))
    if "unknown" in found:
        return "unknown"
    return found[0] if len(found) == 1 else " | ".join(found) or "never"


def _grouped(text: str) -> str:
    """Return a type as it may stand before ``[]`` or beside ``&``."""
    return text if re.fullmatch(r"[\w$]+", text) else f"({text})"


def _comment(text: str, indent: str = "") -> str:
    harmless = _HIDDEN.sub("\ufffd", text.replace("\r\n", "\n")).replace("*/", "*\\/")
    lines = [line.rstrip() for line in harmless.split("\n")]
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"


def _parameter_names(signature: str) -> list[str]:
    """Return the names in ``(a: list[int], b=1) -> int``: what stands behind a bracket or a comma of the first level."""
    names, depth, start = [], 0, True
    for sign in re.findall(r"[A-Za-z_]\w*|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S", signature):
        if sign in "([{" or sign in ")]}":
            depth += 1 if sign in "([{" else -1
            start = sign == "(" and depth == 1
            if depth == 0:
                break
        elif depth == 1 and sign == ",":
            start = True
        elif start:
            names.append(sign)
            start = False
    return names
