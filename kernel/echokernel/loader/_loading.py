"""Loads plugins one at a time: what goes wrong has an owner, leaves nothing behind, and says what helps."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from echokernel._suggest import did_you_mean
from echokernel.errors import PluginError
from echokernel.installed import (
    OFFICIAL,
    InstalledPlugin,
    Trouble,
    canonical,
    install_command,
    installed_plugins,
)
from echokernel.loader._hooking import HookTrouble, PluginHooks
from echokernel.registry import Registry
from echokernel_protocol.describe import PluginDescription

__all__ = ["WITHOUT", "Loaded", "LoadedPlugin", "PluginFailure", "PluginLoader", "name_of"]

logger = logging.getLogger("echokernel.loader")

WITHOUT = "ECHOKERNEL_WITHOUT"
"""Environment variable: names of plugins that are not loaded, separated by commas."""


class PluginFailure(PluginError):
    """One plugin cannot be used. ``reason`` says why, ``brief`` says it in a few words, ``remedy`` what helps."""

    def __init__(self, plugin: str, trouble: Trouble, *, distribution: str = "", version: str = "") -> None:
        owner = f" ({distribution} {version})" if distribution else ""
        super().__init__(f"plugin {plugin!r}{owner}: {trouble}")
        self.plugin = plugin
        self.distribution = distribution
        self.version = version
        self.brief, self.reason, self.remedy = trouble


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin that was asked for, and what became of it."""

    name: str
    version: str
    """Empty for a plugin that was passed in code and has no ``__version__``."""
    state: str
    """``loaded``, or ``skipped``."""
    distribution: str = ""
    """Empty for a plugin that was passed in code."""
    brief: str = ""
    """Why it was skipped, in a few words."""
    reason: str = ""
    """Why it was skipped."""

    def __str__(self) -> str:
        if self.state == "skipped":
            return f"{self.name} ({self.brief})"
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading plugins."""

    registry: Registry
    plugins: tuple[LoadedPlugin, ...]
    """Those that are in use, in order."""
    skipped: tuple[LoadedPlugin, ...]
    """Those that were asked for and are not in use."""

    def start_line(self) -> str:
        """Return ``plugins: quic 0.1.0, msgpack 0.1.0; skipped: mdns (needs API 2)``."""
        line = "plugins: " + (", ".join(map(str, self.plugins)) or "none")
        return line + ("; skipped: " + ", ".join(map(str, self.skipped)) if self.skipped else "")


class PluginLoader:
    """Loads one plugin after the other into one :class:`Registry`."""

    def __init__(
        self,
        *,
        without: Collection[str] = (),
        environ: Mapping[str, str] = os.environ,
        installed: Sequence[InstalledPlugin] | None = None,
    ) -> None:
        self.registry = Registry()
        self._hooks = PluginHooks(self.registry)
        self._installed = installed_plugins() if installed is None else installed
        self._states: dict[str, LoadedPlugin] = {}
        self._blocked = {canonical(name): "--without" for name in without}
        for name in environ.get(WITHOUT, "").split(","):
            if name.strip():
                self._blocked.setdefault(canonical(name.strip()), WITHOUT)

    @property
    def loaded(self) -> Loaded:
        """What has been loaded and skipped so far."""
        states = self._states.values()
        return Loaded(
            self.registry,
            tuple(plugin for plugin in states if plugin.state == "loaded"),
            tuple(plugin for plugin in states if plugin.state == "skipped"),
        )

    def load(self, plugin: str | object, *, on_error: str = "error") -> None:
        """Load the installed plugin of that name, or register an object or module that is one.

        Raises PluginFailure; with ``on_error="skip"`` it is logged as a warning and listed as skipped instead.
        """
        name = plugin if isinstance(plugin, str) else name_of(plugin)
        if name in self._states:
            raise PluginFailure(name, Trouble("listed twice", "it is listed twice", "remove one of the two"))
        switch = self._blocked.get(canonical(name))
        if switch is not None:
            self._states[name] = LoadedPlugin(
                name, "", "skipped", brief="switched off", reason=f"it is switched off by {switch}"
            )
            return
        try:
            self._states[name] = self._load(name, plugin)
        except PluginFailure as failure:
            if on_error != "skip":
                raise
            logger.warning("skipped %s", failure)
            self._states[name] = LoadedPlugin(
                name, failure.version, "skipped", failure.distribution, failure.brief, failure.reason
            )

    def _load(self, name: str, plugin: str | object) -> LoadedPlugin:
        if isinstance(plugin, str):
            found = self._find(name)
            value, distribution, version = _import(found), found.distribution, found.version
        else:
            value, distribution, version = plugin, "", str(getattr(plugin, "__version__", ""))
        try:
            self._hooks.register(name, value)
        except HookTrouble as error:
            trouble = Trouble(error.brief, error.reason, _remedy(name, distribution))
            raise PluginFailure(name, trouble, distribution=distribution, version=version) from error.__cause__ or error
        self.registry.plugins += (PluginDescription(name, distribution, version),)
        return LoadedPlugin(name, version, "loaded", distribution)

    def _find(self, name: str) -> InstalledPlugin:
        """Return the one usable installed plugin of that name. Raises PluginFailure."""
        same = [plugin for plugin in self._installed if plugin.name == name]
        if not same:
            raise PluginFailure(name, _not_installed(name, self._installed))
        # a usable one wins over one for another API; of two that claim the name, each carries the trouble
        found = min(same, key=lambda plugin: plugin.trouble is not None)
        if found.trouble is not None:
            raise PluginFailure(name, found.trouble, distribution=found.distribution, version=found.version)
        return found


def name_of(plugin: object) -> str:
    for attribute in ("name", "__name__"):
        value = getattr(plugin, attribute, None)
        if isinstance(value, str) and value:
            return value
    return type(plugin).__name__


def _not_installed(name: str, installed: Sequence[InstalledPlugin]) -> Trouble:
    reason = f"no installed plugin is called {name!r}"
    known = sorted({plugin.name for plugin in installed})
    if name in OFFICIAL:
        return Trouble("not installed", reason, f"install it: {install_command(name)}")
    hint = did_you_mean(name, {*known, *OFFICIAL})
    # no command for a name that is not ours: whose distribution that would install, nobody knows
    remedy = hint or "install the distribution that provides it"
    return Trouble("not installed", reason, f"{remedy} (installed: {', '.join(known) or 'none'})")


def _import(plugin: InstalledPlugin) -> object:
    try:
        if plugin.entry_point is None:
            raise ImportError("it has no entry point")
        return plugin.entry_point.load()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = f"it cannot be imported: {type(error).__name__}: {error}"
        trouble = Trouble("cannot be imported", reason, _remedy(plugin.name, plugin.distribution))
        raise PluginFailure(plugin.name, trouble, distribution=plugin.distribution, version=plugin.version) from error


def _remedy(name: str, distribution: str) -> str:
    if not distribution:
        return "it was passed in code: correct it there"
    if name in OFFICIAL:
        return f"reinstall it: pip install --force-reinstall {distribution}"
    return f"upgrade or remove it: pip install --upgrade {distribution}, pip uninstall {distribution}"
