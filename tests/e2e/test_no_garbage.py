"""What an exchange leaves behind is freed at once: a garbage collection is a pause for everybody."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from echokernel import EchoClient, EchoServer, InvalidArgument, Session, StreamReceiver, event, rpc, stream
from echokernel.testing import JsonSerializer

QuicTransport = pytest.importorskip("echokernel_quic").QuicTransport
pytestmark = pytest.mark.anyio
ROUNDS = 30
SETTLED = 0.3  # seconds in which the last acknowledgements come


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # trio's own scopes and tasks are circles


@rpc
async def echo(text: str) -> str:
    return text


@rpc
async def refuse(text: str) -> str:
    raise InvalidArgument(f"{text} is refused")


@rpc
async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@rpc
async def total(numbers: AsyncIterator[int]) -> int:
    return sum([number async for number in numbers])


@event
async def note(text: str) -> None: ...


@stream
async def sink(session: Session, frames: StreamReceiver) -> None:
    async for _ in frames:
        pass


async def three() -> AsyncIterator[int]:
    for number in range(3):
        yield number


async def ask(client: EchoClient) -> None:
    await client.request("echo", "x")


async def ask_isolated(client: EchoClient) -> None:
    await client.request("echo", "x", isolated=True)


async def fail(client: EchoClient) -> None:
    with pytest.raises(InvalidArgument):
        await client.request("refuse", "x")


async def fail_isolated(client: EchoClient) -> None:
    with pytest.raises(InvalidArgument):
        await client.request("refuse", "x", isolated=True)


async def ask_at_length(client: EchoClient) -> None:
    await client.request("echo", "x" * 100_000)


async def receive_many(client: EchoClient) -> None:
    async with client.request_stream("count", 3) as answers:
        assert [answer async for answer in answers] == [0, 1, 2]


async def stop_early(client: EchoClient) -> None:
    async with client.request_stream("count", 10_000) as answers:
        async for _ in answers:
            break


async def send_many(client: EchoClient) -> None:
    async with client.request_stream("total", items=three()) as call:
        assert await call.result() == 3


async def tell(client: EchoClient) -> None:
    await client.emit("note", "x")


def flow(delivery: Any) -> Callable[[EchoClient], Awaitable[None]]:
    async def send(client: EchoClient) -> None:
        async with await client.create_stream("sink", delivery=delivery) as sender:
            for _ in range(3):
                await sender.send(b"x")

    send.__name__ = f"send_{delivery}"
    return send


@contextmanager
def collecting_nothing() -> Iterator[list[Any]]:
    """The list gets what a collection at the end finds."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    "exchange",
    [
        ask,
        ask_isolated,
        fail,
        fail_isolated,
        ask_at_length,
        receive_many,
        stop_early,
        send_many,
        tell,
        flow("reliable"),
        flow("per_frame"),
        flow("datagram"),
    ],
    ids=lambda exchange: exchange.__name__,
)
async def test_an_exchange_leaves_no_circles(exchange: Callable[[EchoClient], Awaitable[None]]) -> None:
    builder = EchoServer.builder().transport(QuicTransport()).bind("quic://127.0.0.1:0").serializer(JsonSerializer())
    for handler in (echo, refuse, count, total, note, sink):
        builder.add_handler(handler)
    dialling = EchoClient.builder().transport(QuicTransport()).serializer(JsonSerializer())
    async with builder.build() as server, dialling.connect(server.addresses[0]) as client:
        await exchange(client)
        await anyio.sleep(SETTLED)
        with collecting_nothing() as found:
            for _ in range(ROUNDS):
                await exchange(client)
            await anyio.sleep(SETTLED)
        ours = [thing for thing in found if type(thing).__module__.startswith(("echokernel", "aioquic", "_asyncio"))]
        assert len(ours) < ROUNDS, f"{len(found)} objects, among them {ours[:5]}"
