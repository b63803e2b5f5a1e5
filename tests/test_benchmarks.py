"""The benchmarks run, so that they cannot rot. What they measure is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "benchmarks"


@pytest.mark.slow
def test_the_comparison_runs_with_all_its_peers() -> None:
    for module in ("grpc", "uvloop", "echokernel_quic", "echokernel_msgpack"):
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, str(HERE / "compare.py"), "--quick"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 12
    assert "1,000 idle connections" in done.stdout


@pytest.mark.slow
def test_misbehaving_peers_are_measured_beside_good_ones() -> None:
    pytest.importorskip("echokernel_quic")
    command = [sys.executable, str(HERE / "misbehaving.py"), "--seconds", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert len(rows) == 7
    assert all(row[row.index("ms", 4) + 2] == "0" for row in rows), done.stdout  # nothing is lost, however slow it is


@pytest.mark.slow
def test_the_kernels_own_cost_is_measured() -> None:
    for module in ("uvloop", "echokernel_msgpack"):
        pytest.importorskip(module)
    command = [sys.executable, str(HERE / "kernel_cost.py"), "--rounds", "1", "--seconds", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "64 in flight" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broadcast.py", "every client got 4 to 4 of 4 events"),
        ("idle_memory.py", "50 idle sessions"),
        ("concurrent_requests.py", "10,000 requests at once"),
    ],
)
def test_what_servers_of_many_cost_is_measured(name: str, says: str) -> None:
    for module in ("uvloop", "echokernel_quic", "echokernel_msgpack"):
        pytest.importorskip(module)
    done = subprocess.run([sys.executable, str(HERE / name), "--quick"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
