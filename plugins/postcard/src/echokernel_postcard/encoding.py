"""Encoders: source generated from a shape, once per type.

What is flat (scalars, options of them, conversions) becomes a fixed number of pieces that are joined at the end, so that
large byte strings are copied once. What holds other values is written by a function that appends to ``out``. ``depth``
and ``room`` are as in decoding: what a receiver would refuse is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from echokernel_postcard import wire
from echokernel_postcard.rows import WRITE_ROW
from echokernel_postcard.shapes import (
    ROWS,
    Checked,
    Choice,
    Converted,
    Enumeration,
    Map,
    Named,
    Option,
    Plain,
    Sequence,
    Shape,
    Struct,
    Tuple,
    charge,
    is_flat,
    price,
    smallest,
    weight,
)
from echokernel_postcard.source import Source, indent

_NAMES: dict[str, Any] = {
    **{f"write_{name}": write for name, write in wire.WRITE.items()},
    **{f"row_{name}": write for name, write in WRITE_ROW.items()},
    **{each.__name__: each for each in (wire.as_int, wire.as_float, wire.as_str, wire.as_bytes, wire.as_sequence)},
    **{each.__name__: each for each in (wire.varint, wire.wanted, wire.too_many, wire.too_deep, wire.crowded)},
    **{each.__name__: each for each in (wire.no_char, wire.located, wire.key_step)},
    "U": wire.U,
    "S": wire.S,
    "BYTES": wire.BYTES,
    "F32": wire.F32,
    "F64": wire.F64,
    "Unfit": wire.Unfit,
    "ABSENT": object(),
    "join": b"".join,
    "Mapping": Mapping,
}
_CHECKS = {"f32": "float", "f64": "float", "char": "str", "str": "str", "bytes": "bytes"}


def compile_encoder(shape: Shape, fail: Callable[[Exception], Exception]) -> Callable[[Any], bytes]:
    """Return a function from a value of ``shape`` to its bytes. ``fail`` makes the exception that it raises of an Unfit."""
    code = _Encoder()
    code.names["fail"] = fail
    step = "''"
    if isinstance(shape, Struct) and not shape.recursive:
        step = f"{code.steps(shape)}[s]"
        body = code.fields(shape)
    else:
        body = code.write(shape, "x")
    pieces = code.take()
    if code.appends:
        body += [f"out += ({pieces})"] if pieces else []
        body.append("return join(out)")
    else:
        body.append(f"return join(({pieces}))")
    code.lines += [
        "def encode(x):",
        "    s = -1",
        *(
            ["    out = []", f"    depth = {wire.MAX_DEPTH}", f"    room = [{wire.MAX_CONTAINERS}]"]
            if code.appends
            else []
        ),
        "    try:",
        *indent(body, 2),
        "    except Exception as error:",
        f"        raise fail(located(error, {step})) from error.__cause__",
    ]
    return code.run("encode")


class _Encoder(Source):
    def __init__(self) -> None:
        super().__init__(_NAMES)
        self.appends = False
        self._pieces: list[str] = []

    def take(self) -> str:
        """Return the pieces that wait, as the inside of a tuple."""
        pieces, self._pieces = "".join(f"{piece}, " for piece in self._pieces), []
        return pieces

    # --- one value, out of a variable -----------------------------------------------------------------------------

    def write(self, shape: Shape, var: str) -> list[str]:
        """Return lines that write the value in ``var``: pieces of it wait, or it is appended after those that did."""
        if is_flat(shape):
            lines, pieces = self._flat(shape, var)
            self._pieces += pieces
            return lines
        self.appends = True
        waiting = self.take()
        return [*([f"out += ({waiting})"] if waiting else []), *self._append(shape, var)]

    def _append(self, shape: Shape, var: str) -> list[str]:
        match shape:
            case Option(inner):
                return [
                    f"if {var} is None: out.append(BYTES[0])",
                    "else:",
                    "    out.append(BYTES[1])",
                    *indent([*charge(weight(inner)), *self._append(inner, var)]),
                ]
            case Checked(inner, check):
                return [f"{self.name(check)}({var})", *self._append(inner, var)]
            case Converted(inner, pack):
                return [f"{var} = {self.name(pack)}({var})", *self._append(inner, var)]
            case Choice(members, pick):
                lines = [f"b = {self.name(pick)}({var})", "out.append(U[b])"]
                for place, member in enumerate(members):
                    lines.append(f"{'elif' if place else 'if'} b == {place}:")
                    lines += indent([*charge(weight(member)), *self._append(member, var)])
                return lines
            case Named(inner, recursive) if inner is not None and not recursive:
                return self._append(inner, var)
        if is_flat(shape):
            lines, pieces = self._flat(shape, var)
            return [*lines, f"out += ({''.join(f'{piece}, ' for piece in pieces)})"] if pieces else lines or ["pass"]
        return [f"{self._function(shape)}({var}, out, depth, room)"]

    def _flat(self, shape: Shape, var: str) -> tuple[list[str], list[str]]:
        """Return lines that see that ``var`` is right, and the pieces of it."""
        match shape:
            case Plain(name, fixed):
                return self._plain(name, fixed, var)
            case Checked(inner, check):
                lines, pieces = self._flat(inner, var)
                return [f"{self.name(check)}({var})", *lines], pieces
            case Converted(inner, pack):
                lines, pieces = self._flat(inner, var)
                return [f"{var} = {self.name(pack)}({var})", *lines], pieces
            case Enumeration(_, find):
                return [f"{var} = {self.name(find)}({var})"], [_varint(var)]
            case Option(inner):
                return self._option(inner, var, "None")
        raise TypeError(shape)

    def _option(self, inner: Shape, var: str, nothing: str) -> tuple[list[str], list[str]]:
        lines, pieces = self._flat(inner, var)
        names = [f"o{self.number()}" for _ in range(1 + len(pieces))]
        absent = [f"{names[0]} = BYTES[0]", *(f"{name} = b''" for name in names[1:])]
        there = [f"{names[0]} = BYTES[1]", *lines]
        there += [f"{name} = {piece}" for name, piece in zip(names[1:], pieces, strict=True)]
        return [f"if {var} is {nothing}:", *indent(absent), "else:", *indent(there)], names

    def _plain(self, name: str, fixed: int | None, var: str) -> tuple[list[str], list[str]]:
        if name in wire.INTEGERS:
            check = f"if type({var}) is not int: {var} = as_int({var})"
            return [check, f"{var} = {_integer(name, var)}"], [var]  # in its place: it may be out of range
        if name == "unit":
            return [f"if {var} is not None: raise wanted('None', {var})"], []
        if name == "bool":
            return [f"if type({var}) is not bool: raise wanted('bool', {var})"], [f"BYTES[{var}]"]
        kind = _CHECKS[name]
        lines = [f"if type({var}) is not {kind}: {var} = as_{kind}({var})"]
        if name == "f32":
            return [*lines, f"{var} = F32({var})"], [var]
        if name == "f64":
            return lines, [f"F64({var})"]
        if fixed is not None:
            lines.append(f"if len({var}) != {fixed}: raise Unfit(f'wanted {fixed} bytes, not {{len({var})}}')")
            return lines, [var]
        if name == "char":
            lines.append(f"if len({var}) != 1: raise no_char({var})")
        if kind == "str":
            lines.append(f"{var} = {var}.encode()")
        size = f"l{self.number()}"
        return [*lines, f"{size} = len({var})"], [_varint(size), var]

    # --- functions of values that hold others ---------------------------------------------------------------------

    def _function(self, shape: Shape) -> str:
        return self.function(shape, self._define)

    def _define(self, shape: Shape, name: str) -> list[str]:
        head = [f"def {name}(x, out, depth, room):"]
        waiting, self._pieces = self._pieces, []
        try:
            return head + indent(self._body(shape))
        finally:
            self._pieces = waiting

    def _body(self, shape: Shape) -> list[str]:
        match shape:
            case Struct():
                lines = []
                if shape.recursive:
                    lines += ["depth -= 1", "if depth < 0: raise too_deep()"]
                step = f"{self.steps(shape)}[s]"
                return [*lines, "s = -1", *self._located(self.fields(shape), step)]
            case Tuple(items):
                names = [f"v{place}" for place in range(len(items))]
                lines = ["if type(x) is not tuple: x = as_sequence(x)"]
                lines.append(f"if len(x) != {len(items)}: raise Unfit(f'wanted {len(items)} elements, not {{len(x)}}')")
                body = [f"{', '.join(names)}, = x"] if items else []
                for place, (item, var) in enumerate(zip(items, names, strict=True)):
                    body += [f"s = {place}", *self.write(item, var)]
                return [*lines, "s = 0", *self._located(body, "f'[{s}]'")]
            case Sequence():
                return self._sequence(shape)
            case Map():
                return self._map(shape)
            case Named(inner) if inner is not None:
                lines = ["depth -= 1", "if depth < 0: raise too_deep()"]
                return [*lines, *self._append(inner, "x")]
        return self._append(shape, "x")

    def _located(self, body: list[str], step: str) -> list[str]:
        waiting = self.take()
        body = [*body, *([f"out += ({waiting})"] if waiting else [])] or ["pass"]
        return [
            "try:",
            *indent(body),
            "except Exception as error:",
            f"    raise located(error, {step}) from error.__cause__",
        ]

    def _counted(self, cost: int) -> list[str]:
        lines = [f"if n > {wire.MAX_ITEMS}: raise too_many(n)"]
        return [*lines, *charge(f"n * {cost}" if cost else 0)]

    def _sequence(self, shape: Sequence) -> list[str]:
        inner = shape.inner
        lines = ["if type(x) is not list: x = as_sequence(x)", "n = len(x)"]
        if shape.fixed is not None:
            lines.append(f"if n != {shape.fixed}: raise Unfit(f'wanted {shape.fixed} elements, not {{n}}')")
        else:
            lines += [*self._counted(price(inner)), f"out.append({_varint('n')})"]
        if isinstance(inner, Plain) and inner.name in ROWS:
            return [*lines, f"out.append(row_{inner.name}(x))"]
        body = ["for v in x:", *indent([*self._append(inner, "v"), "s += 1"])]
        return [*lines, "s = 0", *self._located(body, "f'[{s}]'")]

    def _map(self, shape: Map) -> list[str]:
        least = smallest(shape.key) + smallest(shape.value)
        cost = max(price(shape.key), price(shape.value)) if least else 1
        body = [
            "for k, v in x.items():",
            "    s = 1",
            "    c = k",
            *indent(self._append(shape.key, "c")),
            "    s = 0",
            *indent(self._append(shape.value, "v")),
        ]
        return [
            "if not isinstance(x, Mapping): raise wanted('dict', x)",
            "n = len(x)",
            *self._counted(cost),
            f"out.append({_varint('n')})",
            "s = k = 0",
            *self._located(body, "'[key]' if s else key_step(k)"),
        ]

    def steps(self, shape: Struct) -> str:
        """Return the name of what a field's number is in a path; the last one is for no field."""
        return self.name((*(f".{each.name}" for each in shape.fields), ""))

    def fields(self, shape: Struct) -> list[str]:
        """Return the lines that write the fields of the object ``x``; ``s`` is -1 before."""
        names = [f"v{place}" for place in range(len(shape.fields))]
        cls, adapt = self.name(shape.cls), self.name(shape.adapt)
        lines = [f"x = {adapt}(x)" if shape.kind == "mapping" else f"if type(x) is not {cls}: x = {adapt}(x)"]
        fetched = []
        for each, var in zip(shape.fields, names, strict=True):
            if shape.kind == "class":
                fetched.append(f"{var} = x.{each.name}")
            else:
                fetched.append(f"{var} = x.get({each.name!r}, ABSENT)" if each.absent else f"{var} = x[{each.name!r}]")
        if shape.checks:
            lines += [*fetched, f"{self.name(shape.build)}({', '.join(names)})"]
        for place, (each, var, fetch) in enumerate(zip(shape.fields, names, fetched, strict=True)):
            lines += [f"s = {place}", *([] if shape.checks else [fetch])]
            lines += self._absent(each.shape, var) if each.absent else self.write(each.shape, var)
        return lines

    def _absent(self, inner: Shape, var: str) -> list[str]:
        if is_flat(inner):
            lines, pieces = self._option(inner, var, "ABSENT")
            self._pieces += pieces
            return lines
        self.appends = True
        waiting = self.take()
        return [
            *([f"out += ({waiting})"] if waiting else []),
            f"if {var} is ABSENT: out.append(BYTES[0])",
            "else:",
            "    out.append(BYTES[1])",
            *indent([*charge(weight(inner)), *self._append(inner, var)]),
        ]


def _varint(var: str) -> str:
    return f"(U[{var}] if {var} < 16384 else varint({var}))"


def _integer(name: str, var: str) -> str:
    signed, bits = wire.INTEGERS[name]
    if bits == 8:
        low, high = (-128, 128) if signed else (0, 256)
        return f"(BYTES[{var} & 255] if {low} <= {var} < {high} else write_{name}({var}))"
    low, table = (-8192, "S") if signed else (0, "U")
    high = 8192 if signed else 16384
    return f"({table}[{var}] if {low} <= {var} < {high} else write_{name}({var}))"
