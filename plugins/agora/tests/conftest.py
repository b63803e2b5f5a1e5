"""What the tests of this folder share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agora_world import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Return what makes worlds with other limits; their counters are checked in the end."""
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(World(**options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.check()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
