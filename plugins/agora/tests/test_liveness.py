"""Who is still there: heartbeats, connections whose other end vanished, and receivers that do not read."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from listening import (
    BACKENDS,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Raw,
    agent,
    close,
    frame,
    names,
    text,
    until,
    watched,
    websocket,
)

from echokernel_agora import AgoraServer, Limits
from echokernel_agora.websocket import HIGH_WATER, WebSocket

pytestmark = pytest.mark.anyio

QUICK = Limits(ping_interval=0.1, ping_timeout=0.1, self_per_minute=0)


@pytest.fixture(params=BACKENDS, ids=names)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def outlet(server: AgoraServer, id: str) -> WebSocket:
    peer = server.router.agents[id].peer
    assert peer is not None
    assert isinstance(peer.outlet, WebSocket)
    return peer.outlet


def stop_reading(raw: Raw) -> None:
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]


def read_on(raw: Raw) -> None:
    raw.writer.transport.resume_reading()  # type: ignore[attr-defined]


# --- heartbeats ------------------------------------------------------------------------------------------------------


async def test_who_is_quiet_is_pinged_and_who_answers_stays() -> None:
    async with AgoraServer(listen="127.0.0.1:0", limits=QUICK) as server, await agent(server, "alive") as raw:
        for _ in range(4):
            assert await raw.frame() == (PING, b"")
            raw.send(frame(PONG))
        assert "alive" in server.router.agents


@pytest.mark.parametrize(
    "sign",
    [frame(PONG, b"another"), frame(PING), text({"type": "list"}), b"\x81"],
    ids=["a pong to nothing", "a ping", "a frame", "half a header"],
)
async def test_whatever_arrives_is_a_sign_of_life(sign: bytes) -> None:
    async with AgoraServer(listen="127.0.0.1:0", limits=QUICK) as server, await agent(server, "alive") as raw:
        for _ in range(2 if len(sign) > 1 else 1):
            while (await raw.frame())[0] != PING:
                pass
            raw.send(sign)
        before = asyncio.get_running_loop().time()
        while (await raw.frame())[0] != -1:
            pass  # now it is silent, and dropped
        assert asyncio.get_running_loop().time() - before > 0.1, "not for the ping that was answered"


async def test_who_answers_nothing_is_dropped_and_the_others_are_told() -> None:
    async with (
        AgoraServer(listen="127.0.0.1:0", limits=QUICK) as server,
        await agent(server, "vanished") as gone,
        await agent(server, "sender") as sender,
    ):
        answering = asyncio.ensure_future(_answer_pings(sender))
        sender.send(text({"type": "send", "to": "vanished", "stream_id": "s", "stream": True}))
        began = asyncio.get_running_loop().time()
        told = await answering
        assert (told["type"], told["code"], told["stream_id"]) == ("error", "receiver_gone", "s")
        assert asyncio.get_running_loop().time() - began < 2
        assert "vanished" not in server.router.agents
        assert server._hub.closes[1006] == 1  # type: ignore[union-attr]
        while (await gone.frame())[0] != -1:
            pass


async def _answer_pings(raw: Raw) -> Any:
    import json

    while True:
        opcode, payload = await raw.frame()
        if opcode == PING:
            raw.send(frame(PONG, payload))
        else:
            assert opcode == TEXT, opcode
            return json.loads(payload)


async def test_a_newcomer_with_the_same_id_has_the_old_connection_probed() -> None:
    limits = Limits(ping_interval=60, ping_timeout=0.1)
    async with (
        watched(limits=limits) as (server, _),
        await agent(server, "double") as old,
        await websocket(server) as new,
    ):
        wish = text({"type": "register", "id": "double", "name": "x"})
        new.send(wish)
        assert (await new.json())["code"] == "id_in_use"
        assert await old.frame() == (PING, b""), "at once, and not after a minute"
        old.send(frame(PONG))
        await asyncio.sleep(0.3)
        new.send(wish)
        assert (await new.json())["code"] == "id_in_use", "it is alive"
        assert await old.frame() == (PING, b"")
        assert await old.frame() == (-1, b"")  # it did not answer
        new.send(wish)
        assert (await new.json())["type"] == "registered"


async def test_who_registers_nobody_is_closed() -> None:
    async with watched(limits=Limits(idle_unregistered=0.1)) as (server, _), await websocket(server) as raw:
        opcode, payload = await raw.frame()  # by the tick of the server, once a second
        assert (opcode, payload[:2]) == (CLOSE, (4408).to_bytes(2, "big"))
        raw.send(close(4408))
        assert await raw.frame() == (-1, b""), "the answer to a close ends the connection"


@pytest.mark.parametrize("how", ["reset", "end", "close"])
async def test_whoever_leaves_is_gone_at_once(how: str) -> None:
    async with watched() as (server, pair):
        raw = await agent(server, "leaver")
        if how == "reset":
            raw.writer.transport.abort()
        elif how == "end":
            raw.writer.write_eof()
        else:
            raw.send(close(1001))
        await until(lambda: "leaver" not in server.router.agents)
        await pair.exchange()
        await raw.leave()


@pytest.mark.parametrize(("code", "kept"), [(1000, False), (1001, False), (1011, True), (None, False), (-1, True)])
async def test_a_connection_that_was_lost_may_be_resumed_and_one_that_was_closed_may_not(
    code: int | None, kept: bool
) -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(text({"type": "register", "id": "again", "name": "x", "features": ["resume"]}))
        token = (await raw.json())["resume"]
        assert token
        connections = len(server.router.peers)
        if code == -1:
            raw.writer.transport.abort()
        else:
            raw.send(close(code))
        await until(lambda: len(server.router.peers) < connections)
        assert ("again" in server.router.agents) == kept


# --- receivers that do not read --------------------------------------------------------------------------------------


async def test_who_does_not_read_fills_its_own_queue_and_nothing_else() -> None:
    limits = Limits(queue_bytes=300_000, frame_rate=1e6, frame_burst=1e6, byte_rate=1e9)
    async with (
        watched(limits=limits) as (server, pair),
        await agent(server, "stuck") as stuck,
        await agent(server, "sender") as sender,
    ):
        stop_reading(stuck)
        message = text({"type": "send", "to": "stuck", "payload": "x" * 20_000})
        told: dict[str, Any] = {}
        asked = 0
        while not told:
            sender.send(message, frame(PING))
            asked += 1
            assert asked < 2_000, "nobody stops it"
            while (await sender.frame())[0] != PONG:
                told = {"code": "receiver_slow"}
        queue = server.router.agents["stuck"].queue
        assert queue.size <= 300_000
        waiting = outlet(server, "stuck")._transport.get_write_buffer_size()
        assert waiting <= HIGH_WATER + 20_100
        await pair.exchange(20)
        counters = server.router.counters
        assert counters.errors["receiver_slow"] == counters.errored > 0
        read_on(stuck)
        arrived = 0
        while arrived < counters.accepted - counters.errored - 23:  # the pair's
            assert len((await stuck.json())["payload"]) == 20_000
            arrived += 1
        assert (queue.frames, queue.size) == (0, 0)


async def test_a_batch_is_not_collected_without_end() -> None:
    async with watched() as (server, _), await agent(server, "stuck") as stuck:
        stop_reading(stuck)
        target, hub = outlet(server, "stuck"), server._hub
        assert hub is not None
        hub.begin()
        written = 0
        while target.write(b'{"type":"pong","id":"%b"}' % (b"x" * 20_000)):
            written += 1
            assert written < 1_000, "20 MB within one batch"
        assert target._transport.get_write_buffer_size() <= 2 * HIGH_WATER + 20_100
        hub.end(0.0)


@pytest.mark.parametrize(
    ("start", "each"),
    [(b"", frame(PING)), (b"", frame(PONG)), (frame(TEXT, fin=False), frame(CONT, fin=False))],
    ids=["pings", "pongs", "fragments"],
)
async def test_frames_that_carry_nothing_are_bounded(start: bytes, each: bytes) -> None:
    async with watched() as (server, pair), await agent(server, "flood") as raw:
        raw.send(start + each * 150, frame(PING, b"so far"))
        while await raw.frame() != (PONG, b"so far"):
            pass
        await pair.exchange()
        raw.send(each * 150)
        assert await raw.closed() == 1008
        assert "flood" not in server.router.agents


async def test_pings_of_a_long_life_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echokernel_agora.websocket.IDLE_FRAMES", 3)
    async with watched() as (server, _), await agent(server, "steady") as raw:
        for _ in range(8):
            raw.send(frame(PING))
            assert await raw.frame() == (PONG, b"")
            await asyncio.sleep(0.4)


async def test_pings_of_one_who_does_not_read_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echokernel_agora.websocket.IDLE_FRAMES", 1_000_000)
    async with watched() as (server, pair), await agent(server, "pinger") as raw:
        stop_reading(raw)
        ping = frame(PING, b"x" * 125)
        target = outlet(server, "pinger")
        for _ in range(400):
            raw.send(ping * 200)
            await raw.writer.drain()
            if target._pong is not None:
                break
        else:
            raise AssertionError("10 MB of pongs have gone somewhere")
        raw.send(frame(PING, b"the last one"))
        await until(lambda: target._pong is not None and target._pong.endswith(b"the last one"))
        assert target._transport.get_write_buffer_size() <= 3 * HIGH_WATER
        await pair.exchange()
        read_on(raw)
        while await raw.frame() != (PONG, b"the last one"):
            pass


async def test_who_reads_nothing_for_too_long_is_closed_with_1013() -> None:
    limits = Limits(stuck_after=0.05, close_timeout=0.1, frame_rate=1e6, frame_burst=1e6, byte_rate=1e9)
    async with (
        watched(limits=limits) as (server, pair),
        await agent(server, "stuck") as stuck,
        await agent(server, "sender") as sender,
    ):
        stop_reading(stuck)
        peer = server.router.agents["stuck"].peer
        assert peer is not None
        message = text({"type": "send", "to": "stuck", "payload": "x" * 50_000})
        while peer.blocked_since is None:
            sender.send(message, frame(PING))
            while (await sender.frame())[0] != PONG:
                pass
        await asyncio.sleep(0.06)
        server.router.tick()
        assert "stuck" not in server.router.agents
        connections = server._hub.connections  # type: ignore[union-attr]
        await until(lambda: peer.outlet not in connections)  # it never reads its close: aborted
        await pair.exchange()
        assert server._hub.closes[1013] == 1  # type: ignore[union-attr]


async def test_one_that_floods_the_router_is_heard_once_in_a_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, turn = asyncio.get_running_loop(), 0
    heard: list[int] = []
    receive = WebSocket.receive

    def counting(self: WebSocket, data: bytes) -> None:
        heard.append(turn)
        receive(self, data)

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(next_turn)

    async with watched() as (server, _), await websocket(server) as flood:
        flood.writer.transport.pause_reading()  # type: ignore[attr-defined]
        monkeypatch.setattr(WebSocket, "receive", counting)
        monkeypatch.setattr("echokernel_agora.websocket.IDLE_FRAMES", 1_000_000)
        next_turn()
        flood.send(frame(PONG, b"x" * 125) * 8_000)  # 1 MB
        await flood.writer.drain()
        await until(lambda: len(heard) >= 20)
        assert len(set(heard)) == len(heard)
        monkeypatch.undo()


async def test_frames_of_one_batch_leave_in_one_piece() -> None:
    async with (
        watched() as (server, _),
        await agent(server, "receiver") as receiver,
        await agent(server, "sender") as sender,
    ):
        target = outlet(server, "receiver")
        written: list[int] = []
        flush = target._transport.write

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: bytes) -> None:
                written.append(len(data))
                flush(data)

        transport, target._transport = target._transport, Counting()  # type: ignore[assignment]
        sender.send(*(text({"type": "send", "to": "receiver", "payload": number}) for number in range(50)))
        assert [(await receiver.json())["payload"] for _ in range(50)] == list(range(50))
        assert len(written) <= 3, "one for what came at a time"
        target._transport = transport
