"""Machines of a laboratory: network namespaces on one bridge, and avahi in one of them on a message bus of its own.

Needs root, iproute2, avahi-daemon, avahi-utils and dbus. Where ``CI`` is set, what is missing is installed with apt; no
daemon of the system is started.
"""

from __future__ import annotations

import functools
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

TOOLS = {"ip": "iproute2", "avahi-daemon": "avahi-daemon", "avahi-browse": "avahi-utils", "dbus-daemon": "dbus"}
COMMAND = [sys.executable, "-c", "import sys; from echokernel.cli import main; sys.exit(main())"]

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path={bus}</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>
"""
AVAHI = """[server]
host-name={name}
use-ipv4=yes
use-ipv6=no
ratelimit-interval-usec=0
[wide-area]
enable-wide-area=no
[rlimits]
"""


def missing() -> list[str]:
    return sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})


def install(packages: Sequence[str]) -> None:
    """Install Debian packages without starting anything."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n", "ascii")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *command], env=environment, check=True, timeout=120, capture_output=True)
    finally:
        if ours:
            policy.unlink()


@functools.cache
def _try_to_install() -> None:
    """Once a run: where there is no package index, the second try would take as long as the first."""
    with suppress(subprocess.SubprocessError, OSError):
        install(missing())


def require(*, avahi: bool = True) -> None:
    """Skip the test, loudly, where the laboratory cannot be set up."""
    if os.geteuid() != 0:
        pytest.skip("THE TESTS WITH AVAHI DID NOT RUN: network namespaces need root")
    if missing() and os.environ.get("CI") and shutil.which("apt-get"):
        _try_to_install()
    lacking = [package for package in missing() if avahi or package == "iproute2"]
    if lacking:
        pytest.skip(f"THE TESTS WITH AVAHI DID NOT RUN: apt-get install {' '.join(lacking)}, or set CI=1")
    probe = f"ek-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        pytest.skip("THE TESTS WITH AVAHI DID NOT RUN: this machine has no network namespaces")
    run("ip", "netns", "del", probe)


def run(*command: str, timeout: float = 20.0) -> str:
    """Run a command and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout).stdout


class Running:
    """A command that runs. What it says is read by a thread, so that no test waits for ever."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._said: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, timeout: float = 15.0) -> str:
        """Return the next line. Raises AssertionError where none comes."""
        try:
            return self._said.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"{self._process.args!r} said nothing in {timeout} s") from None

    def line_with(self, wanted: Callable[[str], bool], timeout: float = 15.0) -> str:
        """Return the next line that is wanted."""
        deadline = time.monotonic() + timeout
        while True:
            line = self.line(max(0.0, deadline - time.monotonic()))
            if wanted(line):
                return line

    def end(self, with_signal: int) -> None:
        """Send a signal and wait for the end."""
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line.rstrip("\n"))


class Machine:
    """One network namespace. ``address``: its IPv4 address on the bridge."""

    def __init__(self, namespace: str, address: str, environment: dict[str, str]) -> None:
        self.namespace, self.address, self.environment = namespace, address, environment

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(self, *command: str, timeout: float = 20.0) -> str:
        return subprocess.run(
            self.command(*command), env=self.environment, check=True, capture_output=True, text=True, timeout=timeout
        ).stdout

    @contextmanager
    def running(self, *command: str) -> Iterator[Running]:
        """Run a command beside the test; it is terminated at the end, and killed where that does not help."""
        process = Running(self.command(*command), self.environment)
        try:
            yield process
        finally:
            process.end(signal.SIGTERM)


@contextmanager
def network(count: int, directory: Path) -> Iterator[list[Machine]]:
    """Yield machines on one bridge, each with a default route."""
    mark = f"ek{secrets.token_hex(3)}"
    names = [f"{mark}n{number}" for number in range(count)]
    switch = f"{mark}sw"
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={directory}/bus", "PYTHONUNBUFFERED": "1"}
    machines = [Machine(name, f"10.99.0.{number + 1}", environment) for number, name in enumerate(names)]
    try:
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        for number, machine in enumerate(machines):
            name = machine.namespace
            run("ip", "netns", "add", name)
            link = (
                "ip",
                "-n",
                switch,
                "link",
                "add",
                f"p{number}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                name,
            )
            run(*link)
            run("ip", "-n", switch, "link", "set", f"p{number}", "master", "br0", "up")
            run("ip", "-n", name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "route", "add", "default", "via", "10.99.0.254")
        yield machines
    finally:
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def avahi(machine: Machine, directory: Path) -> Iterator[None]:
    """Run avahi on a machine, on a message bus of its own."""
    bus, settings = directory / "bus", directory / "avahi.conf"
    (directory / "bus.conf").write_text(BUS.format(bus=bus), "utf-8")
    settings.write_text(AVAHI.format(name="avahi-lab"), "utf-8")
    Path("/run/avahi-daemon").mkdir(exist_ok=True)  # each avahi gets one of its own over it
    daemon = "mount -t tmpfs none /run/avahi-daemon; exec avahi-daemon -f %s --no-drop-root --no-chroot --no-rlimits"
    with (
        machine.running("dbus-daemon", "--nofork", f"--config-file={directory}/bus.conf"),
        _waiting_for(bus.exists),
        machine.running("unshare", "-m", "sh", "-c", daemon % settings) as process,
    ):
        process.line_with(lambda line: "startup complete" in line)
        yield


@contextmanager
def _waiting_for(there: object) -> Iterator[None]:
    assert callable(there)
    deadline = time.monotonic() + 5
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield
