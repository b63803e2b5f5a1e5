"""Each hook has its documentation, and a plugin in these tests that the loader calls it of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_plugins import EVERYTHING, FakeSite

from echokernel.cli._hooks import markdown
from echokernel.hookspecs import ENTRY_POINT_GROUP
from echokernel.installed import API
from echokernel.loader import Loaded, load_plugins
from echokernel.loader._hooking import HOOK_NAMES
from echokernel.registry import Registry

COMMANDS_AND_CHECKS = """
class Greet:
    name = "greet"
    help = "print a greeting"

    def configure(self, parser):
        parser.add_argument("who")

    def run(self, arguments):
        print(f"hello {arguments.who}")
        return 0


class Battery:
    name = "battery"

    async def run(self):
        return None


@hookimpl
def echokernel_commands(registry):
    registry.command(Greet())


@hookimpl
def echokernel_checks(registry):
    registry.check(Battery())
"""

REGISTERED: dict[str, Callable[[Registry], object]] = {
    "echokernel_transports": lambda registry: registry.transports["fake"],
    "echokernel_serializers": lambda registry: registry.serializers["plain"],
    "echokernel_middleware": lambda registry: registry.middlewares["trace"],
    "echokernel_handlers": lambda registry: registry.handlers[0],
    "echokernel_discovery": lambda registry: registry.discoveries["fake"],
    "echokernel_reconnect": lambda registry: registry.reconnects["never"],
    "echokernel_authenticators": lambda registry: registry.authenticators["token"],
    "echokernel_services": lambda registry: registry.services["ticker"],
    "echokernel_commands": lambda registry: registry.commands["greet"],
    "echokernel_checks": lambda registry: registry.checks["battery"],
}
"""For each hook, what the plugin of these tests registers through it."""


@pytest.fixture
def loaded(bare_site: FakeSite) -> Loaded:
    bare_site.plugin("every", EVERYTHING + COMMANDS_AND_CHECKS)
    return load_plugins(["every"], environ={})


def test_the_scanner_and_the_hooks_mean_the_same_api() -> None:
    assert f"echokernel.plugins.v{API}" == ENTRY_POINT_GROUP


def test_every_hook_is_exercised() -> None:
    assert set(REGISTERED) == set(HOOK_NAMES)


@pytest.mark.parametrize("hook", REGISTERED)
def test_what_a_hook_registers_is_there_and_has_an_owner(loaded: Loaded, hook: str) -> None:
    entry = REGISTERED[hook](loaded.registry)
    assert entry.plugin == "every"  # type: ignore[attr-defined]


def test_a_removed_plugin_is_gone_from_every_table(loaded: Loaded) -> None:
    loaded.registry.remove("every")
    for registered in REGISTERED.values():
        with pytest.raises((KeyError, IndexError)):
            registered(loaded.registry)


def test_the_page_about_hooks_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "hooks.md"
    assert page.read_text(encoding="utf-8") == markdown(), "run: echokernel hooks --markdown > docs/hooks.md"


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_every_hook_is_documented(hook: str) -> None:
    _, _, section = markdown().partition(f"## `{hook}(registry)`\n")
    text = section.partition("\n## ")[0]
    assert "registry." in text
    assert len(text.split()) > 20
