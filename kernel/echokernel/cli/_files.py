"""The local ends of a transfer: bytes from a file or stdin, and into a file that appears when it is complete, or stdout."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from echokernel.cli._client import WrongUsage

PIPE_WRITE = 4096  # POSIX: a pipe that polls as writable takes this much without blocking

__all__ = ["Source", "Target"]


class Source:
    """A file, or stdin for ``-``. Raises WrongUsage for what cannot be read."""

    def __init__(self, name: str) -> None:
        try:
            self._file = os.dup(sys.stdin.fileno()) if name == "-" else os.open(name, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise WrongUsage(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        about = os.fstat(self._file)
        if stat.S_ISDIR(about.st_mode):
            os.close(self._file)
            raise WrongUsage(
                f"{name} is a directory; send an archive of it: tar c {name} | echokernel stream … --send -"
            )
        self._regular = stat.S_ISREG(about.st_mode)
        self.total: int | None = None
        """Bytes that are there to be sent; None where nobody knows."""
        if self._regular:
            self.total = max(0, about.st_size - os.lseek(self._file, 0, os.SEEK_CUR))

    async def read(self, count: int) -> bytes:
        """Return at most ``count`` bytes, as soon as there are any; nothing at the end."""
        if not self._regular:
            import anyio

            self._regular = not await _ready(anyio.wait_readable, self._file)
        return os.read(self._file, count)

    def close(self) -> None:
        """Close it; stdin itself stays open."""
        os.close(self._file)


class Target:
    """A file, or stdout for ``-``. A file is written beside its place and moved there by :meth:`finish`.

    Raises WrongUsage for what exists already (unless ``force``) or cannot be written.
    """

    def __init__(self, name: str, *, force: bool) -> None:
        self.name = name
        self._final: Path | None = None
        self._part = ""
        self._force = force
        self._waits = True
        if name == "-":
            sys.stdout.flush()
            self._file = os.dup(sys.stdout.fileno())
            self._waits = not stat.S_ISREG(os.fstat(self._file).st_mode)
            return
        path = Path(os.path.realpath(name))
        if path.is_dir():
            raise WrongUsage(f"{name} is a directory; give the name of a file in it")
        if path.exists() and not force:
            raise WrongUsage(f"{name} exists; choose another name, or overwrite it with --force")
        try:
            if path.exists() and not path.is_file():  # a device or a pipe is written, never replaced
                self._file = os.open(path, os.O_WRONLY)
            else:
                self._waits = False
                self._file, self._part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
                self._final = path
                os.chmod(self._part, 0o666 & ~_umask())
        except OSError as error:
            raise WrongUsage(f"{name} cannot be written: {error.strerror}") from error

    async def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises OSError."""
        view = memoryview(data)
        while view:
            if self._waits:
                import anyio

                self._waits = await _ready(anyio.wait_writable, self._file)
            view = view[os.write(self._file, view[:PIPE_WRITE] if self._waits else view) :]

    def finish(self) -> None:
        """All is here: let it appear under its name. Raises OSError; FileExistsError where somebody made it meanwhile."""
        if self._final is None:
            return
        os.fsync(self._file)
        if self._force:
            os.replace(self._part, self._final)
        else:
            os.link(self._part, self._final)  # unlike a rename, this overwrites nothing
            os.unlink(self._part)
        self._part = ""

    def close(self) -> None:
        """Close it; what is not complete leaves no file behind."""
        os.close(self._file)
        if self._part:
            os.unlink(self._part)


async def _ready(wait: Callable[[int], Awaitable[None]], file: int) -> bool:
    """Wait until ``file`` can be used without blocking the event loop; False for one that cannot be waited for."""
    try:
        await wait(file)
    except (OSError, NotImplementedError, ValueError):
        return False  # a plain file or a device that is always ready
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
