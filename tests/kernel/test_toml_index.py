"""Positions of TOML keys, compared with what tomllib reads."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel.config._toml_index import KeyPath, Position, index

SPACE = st.sampled_from(["", " ", "\t", "  "])
BLANK = st.sampled_from(["", " ", "\n", "\r\n", "  # a [comment] = {\n", "\n\n\t"])
KEY = st.one_of(
    st.sampled_from(["a", "b", "c", "d", "e-f", "1", "3_4"]),
    st.sampled_from(['"a"', "'b'", '"x.y"', "'q\"r'", '"\\"z\\u00e4 = ["', '""', "'#'"]),
)
STRING = st.sampled_from(
    [
        '"plain"',
        '"[a]\\n\\"x\\" = \\\\"',
        "'C:\\'",
        "''",
        '""',
        '"""\n[a]\nb = 1 \\\n  """',
        '"""two "" inside""""',
        '""""three before and two after"""""',
        '"""\\""""',
        "'''\n'x' = \"y\" # '''",
        "'''it''s'''''",
        '""""""',
        "''''''",
    ]
)
ATOM = st.one_of(
    STRING,
    st.sampled_from(
        ["1", "-0.5e3", "0x_ff".replace("_", ""), "true", "inf", "nan", "1979-05-27 07:32:00", "07:32:00.5"]
    ),
)


@st.composite
def dotted_key(draw: st.DrawFn) -> str:
    parts = draw(st.lists(KEY, min_size=1, max_size=3))
    return f"{draw(SPACE)}.{draw(SPACE)}".join(parts)


def values() -> st.SearchStrategy[str]:
    return st.recursive(ATOM, lambda inner: st.one_of(arrays(inner), inline_tables(inner)), max_leaves=6)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(inner, max_size=3))
    text = ",".join(f"{draw(BLANK)}{item}{draw(BLANK)}" for item in items)
    return f"[{text}{',' if items and draw(st.booleans()) else ''}{draw(BLANK)}]"


@st.composite
def inline_tables(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(dotted_key(), inner), max_size=3))
    text = ",".join(f"{draw(SPACE)}{key}{draw(SPACE)}={draw(SPACE)}{value}{draw(SPACE)}" for key, value in pairs)
    return f"{{{text}}}"


@st.composite
def statements(draw: st.DrawFn) -> str:
    space, end = draw(SPACE), draw(st.sampled_from(["\n", ' # it\'s "so"\n', "\r\n"]))
    kind = draw(st.sampled_from(["[]", "[[]]", "=", "=", "="]))
    key = draw(dotted_key())
    if kind == "=":
        return f"{space}{key}{draw(SPACE)}={draw(SPACE)}{draw(values())}{end}"
    half = len(kind) // 2
    return f"{space}{kind[:half]}{draw(SPACE)}{key}{draw(SPACE)}{kind[half:]}{end}"


@st.composite
def documents(draw: st.DrawFn) -> str:
    text = draw(BLANK)
    for statement in draw(st.lists(statements(), max_size=8)):
        try:
            tomllib.loads(text + statement)
        except tomllib.TOMLDecodeError:
            continue  # a key twice, a table that is a value already, …
        text += statement
    return text.removesuffix("\n") if draw(st.booleans()) else text


def paths_of(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {path} if path else set()
    for key, item in items:
        found |= paths_of(item, (*path, key))
    return found


def key_at(text: str, offset: int) -> str:
    match = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""").match(text, offset)
    assert match is not None
    [key] = tomllib.loads(f"{match[0]} = 0")
    return key


@given(documents())
def test_the_index_has_exactly_the_paths_that_tomllib_has(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # the last newline was part of a carriage return
    found = index(text)
    assert found.complete
    assert found.offsets.keys() == paths_of(data)
    for path, offset in found.offsets.items():
        if isinstance(path[-1], str):
            assert key_at(text, offset) == path[-1]
        line, column = found.locate(path)
        assert text.split("\n")[line - 1][column - 1] == text[offset]


@given(st.text())
def test_any_text_at_all_is_survived(text: str) -> None:
    assert index(text).locate(("a", 0, "b")) >= (1, 1)


@given(documents(), st.integers(0, 200), st.integers(1, 5))
def test_a_damaged_text_is_survived(text: str, at: int, length: int) -> None:
    index(text[:at] + text[at + length :])


EXAMPLE = """\
# a comment
plugins = ["quic",
  "msgpack"]

[listen.main]
url = "x"
nested.key = { a = 1, "b c" = [ { env = "N" } ] }

[[many]]
name = 1
[[many]]
  name = 2
[many.inner]
x = '''
[not.a.table]
y = 1
'''
z = 2
"""


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        (("plugins",), 2, 1),
        (("plugins", 0), 2, 12),
        (("plugins", 1), 3, 3),
        (("listen",), 5, 2),
        (("listen", "main"), 5, 9),
        (("listen", "main", "url"), 6, 1),
        (("listen", "main", "nested", "key"), 7, 8),
        (("listen", "main", "nested", "key", "b c"), 7, 23),
        (("listen", "main", "nested", "key", "b c", 0, "env"), 7, 35),
        (("many", 0, "name"), 10, 1),
        (("many", 1, "name"), 12, 3),
        (("many", 1, "inner", "z"), 18, 1),
        # what is not there is looked for one level up
        (("listen", "main", "missing"), 5, 9),
        (("many", 1, "inner", "not", "y"), 13, 7),
        (("nowhere",), 1, 1),
        ((), 1, 1),
    ],
)
def test_where_things_are(path: KeyPath, line: int, column: int) -> None:
    assert index(EXAMPLE).locate(path) == Position(line, column)


def test_inline_tables_are_values() -> None:
    found = index(EXAMPLE)
    assert found.is_inline(("listen", "main", "nested", "key", "b c", 0))
    assert not found.is_inline(("listen", "main"))
    assert not found.is_inline(("listen", "main", "nested"))
