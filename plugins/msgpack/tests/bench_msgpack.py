"""How long encoding and decoding take: ``python3 dev.py python plugins/msgpack/tests/bench_msgpack.py``.

Budget for the dataclass on a shared 2-core machine: 1.5 µs to encode, 2.5 µs to decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from timeit import repeat
from typing import Any

import pydantic

from echokernel_msgpack import MsgpackSerializer


@dataclass
class Order:
    id: int
    name: str
    price: float
    data: bytes


@dataclass
class Orders:
    id: int
    orders: list[Order]


class Model(pydantic.BaseModel):
    id: int
    name: str
    price: float
    data: bytes


ORDER = Order(12345, "hello world", 1.5, b"x" * 32)
CASES: list[tuple[str, Any, Any]] = [
    ("dataclass of four", Order, ORDER),
    ("pydantic model of four", Model, Model(**vars(ORDER))),
    ("tuple[int, int]", tuple[int, int], (10, 20)),
    ("int", int, 10),
    ("32 bytes", bytes, bytes(32)),
    ("dynamic map of four", Any, vars(ORDER)),
    ("100 dataclasses in one", Orders, Orders(1, [ORDER] * 100)),
    ("100 floats", list[float], [1.5] * 100),
]


def microseconds(action: Any, argument: Any) -> float:
    rounds = 2_000
    return min(repeat(lambda: action(argument), number=rounds, repeat=15)) / rounds * 1e6


def main() -> None:
    serializer = MsgpackSerializer()
    print(f"{'µs':24} {'encode':>8} {'decode':>8}")
    for name, type_, value in CASES:
        codec = serializer.codec(type_)
        data = codec.encode(value)
        print(f"{name:24} {microseconds(codec.encode, value):8.2f} {microseconds(codec.decode, data):8.2f}")


if __name__ == "__main__":
    main()
