"""Commands of plugins. Which plugin has a word is only known after importing it, so this is the last resort."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel.registry import Command


def find_command(word: str) -> Command | None:
    """Return the command that an installed plugin registers as ``word``; broken plugins are passed over."""
    from echokernel.loader import PluginFailure, PluginLoader, installed_plugins

    installed = installed_plugins()
    loader = PluginLoader(installed=installed)
    for plugin in installed:
        if plugin.trouble is None:
            try:
                loader.load(plugin.name)
            except PluginFailure:
                continue  # `echokernel plugins` is where to see that
    entry = loader.registry.commands.get(word)
    return None if entry is None else entry.value
