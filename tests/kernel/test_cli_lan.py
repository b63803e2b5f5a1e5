"""The command line, with a node that announces itself and shares its clock: names as addresses, and delays each way."""

from __future__ import annotations

import json
import re
import secrets
import signal
from collections.abc import Iterator

import pytest
from running_node import CONFIG, RunningNode

from echokernel.cli import main

pytest.importorskip("echokernel_quic", reason="a node needs a transport")
pytest.importorskip("echokernel_msgpack", reason="a node needs a serializer")

HANDLERS = """
from echokernel import rpc

@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b
"""


def run(tmp_path: object, plugin: str, section: str, name: str) -> Iterator[RunningNode]:
    config = CONFIG.replace('"msgpack"', f'"msgpack", "{plugin}"').replace('"test"', f'"{name}"')
    node = RunningNode(tmp_path, HANDLERS, config=config + section)  # type: ignore[arg-type]
    try:
        node.wait_starts(1)
        yield node
    finally:
        assert node.end(signal.SIGTERM) == 0


@pytest.fixture
def timekeeper(tmp_path: object) -> Iterator[RunningNode]:
    pytest.importorskip("echokernel_clocksync", reason="it has the clock")
    yield from run(tmp_path, "clocksync", '[service.clock]\nuse = "clocksync"\n', "timekeeper")


@pytest.fixture
def announced(tmp_path: object) -> Iterator[tuple[RunningNode, str]]:
    pytest.importorskip("echokernel_mdns", reason="it announces")
    name = f"test {secrets.token_hex(4)}"
    for node in run(tmp_path, "mdns", '[service.lan]\nuse = "mdns"\n', name):
        yield node, name


def test_ping_tells_each_way_of_a_node_that_shares_its_clock(
    timekeeper: RunningNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ping", timekeeper.url, "-c", "3", "-i", "0.5"]) == 0
    last = capsys.readouterr().out.splitlines()[2]
    assert re.search(r"ping 3: \d+\.\d{3} ms  out \d+\.\d{3} ms, back \d+\.\d{3} ms, ± \d+\.\d{3} ms$", last)
    assert main(["ping", timekeeper.url, "-c", "2", "-i", "0.5", "--json"]) == 0
    one_way = json.loads(capsys.readouterr().out)["one_way"]
    assert 0 <= one_way["out"] < 1
    assert 0 <= one_way["back"] < 1
    assert 0 < one_way["error"] < 1


def test_a_node_is_called_by_its_name(announced: tuple[RunningNode, str], capsys: pytest.CaptureFixture[str]) -> None:
    node, name = announced
    node.wait_err("announced as")
    assert main(["call", f"mdns://{name}", "math.add", "[10, 20]"]) == 0
    assert capsys.readouterr().out == "30\n"
    other = "sha256:" + "a" * 43
    assert main(["call", f"mdns://{name}", "math.add", "[10, 20]", "--fingerprint", other]) == 1
    assert "which is not the pinned one" in capsys.readouterr().err
    assert main(["call", f"mdns://not {name}", "math.add", "[10, 20]"]) == 1
    error = capsys.readouterr().err
    assert f"no 'not {name}' was found within 3 s" in error
    assert "Start one with" not in error
