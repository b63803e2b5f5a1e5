"""The plugin as the kernel sees it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from echokernel.registry import Registry
from echokernel.serializer import Serializer
from echokernel_postcard import PostcardSerializer, plugin


def test_the_hook_registers_one_serializer() -> None:
    registry = Registry()
    registry.enter("postcard")
    plugin.echokernel_serializers(registry)
    registered = registry.serializers["postcard"]
    assert registered.plugin == "postcard"
    assert isinstance(registered.value, PostcardSerializer)
    assert isinstance(registered.value, Serializer)


def test_the_entry_point_is_the_plugin_module() -> None:
    found = [entry for entry in entry_points(group="echokernel.plugins.v1") if entry.name == "postcard"]
    if not found:
        pytest.skip("echokernel-postcard is on the path without being installed")
    assert [entry.load() for entry in found] == [plugin]


def test_importing_the_plugin_does_not_import_pydantic() -> None:
    code = (
        "import sys, echokernel; before = set(sys.modules)\n"
        "import echokernel_postcard.plugin; print(sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pydantic" not in result.stdout
