"""Sessions as agents: what a session says as requests and streams, what it hears as events and streams."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from bridge_world import BridgeWorld, until

from echokernel import (
    EchoClient,
    EchoServer,
    HandlerError,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    Session,
)
from echokernel.testing import JsonSerializer, connected, virtual_time_backends
from echokernel_agora import AgoraBridge, Principal, Router
from echokernel_agora.bridge import HANDLERS, who_is
from echokernel_agora.controls import _ERRORS
from echokernel_protocol.codes import Code

pytestmark = pytest.mark.anyio


@pytest.fixture(params=virtual_time_backends(), ids=lambda backend: backend[0])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def world() -> AsyncIterator[BridgeWorld]:
    async with BridgeWorld().running() as world:
        yield world


def details(error: pytest.ExceptionInfo[Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(error.value.details)
    return found


# --- who is there ---------------------------------------------------------------------------------------------------


async def test_a_session_registers_and_both_sides_see_each_other(world: BridgeWorld) -> None:
    ws = world.agent("ws-1", capabilities=["draw"], card={"v": 1e3})
    async with world.guest("quic-1", endpoint="http://127.0.0.1:3000", capabilities=["sum"]) as guest:
        page = await guest.client.request("agora.list", {"card": True})
        assert [(each["id"], each["transport"]) for each in page["agents"]] == [("ws-1", None), ("quic-1", "quic")]
        assert json.loads(page["agents"][0]["card"]) == {"v": 1000.0}
        assert page["cursor"] is None
        page = await guest.client.request("agora.list", {"limit": 1})
        assert [each["id"] for each in page["agents"]] == ["ws-1"]
        page = await guest.client.request("agora.list", {"cursor": page["cursor"]})
        assert [each["id"] for each in page["agents"]] == ["quic-1"]
        (record,) = ws.say("list", capability="sum").one()["agents"]
        assert record["endpoint"] == "http://127.0.0.1:3000"
        assert record["transport"] == "quic"
    assert [each["id"] for each in ws.say("list").one()["agents"]] == ["ws-1"]


async def test_a_list_needs_no_registration_and_a_message_does(world: BridgeWorld) -> None:
    world.agent("ws-1")
    async with world.guest() as guest:
        assert len((await guest.client.request("agora.list"))["agents"]) == 1
        with pytest.raises(HandlerError, match="not_registered") as error:
            await guest.send("ws-1", 1)
        assert error.value.code == Code.FAILED_PRECONDITION


async def test_one_session_is_one_agent_and_may_change_what_is_known_of_it(world: BridgeWorld) -> None:
    async with world.guest("quic-1") as guest:
        with pytest.raises(HandlerError, match="already_registered") as error:
            await guest.client.request("agora.register", {"id": "quic-2", "name": "Other"})
        assert details(error)["code"] == "already_registered"
        await guest.client.request("agora.register", {"id": "quic-1", "name": "New name"})
        assert [agent.name for agent in world.router.agents.values()] == ["New name"]
        await guest.client.request("agora.leave")
        assert not world.router.agents
        await guest.client.request("agora.register", {"id": "quic-2", "name": "Other"})
        assert list(world.router.agents) == ["quic-2"]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"id": "", "name": "x"}, "`id` is ''"),
        ({"id": "a b", "name": "x"}, "wanted: 1 to 128 characters"),
        ({"id": "a", "name": ""}, "`name` is ''"),
        ({"id": "a", "name": "x", "endpoint": "no url"}, "`endpoint` is"),
        ({"id": "a", "name": "x", "card": "[1]"}, "`card` is not an object"),
        ({"id": "a", "name": "x", "card": '{"a":1},"id":"b"'}, "the card is not JSON"),
    ],
)
async def test_a_registration_that_cannot_be_is_refused_with_the_reason(
    world: BridgeWorld, about: dict[str, Any], said: str
) -> None:
    async with world.guest() as guest:
        with pytest.raises(InvalidArgument, match=said):
            await guest.client.request("agora.register", about)
        assert not world.router.agents


async def test_the_end_of_a_session_ends_its_registration(world: BridgeWorld) -> None:
    ws = world.agent("ws-1", features=["presence"])
    ws.say("watch")
    async with world.guest("quic-1"):
        assert ws.one()["event"] == "online"
    await until(lambda: ws.got)
    assert (ws.one()["event"], list(world.router.agents)) == ("gone", ["ws-1"])


async def test_a_session_may_watch_who_comes_and_goes(world: BridgeWorld) -> None:
    async with world.guest("quic-1", watch=True) as guest:
        ws = world.agent("ws-1")
        ws.leave()
        await until(lambda: len(guest.changes) == 2)
        assert [(each.event, each.agent.id) for each in guest.changes] == [("online", "ws-1"), ("gone", "ws-1")]
        await guest.client.request("agora.register", {"id": "quic-1", "name": "Q", "watch": False})
        world.agent("ws-2")
        await anyio.sleep(1)
        assert len(guest.changes) <= 3  # its own change, perhaps


async def test_an_anonymous_newcomer_takes_nobodys_id(world: BridgeWorld) -> None:
    world.agent("ws-1")
    async with world.guest("quic-1") as first, world.guest() as second:
        for taken in ("ws-1", "quic-1"):
            with pytest.raises(HandlerError, match="id_in_use") as error:
                await second.client.request("agora.register", {"id": taken, "name": "Me, too"})
            assert error.value.code == Code.ALREADY_EXISTS
        await first.send("ws-1", "still here")
        assert not first.closed


async def test_the_same_principal_takes_its_id_over_and_the_old_session_is_told() -> None:
    world = BridgeWorld()
    world.bridge.principal_of = lambda session: Principal("ada")
    async with world.running(), world.guest("quic-1") as first, world.guest("quic-1") as second:
        await until(lambda: first.closed)
        assert (first.closed[0].code, second.closed) == (4409, [])
        with pytest.raises(HandlerError, match="not_registered"):
            await first.send("quic-1", 1)
        ws = world.connect(Principal("ada")).register("quic-1")
        await until(lambda: second.closed)
        assert ws.one()["type"] == "registered"
        assert second.client.is_connected  # a session is more than an agent


async def test_whoever_may_not_be_an_agent_is_told_so() -> None:
    world = BridgeWorld()

    def nobody(session: Session) -> Principal:
        raise PermissionDenied("sessions are no agents here")

    world.bridge.principal_of = nobody
    async with world.running(), world.guest() as guest:
        with pytest.raises(PermissionDenied, match="no agents here"):
            await guest.client.request("agora.list")
    world.bridge = AgoraBridge(world.router, principal_of=lambda session: Principal("team", ids=("team/*",)))
    async with world.running(), world.guest() as guest:
        with pytest.raises(PermissionDenied, match="forbidden"):
            await guest.client.request("agora.register", {"id": "other", "name": "x"})
        await guest.client.request("agora.register", {"id": "team/1", "name": "x"})


async def test_a_principal_is_whom_the_authenticator_said() -> None:
    class Everybody:
        async def authenticate(self, credentials: bytes, peer: Any) -> str | None:
            return credentials.decode() or None

    seen: list[Principal] = []
    async with connected(
        server=EchoServer.builder().authenticator(Everybody()), client=EchoClient.builder().credentials("ada")
    ) as nodes:
        seen.append(who_is(nodes.session))
    async with connected() as nodes:
        seen.append(who_is(nodes.session))
    assert [(each.name, each.anonymous, each.operator) for each in seen] == [
        ("ada", False, False),
        ("local", True, False),
    ]


async def test_a_node_without_a_router_says_what_is_missing() -> None:
    async with connected(*HANDLERS) as nodes:
        with pytest.raises(HandlerError, match=r"\[service.agents\]"):
            await nodes.client.request("agora.list")


# --- messages -------------------------------------------------------------------------------------------------------

PAYLOADS = [
    b"null",
    b'{"b":1,"a":2,"b":3}',
    b"9223372036854775808",
    b"1e400",
    b'"\\ud83d"',
    b'{"x":"\\u0000","y":"\\ud83d\\ude00","z":" \xf0\x9f\x98\x80"}',
    b"[" * 100 + b"]" * 100,
    b' { "spaced" : [ 1 , 2 ] } ',
    b'{"payload":{"chunk":",\\"payload\\":1"}}',
]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_payload_crosses_as_the_bytes_that_it_is(world: BridgeWorld, payload: bytes) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        assert await guest.client.request("agora.send", {"to": "ws-1", "payload": payload}) == "delivered"
        assert b'"payload":' + payload.strip() + b"}" in ws.texts[-1]  # space around a value is no part of it
        ws.say_text(b'{"type":"send","to":"quic-1","stream_id":",\\"payload\\":","payload":%b}' % payload)
        await until(lambda: guest.messages)
        assert guest.messages[0].payload == payload.strip()
        assert guest.messages[0].stream_id == ',"payload":'


async def test_a_message_a_reply_and_what_stands_beside_their_payloads(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        await guest.send("ws-1", {"q": 1}, id="m-1", request_id=b'"r1"', stream_id="s")
        got = ws.take()[-1]
        assert got == {
            "type": "message",
            "from": "quic-1",
            "stream_id": "s",
            "stream": False,
            "id": "m-1",
            "request_id": "r1",
            "payload": {"q": 1},
        }
        ws.say("reply", to="quic-1", payload=[1], request_id=7, id="x", hops=2)
        ws.say("send", to="quic-1")
        await until(lambda: len(guest.messages) == 2)
        first, second = guest.messages
        assert (first.sender, first.reply, first.payload, first.request_id, first.hops) == (
            "ws-1",
            True,
            b"[1]",
            b"7",
            3,
        )
        assert (second.reply, second.payload, second.id) == (False, None, None)
        await guest.client.request("agora.send", {"to": "ws-1", "payload": b"true", "stream_id": "s", "reply": True})
        assert ws.one()["stream"] is False  # with a stream id and without this it would begin a stream
        await guest.client.emit("agora.send", {"to": "ws-1", "payload": b"1"})
        await guest.client.emit("agora.send", {"to": "ws-1", "payload": b"2", "reply": True})
        await until(lambda: len(ws.got) == 2)
        assert [each["type"] for each in ws.got] == ["message", "reply"]


async def test_a_request_raises_what_the_router_says(world: BridgeWorld) -> None:
    async with world.guest("quic-1") as guest:
        started = anyio.current_time()
        with pytest.raises(HandlerError, match="no_such_agent") as error:
            await guest.send("nobody", 1, id="m-1", request_id=b"3")
        assert anyio.current_time() - started < 0.1
        assert error.value.code == Code.NOT_FOUND
        assert details(error) == {
            "code": "no_such_agent",
            "message": "nobody is registered under this id",
            "to": "nobody",
            "id": "m-1",
            "request_id": 3,
        }
        for wrong in ({"to": ""}, {"to": "x" * 129}, {"to": "quic-1", "id": ""}, {"to": "quic-1", "stream_id": "\n"}):
            with pytest.raises(InvalidArgument, match="bad_request"):
                await guest.client.request("agora.send", wrong)
        with pytest.raises(InvalidArgument, match="the payload is not JSON"):
            await guest.client.request("agora.send", {"to": "quic-1", "payload": b'1,"to":"other"'})
        with pytest.raises(InvalidArgument, match="request_id"):
            await guest.client.request("agora.send", {"to": "quic-1", "request_id": b"[]"})
        with pytest.raises(InvalidArgument, match="too_large"):
            await guest.send("quic-1", "x" * 1024 * 1024)


async def test_an_event_that_fails_comes_back_as_an_event(world: BridgeWorld) -> None:
    async with world.guest("quic-1") as guest:
        await guest.client.emit("agora.send", {"to": "nobody", "payload": b"1", "id": "m-1", "request_id": b'"r"'})
        await guest.client.emit("agora.send", {"to": "nobody", "payload": b"no JSON"})
        await until(lambda: len(guest.notices) == 2)
        first, second = guest.notices
        assert (first.code, first.to, first.id, first.request_id) == ("no_such_agent", "nobody", "m-1", b'"r"')
        assert (second.code, second.to) == ("bad_request", "nobody")


async def test_a_request_is_answered_when_its_message_is_delivered(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest, anyio.create_task_group() as tasks:
        ws.stop_reading()
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await guest.send("ws-1", 1))

        tasks.start_soon(ask)
        await anyio.sleep(1)
        assert answers == []
        ws.read_on()
        await until(lambda: answers)
        assert answers == ["delivered"]
        ws.stop_reading()
        tasks.start_soon(expect_gone, guest, "ws-1")
        await anyio.sleep(0.1)
        ws.leave()


async def expect_gone(guest: Any, to: str) -> None:
    with pytest.raises(HandlerError, match="receiver_gone"):
        await guest.send(to, 1)


async def test_messages_of_a_pair_keep_their_order(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest, world.guest("quic-2") as other:
        for number in range(300):
            ws.say("send", to="quic-1", payload=number)
            await guest.client.emit("agora.send", {"to": "ws-1", "payload": b"%d" % number})
            await guest.client.emit("agora.send", {"to": "quic-2", "payload": b"%d" % number})
        await until(lambda: len(guest.messages) == len(ws.got) == len(other.messages) == 300)
        assert [json.loads(each.payload or b"") for each in guest.messages] == list(range(300))
        assert [each["payload"] for each in ws.got] == list(range(300))
        assert [json.loads(each.payload or b"") for each in other.messages] == list(range(300))


async def test_events_for_a_slow_receiver_wait_in_bounds_and_hold_up_nothing_for_others() -> None:
    world = BridgeWorld(frame_rate=1e6, frame_burst=1e6, byte_rate=1e9)
    async with world.running():
        slow, quick = world.agent("slow"), world.agent("quick")
        async with world.guest("quic-1") as guest:
            slow.stop_reading()
            text = b'"' + b"x" * 8_000 + b'"'
            for number in range(600):
                await guest.client.emit("agora.send", {"to": "slow", "payload": text, "id": f"m{number}"})
            await guest.client.emit("agora.send", {"to": "quick", "payload": b"1"})
            await until(lambda: quick.got)
            await guest.client.request("agora.flush", "quick")
            await anyio.sleep(0.5)  # the last notices
            assert {notice.code for notice in guest.notices} == {"receiver_slow"}
            refused = len(guest.notices)
            assert 50 < refused < 120  # 4 MiB wait here, and a window of credit at the router
            with anyio.move_on_after(1) as waiting:
                await guest.client.request("agora.flush", "slow")
            assert waiting.cancelled_caught
            slow.read_on()
            await guest.client.request("agora.flush", "slow")
            await until(lambda: len(slow.got) == 600 - refused)
            assert [each["id"] for each in slow.got] == [f"m{number}" for number in range(600 - refused)]


async def test_a_session_that_takes_no_messages_is_no_black_hole() -> None:
    world = BridgeWorld()
    async with world.running():
        ws = world.agent("ws-1")
        client = EchoClient.builder().transport(world.transport).serializer(JsonSerializer())
        async with client.connect(world.url) as plain:
            await plain.request("agora.register", {"id": "mute", "name": "Mute"})
            ws.say("send", to="mute", payload=1)
            ws.say("send", to="mute", stream=True, stream_id="s")
            await until(lambda: len(ws.got) == 2)
            first, second = ws.got
            assert (first["code"], second["code"]) in {
                ("receiver_gone", "stream_stopped"),
                ("stream_stopped", "receiver_gone"),
            }
            assert "agora.message" in first["message"] + second["message"]
            assert "agora.incoming" in first["message"] + second["message"]


async def test_a_strict_router_has_no_receipts_and_still_answers() -> None:
    world = BridgeWorld(strict_seed=True)
    async with world.running():
        ws = world.agent("ws-1")
        async with world.guest("quic-1") as guest:
            assert await guest.send("ws-1", 1) == "delivered"
            assert ws.one() == {"type": "message", "from": "quic-1", "payload": 1}
            async with guest.stream("ws-1", "s") as call:
                await call.send(b'"x"')
                assert await call.result() == "delivered"
            assert [each["type"] for each in ws.take()] == ["message", "message_chunk", "message_end"]


async def test_a_session_over_its_rate_waits_instead_of_losing_messages() -> None:
    world = BridgeWorld(frame_rate=100.0, frame_burst=10.0)
    async with world.running():
        ws = world.agent("ws-1")
        async with world.guest("quic-1") as guest, anyio.create_task_group() as tasks:
            started = anyio.current_time()
            for number in range(200):
                tasks.start_soon(guest.send, "ws-1", number)
        assert 1.5 < anyio.current_time() - started < 3.0
        assert len(ws.got) == 200
        assert not world.router.counters.errors


async def test_a_session_that_takes_no_messages_in_time_is_closed_as_slow() -> None:
    world = BridgeWorld(credit_bytes=64 * 1024 * 1024, frame_rate=1e6, frame_burst=1e6, byte_rate=1e9)
    async with world.running():
        ws = world.agent("ws-1")
        async with world.guest("quic-1") as guest:
            guest.stop_reading()
            for _ in range(30):
                ws.say("send", to="quic-1", payload="x" * 500_000)
                await anyio.sleep(0.1)
            assert ws.take()[0]["code"] == "receiver_slow"
            await anyio.sleep(15)
            assert "quic-1" not in world.router.agents
            assert ws.take()[-1]["code"] == "receiver_gone"
            guest.reading.set()
            await until(lambda: guest.closed)
            assert guest.closed[0].code == 1013


async def test_a_stopped_bridge_takes_nobody() -> None:
    bridge = AgoraBridge(Router(monotonic=anyio.current_time))
    async with connected(server=EchoServer.builder().plugin(bridge)) as nodes:
        await nodes.client.request("agora.register", {"id": "a", "name": "A"})
        await bridge.stop()
        assert not bridge.router.peers
        with pytest.raises(HandlerError, match="has stopped"):
            await nodes.client.request("agora.list")
        with pytest.raises(InvalidArgument, match="has run already"):
            await bridge.start(nodes.server.context())


async def test_overload_is_the_kernels_error_for_it(world: BridgeWorld) -> None:
    ws = world.agent("ws-1")
    async with world.guest("quic-1") as guest:
        limits = world.router.limits
        object.__setattr__(limits, "streams", 1)
        async with guest.stream("ws-1", "s1") as first:
            await first.send(b'"x"')
            await until(lambda: ws.got)
            with pytest.raises(Overloaded, match="too_many_streams"):
                async with guest.stream("ws-1", "s2") as second:
                    await second.result()


def test_the_page_has_every_code_with_its_error() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "guide" / "agora-bridge.md"
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| `(\w+)` \| `([A-Z_]+)` \|$", page.read_text("utf-8"), flags=re.M)
    table = {code: (kind, name) for codes, kind, name in rows for code in re.findall(r"\w+", codes)}
    assert table == {code: (kind.__name__, number.name) for code, (kind, number) in _ERRORS.items()}
