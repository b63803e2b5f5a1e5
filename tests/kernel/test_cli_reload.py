"""``run --reload``: real processes, real edits of files, and what serves meanwhile."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_node import CONFIG, RunningNode

from echokernel.cli import main
from echokernel.cli._watching import FileWatch, config_files, forget_bytecode, module_files, python_files

pytest.importorskip("echokernel_quic", reason="a node needs a transport")
pytest.importorskip("echokernel_msgpack", reason="a node needs a serializer")

pytestmark = pytest.mark.slow

HANDLERS = """
import anyio
from echokernel import rpc
import my_helper

@rpc
async def value() -> int:
    return my_helper.VALUE

@rpc
async def slow(seconds: float) -> str:
    print("slow began", flush=True)
    await anyio.sleep(seconds)
    return "done"

@rpc
async def end() -> None:
    import os
    os._exit(5)

@rpc
async def lazy() -> int:
    import my_lazy
    return my_lazy.VALUE
"""
INVALID = "the change cannot be used: the old version goes on serving"


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))


def free_port() -> int:
    """Return a port that nobody gets by chance while the server is away: below those that the system gives out."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            except OSError:
                continue
            return int(probe.getsockname()[1])


class Reloading(RunningNode):
    """A server with ``--reload`` and a helper that its handlers import."""

    def __init__(self, directory: Path, *arguments: str, config: str = CONFIG) -> None:
        self.port = free_port()
        (directory / "my_helper.py").write_text("VALUE = 1\n")
        (directory / "my_lazy.py").write_text("VALUE = 1\n")
        config = config.replace(":0", f":{self.port}")
        super().__init__(directory, HANDLERS, "--reload", *arguments, config=config)

    def call(self, method: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        capsys.readouterr()
        assert main(["call", f"quic://127.0.0.1:{self.port}", method, *arguments]) == 0
        return capsys.readouterr().out.strip()

    def children(self) -> list[int]:
        done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Reloading]:
    running = Reloading(tmp_path)
    running.wait_starts(1)
    try:
        yield running
    finally:
        running.end(signal.SIGINT)


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


Capture = pytest.CaptureFixture[str]


def test_valid_changes(node: Reloading, capsys: Capture) -> None:
    assert node.call("value", capsys) == "1"
    node.write("my_helper.py", "VALUE = 2\n")
    node.wait_starts(2)
    assert node.call("value", capsys) == "2"
    node.write("my_handlers.py", HANDLERS.replace("async def value", "async def renamed"))
    node.wait_starts(3)
    assert node.call("renamed", capsys) == "2"
    assert main(["call", node.url, "value"]) == 1
    assert "no method 'value'" in capsys.readouterr().err
    node.write("config.toml", CONFIG.replace(":0", f":{node.port}").replace('"test"', '"other"'))
    node.wait_starts(4)
    assert main(["describe", node.url]) == 0
    assert capsys.readouterr().out.startswith("other: ")
    assert [f"changed: {name}" in node.err for name in ("my_helper.py", "my_handlers.py", "config.toml")] == [True] * 3
    node.wait_err("serving again, after", 3)
    assert len(node.children()) == 1


def test_invalid_changes_leave_the_old_version_serving(node: Reloading, capsys: Capture) -> None:
    node.write("my_helper.py", "VALUE =\n")
    node.wait_err(INVALID)
    assert "config.toml:5:13: error[handler]: module 'my_handlers' cannot be imported: SyntaxError" in node.err
    assert node.call("value", capsys) == "1"
    node.write("config.toml", CONFIG.replace(":0", f":{node.port}").replace("name", "nmae"))
    node.wait_err("error[unknown-key]: node.nmae is not a setting of [node]; did you mean 'name'?")
    node.wait_err(INVALID, 2)
    node.write("config.toml", CONFIG.replace(":0", f":{node.port}"))
    node.wait_err(INVALID, 3)  # the helper is still wrong
    assert node.call("value", capsys) == "1"
    assert len(node.children()) == 1
    node.write("my_helper.py", "VALUE = 3\n")
    node.wait_starts(2)
    assert node.call("value", capsys) == "3"


def test_a_module_that_is_made_later(node: Reloading, capsys: Capture) -> None:
    node.write("my_helper.py", "from my_new import VALUE\n")
    node.wait_err(INVALID)
    node.write("my_new.py", "VALUE = 4\n")
    node.wait_starts(2)
    assert node.call("value", capsys) == "4"


def test_a_handler_that_is_renamed_to_one_that_exists(node: Reloading, capsys: Capture) -> None:
    node.write("my_handlers.py", HANDLERS.replace("async def value", "async def slow"))
    node.write("config.toml", CONFIG.replace(":0", f":{node.port}").replace('"my_handlers"', '"my_handlers:value"'))
    node.wait_err(INVALID)
    assert "module 'my_handlers' has no 'value'" in node.err
    assert node.call("value", capsys) == "1"


def test_what_a_handler_imports_while_it_runs(node: Reloading, capsys: Capture) -> None:
    assert node.call("lazy", capsys) == "1"
    time.sleep(2.5)  # the server looks once a second at what is imported, and the supervisor at what it said
    node.write("my_lazy.py", "VALUE = 2\n")
    node.wait_starts(2)
    assert node.call("lazy", capsys) == "2"


def test_two_edits_of_one_size_within_a_second(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    node = Reloading(tmp_path)
    node.wait_starts(1)
    node.write("my_helper.py", "VALUE = 2\n")
    node.wait_err("changed: my_helper.py")
    second = os.stat(node.directory / "my_helper.py").st_mtime
    node.wait_starts(2)
    (node.directory / "my_helper.py").write_text("VALUE = 3\n")
    os.utime(
        node.directory / "my_helper.py", (second, int(second) + 0.999)
    )  # what bytecode is compared with is the same
    node.wait_starts(3)
    assert node.call("value", capsys) == "3"
    assert node.end(signal.SIGINT) == 0


def test_open_requests_finish(node: Reloading, capsys: Capture) -> None:
    command = [sys.executable, "-m", "echokernel", "call", node.url, "slow", "2"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    node.wait_for(lambda: "slow began" in node.out, "the request")
    node.write("my_helper.py", "VALUE = 2\n")
    node.wait_starts(2)
    assert client.communicate(timeout=30)[0] == '"done"\n'
    assert node.call("value", capsys) == "2"


def test_referenced_files_and_reload_dirs(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "name.txt").write_text("first\n")
    (tmp_path / "more").mkdir()
    config = CONFIG.replace('"test"', '{ file = "name.txt" }')
    node = Reloading(tmp_path, "--reload-dir", "more", config=config)
    node.wait_starts(1)
    node.write("name.txt", "second\n")
    node.wait_starts(2)
    assert main(["describe", node.url]) == 0
    assert capsys.readouterr().out.startswith("second: ")
    (tmp_path / "more" / "new.py").touch()
    node.wait_starts(3)
    (tmp_path / "more" / "notes.txt").touch()
    (tmp_path / "unrelated.py").touch()
    time.sleep(1.5)
    assert len(node.urls) == 3
    assert node.end(signal.SIGTERM) == 0


def test_it_logs_as_the_server_does(tmp_path: Path) -> None:
    node = Reloading(tmp_path, config=CONFIG + '[log]\nformat = "json"\n')
    node.wait_starts(1)
    node.write("my_helper.py", "VALUE = 2\n")
    node.wait_starts(2)
    assert node.end(signal.SIGINT) == 0
    assert "changed: my_helper.py" in [json.loads(line)["message"] for line in node.err.splitlines()]


def test_a_server_that_dies_starts_again_at_the_next_change(node: Reloading, capsys: Capture) -> None:
    assert main(["call", node.url, "end"]) == 1
    node.wait_err("the server ended by itself (exit code 5); it starts again when a file changes")
    assert node.children() == []
    node.write("my_helper.py", "VALUE =\n")
    node.wait_err("the change cannot be used: nothing is serving")
    node.write("my_helper.py", "VALUE = 2\n")
    node.wait_starts(2)
    assert node.call("value", capsys) == "2"
    [child] = node.children()
    os.kill(child, signal.SIGKILL)
    node.wait_err("(killed by SIGKILL)")
    assert node.end(signal.SIGINT) == 0


# --- signals and exit codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once(tmp_path: Path, number: signal.Signals) -> None:
    node = Reloading(tmp_path)
    node.wait_starts(1)
    command = [sys.executable, "-m", "echokernel", "call", node.url, "slow", "1"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    node.wait_for(lambda: "slow began" in node.out, "the request")
    assert node.end(number) == 0
    assert client.communicate(timeout=30)[0] == '"done"\n'
    assert node.err.count(f"{number.name}: stopping") == 1


def test_ctrl_c_at_a_terminal_is_one_signal(tmp_path: Path) -> None:
    """The terminal sends it to the whole group; the server must not take that for two."""
    node = Reloading(tmp_path)
    node.wait_starts(1)
    [child] = node.children()
    assert os.getpgid(child) == child != os.getpgid(node.process.pid)
    assert node.end(signal.SIGINT) == 0


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    node = Reloading(tmp_path)
    node.wait_starts(1)
    command = [sys.executable, "-m", "echokernel", "call", node.url, "slow", "30", "--timeout", "0"]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    node.wait_for(lambda: "slow began" in node.out, "the request")
    node.process.send_signal(signal.SIGINT)
    node.wait_err("SIGINT: stopping")
    assert node.end(signal.SIGINT) == 130
    client.wait(30)


def test_a_signal_while_the_old_version_drains(tmp_path: Path) -> None:
    node = Reloading(tmp_path)
    node.wait_starts(1)
    command = [sys.executable, "-m", "echokernel", "call", node.url, "slow", "3"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    node.wait_for(lambda: "slow began" in node.out, "the request")
    node.write("my_helper.py", "VALUE = 2\n")
    node.wait_err("the new version is valid")
    assert node.end(signal.SIGINT) == 0
    assert client.communicate(timeout=30)[0] == '"done"\n'  # the signal was the first one for the user
    assert len(node.urls) == 1


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"config": CONFIG.replace("name", "nmae")}, 78, "did you mean 'name'?"),
        ({"config": CONFIG.replace("quic", "quik")}, 78, "quik"),
    ],
)
def test_what_cannot_start_ends_as_without_reload(
    tmp_path: Path, change: dict[str, Any], code: int, message: str
) -> None:
    node = Reloading(tmp_path, **change)
    assert node.end() == code
    assert message in node.err


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"quic://127.0.0.1:{taken.getsockname()[1]}"
        node = Reloading(tmp_path, "--set", f"listen.main.url={url}")
        assert node.end() == 3
    assert "--set listen.main.url=" in node.err


def test_wrong_usage(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    assert main(["run", str(tmp_path / "config.toml"), "--reload-dir", "x"]) == 2
    assert capsys.readouterr().err == "error: --reload-dir is for --reload\n"
    assert main(["run", str(tmp_path / "config.toml"), "--reload", "--reload-dir", str(tmp_path / "x")]) == 2
    assert re.search(r"error: --reload-dir: there is no folder .*x\n", capsys.readouterr().err)


def test_a_supervisor_that_is_killed_leaves_no_server(tmp_path: Path) -> None:
    node = Reloading(tmp_path)
    node.wait_starts(1)
    [child] = node.children()
    assert node.end(signal.SIGKILL) == -9
    end = time.monotonic() + 15
    while not gone(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert gone(child)


def test_a_supervisor_that_is_killed_leaves_no_server_that_was_to_follow(tmp_path: Path) -> None:
    node = Reloading(tmp_path)
    node.wait_starts(1)
    node.write("my_helper.py", "import time\ntime.sleep(2)\nVALUE = 2\n")
    node.wait_for(lambda: len(node.children()) == 2, "the new server")
    children = node.children()
    node.end(signal.SIGKILL)
    end = time.monotonic() + 15
    while not all(map(gone, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert all(map(gone, children))


# --- the parts --------------------------------------------------------------------------------------------------------


def test_a_watch_sees_edits_removals_and_new_files(tmp_path: Path) -> None:
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    Path(one).write_text("1")
    Path(two).write_text("1")
    watch = FileWatch()
    watch.add([one, two, three])
    assert watch.changed() == []
    Path(one).write_text("22")
    Path(two).unlink()
    Path(three).touch()
    assert watch.changed() == watch.settle() == [one, two, three]
    assert watch.changed() == []
    Path(two).write_text("x")
    late = FileWatch()
    late.add([two], since_ns=time.time_ns() - 10**9)
    late.add([one], since_ns=time.time_ns() + 10**9)
    assert late.changed() == [two]
    late.add([two])
    late.add_new([two, three])
    assert late.settle() == [two, three]


def test_config_files(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[node]\nname = { file = "name.txt" }\n[connect.up]\ncredentials = { env = "X" }\n')
    overrides = ['node.name={ file = "other.txt" }', 'node.handlers=[{ file = "../third" }]']
    assert config_files(str(config), []) == [str(config), str(tmp_path / "name.txt")]
    assert config_files(str(config), overrides) == [
        str(config),
        str(tmp_path / "other.txt"),
        str(tmp_path.parent / "third"),
    ]
    config.write_text("[")
    assert config_files(str(config), []) == [str(config)]


def test_python_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.py", "b.txt", "sub/c.py", ".git/d.py", "__pycache__/e.py", "env/f.py", "node_modules/g.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert [Path(file).name for file in python_files(tmp_path)] == ["a.py", "c.py"]
    assert [Path(file).name for file in python_files(tmp_path, deep=False)] == ["a.py"]
    monkeypatch.setattr("echokernel.cli._watching.MAX_FILES", 1)
    with pytest.raises(ValueError, match="more than 1 Python files"):
        python_files(tmp_path)


def test_module_files_are_the_programs_own() -> None:
    found = module_files()
    assert __file__ in found
    assert not [file for file in found if "site-packages" in file or f"{os.sep}echokernel{os.sep}" in file]
    assert os.__file__ not in found


def test_bytecode_is_forgotten(tmp_path: Path) -> None:
    import py_compile

    source = tmp_path / "m.py"
    source.write_text("")
    compiled = Path(py_compile.compile(str(source)))
    forget_bytecode([str(source), str(tmp_path / "nope.py"), str(tmp_path / "x.txt")])
    assert not compiled.exists()
