"""Two types, walked side by side. The tree says what is on the wire, the schema beside it what has a default or a limit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from echokernel.contracts.schema import REF, Schema
from echokernel.shape_tree import Node, Part

__all__ = ["Comparison", "Side"]

_BITS = {f"{sign}{bits}": bits for sign in "iu" for bits in (8, 16, 32, 64, 128)}
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_OTHER = ("pattern", "multipleOf")
_NEITHER: frozenset[str] = frozenset()
_POSTCARD, _MSGPACK = frozenset({"postcard"}), frozenset({"msgpack"})
_BOTH = _POSTCARD | _MSGPACK
_Step = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Side:
    """A type of one of the two."""

    tree: Node
    schema: Schema | None
    """None where it is not known."""
    definitions: dict[str, Schema] | None = None

    def step(self, tree: Node, step: _Step) -> Side:
        """Return what is inside, ``step`` being the way in the schema."""
        definitions = self.known_definitions()
        schema = self.resolved()
        found = step(schema) if schema is not None else None
        return Side(tree, found if isinstance(found, dict | bool) else None, definitions)

    def known_definitions(self) -> dict[str, Schema]:
        if self.definitions is not None:
            return self.definitions
        return self.schema.get("$defs", {}) if isinstance(self.schema, dict) else {}

    def resolved(self) -> dict[str, Any] | None:
        """Return the schema that holds the keywords."""
        schema, definitions = self.schema, self.known_definitions()
        for _ in range(8):
            if not isinstance(schema, dict):
                return None
            if "$ref" not in schema:
                return schema
            schema = definitions[schema["$ref"].removeprefix(REF)]
        return None

    def may_miss(self, name: str) -> bool:
        """Whether a field may be left out where fields have names."""
        schema = self.resolved()
        if schema is None or "properties" not in schema:
            return any(part.name == name and not part.needed for part in self.tree.parts)
        return name not in schema.get("required", ())

    def is_closed(self) -> bool:
        """Whether fields that it does not know are refused."""
        schema = self.resolved()
        return schema is not None and schema.get("additionalProperties") is False


class Comparison:
    """Collects what differs as (path, text, whom it breaks)."""

    def __init__(self, *, inward: bool, typed: bool) -> None:
        self.found: list[tuple[str, str, frozenset[str]]] = []
        self._inward, self._typed = inward, typed

    def whole(self, part: str, old: Side, new: Side) -> None:
        """Compare parameters, items or results."""
        names = _titles(old), _titles(new)
        if part == "parameters" and names[0] and names[1] and old.tree.kind == new.tree.kind == "tuple":
            if len(names[0]) != len(names[1]):
                self._add(part, f"{', '.join(names[0])} -> {', '.join(names[1])}", _BOTH)
            for at, name in enumerate(names[1][: len(names[0])]):
                self._compare(_inside(part, name), *self._both(old, new, at, _nth("prefixItems", at)))
            return
        self._compare(part, old, new)

    # --- one kind of type each -----------------------------------------------------------------------------------

    def _compare(self, path: str, old: Side, new: Side) -> None:
        before, after = old.tree.kind, new.tree.kind
        if before != after:
            self._other_kind(path, old, new)
            return
        if old.tree.label != new.tree.label:
            self.found.append((path, f"class {old.tree.label} is called {new.tree.label}", _NEITHER))
        self._limits(path, old, new)
        if before == "struct":
            self._struct(path, old, new)
        elif before in ("enum", "literal"):
            self._members(path, old.tree.parts, new.tree.parts)
        elif before == "union":
            self._union(path, old, new)
        elif before == "tuple":
            self._tuple(path, old, new)
        elif before == "option":
            self._compare(path, *self._both(old, new, 0, _not_null))
        elif before == "map":
            self._compare(f"{path}{{key}}", *self._both(old, new, 0, lambda schema: schema.get("propertyNames")))
            self._compare(f"{path}{{}}", *self._both(old, new, 1, lambda schema: schema.get("additionalProperties")))
        elif before in ("seq", "set", "array"):
            if old.tree.size != new.tree.size:
                self._add(path, f"{old.tree.size} items -> {new.tree.size} items", _BOTH)
            self._compare(f"{path}[]", *self._both(old, new, 0, lambda schema: schema.get("items")))

    def _other_kind(self, path: str, old: Side, new: Side) -> None:
        before, after = old.tree, new.tree
        text = f"{before.text()} -> {after.text()}"
        if before.kind in _BITS and after.kind in _BITS:
            fits = self._holds(before.kind, after.kind)
            wider = _within(before.kind, after.kind)
            word = "widened" if wider else "narrowed" if _within(after.kind, before.kind) else "another sign"
            same = fits and _encoding(before.kind) == _encoding(after.kind)
            self._add(path, f"{text} ({word})", _NEITHER if same else _POSTCARD if fits else _BOTH)
        elif {before.kind, after.kind} == {"f32", "f64"}:
            fits = (before.kind == "f32") == self._inward
            self._add(
                path, f"{text} ({'widened' if before.kind == 'f32' else 'narrowed'})", _POSTCARD if fits else _BOTH
            )
        elif after.kind == "option" and before.kind != "any":
            self._add(path, "may be none now", _POSTCARD if self._inward else _BOTH)
            self._compare(path, old, new.step(after.inner(), _not_null))
        elif before.kind == "option" and after.kind != "any":
            self._add(path, "may no longer be none", _BOTH if self._inward else _POSTCARD)
            self._compare(path, old.step(before.inner(), _not_null), new)
        elif "any" in (before.kind, after.kind):
            self._add(path, text, _POSTCARD if (after.kind == "any") == self._inward else _BOTH)
        elif after.kind == "union" and before.form() in _forms(after):
            self._add(path, f"{text} (more variants)", _POSTCARD if self._inward else _BOTH)
        elif before.kind == "union" and after.form() in _forms(before):
            self._add(path, f"{text} (fewer variants)", _BOTH if self._inward else _POSTCARD)
        else:
            self._add(path, text, _BOTH)

    def _struct(self, path: str, old: Side, new: Side) -> None:
        before = {part.name: part for part in old.tree.parts}
        after = {part.name: part for part in new.tree.parts}
        renamed = _renamed(old.tree.parts, new.tree.parts)
        for name, other in renamed.items():
            self._add(_inside(path, name), f"field renamed to {other}", _MSGPACK)
        for name in before:
            if name in after:
                self._field(_inside(path, name), name, old, new, before[name], after[name])
            elif name not in renamed:
                misses = new.is_closed() if self._inward else not old.may_miss(name)
                self._add(_inside(path, name), "field removed", _BOTH if misses else _POSTCARD)
        for name in [name for name in after if name not in before and name not in renamed.values()]:
            misses = not new.may_miss(name) if self._inward else old.is_closed()
            default = ", which may be left out" if new.may_miss(name) else ""
            self._add(_inside(path, name), f"field added{default}", _BOTH if misses else _POSTCARD)
        orders = [name for name in before if name in after], [name for name in after if name in before]
        if orders[0] != orders[1]:
            self._add(path, f"fields reordered: {', '.join(orders[0])} -> {', '.join(orders[1])}", _POSTCARD)

    def _field(self, path: str, name: str, old: Side, new: Side, before: Part, after: Part) -> None:
        if before.needed != after.needed:
            worse = after.needed == self._inward
            text = "must be there now" if after.needed else "may be missing now"
            self._add(path, text, _BOTH if worse else _POSTCARD)
        elif self._inward and old.may_miss(name) != new.may_miss(name):
            if old.may_miss(name):
                self.found.append((path, "has no default any more", _MSGPACK))
            else:
                self.found.append((path, "has a default now", _NEITHER))
        assert before.node is not None
        assert after.node is not None

        def step(schema: dict[str, Any]) -> Any:
            return schema.get("properties", {}).get(name)

        self._compare(path, old.step(before.node, step), new.step(after.node, step))

    def _members(self, path: str, before: Sequence[Part], after: Sequence[Part]) -> None:
        if [(part.name, part.value) for part in before] == [(part.name, part.value) for part in after]:
            return
        asked, known = (before, after) if self._inward else (after, before)  # what comes, and what is understood
        by_position = all(
            at < len(known) and (known[at].value == part.value or (part.name and known[at].name == part.name))
            for at, part in enumerate(asked)
        )
        values = {part.value: part.name for part in known}
        places = {part.value: at for at, part in enumerate(known)}
        by_value = all(
            part.value in values and (values[part.value] == part.name or places[part.value] == at or not part.name)
            for at, part in enumerate(asked)
        )
        breaks = (_NEITHER if by_position else _POSTCARD) | (_NEITHER if by_value else _MSGPACK)
        self._add(path, "; ".join(_member_changes(before, after)), breaks)

    def _union(self, path: str, old: Side, new: Side) -> None:
        before, after = [_arm(part) for part in old.tree.parts], [_arm(part) for part in new.tree.parts]
        pairs = _pairs(old.tree, new.tree, before, after)
        gone = [name for at, name in enumerate(before) if at not in {pair[0] for pair in pairs}]
        more = [name for at, name in enumerate(after) if at not in {pair[1] for pair in pairs}]
        moved = [before[first] for first, second in pairs if first != second]
        asked = gone if self._inward else more
        texts = [f"variant {name} removed" for name in gone] + [f"variant {name} added" for name in more]
        if moved:
            texts.append(f"variants reordered: {', '.join(before)} -> {', '.join(after)}")
        if texts:
            self._add(path, "; ".join(texts), _BOTH if asked else _POSTCARD if moved else _NEITHER)
        for first, second in pairs:
            one = old.step(old.tree.inner(first), _nth("anyOf", first))
            other = new.step(new.tree.inner(second), _nth("anyOf", second))
            self._compare(f"{path}<{before[first]}>", one, other)

    def _tuple(self, path: str, old: Side, new: Side) -> None:
        counts = len(old.tree.parts), len(new.tree.parts)
        if counts[0] != counts[1]:
            self._add(path, f"{counts[0]} values -> {counts[1]} values", _BOTH)
        for at in range(min(counts)):
            self._compare(f"{path}[{at}]", *self._both(old, new, at, _nth("prefixItems", at)))

    def _limits(self, path: str, old: Side, new: Side) -> None:
        before, after = old.resolved(), new.resolved()
        if before is None or after is None or old.tree.kind in ("tuple", "array"):
            return
        for keys, sign in ((_LOWER, 1), (_UPPER, -1), (_OTHER, 0)):
            for key in keys:
                was, now = before.get(key), after.get(key)
                if was == now:
                    continue
                tighter = now is not None and (was is None or sign == 0 or sign * now > sign * was)
                text = f"{key} {'none' if was is None else was} -> {'none' if now is None else now}"
                word = "tightened" if tighter else "loosened"
                self.found.append((path, f"{word}: {text}", _BOTH if tighter == self._inward else _NEITHER))

    # --- helpers -------------------------------------------------------------------------------------------------

    def _add(self, path: str, text: str, breaks: frozenset[str]) -> None:
        self.found.append((path, text, breaks | {"typed calls"} if self._typed else breaks))

    def _both(self, old: Side, new: Side, at: int, step: _Step) -> tuple[Side, Side]:
        return old.step(old.tree.inner(at), step), new.step(new.tree.inner(at), step)

    def _holds(self, before: str, after: str) -> bool:
        return _within(before, after) if self._inward else _within(after, before)


def _inside(path: str, name: str) -> str:
    return f"{path}.{name if name.isidentifier() else json.dumps(name)}"


def _titles(side: Side) -> list[str]:
    """Return the names of several parameters; none where they are not known."""
    schema = side.resolved() if isinstance(side.schema, dict) and "$ref" not in side.schema else None
    parts = (schema or {}).get("prefixItems", [])
    names = [part.get("title", "") if isinstance(part, dict) else "" for part in parts]
    return names if all(names) and len(names) == len(side.tree.parts) else []


def _not_null(schema: dict[str, Any]) -> Schema | None:
    rest = [arm for arm in schema.get("anyOf", ()) if not isinstance(arm, dict) or arm.get("type") != "null"]
    return {"anyOf": rest} if len(rest) > 1 else rest[0] if rest else None


def _nth(key: str, at: int) -> _Step:
    def step(schema: dict[str, Any]) -> Any:
        parts = schema.get(key, ())
        return parts[at] if at < len(parts) else None

    return step


def _arm(part: Part) -> str:
    assert part.node is not None
    return part.node.label or part.node.form()


def _pairs(old: Node, new: Node, before: list[str], after: list[str]) -> list[tuple[int, int]]:
    """Return the places, in both, of the variants that are the same: by name, or of one form in one place."""
    if len(set(before)) < len(before) or len(set(after)) < len(after):  # names say nothing
        return [(at, at) for at in range(min(len(before), len(after)))]
    places = {name: at for at, name in enumerate(after)}
    pairs = [(at, places[name]) for at, name in enumerate(before) if name in places]
    for at in range(min(len(before), len(after))):
        unknown = before[at] not in places and after[at] not in before
        if unknown and old.inner(at).form() == new.inner(at).form():
            pairs.append((at, at))
    return sorted(pairs)


def _forms(union: Node) -> list[str]:
    return [part.node.form() for part in union.parts if part.node is not None]


def _within(inner: str, outer: str) -> bool:
    """Whether all numbers of one integer type are numbers of the other."""
    if inner[0] == outer[0]:
        return _BITS[inner] <= _BITS[outer]
    return inner[0] == "u" and _BITS[inner] < _BITS[outer]


def _encoding(kind: str) -> str:
    """Return how postcard writes an integer: a byte, a varint, or a varint in zigzag."""
    return kind if _BITS[kind] == 8 else kind[0]


def _renamed(before: Sequence[Part], after: Sequence[Part]) -> dict[str, str]:
    """Return old and new names of fields of one type in one place."""
    if len(before) != len(after):
        return {}
    names = {part.name for part in before}, {part.name for part in after}
    return {
        old.name: new.name
        for old, new in zip(before, after, strict=True)
        if old.name not in names[1] and new.name not in names[0] and old.node is not None and new.node is not None
        if old.node.form() == new.node.form() and old.needed == new.needed
    }


def _member_changes(before: Sequence[Part], after: Sequence[Part]) -> list[str]:
    old, new = (
        {part.name or part.value: part.value for part in before},
        {part.name or part.value: part.value for part in after},
    )
    texts = [f"member {name} removed" for name in old if name not in new]
    texts += [f"member {name} added" for name in new if name not in old]
    texts += [f"member {name}: {old[name]} -> {new[name]}" for name in old if name in new and old[name] != new[name]]
    orders = [name for name in old if name in new], [name for name in new if name in old]
    if orders[0] != orders[1]:
        texts.append(f"members reordered: {', '.join(orders[0])} -> {', '.join(orders[1])}")
    return texts or ["members changed"]
