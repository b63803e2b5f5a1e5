"""Loads plugins: only those that are named, in the order in which they are named.

Our own, because pluggy's loader stops everything at the first bad import and lets the first of two equal names win;
pluggy checks and calls the hooks.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from echokernel.addresses import DEFAULT_SCHEME
from echokernel.errors import PluginError
from echokernel.installed import InstalledPlugin, install_command, installed_plugins
from echokernel.loader._loading import WITHOUT, Loaded, LoadedPlugin, PluginFailure, PluginLoader, name_of
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
        key = name if isinstance(name, str) else name_of(name)
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
        if scheme not in registry.discoveries:
            loader.load(scheme)
        if scheme in registry.discoveries and scheme not in registry.transports:
            scheme = DEFAULT_SCHEME  # what it finds is dialled with that
            if scheme not in registry.transports:
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

    A way to find nodes is a scheme too, for clients; the settings are then for the transport that dials what is found.
    Raises PluginError where there is none for ``scheme``, InvalidArgument with a line for each setting that is wrong.
    """
    if not listening and scheme in registry.discoveries and scheme not in registry.transports:
        transport = make_transport(registry, DEFAULT_SCHEME, listening=False, settings=settings)
        return finding_transport(registry, scheme, transport, settings or {})
    entry = registry.transports.get(scheme)
    if entry is None:
        there = ", ".join(sorted(registry.transports)) or "none"
        raise PluginError(f"no plugin registers the transport {scheme!r}; there are: {there}")
    from echokernel.config._models import settings_of

    model = entry.value.listen_settings if listening else entry.value.connect_settings
    return entry.value.create(settings_of(model, settings or {}, owner=f"transport {scheme!r}"))


def finding_transport(registry: Registry, scheme: str, transport: Transport, settings: Mapping[str, Any]) -> Transport:
    """Return what finds nodes with the discovery called ``scheme`` and dials them with ``transport``, made of ``settings``."""
    from echokernel.engine.finding import FindingTransport, pins_in

    discovery = registry.discoveries[scheme].value.default()
    return FindingTransport(discovery, transport, DEFAULT_SCHEME, pins_in(settings))
