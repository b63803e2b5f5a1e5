"""The router from a configuration: settings, mistakes in them, and ``echokernel run``."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from listening import agent, frame, request, text

from echokernel import ConfigError, EchoServer, TransportError
from echokernel.cli import main
from echokernel.registry import Registry
from echokernel.testing import JsonSerializer, MemoryTransport
from echokernel_agora import AgoraServer, AgoraService, Limits, plugin
from echokernel_agora.service import create
from echokernel_agora.settings import MAY_BE_ZERO, AgoraSettings

TOKEN = "the-token-of-team-a"


def settings(**given: Any) -> AgoraSettings:
    return AgoraSettings.model_validate(given)


def test_the_hook_registers_the_service() -> None:
    registry = Registry()
    registry.enter("agora")
    plugin.echokernel_services(registry)
    factory = registry.services["agora"].value
    assert factory.settings is AgoraSettings
    assert isinstance(factory.create(AgoraSettings()), AgoraService)


def test_every_setting_reaches_the_server() -> None:
    made = create(
        settings(
            listen="0.0.0.0:9",
            tokens=[{"name": "a", "token": TOKEN, "ids": ["a/*"], "reaches": ["b/*"], "operator": True}],
            origins=["https://app.example"],
            hosts=["router.example"],
            strict_seed=True,
            limits={"queue_frames": 7, "stuck_after": 3},
        )
    ).server
    assert made.router.limits == Limits(queue_frames=7, stuck_after=3.0)
    assert made.router.strict_seed
    principal = made._access._find(TOKEN.encode())
    assert principal is not None
    assert (principal.name, principal.ids, principal.reaches, principal.operator) == ("a", ("a/*",), ("b/*",), True)
    assert made._access._origins == {"https://app.example"}
    assert "router.example" in made._access._hosts


def test_the_table_of_limits_is_that_of_the_code() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(Limits)}
    assert AgoraSettings().limits.model_dump() == fields
    assert AgoraSettings().made_limits() == Limits()
    assert fields.keys() >= MAY_BE_ZERO
    page = Path(__file__).resolve().parents[3] / "docs" / "guide" / "agora-operating.md"
    rows = re.findall(r"^\| `([a-z_]+)` \| ([\d,.]+) \|", page.read_text("utf-8"), re.M)
    assert {name: float(value.replace(",", "")) for name, value in rows} == fields


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"listen": "0.0.0.0:1"}, "there are no tokens that say who may connect"),
        ({"listen": "8765"}, "wanted is HOST:PORT"),
        ({"tokens": [{"name": "a", "token": "short"}]}, "has 5 characters, wanted are at least 16"),
        ({"tokens": [{"name": "a", "token": TOKEN, "ids": []}]}, "at least 1 item"),
        ({"tokens": [{"name": "a", "token": TOKEN}, {"name": "b", "token": TOKEN}]}, "the same secret"),
        ({"origins": ["app.example"]}, "wanted is scheme://host"),
        ({"certificate": "x.pem"}, "needs both, certificate and key"),
        ({"limits": {"ping_interval": 0}}, "greater than 0"),
        ({"limits": {"queue_bytes": -1}}, "greater than 0"),
        ({"limits": {"que_bytes": 1}}, "que_bytes"),
    ],
)
def test_mistakes_are_found_when_the_configuration_is_read(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        settings(**given)
    assert says in str(caught.value)
    assert TOKEN not in str(caught.value)


CONFIG = """
plugins = ["quic", "msgpack", "agora"]
[node]
name = "test"
[listen.main]
url = "quic://127.0.0.1:0"
[log]
format = "json"
[service.agents]
use = "agora"
listen = "127.0.0.1:0"
[[service.agents.tokens]]
name = "team-a"
token = { env = "AGORA_TOKEN" }
ids = ["team-a/*"]
[service.agents.limits]
queue_frames = 64
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("echokernel_quic", reason="a node needs a transport")
    pytest.importorskip("echokernel_msgpack", reason="a node needs a serializer")
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("AGORA_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    return file


def test_the_configuration_is_checked_and_shown_without_secrets(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(config)]) == 0
    assert main(["config", "show", str(config)]) == 0
    assert main(["config", "schema"]) == 0
    out = capsys.readouterr().out
    assert "queue_frames" in out
    assert TOKEN not in out


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ('listen = "0.0.0.0:8765"', r"config.toml:\d+:\d+: error\[value\]: service.agents.*no tokens that say who may"),
        ("limits = { queue_byte = 1 }", r"config.toml:\d+:\d+: error\[unknown-key\]: .*did you mean 'queue_bytes'"),
    ],
)
def test_a_mistake_is_shown_with_its_line(
    config: Path, capsys: pytest.CaptureFixture[str], wrong: str, says: str
) -> None:
    start = CONFIG[: CONFIG.index("listen = ")]
    config.write_text(start + wrong + "\n")
    assert main(["check", str(config)]) == 78
    assert re.search(says, capsys.readouterr().err)


def test_the_example_configuration_is_valid(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "example", "quic", "msgpack", "agora"]) == 0
    example = capsys.readouterr().out
    assert "# [service.agora]" in example
    config.write_text(re.sub(r"^# (\[service\.agora\])$", r"\1", example, flags=re.M))
    assert main(["check", str(config)]) == 0


def test_a_node_needs_no_other_listener(tmp_path: Path) -> None:
    config = tmp_path / "agora.toml"
    config.write_text('plugins = ["agora"]\n[service.agents]\nuse = "agora"\nlisten = "127.0.0.1:0"\n')
    assert main(["check", str(config)]) == 0


@pytest.fixture
def node(config: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "echokernel", "run", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    yield process
    watchdog.cancel()
    process.kill()
    process.communicate()


def test_a_node_runs_it_and_stops_it(node: subprocess.Popen[str]) -> None:
    assert node.stderr is not None
    log: list[Any] = []
    while not (log and "listens on" in log[-1]["message"]):
        log.append(json.loads(node.stderr.readline()))
    port = int(re.findall(r"ws://127\.0\.0\.1:(\d+)/ws", log[-1]["message"])[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request(headers={"Authorization": f"Bearer {TOKEN}"}))
        connection.sendall(text({"type": "register", "id": "team-a/1", "name": "x"}))
        seen = b""
        while b'"registered"' not in seen:
            seen += connection.recv(4096)
        node.send_signal(signal.SIGTERM)
        while b"the router restarts" not in seen:
            seen += connection.recv(4096)
        assert b"\x03\xf4the router restarts" in seen, "1012"
        connection.sendall(frame(8, (1012).to_bytes(2, "big")))
    _, rest = node.communicate(timeout=20)
    assert node.returncode == 0
    log += [json.loads(line) for line in rest.splitlines()]
    events = {entry["message"]: entry for entry in log if entry["logger"] == "echokernel.agora"}
    assert events["registered"]["agent"] == "team-a/1"
    assert events["registered"]["principal"] == "team-a"
    assert "the router of agents has stopped" in events
    assert TOKEN not in json.dumps(log)


# --- where it cannot run ---------------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_with_what_helps() -> None:
    async def twice() -> None:
        async with AgoraServer(listen="127.0.0.1:0") as first:
            with pytest.raises(TransportError) as caught:
                await AgoraServer(listen=f"127.0.0.1:{first.address.port}").start()
            says = f"agents cannot be awaited on 127.0.0.1:{first.address.port}: another program uses that port; stop it, or"
            assert str(caught.value).startswith(says)
            with pytest.raises(TransportError, match="that is no address of this machine"):
                await AgoraServer(listen="192.0.2.1:0", insecure=True).start()
            with pytest.raises(TransportError, match="wanted is HOST:PORT of this machine"):
                await AgoraServer(listen="no-such-host.invalid:0", insecure=True).start()
            with pytest.raises(ConfigError, match="has been started already"):
                await first.start()

    asyncio.run(twice())


def test_a_node_whose_router_cannot_listen_does_not_start(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["run", str(config), "--set", f'service.agents.listen="127.0.0.1:{port}"']) == 3
    error = capsys.readouterr().err
    assert f"agents cannot be awaited on 127.0.0.1:{port}: another program uses that port" in error
    assert "quic://" not in error.split("agents cannot")[1], "it is not the node's own port"


def test_on_trio_it_says_what_to_do() -> None:
    trio = pytest.importorskip("trio")

    async def start() -> None:
        with pytest.raises(ConfigError, match=r"runs on asyncio or uvloop, and this program runs on trio; run it with"):
            await AgoraServer(listen="127.0.0.1:0").start()

    trio.run(start)


def test_it_may_be_part_of_a_program() -> None:
    async def serve() -> None:
        service = create(settings(listen="127.0.0.1:0"))
        builder = EchoServer.builder().transport(MemoryTransport()).serializer(JsonSerializer())
        async with builder.bind("memory://node:1").service(service).build(), await agent(service.server, "one"):
            assert "one" in service.server.router.agents
        assert service.server.router.agents == {}
        async with AgoraServer(listen="127.0.0.1:0", insecure=True) as server:
            assert server.url == f"ws://127.0.0.1:{server.address.port}/ws"

    asyncio.run(serve())


def test_a_public_address_without_tokens_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def serve() -> None:
        async with AgoraServer(listen="0.0.0.0:0", insecure=True):
            pass
        async with AgoraServer(listen="0.0.0.0:0", tokens=_tokens()):
            pass

    asyncio.run(serve())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "is open to everybody who can reach it" in warnings[0]
    assert "tokens travel in clear text" in warnings[1]


def _tokens() -> list[Any]:
    return settings(tokens=[{"name": "a", "token": TOKEN}]).made_tokens()


def test_limits_belong_to_the_router_that_is_handed_over() -> None:
    router = AgoraServer(limits=Limits(streams=1)).router
    assert AgoraServer(router).router.limits.streams == 1
    with pytest.raises(ConfigError, match="belong to the router"):
        AgoraServer(router, limits=Limits())
