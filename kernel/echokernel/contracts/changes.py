"""What changed between two descriptions, and whom it breaks: a caller of the old node that talks to the new one.

With postcard a value is its fields in their order and nothing else; with msgpack and JSON fields have names and enums values.
A typed call (``client.call`` with a function) compares the shapes, so that every other shape is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from echokernel.contracts._comparing import Comparison, Side
from echokernel.contracts.schema import Schema, read_schema
from echokernel.contracts.tree import tree_of_schema
from echokernel.shape_tree import Node, read_tree
from echokernel.shapes import NoShape
from echokernel_protocol.describe import Description, MethodDescription, MethodKind

__all__ = ["EVERYBODY", "Change", "compare"]

EVERYBODY = ("typed calls", "postcard", "msgpack")
"""Whom a change may break; msgpack stands for every serializer that writes names."""
_PARTS = ("parameters", "items", "result")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    kind: str
    """``rpc``, ``event`` or ``stream``; empty for the node's own."""
    method: str
    path: str
    """As in ``parameters.items[].price``; empty where it is the method as a whole."""
    what: str
    breaks: tuple[str, ...] = ()
    """Some of :data:`EVERYBODY`; none: it is compatible."""

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.method, self.path, self.what) if part)
        if self.breaks in ((), EVERYBODY):
            return text
        return f"{text} (breaks {' and '.join(self.breaks)}{'' if 'msgpack' in self.breaks else ', not msgpack'})"


def compare(old: Description, new: Description) -> list[Change]:
    """Return all changes from ``old`` to ``new``, by method; those that break somebody first within a method."""
    changes = [
        Change("", "", "serializers", f"{name} gone", EVERYBODY) for name in _gone(old.serializers, new.serializers)
    ]
    changes += [Change("", "", "serializers", f"{name} added") for name in _gone(new.serializers, old.serializers)]
    before = {(method.name, method.kind): method for method in old.methods}
    after = {(method.name, method.kind): method for method in new.methods}
    for key in sorted(before.keys() | after.keys()):
        found = list(_compare_at(key, before, after))
        changes += sorted(found, key=lambda change: not change.breaks)
    return changes


def _gone(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    return [name for name in before if name not in after]


_Methods = dict[tuple[str, MethodKind], MethodDescription]


def _compare_at(key: tuple[str, MethodKind], before: _Methods, after: _Methods) -> Iterator[Change]:
    name, kind = key
    word = kind.name.lower()
    if key not in after:
        others = [other.name.lower() for other in MethodKind if (name, other) in after and (name, other) not in before]
        yield Change(word, name, "", f"kind changed: {word} -> {others[0]}" if others else f"{word} gone", EVERYBODY)
    elif key not in before:
        if not any(
            (name, other) in before and (name, other) not in after for other in MethodKind
        ):  # or it is told above
            yield Change(word, name, "", f"{word} added")
    else:
        yield from _compare_method(before[key], after[key])


def _compare_method(old: MethodDescription, new: MethodDescription) -> Iterator[Change]:
    kind, name = old.kind.name.lower(), old.name
    breaking = False
    for path, what, breaks in _differences(old, new):
        breaking = breaking or bool(breaks)
        yield Change(kind, name, path, what, breaks)
    if old.signature != new.signature and not breaking:
        yield Change(kind, name, "", f"signature {old.signature or '?'} -> {new.signature or '?'}")
    if old.doc != new.doc:
        yield Change(kind, name, "", "doc changed")
    if old.concurrent != new.concurrent:
        order = "handlers run at the same time, in any order" if new.concurrent else "handlers run in order"
        yield Change(kind, name, "", order)


def _differences(old: MethodDescription, new: MethodDescription) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if old.kind is MethodKind.STREAM:
        return
    shapes = _shapes(old), _shapes(new)
    typed = old.kind is MethodKind.RPC and all(shapes)  # events carry no fingerprint
    skipped = set()
    for part, before, after in (
        ("items", old.streaming_request, new.streaming_request),
        ("result", old.streaming_response, new.streaming_response),
    ):
        if before != after:
            skipped.add(part)
            yield part, "is streamed now" if after else "is no longer streamed", EVERYBODY
        elif part == "items" and not after:
            skipped.add(part)
    if old.kind is MethodKind.EVENT:
        skipped.add("result")
    unknown = False
    for at, part in enumerate(_PARTS):
        if part in skipped:
            continue
        schemas = read_schema(getattr(old, part)), read_schema(getattr(new, part))
        trees = _trees((shapes[0][at], shapes[1][at]) if all(shapes) else ("", ""), schemas)
        if trees is None:
            unknown = True
            continue
        comparison = Comparison(inward=part != "result", typed=typed)
        comparison.whole(part, Side(trees[0], schemas[0]), Side(trees[1], schemas[1]))
        for path, what, breaks in comparison.found:
            yield path, what, tuple(who for who in EVERYBODY if who in breaks)
    if unknown and old.signature != new.signature:
        yield "", f"signature {old.signature or '?'} -> {new.signature or '?'}, and no more is known", EVERYBODY


def _shapes(method: MethodDescription) -> tuple[str, ...]:
    """Return the shapes of payload, items and result; none where the node does not tell."""
    lines = method.shape.split("\n")
    return (lines[0], lines[1], lines[2].removeprefix("*")) if len(lines) == 3 else ()


def _trees(shapes: tuple[str, str], schemas: tuple[Schema | None, Schema | None]) -> tuple[Node, Node] | None:
    if all(shapes):
        try:
            return read_tree(shapes[0]), read_tree(shapes[1])
        except NoShape:  # of a newer version, or made up
            pass
    old, new = schemas
    if old is None or new is None:
        return None
    return tree_of_schema(old), tree_of_schema(new)
