"""Streams across the bridge: one QUIC stream for each, with its own backpressure, and aborts in both directions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from bridge_world import BridgeWorld, Guest, until

from echokernel import EchoError, HandlerError, InvalidArgument, RequestCancelled
from echokernel.testing import virtual_time_backends

pytestmark = pytest.mark.anyio
FAST = {"frame_rate": 1e6, "frame_burst": 1e6, "byte_rate": 1e9}
ABORT = 0.1  # seconds in which an abort has to cross


@pytest.fixture(params=virtual_time_backends(), ids=lambda backend: backend[0])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def world() -> AsyncIterator[BridgeWorld]:
    async with BridgeWorld(**FAST).running() as world:
        yield world


def chunks_of(agent: Any, stream_id: str) -> list[str]:
    return [each["chunk"] for each in agent.got if each.get("stream_id") == stream_id and "chunk" in each]


async def test_a_stream_from_a_session_and_one_to_it(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        async with guest.stream("ws-1", "s1", payload=b'{"k":1.0}', request_id=b"1") as call:
            for word in (b'"a"', b'"\\u00e9"', b'"\\ud83d"', '"é"'.encode()):
                await call.send(word)
            assert await call.result() == "delivered"
        texts = ws.texts[1:]
        assert texts[0] == (
            b'{"type":"message","from":"quic-1","stream_id":"s1","stream":true,"request_id":1,"payload":{"k":1.0}}'
        )
        assert texts[1] == b'{"type":"message_chunk","from":"quic-1","stream_id":"s1","chunk":"a"}'
        assert [text.partition(b'"chunk":')[2] for text in texts[2:5]] == [
            b'"\\u00e9"}',
            b'"\\ud83d"}',
            '"é"}'.encode(),
        ]
        assert ws.got[-1]["type"] == "message_end"
        assert "error" not in ws.got[-1]

        ws.say("send", to="quic-1", stream=True, stream_id="s2", payload={"n": 1})
        await until(lambda: guest.streams)  # it begins before there is a chunk
        ws.say_text(b'{"type":"send_chunk","to":"quic-1","stream_id":"s2","chunk":"\\ud83d,\\"chunk\\":"}')
        ws.say("send_chunk", to="quic-1", stream_id="s2", chunk="two")
        ws.say("send_end", to="quic-1", stream_id="s2")
        await until(lambda: guest.ended)
        start, chunks = guest.streams[0]
        assert (start.sender, start.reply, start.stream_id, start.payload) == ("ws-1", False, "s2", b'{"n":1}') or (
            json.loads(start.payload or b"") == {"n": 1}
        )
        assert chunks == [b'"\\ud83d,\\"chunk\\":"', b'"two"']
        assert guest.ended == ["whole"]


async def test_a_reply_may_be_a_stream_and_have_the_same_id(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        async with guest.stream("ws-1", "s") as out, guest.stream("ws-1", "s", reply=True) as back:
            await out.send(b'"out"')
            await back.send(b'"back"')
            await until(lambda: len(ws.got) == 4)
            assert await back.result() == "delivered"
            await out.send(b'"more"')
            assert await out.result() == "delivered"
        kinds = [each["type"] for each in ws.take()]
        assert sorted(kinds[:4]) == ["message", "message_chunk", "reply", "reply_chunk"]
        assert kinds[4:] == ["reply_end", "message_chunk", "message_end"]
        ws.say("reply", to="quic-1", stream_id="s")
        ws.say("send", to="quic-1", stream=True, stream_id="s")
        ws.say("reply_chunk", to="quic-1", stream_id="s", chunk="r")
        ws.say("send_chunk", to="quic-1", stream_id="s", chunk="m")
        ws.say("reply_end", to="quic-1", stream_id="s")
        ws.say("send_end", to="quic-1", stream_id="s")
        await until(lambda: len(guest.ended) == 2)
        assert {start.reply: chunks for start, chunks in guest.streams} == {True: [b'"r"'], False: [b'"m"']}


async def test_hundreds_of_streams_at_a_time_keep_their_order_in_both_directions(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    many, length = 250, 8
    async with world.guest("quic-1") as guest, world.guest("quic-2") as other:

        async def send(number: int) -> None:
            to = "ws-1" if number % 2 else "quic-2"
            async with guest.stream(to, f"s{number}") as call:
                for part in range(length):
                    await call.send(b'"%d"' % part)
                    await anyio.sleep(0.001 * (number % 3))
                assert await call.result() == "delivered"

        async with anyio.create_task_group() as tasks:
            for number in range(many):
                tasks.start_soon(send, number)
                ws.say("send", to="quic-1", stream=True, stream_id=f"w{number}")
            for part in range(length):
                for number in range(many):
                    ws.say("send_chunk", to="quic-1", stream_id=f"w{number}", chunk=str(part))
                await anyio.sleep(0.01)
            for number in range(many):
                ws.say("send_end", to="quic-1", stream_id=f"w{number}")
        await until(lambda: len(guest.ended) == many and len(other.ended) == many // 2)
        wanted = [str(part) for part in range(length)]
        assert all(chunks_of(ws, f"s{number}") == wanted for number in range(1, many, 2))
        received = {
            start.stream_id: [json.loads(each) for each in chunks] for start, chunks in guest.streams + other.streams
        }
        assert received == {f"w{number}": wanted for number in range(many)} | {
            f"s{number}": wanted for number in range(0, many, 2)
        }
        assert not world.router.counters.errors
        assert not world.router._relay.streams


# --- backpressure ---------------------------------------------------------------------------------------------------


async def test_an_agent_that_does_not_read_pauses_the_session_that_streams_to_it_and_no_other(
    world: BridgeWorld,
) -> None:
    slow, quick = world.agent("slow"), world.agent("quick")
    slow.stop_reading()
    size = 8_000
    sent: dict[str, int] = {"slow": 0, "quick": 0}
    async with world.guest("quic-1") as guest:

        async def push(to: str, many: int) -> None:
            async with guest.stream(to, "s") as call:
                for _ in range(many):
                    await call.send(b'"' + b"x" * size + b'"')
                    sent[to] += 1
                assert await call.result() == "delivered"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push, "slow", 500)
            await anyio.sleep(2)
            stuck = sent["slow"]
            assert stuck * size < 1_000_000  # the transport's window, and the credit
            assert world.router.agents["slow"].queue.size <= 64 * 1024 + 2 * size
            with anyio.fail_after(1):
                await push("quick", 100)
                await guest.send("quick", "also")
            await anyio.sleep(2)
            assert sent["slow"] == stuck
            began = anyio.current_time()
            slow.read_on()
            await anyio.sleep(0.1)
            assert sent["slow"] > stuck, anyio.current_time() - began
        assert chunks_of(slow, "s") == ["x" * size] * 500
        assert len(quick.got) == 103
        assert not world.router.counters.errors


async def test_a_session_that_does_not_read_a_stream_pauses_whoever_sends_it_with_credit(world: BridgeWorld) -> None:
    size = 8_000
    sent = 0
    async with world.guest("quic-1") as sender, world.guest("quic-2") as reader:
        reader.stop_reading()

        async def push() -> None:
            nonlocal sent
            async with sender.stream("quic-2", "s") as call:
                for number in range(500):
                    await call.send(b'"%d %b"' % (number, b"x" * size))
                    sent += 1
                assert await call.result() == "delivered"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push)
            await anyio.sleep(2)
            stuck = sent
            assert stuck * size < 2_000_000
            assert world.router.agents["quic-2"].queue.size <= 64 * 1024 + 2 * size
            await anyio.sleep(30)  # longer than an agent may read nothing: this is one stream only
            assert sent == stuck
            reader.reading.set()
        await until(lambda: reader.ended)
        assert [int(chunk[1:].split()[0]) for chunk in reader.streams[0][1]] == list(range(500))
        assert not world.router.counters.errors


async def test_one_stream_that_is_not_read_holds_up_neither_others_nor_messages(world: BridgeWorld) -> None:
    ws = world.agent("ws-1", features=["credit"])
    async with world.guest("quic-1") as guest:
        guest.stop_reading()
        ws.say("send", to="quic-1", stream=True, stream_id="stuck")
        await until(lambda: guest.streams)
        stuck, credit = guest.reading, 64 * 1024
        guest.reading = anyio.Event()
        guest.reading.set()
        ws.take()
        for _ in range(1000):
            credit += sum(each["bytes"] for each in ws.take())
            if credit <= 0:
                break
            ws.say("send_chunk", to="quic-1", stream_id="stuck", chunk="x" * 8_000)
            credit -= 8_060
            await anyio.sleep(0.001)
        assert credit <= 0  # the sender is paused
        other = world.agent("ws-2")
        other.say("send", to="quic-1", stream=True, stream_id="fine")
        other.say("send_chunk", to="quic-1", stream_id="fine", chunk="x")
        other.say("send_end", to="quic-1", stream_id="fine")
        other.say("send", to="quic-1", payload=1)
        await until(lambda: guest.ended and guest.messages, 0.5)
        assert not other.got
        stuck.set()
        await anyio.sleep(0.1)
        assert sum(each["bytes"] for each in ws.take()) > 0
        ws.say("send_end", to="quic-1", stream_id="stuck")
        await until(lambda: len(guest.ended) == 2)


async def test_a_stream_without_credit_that_is_not_read_fails_alone_and_in_bounds(world: BridgeWorld) -> None:
    ws, other = world.agent("ws-1"), world.agent("ws-2")
    async with world.guest("quic-1") as guest:
        guest.stop_reading()
        ws.say("send", to="quic-1", stream=True, stream_id="s")
        for _ in range(2000):
            ws.say("send_chunk", to="quic-1", stream_id="s", chunk="x" * 8_000)
            if ws.got:
                break
            await anyio.sleep(0.001)
        assert ws.one()["code"] == "receiver_slow"
        assert world.router.agents["quic-1"].queue.size < 300_000
        other.say("send", to="quic-1", payload="still in")
        assert not other.got
        guest.reading.set()
        await until(lambda: guest.ended and guest.messages)
        assert json.loads(guest.streams[0][1][-1])["code"] == "receiver_slow"
        ws.say("send_end", to="quic-1", stream_id="s")
        assert not ws.got


# --- ends before the end --------------------------------------------------------------------------------------------


async def test_a_session_that_gives_a_stream_up_is_heard_at_the_receiver(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        async with guest.stream("ws-1", "s1") as call:
            await call.send(b'"half"')
            await until(lambda: len(ws.got) == 2)
            began = anyio.current_time()
        await until(lambda: len(ws.got) == 3)
        assert anyio.current_time() - began <= ABORT
        assert ws.take()[-1]["error"]["code"] == "aborted"
        async with guest.stream("ws-1", "s2") as call:
            await call.send(b'{"code":"out_of_tokens","message":"sorry"}')
            assert await call.result() == "delivered"
        assert ws.take()[-1]["error"] == {"code": "out_of_tokens", "message": "sorry"}
        ws.stop_reading()  # also one that waits for credit
        async with guest.stream("ws-1", "s3") as call:
            for _ in range(30):
                await call.send(b'"' + b"x" * 8_000 + b'"')
            await anyio.sleep(0.1)
        ws.read_on()
        await until(lambda: ws.got and ws.got[-1]["type"] == "message_end")
        assert ws.take()[-1]["error"]["code"] == "aborted"
        assert not world.router._relay.streams


async def test_an_agent_that_gives_a_stream_up_or_leaves_is_heard_at_the_session(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        for stream_id in ("s1", "s2"):
            ws.say("send", to="quic-1", stream=True, stream_id=stream_id)
            ws.say("send_chunk", to="quic-1", stream_id=stream_id, chunk="half")
        await until(lambda: len(guest.streams) == 2)
        began = anyio.current_time()
        ws.say("send_end", to="quic-1", stream_id="s1", error={"code": "tired"})
        await until(lambda: len(guest.ended) == 1)
        assert anyio.current_time() - began <= ABORT
        ws.leave()
        await until(lambda: len(guest.ended) == 2)
        assert anyio.current_time() - began <= ABORT
        ends = [json.loads(chunks[-1]) for _, chunks in sorted(guest.streams, key=lambda each: each[0].stream_id or "")]
        assert [end["code"] for end in ends] == ["tired", "sender_gone"]


async def test_a_session_that_wants_no_more_is_heard_at_the_sender(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        guest.refuse_after = 1
        ws.say("send", to="quic-1", stream=True, stream_id="s")
        began = anyio.current_time()
        ws.say("send_chunk", to="quic-1", stream_id="s", chunk="one")
        await until(lambda: ws.got)
        assert anyio.current_time() - began <= ABORT
        told = ws.one()
        assert (told["code"], told["to"], told["stream_id"]) == ("stream_stopped", "quic-1", "s")
        assert "enough" in told["message"]
        ws.say("send_chunk", to="quic-1", stream_id="s", chunk="two")
        ws.say("send_end", to="quic-1", stream_id="s")
        assert not ws.got
        assert not world.router._relay.streams
        assert guest.client.is_connected


async def test_what_waits_of_a_stream_that_is_stopped_has_an_outcome(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        guest.stop_reading()
        guest.refuse_after = 1
        ws.say("send", to="quic-1", stream=True, stream_id="s")
        for _ in range(50):
            ws.say("send_chunk", to="quic-1", stream_id="s", chunk="x" * 8_000)
            await anyio.sleep(0.001)
        assert world.router.waiting()[0] > 0  # the transport is full
        guest.reading.set()
        await until(lambda: ws.got)
        assert ws.one()["code"] == "stream_stopped"
        assert world.router.waiting() == (0, 0)
        assert world.router.agents["quic-1"].queue.size == 0
        assert world.router.counters.errored > 0


async def test_an_agent_that_wants_no_more_is_heard_at_the_session(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        for what, code in (("stop", "stream_stopped"), ("leave", "receiver_gone")):
            async with guest.stream("ws-1", what) as call:
                await call.send(b'"one"')
                await until(lambda: ws.got and "chunk" in ws.got[-1])
                began = anyio.current_time()
                if what == "stop":
                    ws.say("stop", from_="quic-1", stream_id="stop")
                    ws.take()
                else:
                    ws.leave()
                with pytest.raises(HandlerError, match=code):
                    async for _ in call:
                        pass
                assert anyio.current_time() - began <= ABORT
                with pytest.raises(EchoError, match=code):
                    await call.send(b'"two"')
        await anyio.sleep(0.1)
        assert not world.router._relay.streams
        assert not guest.notices


async def test_a_stream_to_nobody_and_two_of_one_name_fail_at_once(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        with pytest.raises(HandlerError, match="no_such_agent"):
            async with guest.stream("nobody", "s") as call:
                await call.result()
        async with guest.stream("ws-1", "s") as first:
            await first.send(b'"x"')
            await until(lambda: ws.got)
            with pytest.raises(HandlerError, match="stream_exists"):
                async with guest.stream("ws-1", "s") as second:
                    await second.result()
            assert await first.result() == "delivered"  # and it is none the worse for it
        for wrong in (b"1", b"[]", b"{}", b'{"code":1}', b'"a","to":"other"', b""):
            with pytest.raises(InvalidArgument):
                async with guest.stream("ws-1", "bad") as call:
                    await call.send(wrong)
                    await call.result()
            await until(lambda: ws.got[-1].get("error", {}).get("code") == "aborted")
        with pytest.raises(InvalidArgument, match="stream_id"):
            await guest.client.request_stream("agora.stream", {"to": "ws-1"}, sends=True).result()


async def test_the_death_of_a_session_is_heard_on_both_sides_of_its_streams(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        ws.say("send", to="quic-1", stream=True, stream_id="in")
        call = guest.stream("ws-1", "out")
        await call.__aenter__()
        await call.send(b'"x"')
        await until(lambda: len(ws.got) == 2 and guest.streams)
        ws.take()
        began = anyio.current_time()
        await world.server.context().sessions()[0].close()
        await until(lambda: len(ws.got) == 2)
        assert anyio.current_time() - began <= ABORT
        got = {each["type"]: each for each in ws.take()}
        assert got["error"]["code"] == "receiver_gone"
        assert got["message_end"]["error"]["code"] in ("sender_gone", "aborted")  # a reset may be earlier than the end
        await until(lambda: guest.ended == ["cancelled"])
        with pytest.raises((EchoError, RequestCancelled)):
            await call.result()


async def test_receivers_that_come_and_go_leave_nothing_behind(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    for number in range(20):
        async with world.guest("quic-1") as guest:
            ws.say("send", to="quic-1", stream=True, stream_id=f"s{number}")
            ws.say("send_chunk", to="quic-1", stream_id=f"s{number}", chunk="x")
            if number % 2:
                await until(lambda: guest.streams)
            async with guest.stream("ws-1", "s") as call:
                if number % 3:
                    await call.send(b'"x"')
        await until(lambda: "quic-1" not in world.router.agents)
        ws.say("send_end", to="quic-1", stream_id=f"s{number}")
    await anyio.sleep(1)
    assert not world.router._relay.streams
    assert len(world.router.peers) == 1
    assert not world.bridge._seats


async def test_a_stream_beyond_its_rate_waits(world: BridgeWorld) -> None:
    for name, value in (("frame_rate", 100.0), ("frame_burst", 10.0)):
        object.__setattr__(world.router.limits, name, value)
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest, anyio.create_task_group() as tasks:

        async def push(guest: Guest, number: int) -> None:
            async with guest.stream("ws-1", f"s{number}") as call:
                for part in range(18):
                    await call.send(b'"%d"' % part)
                await call.result()

        for number in range(10):
            tasks.start_soon(push, guest, number)
    assert len(ws.got) == 200
    assert not world.router.counters.errors
