"""The benchmark runs, so that it cannot rot. Times are not judged here; copies are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODEC = Path(__file__).resolve().parent.parent / "benchmarks" / "codec.py"


def test_the_codec_is_measured_beside_msgpack() -> None:
    pytest.importorskip("msgpack")
    done = subprocess.run([sys.executable, str(CODEC), "--quick"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 12 + 3
    assert all(float(line.split()[-3]) < 1.1 for line in lines[-3:]), done.stdout
