"""The supervisor of `run --reload`: it starts the server, watches its files, and hands over to a new one that is valid.

The new process reads the configuration and imports the handlers while the old one serves. What it finds wrong it prints, and
ends; the old one goes on. If all is well the old one drains, the new one begins to listen as soon as the address is free.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from echokernel.cli import DONE, INTERRUPTED, USAGE, fail
from echokernel.cli._watching import FileWatch, config_files, forget_bytecode, python_files

POLL_SECONDS = 0.5
SETTLE_SECONDS = 0.3  # without another change before a change is acted on: editors write several files
UNSETTLED_SECONDS = 3.0  # … but no longer than this
READY_SECONDS = 60.0  # that a new process may take until it is valid
KILL_SECONDS = 5.0  # beyond its drain limit, until a process that should stop is killed

logger = logging.getLogger("echokernel.reload")

__all__ = ["supervise"]


def supervise(arguments: argparse.Namespace) -> int:
    """Run the server in a process of its own, again after each change, until a signal. Returns its exit code."""
    from echokernel.logs import configure_logging

    configure_logging("info", _log_format(arguments))
    if not hasattr(os, "fork"):
        return fail("--reload needs POSIX signals and processes", USAGE)
    try:
        supervisor = Supervisor(arguments)
    except ValueError as error:
        return fail(f"--reload-dir: {error}", USAGE)
    with supervisor:
        return supervisor.run()


@dataclass(slots=True, eq=False)
class Child:
    """A server, as its supervisor sees it."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    started: float
    started_ns: int
    """The same since 1970."""
    ready: bool = False
    serving: bool = False
    drain: float = 0.0
    """Seconds that it may take to stop."""
    stop_at: float | None = None
    """When it was told to stop; None: it was not."""
    received: bytearray = field(default_factory=bytearray)
    said_all: bool = False

    @property
    def name(self) -> str:
        return f"process {self.process.pid}"

    def stop(self, number: int, now: float) -> None:
        """Send a signal that ends it."""
        if self.stop_at is None:
            self.stop_at = now
        self.process.send_signal(number)

    def messages(self) -> list[dict[str, Any]]:
        """Return what it has said since."""
        try:
            while data := self.socket.recv(65_536):
                self.received += data
            self.said_all = True
        except BlockingIOError:
            pass
        except OSError:
            self.said_all = True
        *lines, rest = self.received.split(b"\n")
        self.received = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """It is over, or has to be: nothing of it stays."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.socket.close()


class Supervisor:
    """At most two servers: the one that serves, and the one that is to follow it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._watch = FileWatch()
        self._around = FileWatch()
        self._current: Child | None = None
        self._next: Child | None = None
        self._served = False
        self._invalid = False
        self._stopping = 0
        self._handed_over_at: float | None = None
        self._change_seen: float | None = None
        self._last_change: set[str] = set()
        self._quiet_since = 0.0
        self._watch.add(config_files(arguments.file, arguments.overrides))
        self._watch.add(self._reload_dirs())

    def __enter__(self) -> Supervisor:
        self._selector = selectors.DefaultSelector()
        self._wake, self._signals = socket.socketpair()
        self._wake.setblocking(False)
        self._signals.setblocking(False)
        self._old_wakeup = signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        self._handlers: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            self._handlers[number] = signal.signal(number, lambda *_: None)  # the wakeup socket has the number
        self._selector.register(self._wake, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        for child in (self._current, self._next):
            if child is not None:
                child.close()
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._selector.close()
        self._wake.close()
        self._signals.close()

    def run(self) -> int:
        """Supervise. Returns the exit code."""
        self._next = self._spawn()
        look_at = 0.0
        while True:
            self._selector.select(POLL_SECONDS)
            now = time.monotonic()
            for number in self._arrived():
                self._on_signal(number, now)
            for child in (self._current, self._next):
                if child is not None:
                    self._listen_to(child, now)
            code = self._reap(now)
            if code is not None:
                return code
            self._advance(now)
            if now >= look_at and not self._stopping:
                look_at = now + (POLL_SECONDS if self._change_seen is None else SETTLE_SECONDS / 2)
                self._look_for_changes(now)

    # --- processes --------------------------------------------------------------------------------------------------

    def _spawn(self) -> Child:
        self._around = FileWatch()
        self._around.add(self._files_around())
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        arguments = self._arguments
        command = [*_launcher(), "run", arguments.file, "--standby", str(theirs.fileno())]
        for option, values in (("--set", arguments.overrides), ("--without", arguments.without)):
            command += [word for value in values for word in (option, value)]
        with theirs:
            # a group of its own: Ctrl-C at the terminal comes here alone, and is passed on once
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0)
        self._selector.register(ours, selectors.EVENT_READ)
        return Child(process, ours, time.monotonic(), time.time_ns())

    def _discard(self, child: Child) -> None:
        self._hear_no_more(child)
        child.close()

    def _hear_no_more(self, child: Child) -> None:
        if child.socket in self._selector.get_map():
            self._selector.unregister(child.socket)

    def _listen_to(self, child: Child, now: float) -> None:
        for message in child.messages():
            # imported a moment ago: what was written since the process began may not be what it read
            self._watch.add(message.get("files", ()), since_ns=child.started_ns)
            if message.get("ready"):
                child.ready, child.drain = True, float(message.get("drain", 0.0))
            if message.get("serving"):
                child.serving = self._served = True
                if self._handed_over_at is not None:
                    logger.info("serving again, after %.1f s without a server", now - self._handed_over_at)
                    self._handed_over_at = None
        if child.said_all:
            self._hear_no_more(child)

    def _reap(self, now: float) -> int | None:
        """Act on processes that have ended. Returns the exit code when it was the last one that matters."""
        if (child := self._next) is not None and child.process.poll() is not None:
            self._listen_to(child, now)
            self._discard(child)
            self._next = None
            self._invalid = True
            if self._current is None and not self._served:
                return _exit_code(child.process.returncode)
            goes_on = "the old version goes on serving" if self._current is not None else "nothing is serving"
            logger.error("the change cannot be used: %s; it is tried again when a file changes", goes_on)
        if (child := self._current) is not None and child.process.poll() is not None:
            self._listen_to(child, now)
            self._discard(child)
            self._current = None
            code = _exit_code(child.process.returncode)
            if self._stopping:
                return code
            if child.stop_at is None:
                if not self._served:
                    return code
                logger.error("the server ended by itself (%s); it starts again when a file changes", _how(child))
                self._handed_over_at = None
        if self._stopping and self._current is None:
            return DONE if self._served else INTERRUPTED
        return None

    def _advance(self, now: float) -> None:
        """Hand over when the new server is ready, and end what takes too long."""
        child = self._next
        if child is not None and child.ready:
            if self._current is None:
                self._current, self._next = child, None
                try:
                    child.socket.send(b"go\n")
                except OSError:
                    pass  # it has just ended, as will be seen
            elif self._current.stop_at is None:
                logger.info("the new version is valid; the old one finishes what is open, then it takes over")
                self._handed_over_at = now
                self._current.stop(signal.SIGTERM, now)
        elif child is not None and now - child.started > READY_SECONDS:
            logger.error("the new version was not ready within %g s; it is ended", READY_SECONDS)
            child.process.kill()
        if self._stopping or self._current is None or self._current.stop_at is None:
            return  # whoever stopped it by a signal may send another one
        if now - self._current.stop_at > self._current.drain + KILL_SECONDS:
            logger.warning("%s did not stop within its drain limit; it is killed", self._current.name)
            self._current.process.kill()

    # --- signals ----------------------------------------------------------------------------------------------------

    def _arrived(self) -> list[int]:
        try:
            return [number for number in self._wake.recv(256) if number != signal.SIGCHLD]
        except BlockingIOError:
            return []

    def _on_signal(self, number: int, now: float) -> None:
        """The first one stops the server gently, the second one is passed on, the third one waits no longer."""
        self._stopping += 1
        if self._next is not None:
            self._discard(self._next)
            self._next = None
        if self._current is None:
            return
        if self._stopping > 2:
            self._current.process.kill()
        elif self._stopping == 2 or self._current.stop_at is None:
            self._current.stop(number, now)

    # --- files ------------------------------------------------------------------------------------------------------

    def _reload_dirs(self) -> list[str]:
        """Return the Python files below --reload-dir. Raises ValueError."""
        found = []
        for directory in self._arguments.reload_dirs:
            if not os.path.isdir(directory):
                raise ValueError(f"there is no folder {directory}")
            found += python_files(directory)
        return found

    def _files_around(self) -> list[str]:
        """Return the Python files beside those that are watched: what an import that failed wanted is likely to be there."""
        folders = {os.path.dirname(file) for file in self._watch.files if file.endswith(".py")}
        folders.add(os.path.dirname(os.path.abspath(self._arguments.file)))
        return [file for folder in folders for file in python_files(folder, deep=False)]

    def _look_for_changes(self, now: float) -> None:
        try:
            self._watch.add_new(self._reload_dirs())
        except ValueError as error:
            logger.warning("--reload-dir: %s", error)
        changed = set(self._watch.changed())
        if self._invalid:
            self._around.add_new(self._files_around())
            changed.update(self._around.changed())
        if not changed:
            self._change_seen = None
            return
        if self._change_seen is None:
            self._change_seen = now
        if changed != self._last_change:
            self._last_change, self._quiet_since = changed, now
        if now - self._quiet_since >= SETTLE_SECONDS or now - self._change_seen >= UNSETTLED_SECONDS:
            self._restart(sorted(changed))

    def _restart(self, changed: list[str]) -> None:
        self._watch.settle()
        self._watch.add(config_files(self._arguments.file, self._arguments.overrides))
        self._change_seen, self._last_change, self._invalid = None, set(), False
        shown = ", ".join(os.path.relpath(file) for file in changed[:3])
        logger.info("changed: %s%s", shown, f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        forget_bytecode(changed)
        if self._next is not None:
            self._discard(self._next)
        self._next = self._spawn()


def _log_format(arguments: argparse.Namespace) -> str:
    """Return the server's own ``log.format``, as far as it can be read: both write to one place."""
    from echokernel.config._sources import read_document
    from echokernel.errors import ConfigError

    try:
        wanted = read_document(arguments.file, arguments.overrides, os.environ).get(("log", "format"))
    except ConfigError:
        wanted = None
    return wanted if wanted in ("text", "json", "auto") else "text"


def _launcher() -> list[str]:
    """Return the words that started this program, so that its modules are found in the same places."""
    own = sys.argv[1:]
    if own[:1] == ["run"] and sys.orig_argv[-len(own) :] == own:
        return [sys.executable, *sys.orig_argv[1 : -len(own)]]
    return [sys.executable, "-m", "echokernel"]


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _how(child: Child) -> str:
    code = child.process.returncode
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
