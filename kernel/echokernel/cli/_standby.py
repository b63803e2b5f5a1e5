"""A server under a supervisor (`run --reload`): it says when it is ready, begins when it is told to, and never outlives it.

One socket each way, a JSON object per line. To the supervisor: ``files`` (modules that were imported), ``ready`` with
``drain`` (seconds that stopping may take), ``serving``. From it: ``go``. Its end is the supervisor's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any

from echokernel.cli._watching import module_files

LOOK_SECONDS = 1.0  # between looks at what handlers import while they run
LAST_SECONDS = 60.0  # that an orphan gets to drain

__all__ = ["Standby"]


class Standby:
    """The server's end of the socket."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # what a handler starts must not keep it open
        self._socket = socket.socket(fileno=descriptor)
        self._told: set[str] = set()
        self._modules = 0

    def tell_files(self) -> None:
        """Say which files the modules that are imported by now came from; each is said once."""
        self._modules = len(sys.modules)
        new = [file for file in module_files() if file not in self._told]
        self._told.update(new)
        if new:
            self._tell({"files": new})

    def may_serve(self, drain: float) -> bool:
        """Say that everything is valid and wait until the place is free. False: there is nobody any more to serve for."""
        self.tell_files()
        self._tell({"ready": True, "drain": drain})
        if not self._socket.recv(64):
            return False
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()
        return True

    def tell_serving(self) -> None:
        """It listens now."""
        self._tell({"serving": True})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # it is gone: whoever reads next will see

    def _watch(self) -> None:
        while not select.select([self._socket], [], [], LOOK_SECONDS)[0]:
            if len(sys.modules) != self._modules:
                self.tell_files()
        os.kill(os.getpid(), signal.SIGTERM)  # nothing more is ever sent: this is its end
        threading.Event().wait(LAST_SECONDS)
        os._exit(1)
