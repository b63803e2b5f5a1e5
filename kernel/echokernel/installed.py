"""Which plugins are installed, read from package metadata alone: nothing here imports a plugin, and nothing here raises
because of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distributions
from importlib.metadata import version as installed_version
from typing import NamedTuple

__all__ = [
    "API",
    "OFFICIAL",
    "InstalledPlugin",
    "Trouble",
    "canonical",
    "install_command",
    "installed_plugins",
    "kernel_version",
]

_GROUP = re.compile(r"echokernel\.plugins\.v(\d+)")
API = 1
"""The major version of the plugin API that this kernel speaks, as in ``hookspecs.ENTRY_POINT_GROUP``."""

OFFICIAL = ("quic", "postcard", "msgpack", "mdns", "clocksync", "reconnect", "agora")
"""Plugins of this project. Only they have an extra, and only their distribution's name is certain."""


class Trouble(NamedTuple):
    """Why a plugin cannot be used: in a few words, in a sentence, and what helps."""

    brief: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """An entry point of some distribution in a group ``echokernel.plugins.vN``."""

    name: str
    distribution: str
    version: str
    api: int
    """Major version of the API that it is written for; 0 where that cannot be read."""
    location: str
    """Directory that it is imported from; for an editable install, the project's directory."""
    editable: bool
    trouble: Trouble | None = None
    entry_point: EntryPoint | None = field(default=None, repr=False, compare=False)

    @property
    def problem(self) -> str | None:
        """Why it cannot be used and what helps; None where nothing is known against it (it was not imported)."""
        return None if self.trouble is None else str(self.trouble)

    @property
    def owner(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}"


def canonical(name: str) -> str:
    """Return the form in which two names are the same: ``Acme_Auth`` and ``acme-auth`` are."""
    return re.sub(r"[-_.]+", "-", name).lower()


def install_command(*names: str) -> str:
    """Return the command that installs these official plugins."""
    return f"pip install 'echokernel[{','.join(names)}]'"


def kernel_version() -> str:
    """Return the version of the installed kernel; ``0+unknown`` when it runs from source without being installed."""
    try:
        return installed_version("echokernel")
    except PackageNotFoundError:
        return "0+unknown"


def installed_plugins() -> list[InstalledPlugin]:
    """Return every installed plugin by name, with what is known against it. Never raises because of one."""
    found: list[InstalledPlugin] = []
    for distribution in _distributions():
        try:
            found += _plugins_of(distribution)
        except Exception as error:  # whatever is in that directory, the others must still be listed
            name, version = _name_and_version(distribution)
            trouble = Trouble(
                "unreadable metadata",
                f"its entry_points.txt cannot be read ({type(error).__name__}: {error})",
                f"reinstall it: pip install --force-reinstall {name}",
            )
            found.append(InstalledPlugin(name, name, version, 0, _location(distribution)[0], False, trouble))
    return sorted(_without_older_apis(_with_conflicts(found)), key=lambda plugin: (plugin.name, plugin.distribution))


def _distributions() -> Iterator[Distribution]:
    """Yield distributions that have plugins; the same one twice on ``sys.path`` counts once, as for ``import``."""
    seen: set[str] = set()
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except Exception:  # unreadable or not UTF-8: nothing says that it is one of ours
            continue
        if not _GROUP.search(text):
            continue
        name = canonical(_name_and_version(distribution)[0])
        if name not in seen:
            seen.add(name)
            yield distribution


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    try:
        metadata = distribution.metadata
        name, version = metadata.get("Name"), metadata.get("Version")  # type: ignore[attr-defined]
    except Exception:  # METADATA is missing or damaged: the directory's name still says which one it is
        name = version = None
    if not name or not version:
        stem = str(getattr(distribution, "_path", "?")).rpartition("/")[2].partition(".dist-info")[0]
        head, _, tail = stem.partition("-")
        name, version = name or head, version or tail or "?"
    return str(name), str(version)


def _plugins_of(distribution: Distribution) -> list[InstalledPlugin]:
    name, version = _name_and_version(distribution)
    location, editable = _location(distribution)
    unmet = _unmet_requirement(distribution)
    plugins: dict[tuple[str, int], InstalledPlugin] = {}
    for entry in distribution.entry_points:
        match = _GROUP.fullmatch(entry.group)
        if match is None:
            continue
        api = int(match[1])
        trouble = unmet
        if api != API:
            trouble = Trouble(
                f"needs API {api}",
                f"it is for API {api}; this kernel ({kernel_version()}) speaks {API}",
                f"install a version of {name} for API {API}"
                if api > API
                else f"upgrade it: pip install --upgrade {name}",
            )
        plugins.setdefault(
            (entry.name, api), InstalledPlugin(entry.name, name, version, api, location, editable, trouble, entry)
        )
    return list(plugins.values())


def _location(distribution: Distribution) -> tuple[str, bool]:
    try:
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
        if direct.get("dir_info", {}).get("editable"):
            return str(direct["url"]).removeprefix("file://"), True
        return str(distribution.locate_file("")), False
    except Exception:  # only shown to people; never worth failing for
        return "?", False


def _unmet_requirement(distribution: Distribution) -> Trouble | None:
    """Check ``Requires-Dist`` again: ``--no-deps``, editable installs and uv workspaces go past the resolver."""
    from packaging.requirements import InvalidRequirement, Requirement  # 30 ms, half of what listing plugins takes

    name, _ = _name_and_version(distribution)
    for line in distribution.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            return Trouble(
                "bad metadata", f"its Requires-Dist {line!r} cannot be read", f"report it to the authors of {name}"
            )
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            present = installed_version(requirement.name)
        except PackageNotFoundError:
            if canonical(requirement.name) == "echokernel":
                continue  # this kernel runs from a source tree; its version is not known
            return Trouble(
                f"needs {wanted}", f"it needs {wanted}, which is not installed", f"run: pip install '{wanted}'"
            )
        if not requirement.specifier.contains(present, prereleases=True):
            return Trouble(
                f"needs {wanted}",
                f"it needs {wanted}, and {requirement.name} {present} is installed",
                f"run: pip install '{wanted}'",
            )
    return None


def _with_conflicts(plugins: list[InstalledPlugin]) -> list[InstalledPlugin]:
    """Mark plugins of two distributions that claim one name: which of them wins must not depend on the file system."""
    claims: dict[str, list[InstalledPlugin]] = {}
    for plugin in plugins:
        if plugin.api == API:
            claims.setdefault(canonical(plugin.name), []).append(plugin)
    checked: list[InstalledPlugin] = []
    for plugin in plugins:
        rivals = claims.get(canonical(plugin.name), []) if plugin.api == API else []
        owners = sorted({rival.owner for rival in rivals})
        if len(owners) > 1:
            trouble = Trouble(
                "the name is claimed twice",
                f"the name {plugin.name!r} is claimed by {' and '.join(owners)}",
                "uninstall one of them: " + " or ".join(f"pip uninstall {owner.split()[0]}" for owner in owners),
            )
            plugin = replace(plugin, trouble=trouble)
        checked.append(plugin)
    return checked


def _without_older_apis(plugins: list[InstalledPlugin]) -> list[InstalledPlugin]:
    """A distribution may serve several majors under one name; where ours is among them, the others do not matter."""
    ours = {(plugin.name, plugin.distribution) for plugin in plugins if plugin.api == API}
    return [plugin for plugin in plugins if plugin.api == API or (plugin.name, plugin.distribution) not in ours]
