"""``docs/reference.md`` is complete and current."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
sys.path.insert(0, str(DOCS))

import make_reference  # noqa: E402 - found by the line above

PAGE = (DOCS / "reference.md").read_text("utf-8")


@pytest.mark.parametrize("module", make_reference.MODULES)
def test_the_reference_is_current(module: str) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    _, found, rest = PAGE.partition(f"\n## {module}\n")
    assert found
    written = f"## {module}\n" + re.split(r"^## ", rest, flags=re.M)[0].rstrip("\n")
    assert written == make_reference.section(module).rstrip("\n"), "run: python docs/make_reference.py"


@pytest.mark.parametrize("module", make_reference.MODULES)
def test_every_public_name_has_its_entry_and_says_something(module: str) -> None:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    section = PAGE.partition(f"\n## {module}\n")[2].partition("\n## ")[0]
    entries = {entry.partition("\n")[0]: entry for entry in section.split("\n### ")[1:]}
    assert set(entries) == set(importlib.import_module(module).__all__)
    for name, entry in entries.items():
        text = re.sub(r"```python\n.*?```", "", entry, flags=re.S).removeprefix(name)
        assert len(text.split()) >= 4, f"{name} has no docstring"


def test_the_reference_has_no_other_sections() -> None:
    assert re.findall(r"^## (.+)$", PAGE, re.M) == list(make_reference.MODULES)
