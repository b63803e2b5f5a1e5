"""Bytes that nobody should have sent: an error each, little memory, little time."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echokernel import F32, I128, U8, U16, U64, Char, SerializationError
from echokernel_postcard import PostcardSerializer

SERIALIZER = PostcardSerializer()


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Flat:
    id: int
    name: str
    price: float
    data: bytes


@dataclass
class Stop:
    pass


@dataclass
class Much:
    flags: list[bool]
    small: list[U16]
    numbers: list[float]
    names: dict[str, U8]
    colour: Colour
    maybe: Flat | Stop | None
    corner: tuple[F32, Char]
    when: datetime
    key: UUID
    size: I128
    kind: Literal["a", "b"]
    chosen: set[U64] = field(default_factory=set)


@dataclass
class Tree:
    value: U8 = 0
    children: list[Tree] = field(default_factory=list)


@dataclass
class Linked:
    next: Linked | None = None


@dataclass
class Twins:
    left: Twins | None = None
    right: Twins | None = None


class Model(pydantic.BaseModel):
    id: Annotated[int, pydantic.Field(ge=0)]
    when: datetime | None = None
    inner: list[Flat] = []


FLAT = Flat(300, "name", 1.5, b"\x93" * 40)
MUCH = Much(
    [True, False],
    list(range(0, 4000, 90)),
    [1.5] * 5,
    {"a": 1, "b": 2},
    Colour.BLUE,
    FLAT,
    (1.5, "ü"),
    datetime(2024, 1, 1),
    UUID(int=5),
    -(2**100),
    "b",
    {1, 2**40},
)
SAMPLES: list[tuple[Any, Any]] = [
    (Flat, FLAT),
    (Much, MUCH),
    (Tree, Tree(1, [Tree(2), Tree(3, [Tree(4)])])),
    (Linked, Linked(Linked(Linked()))),
    (Model, Model(id=1, inner=[FLAT])),
    (list[int], [0, -1, 300, -70000] * 20),
    (dict[str, list[str]], {"a": ["b", "c"], "": []}),
    (tuple[str, int | None, list[None]], ("x", None, [None] * 3)),
]
TYPES = [type_ for type_, _ in SAMPLES] + [list[Stop], list[None], list[list[int]], list[list[None]], set[bytes], Twins]
TYPES += [int, str, bytes, float, bool, None, dict[int, int], Char, list[bool], list[U8], list[F32], list[Tree]]


@pytest.mark.parametrize(("type_", "value"), SAMPLES, ids=lambda each: str(each)[:30])
def test_no_prefix_and_no_longer_payload_is_accepted(type_: Any, value: Any) -> None:
    codec = SERIALIZER.codec(type_)
    data = codec.encode(value)
    for end in range(len(data)):
        with pytest.raises(SerializationError, match="at byte"):
            codec.decode(data[:end])
    with pytest.raises(SerializationError):
        codec.decode(data + b"\0")
    assert codec.decode(data) == value


def test_a_hundred_thousand_mutated_messages() -> None:
    """Each is an error or a value; and a value that was read can be written, and is read again."""
    chance = random.Random(20)
    refused = 0
    codecs = [(SERIALIZER.codec(type_), SERIALIZER.serialize(value, type_)) for type_, value in SAMPLES]
    for number in range(100_000):
        codec, good = codecs[number % len(codecs)]
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            place, kind = chance.randrange(len(data)) if data else 0, chance.randrange(4)
            if kind == 0 and data:
                data[place] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            elif kind == 1:
                data[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 12)))
            elif kind == 2:
                del data[place : place + chance.randint(1, 5)]
            elif data:
                data[place] ^= 1 << chance.randrange(8)
        try:
            value = codec.decode(bytes(data))
        except SerializationError:
            refused += 1
        else:
            if number % 10 == 0:
                again = codec.encode(value)
                assert codec.encode(codec.decode(again)) == again
    assert 30_000 < refused < 99_000


@given(st.sampled_from(TYPES), st.binary(max_size=200))
def test_garbage_is_a_serialization_error_or_a_value(type_: Any, data: bytes) -> None:
    codec = SERIALIZER.codec(type_)
    with contextlib.suppress(SerializationError):
        codec.decode(data)
    outcomes = []
    for form in (data + bytes(5000), memoryview(data + bytes(5000))):
        try:
            outcomes.append(repr(codec.decode(form)))  # type: ignore[arg-type]
        except SerializationError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@contextlib.contextmanager
def bounded(size: int, seconds: float = 5) -> Iterator[None]:
    """See that what runs inside needs no more bytes and seconds, with memory being traced."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size, "bytes at the worst moment"
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < seconds


LENGTHS = {
    "2^63": b"\x80" * 9 + b"\x01",
    "2^64 - 1": b"\xff" * 9 + b"\x01",
    "4 GiB": b"\xff\xff\xff\xff\x0f",
    "more than 64 bits": b"\xff" * 9 + b"\x7f",
    "never ending": b"\x80" * 4000,
    "a million": b"\x80\x89\x7a",
}


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("type_", TYPES, ids=lambda each: str(each)[-40:])
@pytest.mark.parametrize("before", [b"", b"\1", b"\0"])
def test_a_length_larger_than_the_payload_reserves_nothing(type_: Any, length: bytes, before: bytes) -> None:
    codec = SERIALIZER.codec(type_)
    with bounded(3_000_000), contextlib.suppress(SerializationError):
        codec.decode(before + length + b"\1\1")


def bombs() -> list[tuple[str, Any, bytes]]:
    million = b"\x80\x80\x40"  # 2^20
    return [
        ("empty lists", list[list[int]], million + bytes(1 << 20)),
        ("unit structs", list[Stop], million),
        ("units", list[None], million),
        ("rows of units", list[list[None]], b"\x80\x80\x08" + b"\xff\xff\x07" * 0x20000),
        ("maps of units", list[dict[None, None]], b"\x80\x80\x08" + b"\1" * 0x20000),
        ("twins", Twins, b"\1" * (1 << 20)),
        ("trees", Tree, (b"\0\xff\xff\x03" + b"\0\0" * 65535)[: 1 << 17] * 8),
        ("trees in trees", list[Tree], b"\xff\xff\x07" + b"\0\x7f" * (1 << 19)),
        ("continuations", list[I128], million + b"\x80" * (1 << 20) + b"\0" * 8),
        ("long varints", list[U16], b"\xff\xff\x03" + b"\xff" * (1 << 20)),
        ("ten thousand levels", Linked, b"\1" * 10_000 + b"\0"),
        ("ten thousand levels of trees", Tree, b"\0\1" * 10_000 + b"\0\0"),
    ]


@pytest.mark.parametrize(("name", "type_", "data"), bombs(), ids=[name for name, _, _ in bombs()])
def test_a_bomb_takes_bounded_memory_and_time(name: str, type_: Any, data: bytes) -> None:
    codec = SERIALIZER.codec(type_)
    with bounded(48_000_000, 20), pytest.raises(SerializationError):
        codec.decode(data)


@pytest.mark.parametrize("type_", [Linked, Tree, Twins, list[Tree]])
@pytest.mark.parametrize("levels", [200, 1000, 10_000, 100_000])
def test_deep_nesting_is_refused(type_: Any, levels: int) -> None:
    for opening in (b"\1", b"\0\1", b"\1\0\1"):
        with bounded(3_000_000), pytest.raises(SerializationError):
            SERIALIZER.codec(type_).decode(opening * levels + b"\0\0")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on memory to be set")
def test_under_a_limit_of_memory_hostile_lengths_are_errors() -> None:
    code = """
        import resource, sys
        from echokernel import SerializationError, U8
        from echokernel_postcard import PostcardSerializer

        codecs = [PostcardSerializer().codec(t) for t in (str, bytes, list[int], list[U8], list[None], list[str], set[int],
                  dict[str, int], list[float], list[bool], tuple[list[list[None]], str])]
        now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 2 << 30
        resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20),) * 2)
        count = 0
        for codec in codecs:
            for size in (2**20, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1):
                out, value = bytearray(), size
                while value > 127:
                    out.append(value & 127 | 128)
                    value >>= 7
                out.append(value)
                try:
                    codec.decode(bytes(out) + b"\\1")
                except SerializationError:
                    count += 1
        print(count)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "66"), done.stderr


def test_a_megabyte_is_copied_once_each_way() -> None:
    size = 1 << 20
    data = bytes(size)
    for type_, make in ((bytes, lambda: data), (Flat, lambda: Flat(1, "", 0.0, data)), (bytes | None, lambda: data)):
        codec = SERIALIZER.codec(type_)
        value = make()
        wire = codec.encode(value)
        codec.decode(memoryview(wire))  # type: ignore[arg-type]
        for action, argument in ((codec.encode, value), (codec.decode, wire), (codec.decode, memoryview(wire))):
            with bounded(size + 20_000):
                action(argument)  # type: ignore[arg-type]
