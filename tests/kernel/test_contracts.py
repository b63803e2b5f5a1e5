"""What is made of a description: a JSON Schema, an AsyncAPI document, TypeScript declarations; also of a hostile one."""

from __future__ import annotations

import datetime
import enum
import json
import re
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import pydantic
import pytest
from typing_extensions import TypedDict

from echokernel import U8, StreamReceiver, event, rpc, stream
from echokernel.cli._output import printable_json
from echokernel.contracts.asyncapi import asyncapi
from echokernel.contracts.changes import compare
from echokernel.contracts.schema import MAX_DEPTH, json_schema, merge, read_schema
from echokernel.contracts.typescript import typescript
from echokernel.signatures import describe_handler
from echokernel_protocol.describe import Description, MethodDescription, MethodKind


class Color(enum.Enum):
    RED = 1
    DARK = "dark"


@dataclass
class Item:
    """An item.

    */ It has a price.
    """

    name: str
    price: float
    color: Color = Color.RED


@dataclass
class Tree:
    value: int
    kids: list[Tree]
    parent: Tree | None = None


@dataclass
class Circle:
    radius: float


@dataclass
class Square:
    side: float


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Model(pydantic.BaseModel):
    size: Annotated[float, pydantic.Field(gt=0, description="In metres.")]
    odd_name: U8 = pydantic.Field(default=3, alias="odd name")


class Point(NamedTuple):
    x: int
    y: int


@rpc("math.add")
async def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


@rpc
async def all_kinds(
    raw: bytes,
    when: datetime.datetime,
    who: uuid.UUID,
    shape: Circle | Square,
    mode: Literal["fast", 2],
    movie: Movie,
    model: Model,
    trees: dict[str, Tree],
    numbers: set[int],
    pair: tuple[int, str],
    point: Point,
    new: int | None,
) -> Tree | None: ...


@rpc
async def count(to: int) -> AsyncIterator[Item]:
    yield Item("", to)


@rpc
async def total(numbers: AsyncIterator[int], scale: float = 1.0) -> float: ...


@rpc
async def order(item: Item) -> list[Item]: ...


@rpc
async def nothing() -> None: ...


@event
async def said(color: Color) -> None: ...


@stream
async def audio(frames: StreamReceiver) -> None:
    """Take sound."""


HANDLERS = [add, all_kinds, count, total, order, nothing, said, audio]


def described(*handlers: Any) -> Description:
    kinds = {"rpc": MethodKind.RPC, "event": MethodKind.EVENT, "stream": MethodKind.STREAM}
    methods = [describe_handler(kinds[handler.kind], handler.name, handler) for handler in handlers]
    return Description(node="shop", version="0.1.0", runtime="Python", serializers=("msgpack",), methods=tuple(methods))


ALL = described(*HANDLERS)


def method(name: str = "m", **fields: Any) -> MethodDescription:
    return MethodDescription(kind=fields.pop("kind", MethodKind.RPC), name=name, **fields)


def references(value: Any) -> list[str]:
    found: list[str] = []
    if isinstance(value, dict):
        found += [part for key, part in value.items() if key == "$ref"]
        value = list(value.values())
    return found + [each for part in value for each in references(part)] if isinstance(value, list) else found


def at(document: Any, reference: str) -> Any:
    for key in reference.removeprefix("#/").split("/"):
        document = document[key]
    return document


# --- JSON Schema ------------------------------------------------------------------------------------------------------


def test_one_schema_with_shared_definitions() -> None:
    document = json_schema(merge(ALL))
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(document["$defs"]) == ["Circle", "Color", "Item", "Model", "Movie", "Point", "Square", "Tree"]
    requests, events = document["properties"]["requests"], document["properties"]["events"]["properties"]
    assert requests["properties"]["order"]["properties"] == {
        "parameters": {"$ref": "#/$defs/Item"},
        "result": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
    }
    assert events["said"]["properties"] == {"parameters": {"$ref": "#/$defs/Color"}}
    assert [part for part in references(document) if at(document, part) is None] == []
    assert "audio" not in printable_json(document)


def test_the_order_of_methods_does_not_matter() -> None:
    other = described(*reversed(HANDLERS))
    assert printable_json(json_schema(merge(ALL))) == printable_json(json_schema(merge(other)))
    assert printable_json(asyncapi(merge(ALL))) == printable_json(asyncapi(merge(other)))
    assert typescript(merge(ALL)) == typescript(merge(other))


def schema_of(**definitions: Any) -> str:
    return json.dumps({"$ref": "#/$defs/A", "$defs": definitions})


def test_definitions_that_clash_are_told_apart() -> None:
    number, text = schema_of(A={"type": "integer"}), schema_of(A={"type": "string"})
    found = merge(
        Description(methods=(method("a", parameters=number, result=text), method("b", parameters=text, result=number)))
    )
    assert found.definitions == {"A": {"type": "integer"}, "A_2": {"type": "string"}}
    assert [entry.parameters for entry in found.methods] == [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A_2"}]
    assert [entry.result for entry in found.methods] == [{"$ref": "#/$defs/A_2"}, {"$ref": "#/$defs/A"}]
    only_result = merge(Description(methods=(method("a", parameters=number, result=text),)))
    assert list(only_result.definitions) == ["A", "A_Output"]


def test_definitions_that_differ_in_what_they_refer_to_are_told_apart() -> None:
    def chain(last: str) -> str:
        links = {f"L{number}": {"items": {"$ref": f"#/$defs/L{number + 1}"}} for number in range(9)}
        return schema_of(A={"$ref": "#/$defs/L0"}, **links, L9={"type": last})

    found = merge(Description(methods=(method("a", parameters=chain("string")), method("b", parameters=chain("null")))))
    assert found.definitions["L9"] == {"type": "string"}
    assert found.definitions["L9_2"] == {"type": "null"}
    assert found.definitions["A_2"] == {"$ref": "#/$defs/L0_2"}
    same = merge(Description(methods=(method("a", parameters=chain("null")), method("b", parameters=chain("null")))))
    assert len(same.definitions) == 11


def test_keywords_that_lead_elsewhere_are_left_out_and_data_is_not_touched() -> None:
    data = {"$ref": "https://example.org/x", "$id": "y"}
    text = json.dumps(
        {
            "$id": "https://example.org/",
            "$ref": "https://example.org/x",
            "type": 5,
            "properties": {"$id": {"const": data}, "required": {"enum": [data]}},
            "minItems": -1,
        }
    )
    assert read_schema(text) == {"properties": {"$id": {"const": data}, "required": {"enum": [data]}}}


# --- AsyncAPI ---------------------------------------------------------------------------------------------------------

MESSAGE_KEYS = {"name", "summary", "contentType", "headers", "payload"}
OPERATION_KEYS = {"action", "channel", "title", "summary", "description", "messages", "reply"}


def check_asyncapi(document: Any) -> None:
    """Check what AsyncAPI 3.0.0 requires of the objects that are used here, and that references lead to what they should."""
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    assert all(isinstance(document["info"][key], str) for key in ("title", "version"))
    assert document.keys() <= {"asyncapi", "info", "channels", "operations", "components", "defaultContentType"}
    assert all(key.startswith("x-") for key in document["info"].keys() - {"title", "version"})
    for channel in document["channels"].values():
        assert channel.keys() <= {"address", "messages", "title", "summary", "description"}
        assert isinstance(channel["address"], str)
        for message in channel["messages"].values():
            assert message.keys() <= MESSAGE_KEYS
            assert message.get("headers", {"type": "object"})["type"] == "object"
    for operation in document["operations"].values():
        assert {"action", "channel"} <= operation.keys() <= OPERATION_KEYS
        assert operation["action"] in ("send", "receive")
        for part in (operation, operation.get("reply", {"messages": [], "channel": operation["channel"]})):
            assert part["channel"].keys() == {"$ref"}
            assert re.fullmatch(r"#/channels/[^/]+", part["channel"]["$ref"])
            assert all(each["$ref"].startswith(part["channel"]["$ref"] + "/messages/") for each in part["messages"])
        assert operation["messages"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in document["components"]["schemas"])
    assert all(at(document, reference) is not None for reference in references(document))
    assert '"prefixItems"' not in json.dumps(document)
    assert '"$defs"' not in json.dumps(document)


def test_asyncapi() -> None:
    document = asyncapi(merge(ALL))
    check_asyncapi(document)
    assert document["operations"]["rpc.math.add"] == {
        "action": "receive",
        "channel": {"$ref": "#/channels/rpc.math.add"},
        "title": "math.add(a: int, b: int) -> int",
        "summary": "Return the sum.",
        "messages": [{"$ref": "#/channels/rpc.math.add/messages/request"}],
        "reply": {
            "channel": {"$ref": "#/channels/rpc.math.add"},
            "messages": [{"$ref": "#/channels/rpc.math.add/messages/reply"}],
        },
    }
    assert document["channels"]["rpc.math.add"]["messages"]["request"]["payload"]["items"] == [
        {"type": "integer", "title": "a"},
        {"type": "integer", "title": "b"},
    ]
    assert [document["operations"][name]["action"] for name in ("event.said", "stream.audio")] == ["receive", "receive"]
    assert "reply" not in document["operations"]["event.said"]
    frame = document["channels"]["stream.audio"]["messages"]["frame"]
    assert frame["headers"]["required"] == ["wall_time", "seq"]
    assert list(document["channels"]["rpc.total"]["messages"]) == ["request", "item", "reply"]
    assert document["defaultContentType"] == "application/vnd.msgpack"


def test_the_check_of_asyncapi_finds_something() -> None:
    document = asyncapi(merge(ALL))
    document["operations"]["rpc.order"]["reply"]["messages"][0]["$ref"] = "#/channels/rpc.order/messages/gone"
    with pytest.raises(KeyError):
        check_asyncapi(document)


# --- TypeScript -------------------------------------------------------------------------------------------------------

DECLARATIONS = """\
/** What shop understands: echokernel 0.1.0. Made by echokernel describe. */

export interface Circle {
  radius: number;
}

export type Color = 1 | "dark";

/**
 * An item.
 *
 * *\\/ It has a price.
 */
export interface Item {
  name: string;
  price: number;
  color?: Color;
}

export interface Model {
  /** In metres. */
  size: number;
  "odd name"?: number;
}

export interface Movie {
  title: string;
  year?: number;
}

export type Point = [X: number, Y: number];

export interface Square {
  side: number;
}

export interface Tree {
  value: number;
  kids: Tree[];
  parent?: Tree | null;
}

/** Requests: what they take, and what they answer. */
export interface Methods {
  all_kinds: {
    params: [raw: Uint8Array, when: string, who: string, shape: Circle | Square, mode: "fast" | 2, movie: Movie, \
model: Model, trees: { [key: string]: Tree }, numbers: number[], pair: [number, string], point: Point, new_: number | null];
    result: Tree | null;
  };
  count: { params: [to: number]; result: AsyncIterable<Item> };
  /** Return the sum. */
  "math.add": { params: [a: number, b: number]; result: number };
  nothing: { params: []; result: null };
  order: { params: [item: Item]; result: Item[] };
  total: { params: [scale: number]; items: AsyncIterable<number>; result: number };
}

/** Events that the node takes. */
export interface Events {
  said: { params: [color: Color] };
}

/** Streams that the node takes: frames of bytes with a time. */
export interface Streams {
  /** Take sound. */
  audio: { frames: AsyncIterable<Uint8Array> };
}
"""


def test_typescript() -> None:
    assert typescript(merge(ALL)) == DECLARATIONS


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "array", "items": {"type": ["integer", "null"]}}, "(number | null)[]"),
        ({"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}, "[number, number, number]"),
        ({"type": "array", "items": {"type": "number"}, "minItems": 99, "maxItems": 99}, "number[]"),
        ({"type": "array", "prefixItems": [{"type": "null"}, True], "minItems": 1}, "[null, unknown?, ...unknown[]]"),
        (
            {"type": "object", "additionalProperties": {"format": "binary", "type": "string"}},
            "{ [key: string]: Uint8Array }",
        ),
        ({"type": "object", "properties": {"a-b": {"const": "x"}, "c": False}}, '{ "a-b"?: "x"; c?: never }'),
        ({"allOf": [{"enum": [1, None, True]}, {"type": "string"}]}, "(1 | null | true) & string"),
        ({"type": "object"}, "{ [key: string]: unknown }"),
        ({"enum": [[1]]}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_types_of_typescript(schema: Any, written: str) -> None:
    found = typescript(merge(Description(methods=(method(result=json.dumps(schema)),))))
    assert f"result: {written} }};" in found


def test_names_of_classes_become_identifiers() -> None:
    names = {"a.b-c": {"type": "null"}, "a_b_c": {"type": "string"}, "Größe": {"$ref": "#/$defs/a.b-c"}, "1st": {}}
    found = typescript(merge(Description(methods=(method(result=schema_of(A={"type": "null"}, **names)),))))
    for line in ("a_b_c = null", "a_b_c_2 = string", "Gr__e = a_b_c", "_1st = unknown"):
        assert f"\nexport type {line};\n" in found


def compiler() -> str:
    found = shutil.which("tsc")
    if found is None:
        pytest.skip("NOT TESTED: no TypeScript compiler (tsc) is on the PATH, so the declarations were not compiled")
    return found


def test_typescript_compiles(tmp_path: Path) -> None:
    (tmp_path / "node.ts").write_text(typescript(merge(ALL)), "utf-8")
    (tmp_path / "hostile.ts").write_text(typescript(merge(HOSTILE)), "utf-8")
    use = """\
import type { Item, Methods } from "./node";
type Call = <N extends keyof Methods>(name: N, ...params: Methods[N]["params"]) => Promise<Methods[N]["result"]>;
export async function use(call: Call, item: Item): Promise<number> {
  const items = await call("order", item);
  // @ts-expect-error: a text is no number
  await call("math.add", 1, "2");
  return (await call("math.add", 1, items.length)) + 1;
}
"""
    (tmp_path / "use.ts").write_text(use, "utf-8")
    command = [
        compiler(),
        "--strict",
        "--noEmit",
        "--target",
        "es2022",
        "--module",
        "es2022",
        "--moduleResolution",
        "bundler",
    ]
    done = subprocess.run([*command, "use.ts", "hostile.ts"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


# --- hostile descriptions ---------------------------------------------------------------------------------------------

EVIL = "*/ }; evil(); /* `${evil()}` \r\n\x1b[31m\x9b\u2028evil();\u202e \ud800 \"'; evil(); //"
NAMES = {
    EVIL: {"type": "object", "description": EVIL, "properties": {EVIL: {"enum": [EVIL], "description": EVIL}}},
    "class": {"$ref": "#/$defs/class"},
    "Methods": {"anyOf": [{"$ref": "#/$defs/other"}, {"type": "null"}]},
    "other": {"$ref": "#/$defs/Methods"},
    "1": {"const": EVIL},
    "Array": {"title": EVIL, "type": "array", "prefixItems": [{"title": EVIL}]},
    "": {"$ref": f"#/$defs/{EVIL}"},
}
SCHEMAS = [
    "",
    "null",
    "5",
    '"text"',
    "[]",
    "true",
    "false",
    "{",
    "[" * 100_000,
    '{"items":' * 20_000 + "{}" + "}" * 20_000,
    '{"items":' * (MAX_DEPTH + 2) + "{}" + "}" * (MAX_DEPTH + 2),
    '{"items":' * (MAX_DEPTH - 2) + "{}" + "}" * (MAX_DEPTH - 2),
    '{"const":NaN}',
    '{"enum":[1e999]}',
    '{"$ref":5,"type":[],"properties":7,"anyOf":[],"prefixItems":{},"required":[1,[]],"enum":[],"items":3,"$defs":[]}',
    '{"type":["array","array"],"minItems":1e3,"maxItems":-1,"discriminator":{"mapping":{"a":"b"}},"minimum":"x"}',
    '{"type":"array","minItems":8000000,"maxItems":8000000}',
    json.dumps({"$defs": NAMES, "$ref": f"#/$defs/{EVIL}", "title": EVIL}),
    json.dumps({"$defs": {f"{chr(0x4E00 + number)}": {} for number in range(20_000)}}),
]
HOSTILE = Description(
    node=EVIL,
    version=EVIL,
    runtime=EVIL,
    serializers=(EVIL, "(" * 100),
    methods=tuple(
        method(f"m{number}", signature=EVIL, doc=EVIL, parameters=text, items=text, result=text, streaming_request=True)
        for number, text in enumerate(SCHEMAS)
    ),
)
STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/', re.S)


def test_a_hostile_description_is_text_and_nothing_else() -> None:
    contract = merge(HOSTILE)
    declarations = typescript(contract)
    code = STRING_OR_COMMENT.sub("", declarations)
    assert not re.search(r"[^A-Za-z0-9_$ \n{}\[\]():;,.?|&=<>]", code)
    assert "evil()" not in code
    assert "evil()" in declarations
    for text in (declarations, printable_json(json_schema(contract)), printable_json(asyncapi(contract))):
        text.encode()
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", text)
    check_asyncapi(json.loads(printable_json(asyncapi(contract))))
    assert compare(HOSTILE, HOSTILE) == []


def test_deep_schemas_count_as_none() -> None:
    found = {entry.method.name: entry.result for entry in merge(HOSTILE).methods}
    assert [found[f"m{number}"] is None for number in (8, 9, 10, 11)] == [True, True, True, False]


def test_a_node_without_methods() -> None:
    contract = merge(Description())
    assert typescript(contract).endswith("\nexport {};\n")
    check_asyncapi(asyncapi(contract))
    assert json_schema(contract)["properties"] == {}
