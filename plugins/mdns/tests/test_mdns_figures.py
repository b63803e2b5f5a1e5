"""The figures can be made. What they measure is not judged here: the machine of a test is busy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FIGURES = Path(__file__).parent.parent / "benchmarks" / "figures.py"


@pytest.mark.slow
def test_the_figures_are_a_table_and_a_picture(tmp_path: Path) -> None:
    command = [sys.executable, str(FIGURES), "--runs", "3", "--plot", str(tmp_path / "figures.svg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    rows = [line for line in done.stdout.splitlines() if " <= " in line]
    assert len(rows) >= 5, done.stdout
    assert "inf" not in done.stdout
    picture = ElementTree.parse(tmp_path / "figures.svg").getroot()
    assert len(picture.findall("{http://www.w3.org/2000/svg}path")) == len(rows)
