"""A node and a peer that has nothing in common with it but docs/wire.md."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from echokernel import U8, EchoServer, Session, StreamReceiver, event, rpc, stream

QuicTransport = pytest.importorskip("echokernel_quic").QuicTransport
PostcardSerializer = pytest.importorskip("echokernel_postcard").PostcardSerializer
pytestmark = pytest.mark.anyio
PEER = Path(__file__).with_name("peer.py")


class Kind(enum.Enum):
    INDOOR = "in"
    OUTDOOR = "out"


@dataclass
class Reading:
    name: str
    values: list[float]
    level: U8 | None
    kind: Kind
    tags: dict[str, int]


@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@rpc("reading.reverse")
async def reverse(reading: Reading) -> Reading:
    assert reading.level is not None
    return Reading(reading.name[::-1], reading.values[::-1], reading.level - 1, Kind.INDOOR, reading.tags)


@rpc
async def call_back(session: Session, value: int) -> int:
    answer: int = await session.request("peer.double", value, returns=int)
    return answer


class Listening:
    def __init__(self) -> None:
        self.notes: list[tuple[str, int]] = []
        self.frames: list[int] = []
        self.taken = anyio.Event()

    @event("note")
    async def note(self, text: str, number: int) -> None:
        self.notes.append((text, number))

    @rpc("heard")
    async def heard(self) -> list[tuple[str, int]]:
        with anyio.fail_after(5):
            while not self.notes:
                await anyio.sleep(0.01)
        return self.notes

    @stream("audio")
    async def audio(self, frames: StreamReceiver) -> None:
        async for frame in frames:
            self.frames.append(len(frame.data))
        self.taken.set()

    @rpc("audio.taken")
    async def audio_taken(self) -> list[int]:
        with anyio.fail_after(5):
            await self.taken.wait()
        return self.frames


async def test_a_peer_by_hand_says_hello_calls_tells_streams_and_is_called() -> None:
    listening = Listening()
    builder = EchoServer.builder().transport(QuicTransport()).bind("quic://127.0.0.1:0").serializer(PostcardSerializer())
    for handler in (add, reverse, call_back, listening.note, listening.heard, listening.audio, listening.audio_taken):
        builder.add_handler(handler)
    async with builder.build() as server:
        address = server.addresses[0]
        command = [sys.executable, "-I", str(PEER), address.host, str(address.port)]
        done: Any = await anyio.to_thread.run_sync(
            lambda: subprocess.run(command, capture_output=True, text=True, timeout=60)
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["hello"]["serializers"] == "postcard"
    assert found["add"] == [0x10, -290, ""]
    assert found["reading"] == [0x10, "1Ä", [-1.5, 0.5], 1, 254, 0, {"k": -1}, ""]
    assert found["absent"][:2] == [0x01, 12]
    assert found["heard"] == [["hello", 7]]
    assert found["call_back"] == [0x10, 42, ["$describe", "peer.double"]]
    assert found["flow"] == [3, 3, 1000]
