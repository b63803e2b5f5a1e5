"""What a type checker makes of a program that uses echokernel."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = '''
from collections.abc import AsyncIterator
from typing import Protocol, assert_type

from echokernel import U8, EchoClient, Session, StreamingCall, event, rpc


@rpc("math.add")
async def add(a: int, b: int = 5) -> int:
    return a + b


@rpc
async def whoami(session: Session, loud: bool) -> str:
    return ""


@rpc(inline=True)
def negate(value: float) -> float:
    return -value


@rpc
async def count(to: U8) -> AsyncIterator[int]:
    yield to


@event
async def note(text: str) -> None: ...


class Robot(Protocol):
    async def move(self, x: float) -> bool: ...


async def use(client: EchoClient) -> None:
    assert_type(await client.call(add, 1, 2), int)
    assert_type(await client.session.call(add, 1), int)
    assert_type(await client.call(whoami, True), str)
    assert_type(await client.call(negate, 0.5), float)
    assert_type(client.call(count, 3), StreamingCall)
    await client.call(note, "hi")
    assert_type(await client.with_options(timeout=1).call(add, b=1, a=2), int)
    robot = client.proxy(Robot)
    assert_type(await robot.move(0.5), bool)


async def misuse(client: EchoClient) -> None:
    await client.call(add, "x")
    await client.call(whoami)
    await client.proxy(Robot).move("x")
'''


def test_a_typed_call_has_the_types_of_its_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is not installed here")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.chdir(ROOT)
    output, errors, _ = api.run(
        ["--config-file", "pyproject.toml", "--cache-dir", str(tmp_path / "cache"), "--no-warn-unused-ignores", str(program)]
    )
    found = [line for line in output.splitlines() if "error:" in line]
    assert not errors
    wrong = [int(line.split(":")[1]) for line in found]
    lines = PROGRAM.splitlines()
    first = next(number for number, line in enumerate(lines, 1) if "client.call(add, \"x\")" in line)
    assert sorted(set(wrong)) == [first, first + 1, first + 2], output
