"""The examples run as a user would run them: a server in one process, its clients in others."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("echokernel_quic")
pytest.importorskip("echokernel_msgpack")
pytest.importorskip("echokernel_postcard")

EXAMPLES = Path(__file__).resolve().parent.parent / "contrib" / "examples"
SECONDS = 60


@pytest.fixture(autouse=True)
def own_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def free_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Server:
    """A running example server; ``output`` is complete once it has ended."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.address = free_address()
        self.process = subprocess.Popen(
            [sys.executable, path, self.address, *arguments], cwd=path.parent, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.readline()  # printed by on_start: it listens
        assert self.output, "the server did not start"

    def stop(self) -> list[str]:
        """End it as Ctrl-C does, and return the lines that it has printed."""
        self.process.send_signal(2)
        rest, _ = self.process.communicate(timeout=SECONDS)
        self.output += rest
        return self.output.splitlines()


@contextmanager
def serving(folder: str, *arguments: str) -> Iterator[Server]:
    server = Server(EXAMPLES / folder / "server.py", *arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def client(folder: str, *arguments: str, text: str = "") -> list[str]:
    """Run an example's client and return its lines."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / folder / "client.py", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_quickstart() -> None:
    with serving("quickstart") as server:
        assert client("quickstart", server.address) == ["10 + 20 = 30"]
        lines = server.stop()
    assert lines[0] == "server started"
    assert lines[1].startswith("client connected: 127.0.0.1")
    assert lines[2].endswith("Hello from client!")
    assert lines[3:] == ["audio: 13 bytes"]


@pytest.mark.parametrize(
    "serializers", ['["postcard"]', '["msgpack"]', '["postcard", "msgpack"]', '["msgpack", "postcard"]']
)
def test_the_quickstart_with_each_serializer(serializers: str) -> None:
    """From its configuration, asked by a program and by the command line, which have no types of its methods."""
    echokernel = [sys.executable, "-m", "echokernel"]
    settings = ["--set", f"node.serializers={serializers}", "--set", "listen.main.url=quic://127.0.0.1:0"]
    node = subprocess.Popen(
        [*echokernel, "run", "config.toml", *settings],
        cwd=EXAMPLES / "quickstart",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert node.stdout is not None
        lines = [node.stdout.readline() for _ in range(2)]
        url = lines[1].split()[2]
        assert client("quickstart", url) == ["10 + 20 = 30"]
        called = subprocess.run(
            [*echokernel, "call", url, "math.add", "[10, 20]"], capture_output=True, text=True, timeout=SECONDS
        )
        assert called.stdout.strip() == "30", called.stderr
        told = subprocess.run(
            [*echokernel, "emit", url, "log", '"told"'], capture_output=True, text=True, timeout=SECONDS
        )
        assert told.returncode == 0, told.stderr
        node.send_signal(signal.SIGINT)
        out, err = node.communicate(timeout=SECONDS)
    finally:
        node.kill()
        node.communicate()
    assert node.returncode == 0, err
    assert [line.partition("] ")[2] or line for line in out.splitlines()] == [
        "Hello from client!",
        "audio: 13 bytes",
        "told",
    ]


def test_the_server_and_the_client_of_the_seed() -> None:
    with serving("seed") as server:
        assert client("seed", server.address) == ["10 + 20 = 30"]
        lines = server.stop()
    assert lines[:2] == ["the server has started", "a client connected: 127.0.0.1"]
    assert sorted(lines[2:]) == ["[127.0.0.1] Hello from client!", "audio: 13 bytes"]


def test_the_discovery_of_the_seed() -> None:
    pytest.importorskip("echokernel_mdns")
    path = EXAMPLES / "seed" / "discovery.py"
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=SECONDS, check=True)
    found, answer = result.stdout.splitlines()
    assert re.fullmatch(r"found: echo-server at quic://127\.0\.0\.1:\d+, protocol quic", found)
    assert answer == "10 + 20 = 30"


def test_the_declarations_of_the_seed() -> None:
    path = EXAMPLES / "seed" / "declarative.py"
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=SECONDS, check=True)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["LoginResp(token='...')", "3"]
    assert sorted(lines[2:]) == ["audio: 13 bytes", "user 7 has logged out"]


def test_both_ways() -> None:
    with serving("both_ways") as server:
        assert client("both_ways", server.address) == [
            "really delete notes.txt? yes",
            "left: ['thesis.txt']",
            "really delete thesis.txt? no",
            "thesis.txt stays: you said no",
        ]


def test_progress() -> None:
    with serving("progress") as server:
        lines = client("progress", server.address)
        assert lines == ["1 of 4", "2 of 4", "3 of 4", "4 of 4", "result: 10.0", "stopped at 3"]
        assert server.stop()[1].startswith("stopped after ")


def test_chat() -> None:
    with serving("chat") as server:
        ada = subprocess.Popen(
            [sys.executable, EXAMPLES / "chat" / "client.py", server.address, "Ada"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert ada.stdout is not None
            assert ada.stdout.readline() == "* here are Ada\n"
            assert client("chat", server.address, "Grace", text="hello\n")[0] == "* here are Ada Grace"
            assert [ada.stdout.readline() for _ in range(3)] == [
                "* Grace enters lounge\n",
                "Grace: hello\n",
                "* Grace leaves lounge\n",
            ]
            assert ada.communicate("\n", timeout=SECONDS)[0] == ""
            assert ada.returncode == 0
        finally:
            ada.kill()
            ada.communicate()


def test_upload(tmp_path: Path) -> None:
    file, folder = tmp_path / "photo.raw", tmp_path / "uploads"
    file.write_bytes(os.urandom(1_000_000))
    with serving("upload", str(folder)) as server:
        assert client("upload", server.address, str(file)) == ["16 frames, checksums agree"]
        assert (folder / "photo.raw").read_bytes() == file.read_bytes()
        assert server.stop()[1] == "photo.raw: 1,000,000 bytes"


def test_two_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both play all of the sound, each packet at about the same time: on this machine one clock tells."""
    pytest.importorskip("echokernel_clocksync")
    monkeypatch.chdir(tmp_path)
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(os.urandom(8_000 * 4))  # a second of noise
    with serving("two_rooms", str(sound)) as server:
        rooms = [
            subprocess.Popen(
                [sys.executable, EXAMPLES / "two_rooms" / "client.py", server.address, name],
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("kitchen", "study")
        ]
        try:
            said = [room.communicate(timeout=SECONDS)[0] for room in rooms]
        finally:
            for room in rooms:
                room.kill()
                room.communicate()
        assert [room.returncode for room in rooms] == [0, 0]
        assert server.stop()[1] == "50 packets to 2 rooms"
    played = [int(line.split()[1]) for line in said]
    assert min(played) >= 45, said  # a busy machine can make some late
    measure = EXAMPLES / "two_rooms" / "measure.py"
    done = subprocess.run(
        [sys.executable, measure, "kitchen.jsonl", "study.jsonl"], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert float(line.split("clock")[1].split(":")[1].split()[0]) < 20, line
    for name, count in zip(("kitchen.wav", "study.wav"), played, strict=True):
        with wave.open(name, "rb") as copy, wave.open(str(sound), "rb") as original:
            if count == 50:
                assert copy.readframes(8_000) == original.readframes(8_000)


def test_two_rooms_makes_a_sound_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("echokernel_clocksync")
    monkeypatch.syspath_prepend(str(EXAMPLES / "two_rooms"))
    spec = importlib.util.spec_from_file_location("two_rooms_server", EXAMPLES / "two_rooms" / "server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.beeps(tmp_path / "beeps.wav")
    with wave.open(str(tmp_path / "beeps.wav"), "rb") as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 22_050, 3 * 22_050)
        first = file.readframes(2_205)
        assert max(first) > 0
        assert max(file.readframes(2_205)) == 0


def test_sensors() -> None:
    pytest.importorskip("echokernel_clocksync")
    with serving("sensors") as server:
        said = client("sensors", server.address, "1")
        lines = server.stop()[1:]
    assert said[0].startswith("30 pictures sent, ")
    pairs = [line for line in lines if line.startswith("picture ")]
    assert len(pairs) >= 25, lines  # a busy machine can make some late
    assert all(abs(float(line.split(", ")[1].removesuffix(" ms"))) <= 4 for line in pairs)
    assert lines[-1].startswith(f"{len(pairs)} pairs, ")


def test_agora_assistant() -> None:
    pytest.importorskip("echokernel_agora")
    with serving("agora_assistant") as server:
        assert client("agora_assistant", server.address, "Lunch") == [
            "Email agent says: True, letter number 1",
            "sent to ada@example.org: Lunch",
            "no calendar here: calendar: nobody is registered under this id",
        ]
        assert server.stop()[1] == "assistant sends ada@example.org: Lunch (14 characters)"


def test_agora_tokens() -> None:
    pytest.importorskip("echokernel_agora")
    with serving("agora_tokens") as server:
        said = client("agora_tokens", server.address, "One", "Two words")
        assert sorted(line.split(":")[0] for line in said) == ["parrot-1, 19 tokens", "parrot-1, 20 tokens"]
        assert all(line.endswith("does one thing well . ") for line in said)
        server.stop()


IN_A_BROWSER = {"agora_browser": "plugins/agora/tests/browser/test_browser_agent.py"}
"""Examples that a browser runs, and where it does."""


def test_every_example_is_listed_and_tested() -> None:
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    tests = Path(__file__).read_text("utf-8")
    for folder in sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()):
        assert f"[{folder}]({folder})" in listed
        if folder in IN_A_BROWSER:
            assert f'"{folder}"' in (EXAMPLES.parent.parent / IN_A_BROWSER[folder]).read_text("utf-8")
        else:
            assert f'serving("{folder}"' in tests
