"""Both directions, inside one another: call back, nest deadlines, publish inside a subscriber, close inside a callback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoServer,
    OutcomeUnknown,
    RequestTimeout,
    Session,
    StreamReceiver,
    event,
    rpc,
    stream,
    time_left,
)
from echokernel.testing import connected

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("isolated", [False, True])
async def test_calls_bounce_between_the_two_ends(isolated: bool) -> None:
    @rpc
    async def bounce(session: Session, depth: int) -> int:
        if not depth:
            return 0
        return 1 + int(await session.request("bounce", depth - 1, returns=int, isolated=isolated))

    async with connected(bounce, client_handlers=[bounce]) as nodes:
        assert await nodes.client.request("bounce", 60, isolated=isolated) == 60
        assert await nodes.session.request("bounce", 60, isolated=isolated) == 60


async def test_nested_deadlines_only_shrink() -> None:
    left: list[float] = []

    @rpc
    async def nest(session: Session, depth: int) -> None:
        left.append(time_left() or 0)
        await anyio.sleep(0.3)
        await session.request("nest", depth + 1, timeout=60)

    async with connected(nest, client_handlers=[nest]) as nodes:
        with pytest.raises(RequestTimeout):
            await nodes.client.request("nest", 0, timeout=2)
        await anyio.sleep(1)
        assert 5 <= len(left) <= 8
        assert left == sorted(left, reverse=True) and left[0] <= 2
        assert nodes.session.stats()["open_peer_requests"] == nodes.session.stats()["open_requests"] == 0


async def test_a_subscriber_publishes_what_it_subscribes_to() -> None:
    heard: list[int] = []

    @event
    async def ball(session: Session, number: int) -> None:
        heard.append(number)
        if number < 200:
            await session.emit("ball", number + 1)

    async with connected(ball, client_handlers=[ball]) as nodes:
        await nodes.client.emit("ball", 0)
        await anyio.sleep(1)
        assert heard == list(range(201))


async def test_a_stream_handler_streams_calls_and_emits_back() -> None:
    got: list[Any] = []

    @stream
    async def there(session: Session, receiver: StreamReceiver) -> None:
        async with await session.create_stream("back") as sender:
            async for found in receiver:
                await sender.send(found.data + str(await session.request("double", 2)).encode())
        await session.emit("done")

    @stream
    async def back(receiver: StreamReceiver) -> None:
        got.extend([found.data async for found in receiver])

    @rpc
    async def double(value: int) -> int:
        return 2 * value

    @event
    async def done() -> None:
        got.append("done")

    async with connected(there, client_handlers=[back, double, done]) as nodes:
        async with await nodes.client.create_stream("there") as sender:
            for letter in (b"a", b"b"):
                await sender.send(letter)
        await anyio.sleep(0.5)
        assert sorted(got, key=str) == sorted([b"a4", b"b4", "done"], key=str)


@rpc
async def close_now(session: Session) -> int:
    await session.close()
    return 1


@rpc
async def close_items(session: Session, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in numbers:
        yield number
        await session.close()


@event
async def close_event(session: Session) -> None:
    await session.close()


@stream
async def close_stream(session: Session, receiver: StreamReceiver) -> None:
    await session.close()


@pytest.mark.parametrize("where", ["request", "isolated", "streaming", "event", "stream"])
async def test_closing_inside_a_handler_ends_the_session_and_nothing_hangs(where: str) -> None:
    async with connected(close_now, close_items, close_event, close_stream) as nodes:
        client = nodes.client
        with anyio.fail_after(10):
            if where == "request":
                with pytest.raises(OutcomeUnknown):
                    await client.request("close_now")
            elif where == "isolated":
                with pytest.raises(OutcomeUnknown):
                    await client.request("close_now", isolated=True)
            elif where == "streaming":
                with pytest.raises(ConnectionClosed):
                    async for _ in client.request_stream("close_items", items=[1, 2, 3]):
                        pass
            elif where == "event":
                await client.emit("close_event")
            else:
                await client.create_stream("close_stream")
            while client.session.closed is None or nodes.server.context().sessions():
                await anyio.sleep(0.05)
        assert isinstance(client.session.closed, ConnectionClosed)


@pytest.mark.parametrize("when", ["connect", "disconnect"])
async def test_closing_inside_a_hook_is_allowed(when: str) -> None:
    told: list[str] = []

    async def close(session: Session) -> None:
        told.append(when)
        await session.close()

    server = EchoServer.builder()
    server = server.on_connect(close) if when == "connect" else server.on_disconnect(close)
    with anyio.fail_after(20):
        async with connected(server=server) as nodes:
            if when == "disconnect":
                await nodes.client.close()
            while nodes.server.context().sessions():
                await anyio.sleep(0.05)
    assert told == [when]


async def test_a_client_closes_itself_inside_its_own_handler() -> None:
    clients: list[EchoClient] = []

    @rpc
    async def leave() -> None:
        await clients[0].close()

    @rpc
    async def send_away(session: Session) -> str:
        try:
            await session.request("leave")
        except ConnectionClosed as error:
            return type(error).__name__
        return "stayed"

    async with connected(send_away, client_handlers=[leave]) as nodes:
        clients.append(nodes.client)
        with anyio.fail_after(10), pytest.raises(ConnectionClosed):
            await nodes.client.request("send_away")
