"""What all tests share. A plugin that is not installed has its tests left out: each set of plugins can be tested."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

try:
    import fcntl
except ImportError:  # Windows: whoever starts two runs there at a time has to know
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).parent
LAN = re.compile(r"plugins/mdns/|test_mdns|test_cli_lan|guide/discovery|discovery_of_the_seed")
"""Tests of nodes that find each other on this machine."""

collect_ignore = [
    str(path.relative_to(ROOT))
    for path in ROOT.glob("plugins/*")
    if path.is_dir() and find_spec(f"echokernel_{path.name}") is None
]

settings.register_profile(
    "echokernel",
    deadline=None,
    max_examples=25 if "EK_EXPECT" in os.environ else 100,  # the matrix asks whether it works, not how it could fail
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("echokernel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Nodes that find each other find those of another run, too; the matrix has two at a time. They take turns."""
    with _taking_turns() if LAN.search(item.nodeid) else contextlib.nullcontext():
        return (yield)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The command line, called within a test, sets logging up for its process: for the stream of that test."""
    root, ours = logging.getLogger(), logging.getLogger("echokernel")
    before = root.level, list(root.handlers), ours.level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    ours.setLevel(before[2])


@contextlib.contextmanager
def _taking_turns() -> Iterator[None]:
    with open(Path(tempfile.gettempdir()) / "echokernel-tests-lan.lock", "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
