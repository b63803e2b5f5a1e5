"""The commands that ask, listen to and exchange streams with a running node, over loopback QUIC."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_node import RunningNode

from echokernel.cli import main

pytest.importorskip("echokernel_quic", reason="a node needs a transport")
pytest.importorskip("echokernel_msgpack", reason="a node needs a serializer")

HANDLERS = '''
import anyio
from echokernel import Session, StreamReceiver, event, rpc, stream

@rpc("math.add")
async def add(a: int, b: int) -> int:
    """Return the sum.

    \x1b[31mOf two.
    """
    return a + b

@event(concurrent=True)
async def log(message: str) -> None:
    """Print it."""

@rpc
async def subscribe(session: Session, count: int) -> None:
    for number in range(count):
        await session.emit("tick", {"n": number, "raw": b"123"})
    await session.emit("tock", "a\x9bb")

@rpc
async def leave(session: Session) -> None:
    await session.close(0, "enough")

@event
async def bye(session: Session) -> None:
    await session.close(0, "enough")

@event
async def ask(session: Session, count: int) -> None:
    await subscribe(session, count)

@rpc
async def get(session: Session, size: int) -> None:
    async with await session.create_stream("download") as stream:
        while size > 0:
            await stream.send(b"x" * min(size, 50_000))
            size -= 50_000

@rpc
async def cut(session: Session) -> None:
    stream = await session.create_stream("download")
    await stream.send(b"x" * 1000)
    await anyio.sleep(0.1)
    stream.abort()

@stream
async def upload(stream: StreamReceiver) -> None:
    """Count the bytes."""
    size = 0
    async for frame in stream:
        size += len(frame.data)
    await anyio.sleep(0.2)
    print("uploaded", size, flush=True)

@stream
async def picky(stream: StreamReceiver) -> None:
    await stream.recv()

@stream
async def broken(stream: StreamReceiver) -> None:
    async for frame in stream:
        pass
    raise ValueError("canary")
'''


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))
        running = RunningNode(tmp_path_factory.mktemp("node"), HANDLERS)
    running.wait_starts(1)
    yield running
    assert running.end(signal.SIGTERM) == 0


def client(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "echokernel", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload, no-any-return]


# --- describe, health -------------------------------------------------------------------------------------------------


def test_describe(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", node.url]) == 0
    first, second, _, header, *rows = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"test: echokernel \S+, Python 3\.\S+", first)
    assert re.fullmatch(r"plugins: quic \S+, msgpack \S+; serializers: msgpack", second)
    assert header.split() == ["KIND", "NAME", "SIGNATURE", "ABOUT"]
    assert [row.split()[:2] for row in rows] == [
        *(["rpc", name] for name in ("cut", "get", "leave", "math.add", "subscribe")),
        *(["event", name] for name in ("ask", "bye", "log")),
        *(["stream", name] for name in ("broken", "picky", "upload")),
    ]
    assert rows[3] == "rpc     math.add   (a: int, b: int) -> int   Return the sum."


def test_describe_one_method(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", node.url, "math.add"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("rpc math.add(a: int, b: int) -> int\n\n    Return the sum.\n\n    \ufffd[31mOf two.\n\n")
    parameters, result = text[text.index("parameters:\n") + 12 :].split("\nresult:\n")
    assert [part["title"] for part in json.loads(parameters)["prefixItems"]] == ["a", "b"]
    assert json.loads(result) == {"type": "integer"}
    assert main(["describe", node.url, "log"]) == 0
    assert capsys.readouterr().out.startswith("event log(message: str)  (concurrent)\n")


def test_describe_for_programs(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", node.url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["node"], [plugin["distribution"] for plugin in found["plugins"]]) == (
        "test",
        ["echokernel-quic", "echokernel-msgpack"],
    )
    assert found["methods"][3]["result"] == {"type": "integer"}
    assert str(node.directory) not in json.dumps(found)


def test_describe_what_is_not_there(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", node.url, "math.ad"]) == 1
    assert capsys.readouterr() == (
        "",
        "error: method_not_found: the node has no 'math.ad'; did you mean 'math.add'?\n",
    )


def test_describe_a_node_that_does_not_want_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shy = RunningNode(tmp_path, HANDLERS, "--set", "node.describe=false")
    shy.wait_starts(1)
    assert main(["describe", shy.url]) == 1
    assert capsys.readouterr().err == "error: permission_denied: this node does not describe itself\n"
    assert main(["health", shy.url]) == 0
    assert shy.end(signal.SIGTERM) == 0


def test_health(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", node.url]) == 0
    assert re.fullmatch(r"ok: up [\d.]+ s, 1 session, 0 open requests\n", capsys.readouterr().out)
    assert main(["health", node.url, "--json"]) == 0
    health = json.loads(capsys.readouterr().out)
    assert health.pop("uptime") > 0
    assert health == {"status": "ok", "sessions": 1, "open_requests": 0}


# --- ping -------------------------------------------------------------------------------------------------------------


def test_ping_is_ended_by_an_interrupt_with_its_summary(node: RunningNode) -> None:
    process = client("ping", node.url, "-c", "0", "-i", "0.05")
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    *_, title, counts, rtt = out.decode().splitlines()
    assert title == f"--- {node.url} ping statistics ---"
    assert re.fullmatch(r"(\d+) sent, \d+ received, [\d.]+% lost", counts)
    assert re.fullmatch(r"rtt min/avg/median/p95/max/stddev = ([\d.]+/){5}[\d.]+ ms", rtt)


def test_a_node_that_falls_silent(tmp_path: Path) -> None:
    frozen = RunningNode(tmp_path, HANDLERS)
    frozen.wait_starts(1)
    process = client("ping", frozen.url, "-c", "0", "-i", "0.05", "-W", "0.3")
    assert process.stdout is not None
    process.stdout.readline()
    frozen.process.send_signal(signal.SIGSTOP)
    lines = iter(process.stdout.readline, b"")
    assert any(line.endswith(b"no answer within 0.3 s\n") for line in lines)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0  # some were answered
    assert b" 0% lost" not in out
    frozen.end(signal.SIGKILL)


def test_no_ping_was_answered(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", node.url, "-c", "2", "-i", "0", "-W", "0"]) == 1
    assert "2 sent, 0 received, 100% lost\n" in capsys.readouterr().out
    assert main(["ping", node.url, "-c", "1", "-W", "0", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["avg"] is None
    assert main(["ping", node.url, "-i", "-1"]) == 2


# --- listen -----------------------------------------------------------------------------------------------------------


def test_listen_prints_so_many_events(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen", node.url, "tick", "tock", "--count", "3", "--call", "subscribe", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # events of two names have no order
    assert sorted(re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  ", "", line) for line in lines) == [
        'tick  {"n": 0, "raw": "MTIz"}',
        'tick  {"n": 1, "raw": "MTIz"}',
        'tock  "a\ufffdb"',
    ]


def test_listen_for_programs(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen", node.url, "tick", "-n", "1", "--json", "--emit", "ask", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert abs(found.pop("time") - time.time()) < 60
    assert found == {"event": "tick", "payload": {"n": 0, "raw": "MTIz"}}


def test_listen_until_an_interrupt(node: RunningNode) -> None:
    process = client("listen", node.url, "tick", "--call", "subscribe", "1")
    assert process.stdout is not None
    assert b"tick" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tick", "--call", "nope"], 1, "error: method_not_found: no method 'nope' here\n"),
        (["tick", "--call", "leave"], 1, "error: outcome_unknown: leave: the connection was lost"),
        (["tick", "--emit", "bye"], 1, "error: connection_closed: connection closed by the peer (ok): enough\n"),
        (["tick", "--call", "m", "1", "2"], 2, "error: --call takes a name and a payload, which is one JSON value"),
        (["tick", "--emit", "m", "x"], 2, "error: the payload is not JSON"),
        (["tick", "--count", "0"], 2, "error: --count: 0 is no number of events"),
        (["no spaces"], 2, "error: method name 'no spaces'"),
    ],
)
def test_listening_in_vain(
    node: RunningNode, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["listen", node.url, *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


# --- stream: sending --------------------------------------------------------------------------------------------------


def test_send_a_file(node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 300_001)
    assert main(["stream", node.url, "upload", "--send", str(file)]) == 0
    assert "uploaded 300001\n" in node.out  # which it printed before it was reported here
    out, err = capsys.readouterr()
    assert re.fullmatch(r"sent 300,001 bytes in 5 frames, [\d.]+ s, [\d.]+ \wB/s\n", out)
    assert err == ""
    assert main(["stream", node.url, "upload", "--send", str(file), "--json", "--chunk", "300000"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["bytes"], found["frames"], found["taken"]) == (300_001, 5, 5)


def test_send_an_empty_file(node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").touch()
    assert main(["stream", node.url, "upload", "--send", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out.startswith("sent 0 bytes in 0 frames")


def test_send_what_comes_on_stdin(node: RunningNode, tmp_path: Path) -> None:
    process = client("stream", node.url, "upload", "--send", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x" * 100_002)
    process.stdin.flush()
    time.sleep(0.1)
    out, err = process.communicate(b"y", timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"sent 100,003 bytes in ")
    assert "uploaded 100003\n" in node.out
    (tmp_path / "file").write_bytes(b"x" * 77)
    with (tmp_path / "file").open("rb") as file:
        process = client("stream", node.url, "upload", "--send", "-", stdin=file)
        assert process.communicate(timeout=30)[0].startswith(b"sent 77 bytes in 1 frame,")


def test_an_interrupt_while_stdin_is_silent(node: RunningNode) -> None:
    process = client("stream", node.url, "upload", "--send", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.communicate()


def test_a_bar_on_a_terminal(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 20_000_000)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "echokernel", "stream", node.url, "upload", "--send", str(tmp_path / "file")]
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, timeout=60, check=True)
    os.set_blocking(ours, False)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert done.stdout.startswith(b"sent 20,000,000 bytes")
    assert re.search(r"\r +[\d.]+ MB of 20\.0 MB  \[#*-+\]  +\d+%  [\d.]+ MB/s  ", drawn)
    assert drawn.endswith(" \r")  # and it was taken away


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("nope", 10, "error: method_not_found: stream 'nope' was refused: no stream 'nope' here\n"),
        ("picky", 100, "error: the node took 1 of 10 frames, and wanted no more\n"),
        ("picky", 5_000_000, "error: stream_stopped: "),
        ("broken", 100, "error: handler_error: stream 'broken': its handler failed: ValueError\n"),
    ],
)
def test_sending_what_is_not_taken(
    node: RunningNode, tmp_path: Path, name: str, size: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    chunk = str(max(10, min(65_536, size // 10)))
    assert main(["stream", node.url, name, "--send", str(tmp_path / "file"), "--chunk", chunk]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)


def test_what_cannot_be_sent(node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", node.url, "upload", "--send", str(tmp_path / "nope")]) == 2
    assert "nope cannot be read: No such file or directory" in capsys.readouterr().err
    assert main(["stream", node.url, "upload", "--send", str(tmp_path)]) == 2
    assert "is a directory; send an archive of it: tar c" in capsys.readouterr().err
    assert main(["stream", node.url, "upload", "--send", "-", "--call", "m"]) == 2
    assert main(["stream", node.url, "upload", "--send", "-", "--chunk", "0"]) == 2
    assert main(["stream", node.url, "upload", "--send", "-", "--timeout", "-1"]) == 2
    assert main(["stream", node.url, "upload"]) == 2


# --- stream: receiving ------------------------------------------------------------------------------------------------


def test_receive_a_file(node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "got"
    assert main(["stream", node.url, "download", "--receive", str(target), "--call", "get", "120000"]) == 0
    assert target.read_bytes() == b"x" * 120_000
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    out, err = capsys.readouterr()
    assert re.fullmatch(r"received 120,000 bytes in 3 frames, [\d.]+ s, [\d.]+ \w?B/s\n", out)
    assert err == ""
    assert [file.name for file in tmp_path.iterdir()] == ["got"]


def test_a_file_that_exists(node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "got"
    target.write_text("mine")
    arguments = ["stream", node.url, "download", "--receive", str(target), "--call", "get", "10"]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {target} exists; choose another name, or overwrite it with --force\n"
    assert target.read_text() == "mine"
    assert main([*arguments, "--force", "--json"]) == 0
    assert target.read_text() == "x" * 10
    assert json.loads(capsys.readouterr().out)["bytes"] == 10


def test_a_link_stays_a_link(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert main(["stream", node.url, "download", "--receive", str(tmp_path / "link"), "--call", "get", "1"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"


def test_a_transfer_that_is_cut_leaves_no_file(
    node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "got"
    target.write_text("old")
    assert main(["stream", node.url, "download", "--receive", str(target), "--force", "--call", "cut"]) == 1
    assert re.fullmatch(
        r"error: stream_reset: .*; 1\.0 kB had come, and .*got was not written\n", capsys.readouterr().err
    )
    assert [file.name for file in tmp_path.iterdir()] == ["got"]
    assert target.read_text() == "old"


def test_a_server_that_dies_leaves_no_file(tmp_path: Path) -> None:
    handlers = HANDLERS.replace("stream.abort()", "import os; os._exit(9)")
    (tmp_path / "node").mkdir()
    (tmp_path / "here").mkdir()
    dying = RunningNode(tmp_path / "node", handlers)
    dying.wait_starts(1)
    process = client("stream", dying.url, "download", "--receive", "got", "--call", "cut", cwd=tmp_path / "here")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"got was not written" in err
    assert list((tmp_path / "here").iterdir()) == []
    assert dying.end() == 9


def test_an_interrupt_leaves_no_file(node: RunningNode, tmp_path: Path) -> None:
    process = client("stream", node.url, "download", "--receive", "got", "--call", "get", "4000000000", cwd=tmp_path)
    end = time.monotonic() + 30
    # in the middle of it: while modules are imported, an interrupt inside of an exec() of a text makes CPython end by the
    # signal itself, however it was caught
    while not any(file.stat().st_size for file in tmp_path.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_receive_to_stdout(node: RunningNode) -> None:
    process = client("stream", node.url, "download", "--receive", "-", "--call", "get", "3000000")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"x" * 3_000_000)
    assert err.startswith(b"received 3,000,000 bytes in 60 frames")


def test_a_reader_of_stdout_that_has_seen_enough(node: RunningNode) -> None:
    command = f"{sys.executable} -m echokernel stream {node.url} download --receive - --call get 9000000 | head -c 5"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"xxxxx", b"")


def test_receiving_in_vain(node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "got")
    start = ["stream", node.url, "download", "--receive", target]
    assert main([*start, "--timeout", "0.2"]) == 1
    assert "the node opened no stream 'download' within 0.2 s" in capsys.readouterr().err
    assert main([*start, "--call", "nope"]) == 1
    assert main([*start, "--call", "leave"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert main(["stream", node.url, "download", "--receive", str(tmp_path / "no" / "got")]) == 2
    assert main(["stream", node.url, "download", "--receive", str(tmp_path)]) == 2
    assert "is a directory; give the name of a file in it" in capsys.readouterr().err
