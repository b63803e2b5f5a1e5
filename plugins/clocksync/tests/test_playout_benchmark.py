"""The benchmark of playout runs, and its simulated figures, which are exact, are met."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "playout.py"


@pytest.mark.slow
def test_the_figures_of_the_simulated_traces_are_met(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--quick"]
    plot = tmp_path / "images" / "late.png"
    if find_spec("matplotlib") is not None:
        command += ["--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.endswith(("| yes |", "| no |"))]
    assert len(rows) == 6
    assert all(row.endswith("| yes |") for row in rows), done.stdout
    if "--plot" in command:
        assert plot.read_bytes().startswith(b"\x89PNG")
