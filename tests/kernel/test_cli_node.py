"""The command line with a running node: ``run`` in a process of its own, ``call``, ``emit`` and ``ping`` against it."""

from __future__ import annotations

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
from textwrap import dedent

import pytest

from echokernel.cli import main

pytest.importorskip("echokernel_quic", reason="a node needs a transport")
pytest.importorskip("echokernel_msgpack", reason="a node needs a serializer")

HANDLERS = """
import anyio
from echokernel import InvalidArgument, event, rpc

@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b

@rpc
async def nothing() -> None: ...

@rpc
async def blob() -> dict[str, bytes]:
    return {"data": b"123"}

@rpc
async def slow(seconds: float) -> str:
    print("slow began", flush=True)
    await anyio.sleep(seconds)
    return "done"

@rpc
async def picky(text: str) -> str:
    raise InvalidArgument("not that one")

@rpc
async def boom() -> None:
    raise RuntimeError("canary")

@event
async def say(text: str) -> None:
    print("said", text, flush=True)
"""
CONFIG = """
plugins = ["quic", "msgpack"]
[node]
handlers = ["node_handlers"]
[listen.main]
url = "quic://127.0.0.1:0"
"""
LISTENING = re.compile(r"listening on (quic://127\.0\.0\.1:\d+)  fingerprint (sha256:\S+)\n")


class Run:
    """``echokernel run`` in a process of its own."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        (directory / "node_handlers.py").write_text(dedent(HANDLERS))
        (directory / "config.toml").write_text(CONFIG)
        command = [sys.executable, "-m", "echokernel", "run", "config.toml", *arguments]
        self.process = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        self._watchdog = threading.Timer(60, self.process.kill)  # a test that waits for a line must not wait for ever
        self._watchdog.start()
        self.plugins = self.stdout.readline()
        match = LISTENING.fullmatch(self.stdout.readline())
        if match is None:
            self._watchdog.cancel()
            self.process.kill()
            raise AssertionError(self.process.communicate())
        self.url, self.fingerprint = match.groups()

    def end(self, *signals: signal.Signals) -> tuple[int, str, str]:
        """Send the signals, and return the exit code and what is left of stdout and stderr."""
        for number in signals:
            self.process.send_signal(number)
        self._watchdog.cancel()
        try:
            out, err = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the key that a node makes for itself away from the one of whoever runs the tests."""
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))
        run = Run(tmp_path_factory.mktemp("node"))
    yield run
    run.end(signal.SIGTERM)


def test_run_prints_its_plugins_and_its_listener(node: Run) -> None:
    assert re.fullmatch(r"plugins: quic \S+, msgpack \S+\n", node.plugins)


# --- call, emit, ping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [(["math.add", "[10, 20]"], "30\n"), (["nothing"], "null\n"), (["blob"], '{\n  "data": "MTIz"\n}\n')],
)
def test_call(node: Run, arguments: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", node.url, *arguments]) == 0
    assert capsys.readouterr() == (printed, "")


def test_call_for_programs(node: Run, capsys: pytest.CaptureFixture[str]) -> None:
    address = node.url.removeprefix("quic://")
    options = ["--json", "--fingerprint", node.fingerprint, "--serializer", "msgpack", "--set", "keepalive=3"]
    assert main(["call", address, "math.add", "[1, 2]", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["result"] == 3
    assert 0 < answer["seconds"] < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], r"error: method_not_found: .*'nope'.*\n"),
        (["picky", '"x"'], r"error: invalid_argument: not that one\n"),
        (["math.add", '[1, "x"]'], r"error: invalid_argument: math\.add: .*valid integer.*\n"),
        (["math.add", "1"], r"error: invalid_argument: math\.add: .*\n"),
        (["boom"], r"error: handler_error: boom failed: RuntimeError \(error \w+ in the peer's log\)\n"),
        (["slow", "5", "--timeout", "0.1"], r"error: request_timeout: slow: .*\n"),
        (["no spaces"], r"error: .*no spaces.*\n"),
    ],
)
def test_remote_errors_are_one_line(
    node: Run, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["call", node.url, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(message, err)


def test_emit(node: Run) -> None:
    assert main(["emit", node.url, "say", '"hello"']) == 0
    lines = iter(node.stdout.readline, "")
    assert next(line for line in lines if line.startswith("said")) == "said hello\n"


def test_ping(node: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", node.url, "-c", "3", "-i", "0.01"]) == 0
    *pings, _, counts, rtt = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in pings] == ["ping 1", "ping 2", "ping 3"]
    assert counts == "3 sent, 3 received, 0% lost"
    assert re.fullmatch(r"rtt min/avg/median/p95/max/stddev = ([\d.]+/){5}[\d.]+ ms", rtt)
    assert main(["ping", node.url, "-c", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["url", "sent", "received", "loss", "min", "avg", "median", "p95", "max", "stddev", "one_way"]


def test_a_key_that_is_not_trusted(node: Run, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "sha256:" + "A" * 43
    assert main(["ping", node.url, "--fingerprint", wrong]) == 1
    assert "error: cannot connect to " in (err := capsys.readouterr().err) or node.url in err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["call", f"quic://127.0.0.1:{port}", "m"]) == 1
    err = capsys.readouterr().err
    assert f"quic://127.0.0.1:{port}" in err
    assert "running" in err
    assert len(err.splitlines()) == 1


# --- start and stop -------------------------------------------------------------------------------------------------


def test_a_port_in_use(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"quic://127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "config.toml").write_text(CONFIG.replace('handlers = ["node_handlers"]', ""))
        command = [
            sys.executable,
            "-m",
            "echokernel",
            "run",
            str(tmp_path / "config.toml"),
            "--set",
            f"listen.main.url={url}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert url in error
    assert "--set listen.main.url=" in error


def test_a_bad_certificate(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        CONFIG.replace('handlers = ["node_handlers"]', "") + 'certificate = "no.pem"\n'
    )
    command = [sys.executable, "-m", "echokernel", "run", str(tmp_path / "config.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 78
    assert "no.pem" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_public_address_with_allow_anonymous_warns(tmp_path: Path) -> None:
    (tmp_path / "node_handlers.py").write_text(dedent(HANDLERS))
    (tmp_path / "config.toml").write_text(CONFIG.replace("127.0.0.1", "0.0.0.0") + "allow_anonymous = true\n")
    command = [sys.executable, "-m", "echokernel", "run", "config.toml"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline().startswith("listening on quic://0.0.0.0:")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert " warning " in err
    assert "quic://0.0.0.0:" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_requests_finish(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path)
    command = [sys.executable, "-m", "echokernel", "call", run.url, "slow", "0.7"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "slow began\n"
    code, _, err = run.end(number)
    assert code == 0, err
    assert client.communicate(timeout=20) == ('"done"\n', "")
    assert f"cli: {number.name}: stopping" in err


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    command = [sys.executable, "-m", "echokernel", "call", run.url, "slow", "30", "--timeout", "0"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "slow began\n"
    run.process.send_signal(signal.SIGINT)
    assert run.process.stderr is not None
    lines = iter(run.process.stderr.readline, "")
    assert any("SIGINT: stopping" in line for line in lines)
    code, _, err = run.end(signal.SIGINT)
    assert code == 130, err
    client.communicate(timeout=20)
    assert client.returncode == 1


def test_drain_is_bounded(tmp_path: Path) -> None:
    run = Run(tmp_path, "--set", "node.drain_timeout=0.3")
    command = [sys.executable, "-m", "echokernel", "call", run.url, "slow", "30", "--timeout", "0"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "slow began\n"
    code, _, err = run.end(signal.SIGINT)
    assert code == 0, err
    assert client.communicate(timeout=20)[0] == ""
    assert client.returncode == 1
