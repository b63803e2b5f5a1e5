"""Loads plugins: only those that are named, in the order in which they are named, one at a time.

Our own, because pluggy's loader stops everything at the first bad import and lets the first of two equal names win.
pluggy checks and calls the hooks; whatever goes wrong has an owner, leaves nothing behind, and says what helps.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echokernel._hooking import HookTrouble, PluginHooks
from echokernel._installed import (
    OFFICIAL,
    InstalledPlugin,
    Trouble,
    canonical,
    install_command,
    installed_plugins,
)
from echokernel._suggest import did_you_mean
from echokernel.errors import PluginError
from echokernel.registry import Registry

if TYPE_CHECKING:
    from echokernel.transport import Transport

__all__ = [
    "InstalledPlugin",
    "Loaded",
    "LoadedPlugin",
    "PluginFailure",
    "PluginLoader",
    "installed_plugins",
    "load_for_library",
    "load_plugins",
    "make_transport",
]

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
        name = plugin if isinstance(plugin, str) else _name_of(plugin)
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


def load_plugins(
    names: Sequence[str | object],
    *,
    on_error: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Load these plugins, in this order: installed ones by name, others as objects or modules.

    ``on_error``: for each plugin's name ``error`` (the default) or ``skip``. ``without``, and ``ECHOKERNEL_WITHOUT`` in
    ``environ``, name plugins to leave out. Raises PluginError for the first plugin that cannot be used.
    """
    loader = PluginLoader(without=without, environ=environ)
    for name in names:
        key = name if isinstance(name, str) else _name_of(name)
        loader.load(name, on_error=(on_error or {}).get(key, "error"))
    return loader.loaded


def load_for_library(
    scheme: str | None,
    extra: Sequence[object] = (),
    *,
    need_serializer: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Registry:
    """Return what a node has that was built in code, without a configuration.

    That is: the plugins in ``extra`` (objects or modules), the installed plugin named like the URL's ``scheme`` (None:
    the node brings its transport), and where ``need_serializer``, postcard and msgpack as far as they are installed.
    Raises PluginError naming the command that installs what is missing. Without ``extra`` the same registry is returned
    again: clients may be many.
    """
    without = environ.get(WITHOUT, "")
    if not extra:
        return _library_registry(scheme, need_serializer, tuple(sys.path), without)
    return _load_for_library(scheme, extra, need_serializer, _scan(tuple(sys.path)), without)


@functools.lru_cache(maxsize=8)
def _scan(path: tuple[str, ...]) -> tuple[InstalledPlugin, ...]:
    return tuple(installed_plugins())  # 5-40 ms; a program that opens many clients pays for it once


@functools.lru_cache(maxsize=32)
def _library_registry(scheme: str | None, need_serializer: bool, path: tuple[str, ...], without: str) -> Registry:
    return _load_for_library(scheme, (), need_serializer, _scan(path), without)


def _load_for_library(
    scheme: str | None,
    extra: Sequence[object],
    need_serializer: bool,
    installed: Sequence[InstalledPlugin],
    without: str,
) -> Registry:
    loader = PluginLoader(environ={WITHOUT: without}, installed=installed)
    registry = loader.registry
    for plugin in extra:
        loader.load(plugin)
    if scheme is not None and scheme not in registry.transports:
        loader.load(scheme)
        if scheme not in registry.transports:
            off = next((plugin.reason for plugin in loader.loaded.skipped if plugin.name == scheme), "")
            why = off or "it registers no transport of that name"
            raise PluginError(f"no transport for {scheme}:// addresses; plugin {scheme!r}: {why}")
    if not need_serializer:
        return registry
    names = {plugin.name for plugin in installed}
    for name in ("postcard", "msgpack"):
        if name in names and name not in registry.serializers:
            loader.load(name)
    if not registry.serializers:
        off = "".join(f" ({plugin.name}: {plugin.reason})" for plugin in loader.loaded.skipped)
        raise PluginError(f"no serializer is installed{off}; install one: {install_command('msgpack')}")
    return registry


def make_transport(
    registry: Registry, scheme: str, *, listening: bool, settings: Mapping[str, Any] | None = None
) -> Transport:
    """Return the transport for ``scheme://`` with these settings, those of ``[listen.NAME]`` or ``[connect.NAME]``.

    Raises PluginError where there is none for ``scheme``, InvalidArgument with a line for each setting that is wrong.
    """
    entry = registry.transports.get(scheme)
    if entry is None:
        there = ", ".join(sorted(registry.transports)) or "none"
        raise PluginError(f"no plugin registers the transport {scheme!r}; there are: {there}")
    from echokernel._config_models import settings_of

    model = entry.value.listen_settings if listening else entry.value.connect_settings
    return entry.value.create(settings_of(model, settings or {}, owner=f"transport {scheme!r}"))


def _name_of(plugin: object) -> str:
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
