"""Everything that the documents of the protocol say, driven by clients of others only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from agora_others import Talker, npm_ws, websocat, websockets_cli

pytestmark = pytest.mark.slow

SERVE = """
import asyncio, sys
from echokernel_agora import AgoraServer, Limits

async def main():
    async with AgoraServer(listen="127.0.0.1:0") as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
CLIENTS: dict[str, Callable[[str], Talker]] = {"websocat": websocat, "websockets": websockets_cli, "npm ws": npm_ws}
Connect = Callable[[], Talker]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate(timeout=20)
        assert process.returncode == 0


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest, url: str) -> Iterator[Connect]:
    """Return what makes a client of one kind."""
    with ExitStack() as stack:

        def make() -> Talker:
            talker = CLIENTS[request.param](url)
            stack.callback(talker.close)
            return talker

        yield make


def pair(connect: Connect) -> tuple[Talker, Talker]:
    one, two = connect(), connect()
    one.say("register", id="agent-1", name="Code Assistant", endpoint="http://127.0.0.1:3000")
    assert one.hear() == {"type": "registered", "id": "agent-1"}
    two.say("register", id="agent-2", name="Second")
    assert two.hear() == {"type": "registered", "id": "agent-2"}
    return one, two


def test_everything_that_the_documents_say(connect: Connect) -> None:
    one, two = pair(connect)
    one.say("list")
    listed = one.hear()
    assert [(each["id"], each["name"], each.get("endpoint")) for each in listed["agents"]] == [
        ("agent-1", "Code Assistant", "http://127.0.0.1:3000"),
        ("agent-2", "Second", None),
    ]
    # one message, and a reply
    one.say_text('{"type":"send","to":"agent-2","payload":{"action":"query","n":12345678901234567890,"x":1e400}}')
    assert two.hear_text() == (
        '{"type":"message","from":"agent-1","payload":{"action":"query","n":12345678901234567890,"x":1e400}}'
    )
    two.say("reply", to="agent-1", payload={"request_id": "r1", "ok": True})
    assert one.hear() == {
        "type": "reply",
        "to": "agent-1",
        "from": "agent-2",
        "payload": {"request_id": "r1", "ok": True},
    }
    # a stream, and a streamed reply
    one.say("send", to="agent-2", stream_id="stream-1", stream=True, payload={"action": "query"})
    for chunk in ("This is", " a segment"):
        one.say("send_chunk", to="agent-2", stream_id="stream-1", chunk=chunk)
    one.say("send_end", to="agent-2", stream_id="stream-1")
    common = {"from": "agent-1", "stream_id": "stream-1"}
    assert [two.hear() for _ in range(4)] == [
        {"type": "message", **common, "stream": True, "payload": {"action": "query"}},
        {"type": "message_chunk", **common, "chunk": "This is"},
        {"type": "message_chunk", **common, "chunk": " a segment"},
        {"type": "message_end", **common},
    ]
    two.say("reply", to="agent-1", stream_id="stream-1")
    two.say("reply_chunk", to="agent-1", stream_id="stream-1", chunk="grüß 💬")
    two.say("reply_end", to="agent-1", stream_id="stream-1")
    common = {"to": "agent-1", "from": "agent-2", "stream_id": "stream-1"}
    assert [one.hear() for _ in range(3)] == [
        {"type": "reply", **common},
        {"type": "reply_chunk", **common, "chunk": "grüß 💬"},
        {"type": "reply_end", **common},
    ]
    # errors instead of silence
    one.say("send", to="nobody", payload={"request_id": "r2"})
    error = one.hear()
    assert (error["type"], error["code"], error["to"], error["request_id"]) == (
        "error",
        "no_such_agent",
        "nobody",
        "r2",
    )
    one.say_text('{"type":"send"}')
    assert one.hear()["code"] == "bad_request"
    # an update keeps the registration, and who leaves is gone
    one.say("register", id="agent-1", name="Newer")
    assert one.hear() == {"type": "registered", "id": "agent-1"}
    two.say("list")
    (first, _) = two.hear()["agents"]
    assert (first["name"], first["registered_at"]) == ("Newer", listed["agents"][0]["registered_at"])
    one.say("send", to="agent-2", stream=True, stream_id="s")
    assert two.hear()["type"] == "message"
    one.close()
    ended = two.hear()
    assert (ended["type"], ended["error"]["code"]) == ("message_end", "sender_gone")
    two.say("list")
    assert [each["id"] for each in two.hear()["agents"]] == ["agent-2"]


def test_the_example_frames_are_taken_word_for_word(connect: Connect) -> None:
    one, two = connect(), connect()
    two.say_text('{"type":"register","id":"agent-2","name":"Second"}')
    two.hear()
    for text in (
        '{"type":"register","id":"agent-1","name":"Code Assistant","endpoint":"http://127.0.0.1:3000"}',
        '{"type":"list"}',
        '{"type":"send","to":"agent-2","payload":{"action":"query","body":{"question":"..."}}}',
        '{"type":"send","to":"agent-2","stream_id":"stream-1","stream":true,"payload":{"action":"query"}}',
        '{"type":"send_chunk","to":"agent-2","stream_id":"stream-1","chunk":"This is"}',
        '{"type":"send_end","to":"agent-2","stream_id":"stream-1"}',
    ):
        one.say_text(text)
    assert [one.hear()["type"] for _ in range(2)] == ["registered", "agents"]
    assert [two.hear_text() for _ in range(4)] == [
        '{"type":"message","from":"agent-1","payload":{"action":"query","body":{"question":"..."}}}',
        '{"type":"message","from":"agent-1","stream_id":"stream-1","stream":true,"payload":{"action":"query"}}',
        '{"type":"message_chunk","from":"agent-1","stream_id":"stream-1","chunk":"This is"}',
        '{"type":"message_end","from":"agent-1","stream_id":"stream-1"}',
    ]
    two.say_text('{"type":"reply","to":"agent-1","payload":{"request_id":"r1","ok":true}}')
    assert json.loads(one.hear_text())["payload"] == {"request_id": "r1", "ok": True}


def test_clients_of_different_makers_talk_to_each_other(url: str) -> None:
    talkers = []
    try:
        for number, make in enumerate(CLIENTS.values()):
            talker = make(url)
            talkers.append(talker)
            talker.say("register", id=f"maker-{number}", name=str(number))
            assert talker.hear()["type"] == "registered"
        for number, talker in enumerate(talkers):
            to = (number + 1) % len(talkers)
            talker.say("send", to=f"maker-{to}", payload=number)
            assert talkers[to].hear() == {"type": "message", "from": f"maker-{number}", "payload": number}
    finally:
        for talker in talkers:
            talker.close()
