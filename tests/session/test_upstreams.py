"""A server that connects to other nodes for as long as it runs, in code."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from echokernel import (
    ClientBuilder,
    EchoClient,
    EchoServer,
    InvalidArgument,
    ReconnectPolicy,
    ServerBuilder,
    Session,
    TransportError,
    rpc,
)
from echokernel.testing import JsonSerializer, MemoryTransport

pytestmark = pytest.mark.anyio


class EverySecond(ReconnectPolicy):
    def next_delay(self, attempt: int, error: Exception) -> float | None:
        return 1.0


@rpc("ask")
async def ask(session: Session) -> str:
    """Pass a question on to the node above."""
    answer: str = await session.server_ctx.client("up").request("name")
    return answer


@rpc("name")
async def name() -> str:
    return "above"


def server(transport: MemoryTransport, port: int, *handlers: Any) -> ServerBuilder:
    builder = EchoServer.builder().transport(transport).serializer(JsonSerializer()).bind(f"memory://node:{port}")
    for handler in handlers:
        builder.add_handler(handler)
    return builder


def client(transport: MemoryTransport) -> ClientBuilder:
    return EchoClient.builder().transport(transport).serializer(JsonSerializer())


async def test_a_handler_reaches_the_node_above_and_the_connection_ends_with_the_server() -> None:
    transport = MemoryTransport()
    async with server(transport, 1, name).build() as above:
        below = server(transport, 2, ask).upstream("up", client(transport).connect("memory://node:1")).build()
        async with below:
            (upstream,) = above.context().sessions()
            async with client(transport).connect("memory://node:2") as user:
                assert await user.request("ask") == "above"
            with pytest.raises(InvalidArgument, match=r"connects to no node as 'down'; there are: up"):
                below.context().client("down")
        assert upstream.closed is not None
        assert not below.context().client("up").is_connected
    with pytest.raises(InvalidArgument, match="there is a connection 'up' already"):
        one = client(transport).connect("memory://node:1")
        server(transport, 2).upstream("up", one).upstream("up", one)


async def test_without_a_policy_a_node_that_is_not_there_keeps_the_server_from_starting() -> None:
    transport = MemoryTransport()
    below = server(transport, 2, ask).upstream("up", client(transport).connect("memory://node:1")).build()
    with pytest.raises(TransportError, match="memory://node:1"):
        async with below:
            pass
    async with server(transport, 2).build():
        pass  # nothing listens there any more


async def test_with_a_policy_it_is_waited_for_while_the_server_serves() -> None:
    transport = MemoryTransport()
    connecting = client(transport).reconnect(EverySecond(), first=True).connect("memory://node:1")
    async with (
        server(transport, 2, ask).upstream("up", connecting).build() as below,
        client(transport).connect("memory://node:2") as user,
    ):
        assert not below.context().client("up").is_connected
        answers: list[str] = []

        async def wait() -> None:
            answers.append(await user.request("ask"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(2.5)
            async with server(transport, 1, name).build():
                await anyio.sleep(2)
                assert answers == ["above"]
        for _ in range(2):  # it comes back, and is found again
            async with server(transport, 1, name).build():
                await anyio.sleep(2)
                assert await user.request("ask") == "above"
            await anyio.sleep(1)


async def test_the_server_stops_while_it_still_tries() -> None:
    transport = MemoryTransport()
    connecting = client(transport).reconnect(EverySecond(), first=True).connect("memory://node:1")
    began = anyio.current_time()
    async with server(transport, 2, ask).upstream("up", connecting).build():
        await anyio.sleep(1.5)
    assert anyio.current_time() - began < 3


async def test_whatever_goes_wrong_while_it_connects_is_raised_by_the_start() -> None:
    async def credentials() -> str:
        raise RuntimeError("no vault")

    transport = MemoryTransport()
    one = client(transport).credentials(credentials).connect("memory://node:1")
    two = client(transport).connect("memory://node:9")
    async with server(transport, 1, name).build():
        with anyio.fail_after(1), pytest.raises((RuntimeError, TransportError)):
            async with server(transport, 2).upstream("one", one).upstream("two", two).build():
                pass


async def test_a_start_that_fails_at_once_does_not_wait_for_what_never_began() -> None:
    class Failing:
        async def start(self, context: Any) -> None:
            raise ValueError("not today")

        async def stop(self) -> None: ...

    transport = MemoryTransport()
    connecting = client(transport).reconnect(EverySecond(), first=True).connect("memory://node:1")
    began = anyio.current_time()
    with pytest.raises(ValueError, match="not today"):
        async with server(transport, 2).upstream("up", connecting).service(Failing()).build():
            pass
    assert anyio.current_time() - began < 1
