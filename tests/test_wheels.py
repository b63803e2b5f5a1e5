"""What users get: all wheels, built from this tree and installed where the tree cannot be seen."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
QUICKSTART = ROOT / "contrib" / "examples" / "quickstart"
PATIENCE = 60  # seconds, for a server to come up on a busy machine; it takes one
pytestmark = [pytest.mark.wheels, pytest.mark.slow]


def find_uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{command} exited with {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def outside() -> dict[str, str]:
    """Return an environment from which nothing of this tree or of the running tests can be found."""
    dropped = ("PYTHON", "VIRTUAL_ENV", "UV_", "TOX_", "ECHOKERNEL", "COVERAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All wheels of this tree, by name of the distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    uv = find_uv()
    for project in PROJECTS:
        if uv:
            run(uv, "build", "--quiet", "--no-sources", "--wheel", "--out-dir", folder, project, cwd=folder)
        else:
            run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, project, cwd=folder)
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an empty environment into which all wheels were installed in one go."""
    home = tmp_path_factory.mktemp("elsewhere")
    environment, uv = home / "env", find_uv()
    commands = environment / ("Scripts" if os.name == "nt" else "bin")
    python = commands / "python"
    ours = [f"echokernel[all] @ {wheels['echokernel'].as_uri()}"]
    ours += [str(path) for name, path in wheels.items() if name != "echokernel"]
    if uv:
        run(uv, "venv", "--quiet", "--python", sys.executable, environment, cwd=home, env=outside())
        run(uv, "pip", "install", "--quiet", "--no-sources", "--python", python, *ours, cwd=home, env=outside())
        run(uv, "pip", "check", "--python", python, cwd=home, env=outside())
    else:
        venv.create(environment, with_pip=True)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *ours, cwd=home, env=outside())
        run(python, "-m", "pip", "check", cwd=home, env=outside())
    return commands


def test_every_distribution_has_a_wheel(wheels: dict[str, Path]) -> None:
    assert sorted(wheels) == sorted(["echokernel", *(f"echokernel-{path.name}" for path in PROJECTS[1:])])


def test_the_kernel_is_small_and_typed(wheels: dict[str, Path]) -> None:
    assert wheels["echokernel"].stat().st_size < 355_000  # docs/decisions/0008
    with zipfile.ZipFile(wheels["echokernel"]) as archive:
        names = set(archive.namelist())
    assert {"echokernel/py.typed", "echokernel_protocol/py.typed"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"echokernel", "echokernel_protocol"}


@pytest.mark.parametrize("name", [path.name for path in PROJECTS[1:]])
def test_a_plugin_is_typed_and_brings_nothing_else(wheels: dict[str, Path], name: str) -> None:
    with zipfile.ZipFile(wheels[f"echokernel-{name}"]) as archive:
        names = set(archive.namelist())
    assert f"echokernel_{name}/py.typed" in names
    assert {entry.split("/")[0] for entry in names if ".dist-info" not in entry} == {f"echokernel_{name}"}


def test_our_distributions_came_from_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import echokernel, echokernel_protocol; print(echokernel.__file__, echokernel_protocol.__file__, sep='\\n')"
    for line in run(installed / "python", "-c", code, cwd=tmp_path, env=outside()).splitlines():
        assert Path(line).is_relative_to(installed.parent)


@pytest.fixture
def quickstart(installed: Path, tmp_path: Path) -> Iterator[tuple[str, dict[str, str], subprocess.Popen[str]]]:
    """The quickstart, served from a copy: its address, the variables of both ends, and the process."""
    folder = tmp_path / "quickstart"
    shutil.copytree(QUICKSTART, folder, ignore=shutil.ignore_patterns("__pycache__"))
    env = outside() | {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "NO_COLOR": "1"}
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        env.pop(name, None)
    command = [str(installed / "echokernel"), "run", "config.toml", "--set", "listen.main.url=quic://127.0.0.1:0"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=folder, env=env, text=True, **pipes) as server:
        lines: Queue[str] = Queue()
        reader = threading.Thread(target=lambda: [lines.put(line) for line in server.stdout or ()], daemon=True)
        reader.start()
        try:
            yield wait_for_address(server, lines), env, server
        finally:
            if server.poll() is None:
                server.kill()
            reader.join(10)


def wait_for_address(server: subprocess.Popen[str], lines: Queue[str]) -> str:
    said: list[str] = []
    for _ in range(PATIENCE * 10):
        try:
            said.append(lines.get(timeout=0.1))
        except Empty:
            if server.poll() is not None and lines.empty():
                break
            continue
        match = re.search(r"quic://127\.0\.0\.1:([1-9]\d*)", said[-1])
        if match:
            return match[0]
    pytest.fail("no address from `echokernel run`:\n" + "".join(said))


def test_the_quickstart_runs_from_the_wheels(
    installed: Path, quickstart: tuple[str, dict[str, str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    address, env, server = quickstart
    printed = run(installed / "echokernel", "call", address, "math.add", "[10, 20]", cwd=tmp_path, env=env)
    assert printed == "30\n"
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 0, "Ctrl-C drains and exits with 0"
