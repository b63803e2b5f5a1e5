"""The clock's benchmark runs, so that it cannot rot. What it measures is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "clock.py"


@pytest.mark.slow
def test_the_clock_is_measured_with_and_without_a_bad_network(tmp_path: Path) -> None:
    for module in ("matplotlib", "echokernel_quic", "echokernel_postcard"):
        pytest.importorskip(module)
    picture = tmp_path / "error.png"
    command = [sys.executable, str(BENCHMARK), "--seconds", "1.5", "--only", "msg/s", "--only", "asymmetric base"]
    done = subprocess.run([*command, "--plot", str(picture)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    head, loopback, asymmetric, verdict = done.stdout.splitlines()
    assert head.split()[-2:] == ["CPU", "ms"]
    assert loopback.startswith("loopback, 1,000 msg/s")
    assert 13 < float(asymmetric.split("ms ")[-1].split()[0]) < 17, "half of the asymmetry, which no clock can see"
    assert verdict.endswith(("kept", "missed"))
    assert picture.read_bytes().startswith(b"\x89PNG")
