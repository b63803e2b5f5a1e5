"""Fixtures of the kernel's tests."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from fake_plugins import FakeSite


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSite]:
    """A directory of ``sys.path`` for distributions, beside what is really installed."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    site = FakeSite(path)
    yield site
    site.forget()


@pytest.fixture
def bare_site(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> FakeSite:
    """The same, and no plugin is really installed."""

    def only_here() -> object:
        return importlib.metadata.distributions(path=[str(site.path)])

    monkeypatch.setattr("echokernel.installed.distributions", only_here)
    return site
