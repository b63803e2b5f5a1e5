"""``echokernel clock`` against a node in another process, over QUIC."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from echokernel.cli import main
from echokernel_clocksync.command import Sample

SERVER = """
import anyio
from echokernel import EchoServer
from echokernel_clocksync import ClockSync

async def serve():
    builder = EchoServer.builder().bind("quic://127.0.0.1:0")
    if {clock}:
        builder.plugin(ClockSync())
    async with builder.build() as server:
        print(server.addresses[0].port, flush=True)
        await anyio.sleep(60)

anyio.run(serve)
"""


@pytest.fixture(params=[True])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    pytest.importorskip("echokernel_quic")
    pytest.importorskip("echokernel_postcard")
    command = [sys.executable, "-c", SERVER.format(clock=request.param)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"quic://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def test_it_shows_lines(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clock", url, "--count", "3", "-i", "0.05"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1].strip() == "steps"
    assert len(lines) == 3
    for line in lines:
        cells = line.split()
        assert cells[1] == "synced"
        assert abs(float(cells[2])) < 50  # one machine, one time of day
        assert 0 < float(cells[5]) < 1_000


def test_it_writes_json_and_a_picture(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "clock.png"
    assert main(["clock", url, "--seconds", "0.35", "-i", "0.1", "--json", "--plot", str(picture)]) == 0
    samples = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(samples) == 4
    assert set(samples[0]) == set(Sample._fields)
    assert all(0 < sample["bound_ms"] < 100 for sample in samples)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("url", [False], indirect=True)
def test_a_node_without_a_clock_is_an_error_with_a_remedy(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clock", url, "--count", "1"]) == 1
    said = capsys.readouterr().err
    assert "has no clock to follow; give it one: pip install 'echokernel[clocksync]'" in said


def test_what_cannot_be_drawn_is_said_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["clock", "quic://127.0.0.1:1", "--interval", "0"]) == 2
    for file, says in (("clock.svg", "ends with .png"), (str(tmp_path / "no" / "clock.png"), "there is no folder")):
        assert main(["clock", "quic://127.0.0.1:1", "--plot", file]) == 2
        said = capsys.readouterr().err
        assert says in said or "pip install 'echokernel-clocksync[plot]'" in said
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from echokernel_clocksync.command import _no_plot

    assert _no_plot("clock.png") == "--plot needs matplotlib: pip install 'echokernel-clocksync[plot]'"
