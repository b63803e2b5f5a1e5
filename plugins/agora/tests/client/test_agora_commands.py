"""``echokernel agora …`` as a user runs it, against a router in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from msgspec import Raw

from echokernel.cli import main
from echokernel_agora import AgoraClient, AgoraServer, Token

SECRET = "a-token-of-enough-characters"


class World:
    """A router, and agents that live in its event loop."""

    def __init__(self, portal: BlockingPortal, **settings: Any) -> None:
        self.portal = portal
        self.server = portal.call(self._start, settings)
        self.url = self.server.url

    async def _start(self, settings: dict[str, Any]) -> AgoraServer:
        server = AgoraServer(listen="127.0.0.1:0", **settings)
        await server.start()
        return server

    def agent(self, id: str, **options: Any) -> None:
        """Let there be an agent that answers messages, and shouts back what is streamed to it."""
        ready = self.portal.start_task_soon(self._live, id, options)
        while id not in self.server.router.agents:
            assert not ready.done(), ready.exception()
            self.portal.call(anyio.sleep, 0.005)

    async def _live(self, id: str, options: dict[str, Any]) -> None:
        async with AgoraClient(self.url, id=id, **options) as client:
            async for message in client.messages():
                if message.is_stream:
                    async with message.reply_stream() as out:
                        async for chunk in message.chunks():
                            await out.send(chunk.upper())
                elif message.payload != "quiet":
                    await message.reply(Raw(b'{"got":%b}' % message.payload_json))


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with start_blocking_portal("asyncio") as portal:
        made = World(portal, **getattr(request, "param", {}))
        yield made
        portal.call(made.server.stop)
        portal.start_task_soon(portal.stop, True)


def run(world: World, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "echokernel", "agora", arguments[0], "--url", world.url, *arguments[1:]]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env=environment)


def test_ls(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.agent("mail", name="Mail agent", capabilities=["email", "calendar"])
    world.agent("other")
    assert main(["agora", "ls", "--url", world.url]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "NAME", "CAPABILITIES", "STATE", "REGISTERED"]
    assert "mail" in first
    assert "Mail agent" in first
    assert "email, calendar" in first
    assert second.split()[:3] == ["other", "other", "online"]
    assert main(["agora", "ls", "--url", world.url, "--json", "--capability", "email"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["capabilities"] == ["email", "calendar"]


def test_send(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.agent("a")
    assert main(["agora", "send", "a", '"quiet"', "--url", world.url]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["agora", "send", "a", '"quiet"', "--url", world.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"to": "a", "status": "delivered"}
    assert main(["agora", "send", "a", '{"n": 1}', "--url", world.url, "--reply"]) == 0
    assert capsys.readouterr().out == '{"got":{"n": 1}}\n'
    done = run(world, "send", "a", "-", "--reply", stdin='{"n": 1e400}\n')
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"got":{"n": 1e400}}\n', "")
    assert main(["agora", "send", "nobody", "1", "--url", world.url]) == 1
    assert capsys.readouterr().err == "error: no_such_agent: nobody: nobody is registered under this id\n"


def test_what_cannot_be_right_is_said_before_anything_is_sent(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agora", "send", "a", "hello", "--url", world.url]) == 2
    assert "the payload is not JSON" in capsys.readouterr().err
    assert main(["agora", "ls", "--url", "http://127.0.0.1"]) == 2
    assert "wanted ws://HOST:PORT/ws" in capsys.readouterr().err
    assert main(["agora", "ls", "--url", world.url, "--token-file", "not-there"]) == 2
    assert "--token-file" in capsys.readouterr().err
    assert main(["agora", "bench", "--url", world.url, "--pairs", "0"]) == 2
    assert main(["agora", "ls", "--url", "ws://127.0.0.1:1/ws"]) == 1
    assert "error: transport_error: cannot connect to 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--lines",)])
def test_stream_in_a_pipe(world: World, more: tuple[str, ...]) -> None:
    world.agent("shout")
    done = run(world, "stream", "shout", *more, stdin="hello\nwörld\nend")
    assert (done.stdout, done.stderr, done.returncode) == ("HELLO\nWÖRLD\nEND", "", 0)
    done = run(world, "stream", "shout", "--no-reply", *more, stdin="x" * 100_000)
    assert (done.stdout, done.returncode) == ("", 0)
    done = run(world, "stream", "nobody", *more, stdin="hello\n")
    assert done.returncode == 1
    assert done.stderr == "error: no_such_agent: nobody: nobody is registered under this id\n"


def test_tail_prints_frames(world: World, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "echokernel", "agora", "tail", "log", "--url", world.url, "--count", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        try:

            async def say() -> None:
                with anyio.fail_after(20):
                    while "log" not in world.server.router.agents:
                        await anyio.sleep(0.02)
                async with AgoraClient(world.url, id="a") as client:
                    await client.send("log", Raw(b'{"text":\n"\\u001b[2J","n":1e400}'))
                    async with client.stream("log", confirm=True) as stream:
                        await stream.send("x\u202e")

            world.portal.call(say)
            out, _ = tail.communicate(timeout=30)
        finally:
            tail.kill()
    assert "\x1b" not in out
    assert "\u202e" not in out
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == {"type": "message", "from": "a", "payload": {"text": "\x1b[2J", "n": float("inf")}}
    assert '"n":1e400}' in out, "as it was sent, and not as Python would write it"
    stream_id = lines[1].pop("stream_id")
    assert lines[1] == {"type": "message", "from": "a", "stream": True, "payload": None}
    assert lines[2:] == [
        {"type": "message_chunk", "from": "a", "stream_id": stream_id, "chunk": "x\u202e"},
        {"type": "message_end", "from": "a", "stream_id": stream_id},
    ]


def test_bench(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["agora", "bench", "--url", world.url, "--pairs", "2", "--seconds", "0.3", "--rate", "100"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sent"] == found["received"] > 20
    assert 0 < found["p50"] <= found["p99"] <= found["max"]
    assert main(arguments) == 0
    assert "2 pairs, 256 bytes:" in capsys.readouterr().out


@pytest.mark.parametrize("world", [{"tokens": [Token("cli", SECRET, ids=("team/*",))]}], indirect=True)
def test_the_token_comes_from_a_file_or_a_variable_and_is_never_shown(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECHOKERNEL_AGORA_TOKEN", raising=False)
    assert main(["agora", "ls", "--url", world.url]) == 1
    said = capsys.readouterr()
    assert "unauthenticated: " in said.err
    file = tmp_path / "token"
    file.write_text(SECRET + "\n", "utf-8")
    assert main(["agora", "ls", "--url", world.url, "--token-file", str(file)]) == 0
    monkeypatch.setenv("ECHOKERNEL_AGORA_TOKEN", SECRET)
    assert main(["agora", "ls", "--url", world.url]) == 0
    assert main(["agora", "send", "x", "1", "--url", world.url]) == 1
    said = capsys.readouterr()
    assert "forbidden: this token does not allow the id 'cli-" in said.err
    assert SECRET not in said.out + said.err
    assert main(["agora", "send", "team/x", "1", "--url", world.url, "--id", "team/cli"]) == 1
    assert "no_such_agent" in capsys.readouterr().err
