"""Ask a running node what it can do: its methods, plugins and versions.

echokernel describe quic://127.0.0.1:4433             a table of all methods
echokernel describe quic://127.0.0.1:4433 math.add    one of them in full, with the JSON Schemas of its values
echokernel describe quic://127.0.0.1:4433 --json      everything, for programs
echokernel describe quic://127.0.0.1:4433 --typescript > node.d.ts
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from echokernel.cli import DONE, FAILED, fail
from echokernel.cli._client import add_client_arguments, with_client

if TYPE_CHECKING:
    from echokernel.client import EchoClient
    from echokernel_protocol.describe import Description, MethodDescription


def configure(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser)
    parser.add_argument("method", nargs="?", metavar="METHOD", help="describe this one in full")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="as JSON, with all schemas")
    forms.add_argument("--json-schema", action="store_true", help="one JSON Schema, 2020-12, of all values")
    forms.add_argument("--asyncapi", action="store_true", help="an AsyncAPI 3.0.0 document, as JSON")
    forms.add_argument("--typescript", action="store_true", help="TypeScript declarations")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.cli._output import print_json

    async def use(client: EchoClient) -> int:
        written = arguments.json_schema or arguments.asyncapi or arguments.typescript
        names = () if arguments.method is None else (arguments.method,)
        found = await client.describe(*names, schemas=arguments.json or written or bool(names))
        if names and not found.methods:
            return await _unknown(client, arguments.method)
        if arguments.json:
            print_json(as_dict(found))
        elif written:
            _print_contract(found, arguments)
        elif names:
            print("\n\n".join(method_text(method) for method in found.methods))
        else:
            _print_all(found)
        return DONE

    return with_client(arguments, use)


def _print_contract(found: Description, arguments: argparse.Namespace) -> None:
    from echokernel.cli._output import print_json
    from echokernel.contracts.schema import json_schema, merge

    contract = merge(found)
    if arguments.json_schema:
        print_json(json_schema(contract))
    elif arguments.asyncapi:
        from echokernel.contracts.asyncapi import asyncapi

        print_json(asyncapi(contract))
    else:
        from echokernel.contracts.typescript import typescript

        print(typescript(contract), end="")


async def _unknown(client: EchoClient, name: str) -> int:
    from echokernel._suggest import did_you_mean

    everything = await client.describe(schemas=False)
    hint = did_you_mean(name, [method.name for method in everything.methods]) or "see: echokernel describe URL"
    return fail(f"method_not_found: the node has no {name!r}; {hint}", FAILED)


def _print_all(found: Description) -> None:
    from echokernel.cli._output import harmless, print_table

    plugins = ", ".join(f"{plugin.name} {plugin.version}".rstrip() for plugin in found.plugins)
    print(harmless(f"{found.node or '(no name)'}: echokernel {found.version}, {found.runtime}"))
    print(harmless(f"plugins: {plugins or 'none'}; serializers: {', '.join(found.serializers) or 'raw'}"))
    if not found.methods:
        print("no methods")
        return
    print()
    rows = [[_kind(method), method.name, method.signature, _first_line(method)] for method in found.methods]
    print_table(["KIND", "NAME", "SIGNATURE", "ABOUT"], [[harmless(cell) for cell in row] for row in rows])


def _kind(method: MethodDescription) -> str:
    return method.kind.name.lower()


def _first_line(method: MethodDescription) -> str:
    return method.doc.partition("\n")[0]


def method_text(method: MethodDescription) -> str:
    """Return everything about one method, for people."""
    from echokernel.cli._output import harmless

    traits = {
        "streaming request": method.streaming_request,
        "streaming response": method.streaming_response,
        "concurrent": method.concurrent,
    }
    notes = ", ".join(name for name, present in traits.items() if present)
    parts = [f"{_kind(method)} {method.name}{method.signature}" + (f"  ({notes})" if notes else "")]
    if method.doc:
        parts.append("\n".join(f"    {line}".rstrip() for line in method.doc.splitlines()))
    for title, schema in (("parameters", method.parameters), ("items", method.items), ("result", method.result)):
        if schema:
            parts.append(f"{title}:\n{json.dumps(_schema(schema), ensure_ascii=False, indent=2)}")
    return harmless("\n\n".join(parts))


def as_dict(found: Description) -> dict[str, Any]:
    """Return a description as JSON has it."""
    return {
        "node": found.node,
        "version": found.version,
        "runtime": found.runtime,
        "serializers": found.serializers,
        "plugins": [
            {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
            for plugin in found.plugins
        ],
        "methods": [
            {
                "kind": _kind(method),
                "name": method.name,
                "signature": method.signature,
                "doc": method.doc,
                "shape": method.shape,
                "parameters": _schema(method.parameters),
                "items": _schema(method.items),
                "result": _schema(method.result),
                "streaming_request": method.streaming_request,
                "streaming_response": method.streaming_response,
                "concurrent": method.concurrent,
            }
            for method in found.methods
        ],
    }


def _schema(text: str) -> Any:
    """Return a schema's value, None where there is none; what a node calls a schema and is no JSON stays a text."""
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
