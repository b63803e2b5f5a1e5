"""Decoders: source generated from a shape, once per type.

In the source, ``d`` is the data, ``p`` the position in it, ``e`` its length, ``depth`` how many levels a type that holds
itself may go on, and ``room`` a list with the number of containers that may still come. Functions return value and
position. ``d[p]`` beyond the end is an IndexError, and means that the payload is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from echokernel_postcard import wire
from echokernel_postcard.rows import READ_ROW
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
    price,
    smallest,
    weight,
)
from echokernel_postcard.source import Source, indent

_NAMES: dict[str, Any] = {
    **{f"read{bits}": read for bits, read in wire.READ.items()},
    **{f"row_{name}": read for name, read in READ_ROW.items()},
    **{each.__name__: each for each in (wire.cut, wire.too_many, wire.too_deep, wire.crowded, wire.wrong_byte)},
    **{each.__name__: each for each in (wire.no_variant, wire.rest, wire.no_char, wire.located, wire.key_step)},
    "read_f32": wire.READ_F32,
    "read_f64": wire.READ_F64,
    "NO_KEY": object(),
    "Unfit": wire.Unfit,
}


def compile_decoder(
    shape: Shape, fail: Callable[[Exception], Exception], other: Callable[[Any], Any] | None
) -> Callable[[Any], Any]:
    """Return a function from ``bytes`` to the value of ``shape``; what is no bytes goes to ``other``.

    Without ``other``: a function from a memoryview of bytes. ``fail`` makes the exception that it raises of an Unfit.
    """
    code = _Decoder(view=other is None)
    code.names |= {"fail": fail, "other": other}
    if isinstance(shape, Struct) and not shape.recursive:
        body, value = code.fields(shape)
        step = f"{code.steps(shape)}[s]"
    else:
        body, value, step = code.read(shape, "x"), "x", "''"
    code.lines += [
        "def decode(d):",
        *(["    if type(d) is not bytes: return other(d)"] if other else []),
        "    p = s = 0",
        "    e = len(d)",
        *([f"    depth = {wire.MAX_DEPTH}", f"    room = [{wire.MAX_CONTAINERS}]"] if code.calls else []),
        "    try:",
        *indent(body, 2),
        "        if p == e:",
        f"            return {value}",
        "        s = -1",
        "        raise rest(e - p, p)",
        "    except Exception as error:",
        f"        raise fail(located(error, {step}, p)) from error.__cause__",
    ]
    return code.run("decode")


class _Decoder(Source):
    def __init__(self, view: bool) -> None:
        super().__init__(_NAMES)
        self.view = view
        self.calls = False

    # --- one value, into a variable -------------------------------------------------------------------------------

    def read(self, shape: Shape, var: str) -> list[str]:
        """Return lines that read a value of ``shape`` into ``var``."""
        match shape:
            case Plain(name, fixed):
                return self._plain(name, fixed, var)
            case Option(inner):
                return self._option(inner, var, "None")
            case Converted(inner, _, unpack):
                return [*self.read(inner, var), f"{var} = {self.name(unpack)}({var})"]
            case Checked(_, check, bare):
                return [*self.read(bare, var), f"{var} = {self.name(check)}({var})"]
            case Enumeration(values):
                return [*self._variant(len(values)), f"{var} = {self.name(values)}[b]"]
            case Choice(members):
                functions = [self._function(member) for member in members]
                self.calls = True
                lines = self._variant(len(members))
                for place, function in enumerate(functions):
                    lines += [
                        f"{'elif' if place else 'if'} b == {place}:",
                        *indent(charge(weight(members[place]))),
                        f"    {var}, p = {function}(d, p, e, depth, room)",
                    ]
                return lines
            case Named(inner, recursive) if inner is not None and not recursive:
                return self.read(inner, var)
        self.calls = True
        return [f"{var}, p = {self._function(shape)}(d, p, e, depth, room)"]

    def _option(self, inner: Shape, var: str, nothing: str) -> list[str]:
        return [
            "b = d[p]",
            "if b == 0:",
            "    p += 1",
            f"    {var} = {nothing}",
            "elif b == 1:",
            "    p += 1",
            *indent([*charge(weight(inner)), *self.read(inner, var)]),
            "else:",
            "    raise wrong_byte(b, 'an option', p)",
        ]

    def _plain(self, name: str, fixed: int | None, var: str) -> list[str]:
        if name in wire.INTEGERS:
            return self._integer(name, var)
        if name == "unit":
            return [f"{var} = None"]
        if name == "bool":
            return ["b = d[p]", "if b > 1: raise wrong_byte(b, 'a bool', p)", f"{var} = b == 1", "p += 1"]
        if name in ("f32", "f64"):
            return [f"{var} = read_{name}(d, p)[0]", f"p += {4 if name == 'f32' else 8}"]
        if fixed is not None:
            return [
                f"q = p + {fixed}",
                f"if q > e: raise cut({fixed}, p, e)",
                f"{var} = {self._part('bytes')}",
                "p = q",
            ]
        lines = [
            "n = d[p]",
            "if n < 128: q = p + 1",
            "else: n, q = read64(d, p)",
            "if n > e - q: raise cut(n, q, e)",
            "q, p = q + n, q",
            f"{var} = {self._part(name)}",
        ]
        if name == "char":
            lines.append(f"if len({var}) != 1: raise no_char({var})")
        return [*lines, "p = q"]

    def _part(self, name: str) -> str:
        """Return the expression of the data from p to q: of bytes a copy, of text no more than one."""
        if name == "bytes":
            return "bytes(d[p:q])" if self.view else "d[p:q]"
        return "str(d[p:q], 'utf-8')" if self.view else "d[p:q].decode()"

    def _integer(self, name: str, var: str) -> list[str]:
        signed, bits = wire.INTEGERS[name]
        if bits == 8:
            return [f"{var} = d[p]", *([f"if {var} > 127: {var} -= 256"] if signed else []), "p += 1"]
        return [*self._varint(bits), f"{var} = b >> 1 ^ -(b & 1)" if signed else f"{var} = b"]

    def _varint(self, bits: int) -> list[str]:
        return [
            "b = d[p]",
            "if b < 128: p += 1",
            "else:",
            "    q = d[p + 1]",
            "    if q < 128:",
            "        b += (q << 7) - 128",
            "        p += 2",
            f"    else: b, p = read{bits}(d, p)",
        ]

    def _variant(self, count: int) -> list[str]:
        return [
            "b = d[p]",
            f"if b < {min(count, 128)}: p += 1",
            "else:",
            "    q = p",
            "    b, p = read32(d, p)",
            f"    if b >= {count}: raise no_variant(b, {count}, q)",
        ]

    def _length(self, fixed: int | None, inner: int, cost: int) -> list[str]:
        """Lines that read how many elements come into ``n``, and see that they can be there and are not too many.

        ``inner``: bytes that an element takes at least. ``cost``: what an element counts.
        """
        if fixed is not None:
            return [
                f"n = {fixed}",
                *([f"if {fixed * inner} > e - p: raise cut({fixed * inner}, p, e)"] if inner else []),
            ]
        lines = ["n, p = (d[p], p + 1) if d[p] < 128 else read64(d, p)"]
        if inner:
            lines.append(f"if n * {inner} > e - p: raise cut(n, p, e)")
        lines.append(f"if n > {wire.MAX_ITEMS}: raise too_many(n)")
        return [*lines, *charge(f"n * {cost}" if cost else 0)]

    # --- functions of values that hold others ---------------------------------------------------------------------

    def _function(self, shape: Shape) -> str:
        return self.function(shape, self._define)

    def _define(self, shape: Shape, name: str) -> list[str]:
        head = [f"def {name}(d, p, e, depth, room):"]
        match shape:
            case Struct():
                body, value = self.fields(shape)
                if shape.recursive:
                    head += indent(["depth -= 1", "if depth < 0: raise too_deep()"])
                return [*head, "    s = 0", *self._located(body, f"{self.steps(shape)}[s]"), f"    return {value}, p"]
            case Tuple(items):
                body = []
                for place, item in enumerate(items):
                    body += [f"s = {place}", *self.read(item, f"v{place}")]
                values = "".join(f"v{place}, " for place in range(len(items)))
                return [*head, "    s = 0", *self._located(body, "f'[{s}]'"), f"    return ({values}), p"]
            case Sequence():
                return [*head, *self._sequence(shape)]
            case Map():
                return [*head, *self._map(shape)]
            case Named(inner) if inner is not None:
                lines = ["depth -= 1", "if depth < 0: raise too_deep()"]
                return [*head, *indent([*lines, *self.read(inner, "x"), "return x, p"])]
        return [*head, *indent([*self.read(shape, "x"), "return x, p"])]

    def _located(self, body: list[str], step: str) -> list[str]:
        if not body:
            return []
        return [
            "    try:",
            *indent(body, 2),
            "    except Exception as error:",
            f"        raise located(error, {step}, p) from error.__cause__",
        ]

    def _sequence(self, shape: Sequence) -> list[str]:
        inner = shape.inner
        lines = indent(self._length(shape.fixed, smallest(inner), 0 if shape.fixed is not None else price(inner)))
        if isinstance(inner, Plain) and inner.name in ROWS:
            lines.append(f"    x, p = row_{inner.name}(d, p, n)")
        else:
            body = ["for _ in range(n):", *indent([*self.read(inner, "v"), "append(v)"])]
            lines += ["    x = []", "    append = x.append", *self._located(body, "f'[{len(x)}]'")]
        value = "x" if shape.make is None else f"{self.name(shape.make)}(x)"
        return [*lines, f"    return {value}, p"]

    def _map(self, shape: Map) -> list[str]:
        least = smallest(shape.key) + smallest(shape.value)
        cost = max(price(shape.key), price(shape.value)) if least else 1
        body = [
            "for _ in range(n):",
            "    k = NO_KEY",
            *indent(self.read(shape.key, "v")),
            "    k = v",
            "    if k in x: raise Unfit('this key comes twice')",
            *indent(self.read(shape.value, "v")),
            "    x[k] = v",
        ]
        step = "'[key]' if k is NO_KEY else key_step(k)"
        return [*indent(self._length(None, least, cost)), "    x = {}", *self._located(body, step), "    return x, p"]

    def steps(self, shape: Struct) -> str:
        """Return the name of what a field's number is in a path; the last one is for no field."""
        return self.name((*(f".{each.name}" for each in shape.fields), ""))

    def fields(self, shape: Struct) -> tuple[list[str], str]:
        """Return the lines that read the fields, and the expression of the object."""
        lines: list[str] = []
        names = [f"v{place}" for place in range(len(shape.fields))]
        for place, (each, var) in enumerate(zip(shape.fields, names, strict=True)):
            inner = each.bare or each.shape
            lines += [f"s = {place}"] if place else []
            # None may be a value that is there, so that what is absent is something else
            lines += self._option(inner, var, "NO_KEY") if each.absent else self.read(inner, var)
        if shape.kind == "mapping":
            present = ", ".join(f"{each.name!r}: {var}" for each, var in zip(shape.fields, names, strict=True))
            if not any(each.absent for each in shape.fields):
                return lines, f"{{{present}}}"
            pairs = "".join(f"({each.name!r}, {var}), " for each, var in zip(shape.fields, names, strict=True))
            return lines, f"{{k: v for k, v in ({pairs}) if v is not NO_KEY}}"
        if shape.build is not None:
            lines += [f"s = {len(names)}", f"x = {self.name(shape.build)}({', '.join(names)})"]
            return lines, "x"
        arguments = [
            f"{each.name}={var}" if each.keyword else var for each, var in zip(shape.fields, names, strict=True)
        ]
        return lines, f"{self.name(shape.cls)}({', '.join(arguments)})"
