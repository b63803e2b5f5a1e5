"""Which files a reload depends on, and whether they have changed: looked at, not waited for, since that works everywhere."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["FileWatch", "config_files", "forget_bytecode", "module_files", "python_files"]

_INSTALLED = ("site-packages", "dist-packages")
_SKIPPED = ("__pycache__", "node_modules", *_INSTALLED)
MAX_FILES = 10_000  # below --reload-dir; looking at so many takes about 20 ms

_State = tuple[int, int, int] | None


class FileWatch:
    """Files, and how they looked when they were last taken as known."""

    def __init__(self) -> None:
        self._known: dict[str, _State] = {}

    def add(self, files: Iterable[str], *, since_ns: int | None = None) -> None:
        """Watch these as well, as they are now; one that was written after ``since_ns`` (since 1970) counts as changed."""
        for file in files:
            if file not in self._known:
                state = _state(file)
                late = since_ns is not None and state is not None and state[0] > since_ns
                self._known[file] = None if late else state

    def add_new(self, files: Iterable[str]) -> None:
        """Watch these as well; those that were not watched before are new, and count as changed."""
        for file in files:
            self._known.setdefault(file, None)

    def changed(self) -> list[str]:
        """Return the files that are not as known: edited, made, removed."""
        return [file for file, state in self._known.items() if _state(file) != state]

    def settle(self) -> list[str]:
        """Take everything as known that is there now; return what had changed."""
        changed = self.changed()
        self._known.update((file, _state(file)) for file in changed)
        return changed

    @property
    def files(self) -> list[str]:
        """All that are watched."""
        return list(self._known)


def _state(file: str) -> _State:
    try:
        about = os.stat(file)
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def config_files(path: str, overrides: Sequence[str]) -> list[str]:
    """Return the configuration file and those that its values come from, ``{ file = … }``. Imports no plugin."""
    from echokernel.config._sources import read_document
    from echokernel.errors import ConfigError

    files = [os.path.abspath(path)]
    try:
        document = read_document(path, overrides, os.environ)
    except ConfigError:
        return files
    for reference in document.references.values():
        kind, _, name = reference.label.partition(" ")
        if kind == "file":
            files.append(os.path.abspath(document.path.parent / name))
    return files


def module_files() -> list[str]:
    """Return the files of all imported modules that are nobody's installation: the program's own, wherever they are."""
    library = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name.partition(".")[0] in ("echokernel", "echokernel_protocol"):
            continue
        path = os.path.abspath(file)
        if not path.startswith(tuple(f"{each}{os.sep}" for each in library)) and not _has_part(path, _INSTALLED):
            found.append(path)
    return found


def _has_part(path: str, names: Sequence[str]) -> bool:
    return any(part in names for part in Path(path).parts)


def python_files(directory: str | Path, *, deep: bool = True) -> list[str]:
    """Return the Python files in a directory; ``deep``: and below it, but not in hidden ones and environments.

    Raises ValueError for more than 10,000.
    """
    found: list[str] = []
    for place, folders, files in os.walk(directory):
        folders[:] = [
            folder
            for folder in folders
            if deep and folder[0] != "." and folder not in _SKIPPED and not Path(place, folder, "pyvenv.cfg").exists()
        ]
        found += [os.path.join(os.path.abspath(place), file) for file in files if file.endswith(".py")]
        if deep and len(found) > MAX_FILES:
            raise ValueError(f"there are more than {MAX_FILES:,} Python files in {directory}; name a smaller folder")
    return found


def forget_bytecode(files: Iterable[str]) -> None:
    """Remove what Python compiled of these: it takes two versions of one size and one second for the same."""
    for file in files:
        if file.endswith(".py"):
            try:
                os.unlink(importlib.util.cache_from_source(file))
            except (OSError, NotImplementedError):
                pass
