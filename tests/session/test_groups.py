"""Groups: who is in them, who leaves them, and what broadcasts to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from echokernel import (
    ConnectionClosed,
    EchoClient,
    EchoServer,
    InvalidArgument,
    Limits,
    Overloaded,
    Session,
    event,
    rpc,
)
from echokernel.testing import JsonSerializer, Nodes, connected

pytestmark = pytest.mark.anyio


@rpc("room.join")
async def join(session: Session, name: str) -> list[str]:
    session.join(name)
    return sorted(session.groups)


@rpc("room.leave")
async def leave(session: Session, name: str) -> list[str]:
    session.leave(name)
    return sorted(session.groups)


@asynccontextmanager
async def more_clients(nodes: Nodes, *handlers: Any) -> AsyncIterator[list[EchoClient]]:
    """Connect a client for each handler."""
    async with AsyncExitStack() as stack:
        clients = []
        for handler in handlers:
            builder = EchoClient.builder().transport(nodes.transport).serializer(JsonSerializer()).add_handler(handler)
            clients.append(await stack.enter_async_context(builder.connect("memory://node:1")))
        yield clients


def listener(log: list[str]) -> Any:
    @event
    async def news(text: str) -> None:
        log.append(text)

    return news


async def test_a_group_is_who_joined_it() -> None:
    logs: list[list[str]] = [[], [], []]
    async with (
        connected(join, leave, client_handlers=[listener(logs[0])]) as nodes,
        more_clients(nodes, listener(logs[1]), listener(logs[2])) as (second, _),
    ):
        context = nodes.server.context()
        assert context.groups() == frozenset()
        assert await nodes.client.request("room.join", "red") == ["red"]
        assert await second.request("room.join", "red") == ["red"]
        assert await second.request("room.join", "blue") == ["blue", "red"]
        assert await second.request("room.join", "blue") == ["blue", "red"]  # once is enough
        assert context.groups() == {"red", "blue"}
        assert [session.id for session in context.sessions("red")] == [1, 2]
        assert [session.id for session in context.sessions("blue")] == [2]
        assert await context.broadcast("news", "to red", group="red") == 2
        assert await context.broadcast("news", "to blue", group="blue") == 1
        assert await context.broadcast("news", "to all") == 3
        assert await context.broadcast("news", "to nobody", group="green") == 0
        assert await second.request("room.leave", "red") == ["blue"]
        assert await second.request("room.leave", "red") == ["blue"]
        assert await context.broadcast("news", "still red", group="red") == 1
        assert await second.request("room.leave", "blue") == []
        assert context.groups() == {"red"}, "an empty group vanishes"
        await anyio.sleep(1)
    assert logs == [["to red", "to all", "still red"], ["to red", "to blue", "to all"], ["to all"]]


async def test_some_can_be_left_out() -> None:
    logs: list[list[str]] = [[], []]
    async with connected(client_handlers=[listener(logs[0])]) as nodes, more_clients(nodes, listener(logs[1])):
        context = nodes.server.context()
        first, second = context.sessions()
        assert await context.broadcast("news", "a", exclude=first) == 1
        assert await context.broadcast("news", "b", exclude=[second]) == 1
        assert await context.broadcast("news", "c", exclude=[first, second]) == 0
        await anyio.sleep(1)
    assert logs == [["b"], ["a"]]


async def test_a_session_that_ends_leaves_all_its_groups() -> None:
    seen: list[frozenset[str]] = []
    server = EchoServer.builder().on_disconnect(lambda session: seen.append(session.groups))
    async with connected(join, server=server) as nodes:
        await nodes.client.request("room.join", "red")
        session = nodes.session
        await nodes.client.close()
        await anyio.sleep(0.1)
        context = nodes.server.context()
        assert (context.groups(), context.sessions("red")) == (frozenset(), [])
        await anyio.sleep(3)
        assert seen == [frozenset({"red"})], "on_disconnect can still say goodbye to them"
        assert session.groups == frozenset()
        with pytest.raises(ConnectionClosed):
            session.join("red")
        session.leave("red")


async def test_on_connect_may_join() -> None:
    def welcome(session: Session) -> None:
        session.join("lobby")

    async with connected(server=EchoServer.builder().on_connect(welcome)) as nodes:
        await anyio.sleep(0.1)
        assert nodes.server.context().sessions("lobby") == [nodes.session]


async def test_groups_per_session_are_bounded() -> None:
    async with connected(join, leave, server=EchoServer.builder().limits(Limits(max_groups=2))) as nodes:
        await nodes.client.request("room.join", "a")
        await nodes.client.request("room.join", "b")
        await nodes.client.request("room.join", "b")
        with pytest.raises(Overloaded, match="in 2 groups already"):
            await nodes.client.request("room.join", "c")
        await nodes.client.request("room.leave", "a")
        assert await nodes.client.request("room.join", "c") == ["b", "c"]


@pytest.mark.parametrize("name", ["", "x" * 129, 5, None], ids=["empty", "long", "number", "none"])
async def test_names_are_texts_of_1_to_128_characters(name: Any) -> None:
    async with connected() as nodes:
        session, context = nodes.session, nodes.server.context()
        with pytest.raises(InvalidArgument, match="group's name"):
            session.join(name)
        with pytest.raises(InvalidArgument, match="group's name"):
            session.leave(name)
        if name is not None:
            with pytest.raises(InvalidArgument, match="group's name"):
                context.sessions(name)
            with pytest.raises(InvalidArgument, match="group's name"):
                await context.broadcast("news", group=name)
        session.join("ü" * 128)
        assert context.groups() == {"ü" * 128}


async def test_groups_are_the_servers() -> None:
    async with connected() as nodes:
        for act in (nodes.client.context().session.join, nodes.client.context().session.leave):
            with pytest.raises(InvalidArgument, match="groups are the server's"):
                act("red")
        assert nodes.client.context().session.groups == frozenset()


def test_no_limit_may_be_nothing() -> None:
    for name in ("max_groups", "broadcast_keep", "broadcast_backlog"):
        with pytest.raises(ValueError, match=f"{name} is 0; wanted at least 1"):
            Limits(**{name: 0})
