"""Handlers that misbehave, and a few that do not, for the table of bad input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio

from echokernel import HandlerError, Limits, Session, StreamReceiver, event, rpc, stream

LIMITS = Limits(
    max_frame=16_384,
    max_message=65_536,
    max_requests=32,
    max_request_bytes=1_048_576,
    event_window=131_072,
    outbox=262_144,
    max_streams=8,
)


@rpc
async def double(value: int) -> int:
    return 2 * value


@rpc
async def length(text: str) -> int:
    return len(text)


@rpc
async def never() -> None:
    await anyio.sleep_forever()


@rpc
async def broken() -> None:
    raise ValueError("secret of /etc/passwd")


@rpc
async def refuses() -> None:
    raise HandlerError("no", code=4711, details=b"why")


@rpc
async def lies() -> int:
    return "no number"  # type: ignore[return-value]


@rpc
async def huge() -> str:
    return "x" * 5_000_000


class Wrong:
    """A handler class that returns no bytes."""

    name = "wrong"

    async def handle(self, session: Session, payload: bytes) -> Any:
        return "text"


@rpc
async def floods(session: Session) -> None:
    while True:
        await session.emit("flood", "x" * 10_000)


@rpc
async def ask(session: Session) -> int:
    """Ask the caller back."""
    found: int = await session.request("back", returns=int, timeout=0.2)
    return found


@rpc
async def ask_apart(session: Session) -> int:
    found: int = await session.request("back", returns=int, timeout=0.2, isolated=True)
    return found


@rpc
async def push(session: Session) -> None:
    """Open a stream to the caller, and send until it has had enough."""
    async with await session.create_stream("pushed") as sender:
        for _ in range(1_000):
            await sender.send(b"x" * 1_000)


@rpc
async def up() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1


@rpc
async def two_then_broken() -> AsyncIterator[int]:
    yield 1
    yield 2
    raise HandlerError("no more", code=4711)


@rpc
async def two_then_lies() -> AsyncIterator[int]:
    yield 1
    yield "no number"  # type: ignore[misc]


@rpc
async def total(numbers: AsyncIterator[int]) -> int:
    return sum([number async for number in numbers])


@rpc
async def first(numbers: AsyncIterator[int]) -> int:
    return await anext(aiter(numbers))


@rpc
async def deaf(numbers: AsyncIterator[int]) -> None:
    await anyio.sleep_forever()


@event
async def note(text: str) -> None: ...


@event
async def stuck(text: str) -> None:
    await anyio.sleep_forever()


@event
async def fails(text: str) -> None:
    raise RuntimeError(text)


@stream
async def audio(receiver: StreamReceiver) -> None:
    async for _ in receiver:
        pass


@stream
async def brief(receiver: StreamReceiver) -> None:
    await receiver.recv()


@stream
async def crash(receiver: StreamReceiver) -> None:
    raise RuntimeError("crash")


HANDLERS = [
    double,
    length,
    never,
    broken,
    refuses,
    lies,
    huge,
    floods,
    ask,
    ask_apart,
    push,
    up,
    two_then_broken,
    two_then_lies,
    total,
    first,
    deaf,
    note,
    stuck,
    fails,
    audio,
    brief,
    crash,
]
