"""Bytes that nobody should have sent: an error each, little memory, little time."""

from __future__ import annotations

import contextlib
import struct
import time
import tracemalloc
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel.errors import SerializationError
from echokernel_msgpack import MsgpackSerializer
from echokernel_msgpack.wire import MAX_CONTAINERS, MAX_DEPTH, MAX_ITEMS


@dataclass
class Flat:
    id: int
    name: str
    price: float
    data: bytes


@dataclass
class Tree:
    value: Any = None
    children: list[Tree] = field(default_factory=list)


class Model(pydantic.BaseModel):
    id: int
    when: datetime | None = None


SERIALIZER = MsgpackSerializer()
TYPES: list[Any] = [Any, Flat, Tree, Model, int, str, bytes, None, datetime]
TYPES += [list[int], tuple[int, int], dict[int, Any], list[Model]]
CHAINS = [(b"\x91", b"\x90"), (b"\x81\xa1a", b"\x80"), (b"\x81\xa8children\x91", b"\x80")]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Flat, Flat(300, "name", 1.5, b"\x93" * 40)),
        (Tree, Tree(1, [Tree([1, 2], []), Tree({"a": datetime.fromisoformat("2024-01-01T00:00Z")})])),
        (tuple[int, int], (1000, 70000)),
        (Any, {"a": [1, 2.5, "text", b"bytes", None, {"b": list(range(40))}]}),
    ],
)
def test_no_prefix_and_no_longer_payload_is_accepted(type_: Any, value: Any) -> None:
    codec = SERIALIZER.codec(type_)
    data = codec.encode(value)
    for end in range(len(data)):
        with pytest.raises(SerializationError):
            codec.decode(data[:end])
    for tail in (b"\0", b"\xc0", data):
        with pytest.raises(SerializationError, match="left over"):
            codec.decode(data + tail)
    assert codec.decode(data) == value


@given(st.sampled_from(TYPES), st.binary(max_size=200))
def test_garbage_is_a_serialization_error_or_a_value(type_: Any, data: bytes) -> None:
    with contextlib.suppress(SerializationError):
        SERIALIZER.codec(type_).decode(data)


@given(st.sampled_from(TYPES), st.data())
def test_damage_is_a_serialization_error_or_a_value(type_: Any, data: st.DataObject) -> None:
    payload = bytearray(msgpack.packb({"id": 1, "name": "n", "price": 1.5, "data": b"d", "children": [{"value": [1]}]}))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SerializationError):
        SERIALIZER.codec(type_).decode(bytes(payload))


def nested(levels: int, opening: bytes, end: bytes) -> bytes:
    return opening * levels + end


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 1000, 1024, 10_000, 100_000])
@pytest.mark.parametrize(("opening", "end"), CHAINS)
def test_deep_nesting_is_refused(type_: Any, levels: int, opening: bytes, end: bytes) -> None:
    with pytest.raises(SerializationError):
        SERIALIZER.codec(type_).decode(nested(levels, opening, end))


@pytest.mark.parametrize("shape", ["list", "dict", "tree"])
def test_the_depth_is_exact_both_ways(shape: str) -> None:
    def deep(levels: int) -> Any:
        value: Any = None
        for _ in range(levels):
            value = [value] if shape == "list" else {"a": value}
        return value

    codec = SERIALIZER.codec(Any)
    assert codec.decode(codec.encode(deep(MAX_DEPTH))) == deep(MAX_DEPTH)
    assert codec.decode(msgpack.packb(deep(MAX_DEPTH))) == deep(MAX_DEPTH)
    with pytest.raises(SerializationError, match="nested more than 32 deep"):
        codec.encode(deep(MAX_DEPTH + 1))
    with pytest.raises(SerializationError, match="nested more than 32 deep"):
        codec.decode(msgpack.packb(deep(MAX_DEPTH + 1)))


def test_depth_hidden_in_a_field_that_is_ignored_counts() -> None:
    deep: Any = None
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(SerializationError, match="nested"):
        SERIALIZER.codec(Flat).decode(msgpack.packb({"id": 1, "name": "", "price": 0, "data": b"", "new": deep}))


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    tree = Tree()
    tree.children.append(tree)
    model: Any = {}
    model["a"] = model
    for type_, value in ((Any, loop), (Any, tree), (Tree, tree), (list[Any], loop), (dict[str, Any], model)):
        with pytest.raises(SerializationError, match="nested more than 32 deep"):
            SERIALIZER.codec(type_).encode(value)


HEADERS = {
    "array 32": b"\xdd" + struct.pack(">I", 2**32 - 1),
    "array 16": b"\xdc\xff\xff",
    "map 32": b"\xdf" + struct.pack(">I", 2**32 - 1),
    "map 16": b"\xde\xff\xff",
    "str 32": b"\xdb" + struct.pack(">I", 2**32 - 1),
    "bin 32": b"\xc6" + struct.pack(">I", 2**32 - 1),
    "ext 32": b"\xc9" + struct.pack(">I", 2**32 - 1) + b"\xff",
}


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("opening", [b"", b"\x91", b"\x84\xa2id", b"\x81\xa8children"])
def test_a_length_larger_than_the_payload_reserves_nothing(type_: Any, header: bytes, opening: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError):
            SERIALIZER.codec(type_).decode(opening + header)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def bombs() -> dict[str, bytes]:
    size = 1 << 20
    wide = b"\xdd" + struct.pack(">I", size)
    return {
        "a million empty arrays": wide + b"\x90" * size,
        "a million empty maps": wide + b"\x80" * size,
        "arrays of arrays": (b"\xdc\x40\x00" + b"\x90" * 0x4000) * 64,
        "headers in headers": (b"\xdd" + struct.pack(">I", size)) * 1000 + b"\0" * size,
        "headers in headers, small": b"\xdc\x03\xe8" * 333 + b"\0",
        "small maps in small maps": b"\xdc\x40\x00" + b"\x81\xa1a\x80" * 0x4000 + b"\0" * size,
        "maps of one key": wide + b"\x81\xc0\xc0" * size,
    }


@pytest.mark.slow
@pytest.mark.parametrize("type_", [Any, Flat, list[list[Any]], tuple[int, int]])
@pytest.mark.parametrize("bomb", bombs().values(), ids=bombs())
def test_a_bomb_takes_bounded_memory_and_time(type_: Any, bomb: bytes) -> None:
    codec = SERIALIZER.codec(type_)
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(SerializationError):
            codec.decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 48_000_000, "bytes at the worst moment"
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 5, "seconds, with memory being traced"


def test_the_number_of_containers_is_bounded_and_exact() -> None:
    codec = SERIALIZER.codec(Any)
    full = codec.decode(msgpack.packb([[]] * (MAX_CONTAINERS - 1)))
    assert len(full) == MAX_CONTAINERS - 1
    assert len(codec.decode(msgpack.packb([{}] * (MAX_CONTAINERS - 1)))) == MAX_CONTAINERS - 1
    with pytest.raises(SerializationError, match=f"more than {MAX_CONTAINERS} arrays and maps"):
        codec.decode(msgpack.packb([[]] * MAX_CONTAINERS))
    only_looks_like_it = b"\x90" * (2 * MAX_CONTAINERS)
    assert codec.decode(msgpack.packb(only_looks_like_it)) == only_looks_like_it


@pytest.mark.parametrize("type_", [Any, list[None], list[Any]])
def test_the_number_of_items_is_bounded_both_ways(type_: Any) -> None:
    codec = SERIALIZER.codec(type_)
    assert len(codec.decode(codec.encode([None] * MAX_ITEMS))) == MAX_ITEMS
    with pytest.raises(SerializationError):
        codec.encode([None] * (MAX_ITEMS + 1))
    with pytest.raises(SerializationError, match="over the limit"):
        codec.decode(msgpack.packb([None] * (MAX_ITEMS + 1)))


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        (Any, b"\x82\xa1a\x01\xa1a\x02"),
        (Any, b"\x82\x01\x01\xc3\x02"),  # 1 and True are one key
        (Flat, b"\x84\xa2id\x01\xa4name\xa1a\xa5price\x01\xa2id\x02"),
        (Flat, b"\x85\xa2id\x01\xa4name\xa1a\xa5price\x01\xa4data\xc4\0\xa2id\x02"),
        (Model, b"\x82\xa2id\x01\xa2id\x02"),
        (dict[int, Any], b"\x82\x01\x01\x01\x02"),
        (list[Model], b"\x91\x82\xa2id\x01\xa2id\x02"),
    ],
)
def test_a_key_comes_once(type_: Any, data: bytes) -> None:
    with pytest.raises(SerializationError, match="same key twice"):
        SERIALIZER.codec(type_).decode(data)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xd4\x05\x00",  # extension 5
        b"\xc7\x03\x01abc",
        b"\xd6\xff" + b"\xff" * 4 + b"\0",
        b"\xc7\x05\xff12345",  # a timestamp of 5 bytes
        b"\xc7\x0c\xff\0\0\0\0" + b"\x7f" + b"\xff" * 7,  # a timestamp after the end of the calendar
        b"\xa2\xff\xfe",  # not UTF-8
        b"\xa3\xed\xa0\x80",  # a surrogate
        b"\x81\x90\x01",  # an array as a key
        b"\x81\x81\x01\x01\x01",  # a map as a key
        b"\x81\xd4\x05\x00\x01",
    ],
)
def test_what_messagepack_or_we_do_not_have_is_refused(type_: Any, data: bytes) -> None:
    with pytest.raises(SerializationError):
        SERIALIZER.codec(type_).decode(data)


def test_extension_types_are_named() -> None:
    with pytest.raises(SerializationError, match="extension type 5 is not known; only timestamps are"):
        SERIALIZER.codec(Any).decode(b"\xd4\x05\x00")


def test_keys_are_text_where_the_type_needs_nothing_else() -> None:
    with pytest.raises(SerializationError, match="key that cannot be one"):
        SERIALIZER.codec(list[Model]).decode(b"\x91\x82\xa2id\x01\x05\x02")
    assert SERIALIZER.codec(dict[int, str]).decode(b"\x81\x05\xa1a") == {5: "a"}
