"""A description as an AsyncAPI 3.0.0 document: a channel and an operation for each method.

Source: AsyncAPI specification 3.0.0. Its schemas are JSON Schema draft 07, so tuples are written as that has them.
"""

from __future__ import annotations

import re
from typing import Any, Final

from echokernel.contracts.schema import Contract, MethodSchemas, Names, Schema, rename, walk
from echokernel_protocol.describe import MethodKind

__all__ = ["VERSION", "asyncapi"]

VERSION: Final = "3.0.0"
_CONTENT_TYPES = {"json": "application/json", "msgpack": "application/vnd.msgpack"}
_FRAME: Final = {
    "name": "frame",
    "contentType": "application/octet-stream",
    "headers": {
        "type": "object",
        "required": ["wall_time", "seq"],
        "properties": {
            "wall_time": {"type": "integer", "description": "Microseconds since 1970, by the sender's clock."},
            "seq": {"type": "integer", "minimum": 0, "description": "The frame's number."},
        },
    },
    "payload": {"type": "string", "format": "binary"},
}


def asyncapi(contract: Contract) -> dict[str, Any]:
    """Return the document, ready to be written as JSON."""
    about = contract.description
    given = Names()
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for entry in contract.methods:
        name = given.pick(re.sub(r"[^A-Za-z0-9_.-]", "_", f"{entry.method.kind.name.lower()}.{entry.method.name}"))
        messages = _messages(entry)
        channels[name] = {"address": entry.method.name, "messages": messages}
        operations[name] = _operation(entry, f"#/channels/{name}", list(messages))
    document: dict[str, Any] = {
        "asyncapi": VERSION,
        "info": {
            "title": about.node or "echokernel node",
            "version": about.version or "0",
            "x-runtime": about.runtime,
            "x-serializers": list(about.serializers),
        },
        "channels": channels,
        "operations": operations,
        "components": {"schemas": {name: _draft_07(part) for name, part in contract.definitions.items()}},
    }
    if about.serializers:
        first = about.serializers[0]
        plain = re.sub(r"[^a-z0-9.-]", "-", first.lower())
        document["defaultContentType"] = _CONTENT_TYPES.get(first, f"application/x-{plain}")
    return document


def _messages(entry: MethodSchemas) -> dict[str, Any]:
    if entry.method.kind is MethodKind.STREAM:
        return {"frame": _FRAME}
    if entry.method.kind is MethodKind.EVENT:
        return {"event": _message("event", entry.parameters)}
    messages = {"request": _message("request", entry.parameters)}
    if entry.method.streaming_request:
        messages["item"] = _message("item", entry.items, "One of many that follow the request.")
    many = "One of many." if entry.method.streaming_response else ""
    messages["reply"] = _message("reply", entry.result, many)
    return messages


def _message(name: str, schema: Schema | None, summary: str = "") -> dict[str, Any]:
    message: dict[str, Any] = {"name": name}
    if summary:
        message["summary"] = summary
    if schema is not None:
        message["payload"] = _draft_07(schema)
    return message


def _operation(entry: MethodSchemas, channel: str, messages: list[str]) -> dict[str, Any]:
    method = entry.method
    operation: dict[str, Any] = {
        "action": "receive",  # whatever it is, the node takes it; a request has a reply beside it
        "channel": {"$ref": channel},
        "title": method.name + method.signature,
    }
    if method.doc:
        operation["summary"], _, rest = method.doc.partition("\n")
        if rest.strip():
            operation["description"] = rest.strip()
    links = {name: {"$ref": f"{channel}/messages/{name}"} for name in messages}
    reply = links.pop("reply", None)
    operation["messages"] = list(links.values())
    if reply is not None:
        operation["reply"] = {"channel": {"$ref": channel}, "messages": [reply]}
    return operation


def _draft_07(schema: Schema) -> Schema:
    """Return a schema of 2020-12 as draft 07 writes it, its references leading to the document's components."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        part.pop("discriminator", None)  # AsyncAPI's is a text, and another thing
        if "$ref" in part:
            return {"$ref": part["$ref"]}  # whose neighbours count for nothing there
        if "prefixItems" in part:
            rest = part.pop("items", None)
            part["items"] = part.pop("prefixItems")
            if rest is not None:
                part["additionalItems"] = rest
        return part

    return walk(rename(schema, _Same(), "#/components/schemas/"), change)


class _Same(dict[str, str]):
    """Every name is its own."""

    def __missing__(self, key: str) -> str:
        return key
