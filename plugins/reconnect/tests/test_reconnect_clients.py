"""Clients with the plugin, in memory and in virtual time. The kernel's part is tested in tests/session/test_reconnect.py."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from echokernel import ConnectionClosed, EchoClient, EchoServer, TransportError, rpc
from echokernel.testing import JsonSerializer, MemoryTransport
from echokernel_reconnect import Backoff, ReconnectPlugin

pytestmark = pytest.mark.anyio
ADDRESS = "memory://node:1"


@rpc
async def add(a: int, b: int) -> int:
    return a + b


async def serve(transport: MemoryTransport, tasks: Any) -> EchoServer:
    builder = EchoServer.builder().transport(transport).serializer(JsonSerializer()).bind(ADDRESS).add_rpc(add)
    server = builder.build()
    tasks.start_soon(server.run)
    while not server.addresses:  # noqa: ASYNC110 - two turns of the loop
        await anyio.sleep(0.01)
    return server


@asynccontextmanager
async def serving(transport: MemoryTransport) -> AsyncIterator[EchoServer]:
    async with anyio.create_task_group() as tasks:
        server = await serve(transport, tasks)
        yield server
        await server.stop(drain=0)


def client(transport: MemoryTransport, *arguments: Any, **settings: Any) -> Any:
    builder = EchoClient.builder().transport(transport).serializer(JsonSerializer())
    return builder.plugin(ReconnectPlugin(*arguments, **settings)).connect(ADDRESS)


async def test_a_restart_of_five_seconds_costs_a_client_a_pause() -> None:
    transport = MemoryTransport()
    async with anyio.create_task_group() as tasks:
        server = await serve(transport, tasks)
        async with client(transport) as dialled:
            assert await dialled.request("add", (1, 2)) == 3
            await server.stop(drain=0)
            await anyio.sleep(0.05)  # the news travels
            assert not dialled.is_connected
            await anyio.sleep(5)
            began = anyio.current_time()
            server = await serve(transport, tasks)
            assert await dialled.request("add", (1, 2), timeout=20) == 3
            assert anyio.current_time() - began <= 10, "the cap"
        await server.stop(drain=0)


async def test_a_short_cut_is_over_in_100_ms() -> None:
    transport = MemoryTransport()
    gaps: list[float] = []
    async with serving(transport):
        builder = EchoClient.builder().transport(transport).serializer(JsonSerializer()).plugin(ReconnectPlugin())
        builder.on_reconnected(lambda context, gap: gaps.append(gap))
        async with builder.connect(ADDRESS) as dialled:
            for _ in range(20):
                await anyio.sleep(11)  # a stable session
                transport.connections.pop()[0].die()
                await anyio.sleep(0.01)
                assert await dialled.request("add", (1, 2)) == 3
            await anyio.sleep(1)
    assert len(gaps) == 20
    assert max(gaps) <= 0.101


async def test_a_server_that_accepts_and_drops_is_not_run_down() -> None:
    transport = MemoryTransport()
    async with serving(transport), client(transport, Backoff(chance=random.Random(3))):
        began, cuts = anyio.current_time(), 0
        while anyio.current_time() - began < 60:
            if transport.connections:
                cuts += 1
                transport.connections.pop()[0].die()
            await anyio.sleep(0.02)
        assert 8 <= cuts < 40, "with its first pause each time it would be a thousand"


async def test_it_gives_up_and_says_how_often_it_tried() -> None:
    transport = MemoryTransport()
    async with serving(transport) as server, client(transport, max_tries=4) as dialled:
        await server.stop(drain=0)
        await anyio.sleep(0.05)
        with pytest.raises(ConnectionClosed, match="given up after 4 tries to connect again: nobody answers"):
            await dialled.request("add", (1, 2))


async def test_the_first_connection_is_retried_on_request() -> None:
    transport = MemoryTransport()
    with pytest.raises(TransportError, match="nobody answers"):
        async with client(transport):
            pass
    began = anyio.current_time()
    with pytest.raises(TransportError, match="nobody answers"):
        async with client(transport, max_seconds=30, retry_first=True):
            pass
    assert 15 < anyio.current_time() - began <= 30
