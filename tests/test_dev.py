"""dev.py, as far as it can be tried without making another environment."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setenv("ECHOKERNEL_DEV_ENV", str(tmp_path / "env"))
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_word_it_lists_the_words() -> None:
    result = subprocess.run([sys.executable, ROOT / "dev.py"], capture_output=True, text=True, check=True)
    assert [word for word in ("run", "test", "matrix", "lint", "WORD") if f"  {word} " not in result.stdout] == []


def test_everything_is_installed_from_this_tree(dev: ModuleType) -> None:
    for level in ("run", "dev"):
        words = dev.requirements(level)
        editable = [Path(path) for option, path in pairwise(words) if option == "-e"]
        assert editable == [ROOT, *sorted(ROOT / "plugins" / path.name for path in (ROOT / "plugins").iterdir())]
        names = [word for word in words if word != "-e" and not Path(word).is_absolute()]
        assert not [name for name in names if name.startswith("echokernel")], "ours come from no index"
        assert any(name.startswith("pytest") for name in names) is (level == "dev")
        assert any(name.startswith("uvloop") for name in names)


def test_the_larger_environment_serves_for_the_smaller_one(dev: ModuleType) -> None:
    dev.PYTHON.parent.mkdir(parents=True)
    dev.PYTHON.touch()
    for made, wanted, fresh in (
        ("dev", "run", True),
        ("dev", "dev", True),
        ("run", "dev", False),
        ("run", "run", True),
    ):
        dev.STAMP.write_text(dev.stamp(made), "utf-8")
        assert dev.is_fresh(wanted) is fresh
    dev.STAMP.write_text(dev.stamp("dev").replace(dev.VERSION, "3.0"), "utf-8")
    assert not dev.is_fresh("run")


def test_a_folder_that_is_no_environment_is_left_alone(dev: ModuleType) -> None:
    dev.ENV.mkdir()
    (dev.ENV / "thesis.txt").write_text("three years of work")
    with pytest.raises(SystemExit, match="left alone"):
        dev.ensure("run")
    assert (dev.ENV / "thesis.txt").exists()


def test_pythons_are_pyenvs_newest_ones(dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    for name in ("3.11.9", "3.11.10", "3.12.1", "3.13.0rc1", "2.7.18", "3.13-dev"):
        (tmp_path / "versions" / name / "bin").mkdir(parents=True)
        (tmp_path / "versions" / name / "bin" / "python3").touch()
    found = {minor: folder.parent.name for minor, folder in dev.pythons().items()}
    assert found == {"3.11": "3.11.10", "3.12": "3.12.1"}


def test_an_old_python_is_told_so() -> None:
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    old = sorted(root.glob("versions/3.[6-9].*/bin/python3")) + sorted(root.glob("versions/3.10.*/bin/python3"))
    if not old:
        pytest.skip("there is no Python below 3.11 here")
    for python in old:
        result = subprocess.run([python, ROOT / "dev.py", "test"], capture_output=True, text=True)
        assert result.returncode == 1
        assert "needs Python 3.11 or newer" in result.stderr
