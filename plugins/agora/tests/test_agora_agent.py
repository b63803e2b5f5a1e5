"""Agents in Python on sessions: the surface of ``AgoraClient``, with a session in place of a WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from bridge_world import BridgeWorld, until
from msgspec import Raw

from echokernel import EchoClient, InvalidArgument, MethodNotFound, RequestTimeout
from echokernel.testing import JsonSerializer, connected, virtual_time_backends
from echokernel_agora import (
    AgoraAgent,
    AgoraError,
    ConnectionLost,
    IdInUse,
    Message,
    NoSuchAgent,
    Principal,
    ReceiverGone,
    ReceiverSlow,
    Replaced,
    StreamAborted,
    StreamRefused,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=virtual_time_backends(), ids=lambda backend: backend[0])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def world() -> AsyncIterator[BridgeWorld]:
    async with BridgeWorld(frame_rate=1e6, frame_burst=1e6, byte_rate=1e9).running() as world:
        yield world


def dial(world: BridgeWorld) -> Any:
    return EchoClient.builder().transport(world.transport).serializer(JsonSerializer()).connect(world.url)


@asynccontextmanager
async def an_agent(world: BridgeWorld, id: str, **about: Any) -> AsyncIterator[AgoraAgent]:
    async with dial(world) as client, AgoraAgent(client, id=id, **about) as agent:
        yield agent


async def next_message(agent: AgoraAgent) -> Message:
    with anyio.fail_after(5):
        return await anext(agent.messages())


async def test_agents_find_ask_and_answer_each_other(world: BridgeWorld) -> None:
    ws = world.agent("ws-1", card={"deep": [1]}, capabilities=["sum"])
    async with an_agent(world, "a") as a, an_agent(world, "b", name="Bee", capabilities=["sum"], card={"v": 1}) as b:
        assert [(each.id, each.transport) for each in await a.list()] == [("ws-1", None), ("a", "quic"), ("b", "quic")]
        found = await a.list(capability="sum", cards=True)
        assert [(each.name, each.card) for each in found] == [("WS-1", {"deep": [1]}), ("Bee", {"v": 1})]
        assert (a.connected, a.failure, a.id) == (True, None, "a")

        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                async for message in b.messages():
                    assert (message.sender, message.is_reply, message.is_stream) == ("a", False, False)
                    await message.reply({"sum": sum(message.payload["numbers"])})
                    return

            tasks.start_soon(answer)
            reply = await a.request("b", {"numbers": [1, 2]})
            assert (reply.payload["sum"], reply.sender, reply.is_reply) == (3, "b", True)

        assert await a.send("ws-1", Raw(b"1e400"), confirm=True) == "delivered"
        assert ws.texts[-1].endswith(b'"payload":1e400}')
        ws.take()
        await a.send("ws-1", {"x": "é"})
        await a.send("ws-1")
        await until(lambda: len(ws.got) == 2)
        assert [each.get("payload") for each in ws.take()] == [{"x": "é"}, None]
        ws.say("send", to="a", payload={"request_id": "r1", "q": 1})
        await (await next_message(a)).reply({"ok": True})
        await until(lambda: ws.got)
        assert ws.one()["payload"] == {"request_id": "r1", "ok": True}  # an agent of the seed looks for it there
    assert list(world.router.agents) == ["ws-1"]


async def test_streams_in_both_directions_and_streamed_replies(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with an_agent(world, "a") as a, an_agent(world, "b") as b, anyio.create_task_group() as tasks:

        async def answer() -> None:
            message = await next_message(b)
            text = await message.text()
            async with message.reply_stream({"about": text}) as out:
                for word in text.split():
                    await out.send(word[::-1])

        tasks.start_soon(answer)
        async with a.stream("b", {"task": "turn"}, reply=True) as stream:
            for word in ("one ", "two ", "three"):
                await stream.send(word)
            await stream.send("")
            # the end of the stream goes out when the block is left
        reply = await stream.reply()
        assert reply.payload["about"] == "one two three"
        assert [chunk async for chunk in reply.chunks()] == ["eno", "owt", "eerht"]

        async with a.stream("ws-1", confirm=True) as stream:
            await stream.send('"\n')
        assert [each["type"] for each in ws.got] == ["message", "message_chunk", "message_end"]
        with pytest.raises(ValueError, match="half"):
            async with a.stream("ws-1") as stream:
                await stream.send("x")
                raise ValueError("half")
        await until(lambda: len(ws.got) == 6)
        assert ws.take()[-1]["error"]["code"] == "aborted"
        ws.say("send", to="a", stream=True, stream_id="s")
        ws.say("send_chunk", to="a", stream_id="s", chunk="x")
        ws.say("send_end", to="a", stream_id="s", error={"code": "tired", "message": "no more"})
        message = await next_message(a)
        chunks = message.chunks()
        assert await anext(chunks) == "x"
        with pytest.raises(StreamAborted, match="no more") as error:
            await anext(chunks)
        assert error.value.reason == "tired"
        assert not world.router._relay.streams


async def test_what_goes_wrong_is_raised_or_told(world: BridgeWorld) -> None:
    told: list[AgoraError] = []
    ws = world.agent("ws-1")
    async with an_agent(world, "a", on_error=told.append, timeout=2.0) as a:
        with pytest.raises(NoSuchAgent, match="nobody: nobody is registered"):
            await a.send("nobody", 1, confirm=True)
        with pytest.raises(NoSuchAgent):
            await a.request("nobody", 1)
        with pytest.raises(NoSuchAgent):
            async with a.stream("nobody") as stream:
                await anyio.sleep(0.1)
                await stream.send("x")
        await a.send("nobody", 1)
        await until(lambda: told)
        assert (told[0].reason, told[0].to) == ("no_such_agent", "nobody")
        with pytest.raises(RequestTimeout):
            await a.request("ws-1", 1)
        with pytest.raises(InvalidArgument, match="no JSON"):
            await a.send("ws-1", float("nan"))
        with pytest.raises(InvalidArgument, match="1 to 128"):
            await a.send("", 1)
        with pytest.raises(StreamRefused, match="^ws-1: its receiver wants no more"):  # noqa: RUF043
            async with a.stream("ws-1") as stream:
                await stream.send("x")
                await until(lambda: ws.got and "chunk" in ws.got[-1])
                ws.say("stop", from_="a", stream_id=stream.stream_id)
                await anyio.sleep(0.1)
                await stream.send("y")
        with pytest.raises(ReceiverGone):
            async with a.stream("ws-1") as stream:
                await anyio.sleep(0.1)
                ws.leave()
                await anyio.sleep(0.1)
                await stream.send("y")
        assert len(told) == 1


async def test_a_stream_that_nobody_reads_is_held_back_and_one_that_is_stopped_ends(world: BridgeWorld) -> None:
    async with an_agent(world, "a") as a, an_agent(world, "b") as b, anyio.create_task_group() as tasks:
        sent = 0

        async def push() -> None:
            nonlocal sent
            with pytest.raises(StreamRefused):
                async with a.stream("b") as stream:
                    while True:
                        await stream.send("x" * 8_000)
                        sent += 1

        tasks.start_soon(push)
        message = await next_message(b)
        await anyio.sleep(2)
        stuck = sent
        assert stuck * 8_000 < 2_000_000
        await a.send("b", "beside it", confirm=True)
        assert (await next_message(b)).payload == "beside it"
        assert sent == stuck
        chunks = message.chunks()
        for _ in range(stuck):
            assert len(await anext(chunks)) == 8_000
        await anyio.sleep(0.1)
        assert sent > stuck
        await message.stop()
    assert not world.router._relay.streams


async def test_messages_to_an_agent_that_does_not_read_wait_and_then_fail(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with an_agent(world, "a", patience=1.0) as a:
        ws.stop_reading()
        with pytest.raises(ReceiverSlow):
            for number in range(2000):
                await a.send("ws-1", [number, "x" * 1000])
        ws.read_on()
        await a.send("ws-1", "last", confirm=True)
        numbers = [each["payload"][0] for each in ws.got if each["payload"] != "last"]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) < 300
        assert ws.got[-1]["payload"] == "last"


async def test_one_client_is_one_agent_at_a_time(world: BridgeWorld) -> None:
    async with dial(world) as client:
        async with AgoraAgent(client, id="a") as agent:
            with pytest.raises(InvalidArgument, match=r"agora\.message"):
                async with AgoraAgent(client, id="b"):
                    pass
            with pytest.raises(InvalidArgument, match="entered once"):
                await agent.__aenter__()
            assert await agent.send("a", "myself", confirm=True) == "delivered"
        assert not world.router.agents
        async with AgoraAgent(client, id="b"):
            assert list(world.router.agents) == ["b"]
        with pytest.raises(InvalidArgument, match="not registered"):
            await AgoraAgent(client, id="c").list()
        with pytest.raises(AgoraError, match="`id`"):
            async with AgoraAgent(client, id="a b"):
                pass
        assert client.is_connected
    async with connected() as nodes:
        with pytest.raises(MethodNotFound):
            async with AgoraAgent(nodes.client, id="a"):
                pass


async def test_an_id_that_is_taken_and_one_that_is_taken_over(world: BridgeWorld) -> None:
    async with an_agent(world, "a"):
        with pytest.raises(IdInUse):
            async with an_agent(world, "a"):
                pass
    world.bridge.principal_of = lambda session: Principal("ada")
    async with an_agent(world, "a") as first, an_agent(world, "a") as second:
        await until(lambda: first.failure)
        assert isinstance(first.failure, Replaced)
        with pytest.raises(Replaced):
            await next_message(first)
        with pytest.raises((Replaced, ConnectionLost)):
            await first.send("a", 1)
        assert second.connected


async def test_a_lost_session_ends_what_was_under_way(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with an_agent(world, "a", patience=1.0) as a:
        ws.say("send", to="a", stream=True, stream_id="s")
        ws.say("send_chunk", to="a", stream_id="s", chunk="x")
        chunks = (await next_message(a)).chunks()
        assert await anext(chunks) == "x"
        await world.server.context().sessions()[0].close()
        with pytest.raises((ConnectionLost, StreamAborted)):
            await anext(chunks)
        await until(lambda: a.failure)
        with pytest.raises(ConnectionLost):
            await a.send("ws-1", 1)
        with pytest.raises(ConnectionLost):
            await next_message(a)


async def test_an_agent_may_watch_who_comes_and_goes(world: BridgeWorld) -> None:
    async with an_agent(world, "a") as a:
        watched = a.presence()
        await anyio.sleep(0.1)
        ws = world.agent("ws-1")
        ws.leave()
        seen = []
        with anyio.fail_after(5):
            async for change, record in watched:
                if record is not None and record.id == "ws-1":
                    seen.append(change)
                if len(seen) == 2:
                    break
        assert seen == ["online", "gone"]


async def test_hundreds_of_streams_between_two_agents(world: BridgeWorld) -> None:
    many = 220
    async with an_agent(world, "a") as a, an_agent(world, "b") as b, anyio.create_task_group() as tasks:
        got: dict[str, list[str]] = {}

        async def read(message: Message) -> None:
            got[message.payload] = [chunk async for chunk in message.chunks()]

        async def read_all() -> None:
            for _ in range(many):
                tasks.start_soon(read, await anext(b.messages()))

        async def write(number: int) -> None:
            async with a.stream("b", f"{number}", confirm=True) as stream:
                for part in range(5):
                    await stream.send(json.dumps([number, part]))

        tasks.start_soon(read_all)
        async with anyio.create_task_group() as writers:
            for number in range(many):
                writers.start_soon(write, number)
    assert got == {f"{number}": [json.dumps([number, part]) for part in range(5)] for number in range(many)}
    assert not world.router.counters.errors
