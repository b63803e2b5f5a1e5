"""An environment of the matrix holds exactly the plugins that it is named after."""

from __future__ import annotations

import os
from importlib.metadata import entry_points

import pytest


@pytest.mark.skipif("EK_EXPECT" not in os.environ, reason="only the environments of tox.ini say what they expect")
def test_the_installed_plugins_are_the_expected_ones() -> None:
    expected = {name for name in os.environ["EK_EXPECT"].split(",") if name}
    assert {entry.name for entry in entry_points(group="echokernel.plugins.v1")} == expected
