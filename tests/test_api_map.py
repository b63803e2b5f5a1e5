"""``docs/api-map.md`` has every name of the seed's API, and every name that it puts beside one exists."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import echokernel

HERE = Path(__file__).resolve().parent
PAGE = (HERE.parent / "docs" / "api-map.md").read_text("utf-8")
SEED = [line for line in (HERE / "seed_names.txt").read_text("utf-8").splitlines() if not line.startswith("# ")]

PLANNED = {
    "WebTransport": "echokernel_webtransport",
}
"""What the map calls planned, and where it will be. What begins to exist needs a row of its own."""
NOT_NEEDED = {"Result"}
RECONNECT = {"ReconnectPlugin"}
CLOCKSYNC = {"ClockSync"}
QUIC = {"QuicTransport", "QuicConfig", "QuicConfigBuilder", "CongestionControl", "echokernel_quic"}


def rows() -> list[tuple[str, str, str]]:
    """Return name of the seed, our side, note."""
    found = []
    for table in re.split(r"^\| Seed \| Here \| Note \|\n\|---\|---\|---\|\n", PAGE, flags=re.M)[1:]:
        for line in table.split("\n"):
            if not line.startswith("|"):
                break
            seed, here, note = (cell.strip() for cell in line.strip("|").split("|"))
            found.append((seed.strip("`"), here, note))
    return found


def lookup(name: str) -> Any:
    """Return what a name of our side stands for: a module, a public name, or a member of one. Raises LookupError."""
    first, *members = name.split(".")
    value: Any
    if first.startswith("echokernel"):
        return importlib.import_module(name)
    if first in QUIC:
        value = getattr(importlib.import_module("echokernel_quic"), first)
    elif first in RECONNECT:
        value = getattr(importlib.import_module("echokernel_reconnect"), first)
    elif first in CLOCKSYNC:
        value = getattr(importlib.import_module("echokernel_clocksync"), first)
    elif first in echokernel.__all__:
        value = getattr(echokernel, first)
    else:
        raise LookupError(f"{first} is not public")
    for member in members:
        if not has(value, member):
            raise LookupError(f"{value!r} has no {member}")
        value = getattr(value, member, None)
    return value


def has(value: Any, member: str) -> bool:
    """Whether a class has a member: in its body, as an annotation, or assigned by ``__init__``."""
    if hasattr(value, member) or any(member in getattr(base, "__annotations__", ()) for base in value.__mro__):
        return True
    return any(
        re.search(rf"\bself\.{member}\b.* = ", inspect.getsource(base))
        for base in value.__mro__
        if base.__module__.startswith("echokernel")
    )


def test_every_name_of_the_seed_has_exactly_one_row() -> None:
    names = [seed for seed, _, _ in rows()]
    assert sorted(names) == sorted(SEED)
    assert len(SEED) > 150


@pytest.mark.parametrize(("seed", "here", "note"), rows(), ids=[seed for seed, _, _ in rows()])
def test_a_row_names_what_exists(seed: str, here: str, note: str) -> None:
    if seed in PLANNED:
        assert here == "planned"
        return
    if seed in NOT_NEEDED:
        assert here == "not needed"
        return
    names = re.findall(r"`([\w.]+)`", here)
    assert names, "a row names something, or is in one of the lists above"
    names += [name for name in re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", note) if name not in OTHER_WORDS]
    for name in names:
        if name.partition(".")[0] in QUIC:
            pytest.importorskip("echokernel_quic")
        if name in RECONNECT:
            pytest.importorskip("echokernel_reconnect")
        if name in CLOCKSYNC:
            pytest.importorskip("echokernel_clocksync")
        if name == "echokernel_postcard":
            pytest.importorskip(name)
        lookup(name)


OTHER_WORDS = {"Protocol", "IntEnum", "NewType", "Drop", "Clone"}


@pytest.mark.parametrize("name", PLANNED.values())
def test_what_is_planned_does_not_exist_yet(name: str) -> None:
    module, _, attribute = name.partition(".")
    there = hasattr(echokernel, attribute) if attribute else importlib.util.find_spec(module) is not None
    assert not there, f"{name} exists: give it its row in docs/api-map.md, and take it out of PLANNED"


def test_the_lookup_can_fail() -> None:
    for name in ("EchoServer.start", "Nobody", "Frame.body"):
        with pytest.raises(LookupError):
            lookup(name)
    assert lookup("Session.id") is None
    assert lookup("Session.peer_addr")
