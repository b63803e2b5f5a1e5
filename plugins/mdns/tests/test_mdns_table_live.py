"""The live table of ``echokernel discover``, on a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from echokernel import Address, ServiceInfo
from echokernel_mdns import MdnsDiscovery

LIVE = f"live-{os.getpid()}"
COMMAND = [sys.executable, "-c", "import sys; from echokernel.cli import main; sys.exit(main())", "discover"]


def _hear_ctrl_c() -> None:
    """A run in the background of a shell has SIGINT ignored, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_table_on_a_terminal_until_ctrl_c(here: MdnsDiscovery, anyio_backend: str) -> None:
    pytest.importorskip("rich")
    import fcntl
    import pty
    import struct
    import termios

    import anyio

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    shown = bytearray()
    there = threading.Event()

    def read() -> None:
        with suppress(OSError):  # the terminal is closed
            while True:
                shown.extend(os.read(ours, 65_536))
                if LIVE.encode() in shown:
                    there.set()

    service = ServiceInfo(LIVE).with_addresses(Address("quic", "127.0.0.1", 4433))
    async with here.advertise(service, fast=True):
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        process = subprocess.Popen(  # noqa: ASYNC220
            [*COMMAND, LIVE],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            preexec_fn=_hear_ctrl_c,
        )
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert await anyio.to_thread.run_sync(there.wait, 10)
            process.send_signal(signal.SIGINT)
            assert await anyio.to_thread.run_sync(process.wait, 10) == 0
        finally:
            process.kill()
            process.wait()
    reader.join(5)
    os.close(ours)
    assert b"quic://127.0.0.1:4433" in shown
    assert b"1 node; Ctrl-C ends" in shown
