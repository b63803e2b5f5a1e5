"""``[connect.NAME]``: a node from a configuration that dials another one, both in processes of their own."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from running_node import CONFIG, RunningNode

from echokernel.cli import main

pytest.importorskip("echokernel_quic", reason="a node needs a transport")
pytest.importorskip("echokernel_msgpack", reason="a node needs a serializer")

ABOVE = """
from echokernel import Session, rpc

@rpc("who")
async def who(session: Session) -> str:
    return f"above; below is {await session.request('below.name')}"
"""
BELOW = """
from echokernel import Session, rpc

@rpc("ask")
async def ask(session: Session) -> str:
    return await session.server_ctx.client("up").request("who")

@rpc("below.name")
async def name(session: Session) -> str:
    return f"below, called by {session.peer.node}"
"""


def below(directory: Path, connect: str) -> RunningNode:
    directory.mkdir()
    return RunningNode(directory, BELOW, config=CONFIG.replace('"test"', '"below"') + f"[connect.up]\n{connect}\n")


def test_it_asks_the_node_that_it_dialled_and_is_asked_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    above = RunningNode(tmp_path, ABOVE)
    try:
        above.wait_starts(1)
        node = below(tmp_path / "below", f'url = "{above.url}"')
        try:
            node.wait_starts(1)
            assert main(["call", node.url, "ask"]) == 0
            assert json.loads(capsys.readouterr().out) == "above; below is below, called by test"
            above.process.terminate()
            node.wait_err("connect.up: the connection is lost, and has no reconnect policy")
            assert main(["call", node.url, "ask"]) == 1
        finally:
            node.end(signal.SIGTERM)
    finally:
        above.end(signal.SIGTERM)


def test_a_node_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    node = below(tmp_path / "below", 'url = "quic://127.0.0.1:9"')
    try:
        assert node.process.wait(30) == 3
        assert "connection 'up': nobody answers at quic://127.0.0.1:9" in node.err
    finally:
        node.end(signal.SIGTERM)


def test_with_a_policy_it_starts_without_the_other_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("echokernel_reconnect", reason="the policy")
    directory = tmp_path / "below"
    directory.mkdir()
    config = CONFIG.replace('"msgpack"', '"msgpack", "reconnect"')
    node = RunningNode(
        directory, BELOW, config=config + '[connect.up]\nurl = "quic://127.0.0.1:9"\nreconnect = "backoff"\n'
    )
    try:
        node.wait_starts(1)
        assert main(["call", node.url, "ask", "--timeout", "1"]) == 1
        assert "request_timeout" in capsys.readouterr().err
    finally:
        node.end(signal.SIGTERM)
