"""What changed between two descriptions, and whom it breaks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import make_dataclass
from typing import Annotated, Any

import pydantic
import pytest

from echokernel import U8, event, rpc
from echokernel.cli._describe import as_dict
from echokernel.contracts.changes import EVERYBODY, compare
from echokernel.contracts.reading import read_description
from echokernel.contracts.tree import tree_of_schema
from echokernel.errors import InvalidArgument
from echokernel.shape_tree import read_tree
from echokernel.shapes import NoShape
from echokernel.signatures import describe_handler
from echokernel_protocol.describe import Description, MethodDescription, MethodKind


def node(*methods: MethodDescription, serializers: tuple[str, ...] = ("postcard", "msgpack")) -> Description:
    return Description(methods=methods, serializers=serializers)


def method(shape: str = "", kind: MethodKind = MethodKind.RPC, name: str = "m", **fields: Any) -> MethodDescription:
    return MethodDescription(kind=kind, name=name, shape=shape, **fields)


def of(function: Any, kind: MethodKind = MethodKind.RPC) -> MethodDescription:
    return describe_handler(kind, "m", (rpc if kind is MethodKind.RPC else event)("m")(function))


def changes(old: MethodDescription, new: MethodDescription) -> list[tuple[str, str, str]]:
    """Return (path, what, whom it breaks: initials of typed calls, postcard and msgpack)."""
    return [
        (change.path, change.what, "".join(who[0] for who in change.breaks)) for change in compare(node(old), node(new))
    ]


# as a parameter, old shape -> new shape: what is said, whom it breaks as a parameter, and as a result
TABLE = [
    ("f64", "i64", "", "f64 -> i64", "tpm", "tpm"),
    ("str", "seq(str)", "", "str -> seq(str)", "tpm", "tpm"),
    # integers: postcard writes a byte, a varint or a varint in zigzag
    ("u16", "u32", "", "u16 -> u32 (widened)", "t", "tpm"),
    ("u32", "u16", "", "u32 -> u16 (narrowed)", "tpm", "t"),
    ("u8", "u16", "", "u8 -> u16 (widened)", "tp", "tpm"),
    ("i64", "i8", "", "i64 -> i8 (narrowed)", "tpm", "tp"),
    ("u32", "i64", "", "u32 -> i64 (widened)", "tp", "tpm"),
    ("u64", "i64", "", "u64 -> i64 (another sign)", "tpm", "tpm"),
    ("f32", "f64", "", "f32 -> f64 (widened)", "tp", "tpm"),
    ("f64", "f32", "", "f64 -> f32 (narrowed)", "tpm", "tp"),
    # options and any
    ("i64", "option(i64)", "", "may be none now", "tp", "tpm"),
    ("option(i64)", "i64", "", "may no longer be none", "tpm", "tp"),
    ("i64", "any", "", "i64 -> any", "tp", "tpm"),
    ("any", "i64", "", "any -> i64", "tpm", "tp"),
    # containers
    ("seq(i64)", "seq(str)", "[]", "i64 -> str", "tpm", "tpm"),
    ("map(str,i64)", "map(i64,i64)", "{key}", "str -> i64", "tpm", "tpm"),
    ("map(str,i64)", "map(str,bool)", "{}", "i64 -> bool", "tpm", "tpm"),
    ("array(u8,3)", "array(u8,4)", "", "3 items -> 4 items", "tpm", "tpm"),
    ("tuple(i64,str)", "tuple(i64)", "", "2 values -> 1 values", "tpm", "tpm"),
    ("tuple(i64,str)", "tuple(i64,bool)", "[1]", "str -> bool", "tpm", "tpm"),
    # structs
    ("struct:A{x:i64}", "struct:A{x:i64,y:i64}", ".y", "field added", "tpm", "tp"),
    ("struct:A{x:i64}", "struct:A{x:i64,y?:i64}", ".y", "field added, which may be left out", "tp", "tp"),
    ("struct:A{x:i64,y:i64}", "struct:A{x:i64}", ".y", "field removed", "tp", "tpm"),
    ("struct:A{x:i64,y?:i64}", "struct:A{x:i64}", ".y", "field removed", "tp", "tp"),
    ("struct:A{x:i64,y:str}", "struct:A{y:str,x:i64}", "", "fields reordered: x, y -> y, x", "tp", "tp"),
    ("struct:A{x:i64,y:str}", "struct:A{x:i64,z:str}", ".y", "field renamed to z", "tm", "tm"),
    ("struct:A{x:i64}", "struct:A{x?:i64}", ".x", "may be missing now", "tp", "tpm"),
    ("struct:A{x?:i64}", "struct:A{x:i64}", ".x", "must be there now", "tpm", "tp"),
    ("struct:A{x:i64}", "struct:B{x:i64}", "", "class A is called B", "", ""),
    ('struct:A{"a b":i64}', 'struct:A{"a b":str}', '."a b"', "i64 -> str", "tpm", "tpm"),
    ("struct:A{x:seq(^0)}", "struct:A{x:set(^0)}", ".x", "seq(^0) -> set(^0)", "tpm", "tpm"),
    # enums: postcard writes the position, msgpack the value
    ("enum:E{A:1,B:2}", "enum:E{A:1}", "", "member B removed", "tpm", "t"),
    ("enum:E{A:1}", "enum:E{A:1,B:2}", "", "member B added", "t", "tpm"),
    ("enum:E{A:1,B:2}", "enum:E{B:2,A:1}", "", "members reordered: A, B -> B, A", "tp", "tp"),
    ("enum:E{A:1}", "enum:E{B:2,A:1}", "", "member B added", "tp", "tpm"),
    ("enum:E{A:1}", "enum:E{A:3}", "", "member A: 1 -> 3", "tm", "tm"),
    ("enum:E{A:1}", "enum:E{B:1}", "", "member A removed; member B added", "t", "t"),
    ('literal("a","b")', 'literal("b","a")', "", 'members reordered: "a", "b" -> "b", "a"', "tp", "tp"),
    # unions: postcard writes the position
    ("union(i64,str)", "union(str,i64)", "", "variants reordered: i64, str -> str, i64", "tp", "tp"),
    ("union(i64,str)", "union(i64,str,bool)", "", "variant bool added", "t", "tpm"),
    ("union(i64,str,bool)", "union(i64,str)", "", "variant bool removed", "tpm", "t"),
    ("str", "union(str,i64)", "", "str -> union(str,i64) (more variants)", "tp", "tpm"),
    ("union(str,i64)", "str", "", "union(str,i64) -> str (fewer variants)", "tpm", "tp"),
    ("union(struct:A{x:i64},str)", "union(struct:A{x:str},str)", "<A>.x", "i64 -> str", "tpm", "tpm"),
    ("union(struct:A{x:i64},str)", "union(struct:B{x:i64},str)", "<A>", "class A is called B", "", ""),
]


@pytest.mark.parametrize(
    ("old", "new", "path", "what", "as_parameter", "as_result"), TABLE, ids=lambda value: str(value)[:40]
)
def test_changes_of_a_shape(old: str, new: str, path: str, what: str, as_parameter: str, as_result: str) -> None:
    assert changes(method(f"{old}\n\nunit"), method(f"{new}\n\nunit")) == [(f"parameters{path}", what, as_parameter)]
    assert changes(method(f"unit\n\n{old}"), method(f"unit\n\n{new}")) == [(f"result{path}", what, as_result)]
    for same in (old, new):
        assert changes(method(f"{same}\n\n{same}"), method(f"{same}\n\n{same}")) == []


def test_items_go_in_and_events_carry_no_shape() -> None:
    streams = {"streaming_request": True}
    old, new = method("unit\nu16\nunit", **streams), method("unit\nu32\nunit", **streams)
    assert changes(old, new) == [("items", "u16 -> u32 (widened)", "t")]
    old, new = (method(f"{kind}\n\n", MethodKind.EVENT) for kind in ("u16", "u32"))
    assert changes(old, new) == [("parameters", "u16 -> u32 (widened)", "")]


def test_the_path_is_that_of_the_value() -> None:
    order = "struct:Order{{items:seq(struct:Item{{name:str,price:{}}}),note:option(str)}}\n\nunit"
    old, new = method(order.format("f64"), name="order.place"), method(order.format("i64"), name="order.place")
    assert [str(change) for change in compare(node(old), node(new))] == [
        "order.place: parameters.items[].price: f64 -> i64"
    ]


def test_whom_it_breaks_is_told_where_that_differs() -> None:
    old, new = method("unit\n\nstruct:A{x:i64}"), method("unit\n\nstruct:A{x:i64,y:i64}")
    assert [str(change) for change in compare(node(old), node(new))] == [
        "m: result.y: field added (breaks typed calls and postcard, not msgpack)"
    ]


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([method()], [], [("rpc gone", EVERYBODY)]),
        ([], [method()], [("rpc added", ())]),
        ([method()], [method(kind=MethodKind.EVENT)], [("kind changed: rpc -> event", EVERYBODY)]),
        (
            [method("i64\n\ni64")],
            [method("i64\n\n*i64", streaming_response=True)],
            [("is streamed now", EVERYBODY)],
        ),
        (
            [method("unit\ni64\nunit", streaming_request=True)],
            [method("unit\n\nunit")],
            [("is no longer streamed", EVERYBODY)],
        ),
        ([method(doc="a")], [method(doc="b")], [("doc changed", ())]),
        ([method(concurrent=True)], [method()], [("handlers run in order", ())]),
        (
            [method("i64\n\nunit", signature="(a: int)")],
            [method("i64\n\nunit", signature="(b: int)")],
            [("signature (a: int) -> (b: int)", ())],
        ),
        (
            [method(signature="(a: Odd)")],
            [method(signature="(a: Strange)")],
            [("signature (a: Odd) -> (a: Strange), and no more is known", EVERYBODY)],
        ),
    ],
)
def test_changes_of_methods(old: list[MethodDescription], new: list[MethodDescription], said: list[Any]) -> None:
    assert [(change.what, change.breaks) for change in compare(node(*old), node(*new))] == said


def test_serializers() -> None:
    found = compare(node(serializers=("msgpack", "json")), node(serializers=("json", "postcard")))
    assert [(str(change), bool(change.breaks)) for change in found] == [
        ("serializers: msgpack gone", True),
        ("serializers: postcard added", False),
    ]


# --- what the schemas add ---------------------------------------------------------------------------------------------


def takes(**fields: Any) -> MethodDescription:
    """Describe a method whose parameter is a class with these fields; a tuple is a type and a default."""

    kind = pydantic.create_model("Order", **fields)

    async def place(order: Any) -> None: ...

    place.__annotations__["order"] = kind
    return of(place)


REQUIRED = ...


def test_a_field_with_a_default_does_not_break_who_writes_names() -> None:
    old, new = takes(a=(int, REQUIRED)), takes(a=(int, REQUIRED), b=(int, 1))
    assert changes(old, new) == [("parameters.b", "field added, which may be left out", "tp")]
    assert changes(takes(a=(int, REQUIRED)), takes(a=(int, 1))) == [("parameters.a", "has a default now", "")]
    assert changes(takes(a=(int, 1)), takes(a=(int, REQUIRED))) == [("parameters.a", "has no default any more", "m")]


def test_limits() -> None:
    def at_most(limit: int) -> MethodDescription:
        return takes(a=(Annotated[int, pydantic.Field(le=limit)], REQUIRED))

    assert changes(at_most(5), at_most(9)) == [("parameters.a", "loosened: maximum 5 -> 9", "")]
    assert changes(at_most(9), at_most(5)) == [("parameters.a", "tightened: maximum 9 -> 5", "pm")]
    assert changes(takes(a=(int, REQUIRED)), at_most(5)) == [("parameters.a", "tightened: maximum none -> 5", "pm")]


def test_limits_of_results_are_the_other_way_round() -> None:
    old, new = (method(result=json.dumps({"type": "string", "maxLength": limit})) for limit in (5, 9))
    assert changes(old, new) == [("result", "loosened: maxLength 5 -> 9", "pm")]
    assert changes(new, old) == [("result", "tightened: maxLength 9 -> 5", "")]


def test_closed_models_refuse_what_was_removed() -> None:
    closed = pydantic.ConfigDict(extra="forbid")
    old, new = takes(a=(int, REQUIRED), b=(int, REQUIRED)), takes(a=(int, REQUIRED), __config__=closed)
    assert changes(old, new) == [("parameters.b", "field removed", "tpm")]


def test_several_parameters_are_called_by_name() -> None:
    async def old(a: int, size: U8) -> None: ...

    async def new(a: int, size: int) -> None: ...

    async def more(a: int, size: U8, last: str) -> None: ...

    assert changes(of(old), of(new)) == [("parameters.size", "u8 -> i64 (widened)", "tp")]
    assert changes(of(old), of(more)) == [("parameters", "a, size -> a, size, last", "tpm")]


def test_without_shapes_schemas_are_compared() -> None:
    class Odd:
        pass

    def schema(**properties: Any) -> str:
        tree = {"type": "object", "title": "T", "properties": properties, "required": list(properties)}
        return json.dumps({"$defs": {"T": tree}, "$ref": "#/$defs/T"})

    kids = {"type": "array", "items": {"$ref": "#/$defs/T"}}
    old = method(parameters=schema(a={"type": "integer"}, kids=kids))
    new = method(parameters=schema(a={"type": ["string", "null"]}, kids=kids))
    assert changes(old, new) == [("parameters.a", "may be none now", "p"), ("parameters.a", "i64 -> str", "pm")]
    newer = method(shape="new-kind(i64)\n\nunit", parameters=new.parameters)
    assert changes(newer, newer) == []
    assert changes(method(shape="new-kind(i64)\n\nunit", parameters=old.parameters), newer)[1][0] == "parameters.a"


def test_what_a_dataclass_becomes() -> None:
    """Tree of the shape and tree of the schema say the same, so that a node without shapes is compared alike."""
    inner = make_dataclass("Inner", [("name", str), ("size", float)])
    whole = make_dataclass(
        "Whole", [("inner", list[inner]), ("raw", bytes), ("maybe", int | None), ("pair", tuple[int, str])]
    )

    async def handle(value: Any) -> None: ...

    handle.__annotations__["value"] = whole
    found = of(handle)
    from echokernel.contracts.schema import read_schema

    schema = read_schema(found.parameters)
    assert schema is not None
    assert tree_of_schema(schema).form() == read_tree(found.shape.split("\n")[0]).form()


def test_streaming_results_are_compared_too() -> None:
    async def old(to: int) -> AsyncIterator[int]:
        yield to

    async def new(to: int) -> AsyncIterator[str]:
        yield ""

    assert changes(of(old), of(new)) == [("result", "i64 -> str", "tpm")]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "i64,",
        "seq()",
        "seq(i64,i64)",
        "map(i64)",
        "^0",
        "struct:A{x:^1}",
        "struct:A{x:i64,x:i64}",
        "literal(1,",
        "odd(i64)",
        "struct{}",
        "enum:E{A:[}",
        "array(i64)",
        "seq(" * 100 + "i64" + ")" * 100,
        "seq(" * 100000,
        "literal(" + "[" * 9000,
    ],
)
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(NoShape):
        read_tree(text)
    assert changes(method(f"{text}\n\nunit"), method(f"{text}\n\nunit")) == []


@pytest.mark.parametrize("text", [entry[at] for entry in TABLE for at in (0, 1)])
def test_a_tree_is_written_as_it_was_read(text: str) -> None:
    assert read_tree(text)._text(labels=True) == text


def test_a_description_is_read_as_it_was_written() -> None:
    found = node(takes(a=(int, 1)), method(kind=MethodKind.STREAM, doc="x", name="s"))
    assert read_description(json.dumps(as_dict(found)), "file") == Description(
        methods=tuple(
            MethodDescription(
                kind=each.kind,
                name=each.name,
                signature=each.signature,
                doc=each.doc,
                shape=each.shape,
                parameters=json.dumps(json.loads(each.parameters)) if each.parameters else "",
                result=json.dumps(json.loads(each.result)) if each.result else "",
            )
            for each in found.methods
        ),
        serializers=found.serializers,
    )


EMPTY: dict[str, Any] = {"serializers": [], "plugins": [], "methods": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "list, where an object"),
        ("{}", "'methods' is no list"),
        (json.dumps({**EMPTY, "node": 5}), "'node' is no text"),
        (json.dumps({**EMPTY, "methods": [1]}), r"methods\[0\]: int, where"),
        (json.dumps({**EMPTY, "methods": [{"name": "a", "kind": "b"}]}), "kind 'b', one of rpc, event, stream"),
        (json.dumps({**EMPTY, "methods": [{"name": "a b", "kind": "rpc"}]}), "method name 'a b'"),
        (json.dumps({**EMPTY, "methods": [{"name": "a", "kind": "rpc"}] * 2}), "twice"),
    ],
)
def test_what_is_no_description(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^file: ?.*{said}"):
        read_description(text, "file")
