"""The router's benchmark runs, so that it cannot rot. What it measures is not judged here, but that nothing was lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "agora.py"


@pytest.mark.slow
def test_some_of_the_figures_can_be_measured() -> None:
    command = [sys.executable, str(BENCHMARK), "--quick", "--only", "unknown", "order", "restart"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].lstrip("! ").startswith("error for an unknown receiver: p99")
    assert "100,000 arrived, 0 not in order" in lines[1]
    assert "kill -9 under 100 agents: 95 % are back after" in lines[2]
