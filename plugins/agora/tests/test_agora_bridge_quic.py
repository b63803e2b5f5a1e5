"""The bridge over real QUIC: the same promises on loopback, with the serializers that people use."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora_world import Agent
from bridge_world import BridgeWorld, until

from echokernel import EchoClient, EchoServer, InvalidArgument
from echokernel.assembly import build_server
from echokernel.config import load_config
from echokernel.serializer import Serializer
from echokernel_agora import AgoraAgent, AgoraClient, AgoraService, Message, StreamAborted
from echokernel_agora.crossing import Outgoing, Registration

pytest.importorskip("echokernel_quic")
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["postcard", "msgpack"])
def serializer(request: pytest.FixtureRequest) -> Serializer:
    module = pytest.importorskip(f"echokernel_{request.param}")
    made: Serializer = getattr(module, f"{request.param.capitalize()}Serializer")()
    return made


@pytest.fixture(autouse=True)
def own_identity(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))


@asynccontextmanager
async def a_node(serializer: Serializer) -> AsyncIterator[tuple[BridgeWorld, Any]]:
    world = BridgeWorld(frame_rate=1e6, frame_burst=1e6, byte_rate=1e9)
    builder = EchoServer.builder().bind("quic://127.0.0.1:0").serializer(serializer).plugin(world.bridge)
    async with builder.build() as server:

        def dial() -> Any:
            return EchoClient.builder().serializer(serializer).connect(server.addresses[0])

        yield world, dial
    world.check()
    assert all(isinstance(peer.outlet, Agent) for peer in world.router.peers)


async def test_messages_streams_and_errors(serializer: Serializer) -> None:
    async with a_node(serializer) as (world, dial), dial() as client:
        ws = world.agent("ws-1")
        answer = await client.request("agora.register", Registration("quic-1", "Quick", card=b'{"v":1e400}'))
        assert (answer["id"] if isinstance(answer, dict) else answer.id) == "quic-1"
        for payload in (b"1e400", b'{"b":1,"a":"\\ud83d","b":9223372036854775808}', b'" \xc3\xa9 "'):
            assert await client.request("agora.send", Outgoing("ws-1", payload)) == "delivered"
            assert b'"payload":' + payload + b"}" in ws.texts[-1]
        with pytest.raises(InvalidArgument, match="not JSON"):
            await client.request("agora.send", Outgoing("ws-1", b'"\xff"'))
        async with client.request_stream("agora.stream", Outgoing("ws-1", stream_id="s"), sends=True) as call:
            await call.send(b'"\\u00e9"')
            assert await call.result() == "delivered"
        assert ws.texts[-2].endswith(b'"chunk":"\\u00e9"}')


async def test_two_agents_talk_in_hundreds_of_streams(serializer: Serializer) -> None:
    many = 200  # more than the transport has open at a time: the others wait for their turn
    async with a_node(serializer) as (world, dial), dial() as first, dial() as second:
        async with AgoraAgent(first, id="a") as a, AgoraAgent(second, id="b") as b, anyio.create_task_group() as tasks:

            async def echo(message: Message) -> None:
                async with message.reply_stream() as out:
                    async for chunk in message.chunks():
                        await out.send(chunk.upper())

            async def echo_all() -> None:
                for _ in range(many):
                    tasks.start_soon(echo, await anext(b.messages()))

            async def ask(number: int) -> None:
                async with a.stream("b", reply=True) as stream:
                    for part in range(5):
                        await stream.send(f"n{number}.{part}")
                reply = await stream.reply(timeout=30)
                assert [chunk async for chunk in reply.chunks()] == [f"N{number}.{part}" for part in range(5)]

            tasks.start_soon(echo_all)
            with anyio.fail_after(60):
                async with anyio.create_task_group() as asking:
                    for number in range(many):
                        asking.start_soon(ask, number)
        await until(lambda: not world.router._relay.streams)
        assert not world.router.counters.errors


async def test_who_does_not_read_pauses_who_sends_and_an_abort_crosses_at_once(serializer: Serializer) -> None:
    async with a_node(serializer) as (world, dial), dial() as first, dial() as second:
        async with AgoraAgent(first, id="a") as a, AgoraAgent(second, id="b") as b, anyio.create_task_group() as tasks:
            sent = 0

            async def push() -> None:
                nonlocal sent
                with pytest.raises(ValueError, match="enough"):
                    async with a.stream("b") as stream:
                        while sent < 2000:
                            await stream.send(f"{sent} " + "x" * 8_000)
                            sent += 1
                        raise ValueError("enough")

            tasks.start_soon(push)
            message = await anext(b.messages())
            stuck = -1
            with anyio.fail_after(20):
                while sent != stuck:
                    stuck = sent
                    await anyio.sleep(0.3)
            assert stuck * 8_000 < 4_000_000
            assert world.router.agents["b"].queue.size < 100_000
            began = time.perf_counter()
            await a.send("b", "beside it", confirm=True)
            assert (await anext(b.messages())).payload == "beside it"
            assert time.perf_counter() - began < 1
            number = 0
            with pytest.raises(StreamAborted):
                async for chunk in message.chunks():
                    assert int(chunk.split()[0]) == number
                    number += 1
            assert number == 2000

        ws = world.agent("ws-1")
        async with AgoraAgent(first, id="c") as c:
            aborted = 0.0
            with pytest.raises(ValueError, match="now"):
                async with c.stream("ws-1") as stream:
                    await stream.send("x")
                    await until(lambda: ws.got and "chunk" in ws.got[-1])
                    aborted = time.perf_counter()
                    raise ValueError("now")
            await until(lambda: ws.got[-1]["type"] == "message_end")
            assert time.perf_counter() - aborted < 0.5  # 0.1 s, and what else this machine does
            assert ws.got[-1]["error"]["code"] == "aborted"


async def test_a_node_from_a_configuration_has_a_bridge(
    serializer: Serializer, tmp_path: Path, anyio_backend: str
) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("the listener of the service is asyncio's")
    plugins = ["quic", "agora", serializer.name]
    (tmp_path / "node.toml").write_text(
        f"plugins = {json.dumps(plugins)}\n"
        '[listen.main]\nurl = "quic://127.0.0.1:0"\n'
        '[service.agents]\nuse = "agora"\nlisten = "127.0.0.1:0"\n',
        "utf-8",
    )
    async with build_server(load_config(str(tmp_path / "node.toml"), environ={})) as server:
        service = next(each for each in server._services if isinstance(each, AgoraService))
        dialling = EchoClient.builder().serializer(serializer).connect(server.addresses[0])
        async with dialling as client, AgoraAgent(client, id="quic-1") as agent:
            async with AgoraClient(service.server.url, id="ws-1", card={"v": 1}) as other:
                assert [each.id for each in await agent.list()] == ["quic-1", "ws-1"]
                assert await agent.send("ws-1", {"x": 1}, confirm=True) == "delivered"
                message = await anext(other.messages())
                async with message.reply_stream() as out:
                    await out.send("word")
                reply = await anext(agent.messages())
                assert (reply.is_reply, await reply.text()) == (True, "word")
                async with agent.stream("ws-1", confirm=True) as stream:
                    for number in range(100):
                        await stream.send(f"{number} ")
                assert (await (await anext(other.messages())).text()).split() == [f"{number}" for number in range(100)]
        assert "quic-1" not in service.server.router.agents
