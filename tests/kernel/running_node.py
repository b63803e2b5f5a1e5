"""``echokernel run`` in a process of its own, for tests that talk to it or watch it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

LISTENING = re.compile(r"listening on (quic://127\.0\.0\.1:\d+)  fingerprint (sha256:\S+)\n")
SECONDS = 30.0  # to wait for anything

CONFIG = """
plugins = ["quic", "msgpack"]
[node]
name = "test"
handlers = ["my_handlers"]
[listen.main]
url = "quic://127.0.0.1:0"
"""


class RunningNode:
    """A server with ``my_handlers.py`` beside its configuration; stdout and stderr go to files that can be read."""

    def __init__(self, directory: Path, handlers: str, *arguments: str, config: str = CONFIG) -> None:
        self.directory = directory
        self.write("my_handlers.py", handlers)
        self.write("config.toml", config)
        self._out, self._err = directory / "stdout.txt", directory / "stderr.txt"
        command = [sys.executable, "-m", "echokernel", "run", "config.toml", *arguments]
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(command, cwd=directory, stdout=out, stderr=err, env=dict(os.environ))
        self._watchdog = threading.Timer(120, self.process.kill)
        self._watchdog.start()

    def write(self, name: str, text: str) -> None:
        """Write a file as editors do: beside it, then moved over it."""
        part = self.directory / f".{name}.tmp"
        part.write_text(dedent(text))
        part.rename(self.directory / name)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def urls(self) -> list[str]:
        """Where it listened, one for each start."""
        return [found[0] for found in LISTENING.findall(self.out)]

    @property
    def url(self) -> str:
        return self.urls[-1]

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition`` holds; fails with all that was printed."""
        end = time.monotonic() + SECONDS
        while not condition():
            alive = self.process.poll() is None
            if time.monotonic() > end or (not alive and not condition()):
                raise AssertionError(f"not seen: {what} (running: {alive})\n{self.out}\n{self.err}")
            time.sleep(0.05)

    def wait_starts(self, count: int) -> None:
        """Wait until it has begun to listen so many times."""
        self.wait_for(lambda: len(self.urls) >= count, f"{count} starts")

    def wait_err(self, text: str, count: int = 1) -> None:
        """Wait until stderr has ``text`` so many times."""
        self.wait_for(lambda: self.err.count(text) >= count, f"{count} x {text!r}")

    def end(self, *signals: signal.Signals) -> int:
        """Send the signals and return the exit code."""
        for number in signals:
            self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS)
        finally:
            self._watchdog.cancel()
            self.process.kill()
            self.process.wait()
