"""The plugins that a configuration names: loaded in its order, every failure located."""

from __future__ import annotations

from collections.abc import Sequence

from echokernel.config._models import validate
from echokernel.config._problems import Location, Problem, unknown
from echokernel.config._sources import Document
from echokernel.installed import OFFICIAL, install_command
from echokernel.loader import PluginFailure, PluginLoader
from echokernel.settings import PluginSettings

__all__ = ["load_named"]


def load_named(document: Document, loader: PluginLoader, without: Sequence[str]) -> tuple[tuple[str, ...], set[str]]:
    """Load what ``plugins`` lists; return these names, and those that failed and may not be skipped."""
    listed = document.data.get("plugins", [])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        document.problem("type", ("plugins",), 'plugins: wanted a list of names, as in ["quic", "msgpack"]')
        listed = []
    settings = _settings(document, listed)
    for name in without:
        if name not in listed:
            message = unknown(f"{name!r} is not in plugins", name, listed, label="plugins")
            document.problems.append(Problem(Location(f"--without {name}"), "reference", message))
    failures: dict[int, PluginFailure] = {}
    for number, name in enumerate(listed):
        try:
            loader.load(name, on_error=settings.get(name, PluginSettings()).on_error)
        except PluginFailure as error:
            failures[number] = error
    _report(document, failures)
    return tuple(listed), {failure.plugin for failure in failures.values()}


def _settings(document: Document, listed: Sequence[str]) -> dict[str, PluginSettings]:
    found: dict[str, PluginSettings] = {}
    for name, values in document.instances("plugin"):
        path = ("plugin", name)
        if name not in listed:
            what = f"[plugin.{name}]: {name!r} is not in plugins"
            document.problem("reference", path, unknown(what, name, listed, label="plugins"))
            continue
        settings = validate(document, path, PluginSettings, values, owner=f"plugin {name!r}")
        if settings is not None:
            found[name] = settings
    return found


def _report(document: Document, failures: dict[int, PluginFailure]) -> None:
    absent = {number: failure for number, failure in failures.items() if failure.brief == "not installed"}
    missing = [failure.plugin for failure in absent.values() if failure.plugin in OFFICIAL]
    for number, failure in failures.items():
        message = str(failure)
        if number in absent:
            # one command for all that is missing, instead of one for each
            remedy = f"install it: {install_command(*missing)}" if failure.plugin in missing else failure.remedy
            message = f"{failure.reason}; {remedy}"
        document.problem("plugin", ("plugins", number), message)
