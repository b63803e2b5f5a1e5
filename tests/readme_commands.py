"""Run what README.md shows: ``python3 dev.py python tests/readme_commands.py [FILE]``.

A block of commands is run when a comment stands on the line above it:

``<!-- run -->``
    each line that starts with ``$ `` must exit with 0 and print the lines below it (none given: anything goes)
``<!-- run: background -->``
    the block's one command is started and left running; it counts as ready with the first line that shows a URL

Commands run without a shell, one after another, in the folder of the README. Everything else in it is left alone.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

BLOCK = re.compile(r"^<!-- run(?P<background>: background)? -->\n+```(?:console|sh)\n(?P<text>.*?)^```$", re.M | re.S)
SECONDS = 120  # for one command, or for a server to come up


@dataclass(frozen=True)
class Command:
    words: list[str]
    output: str
    background: bool


def commands(text: str) -> list[Command]:
    """Return the runnable commands of a README, in order."""
    found = []
    for block in BLOCK.finditer(text):
        for part in re.split(r"^\$ ", block["text"], flags=re.M)[1:]:
            line, _, output = part.partition("\n")
            found.append(Command(shlex.split(line, comments=True), output.strip(), bool(block["background"])))
    return found


def start(command: Command, folder: Path) -> subprocess.Popen[bytes]:
    """Start a server and wait until it has printed a URL."""
    with TemporaryFile() as output:
        process = subprocess.Popen(
            command.words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(SECONDS * 10):
            time.sleep(0.1)
            said = os.pread(output.fileno(), 1 << 20, 0)
            if b"://" in said:
                return process
            if process.poll() is not None:
                break
        stop(process)
        raise SystemExit(f"{shlex.join(command.words)} did not come up:\n{said.decode(errors='replace')}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started, politely first."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                continue


def run(command: Command, folder: Path) -> str | None:
    """Return what is wrong with a command, None when it did what the README says."""
    result = subprocess.run(
        command.words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )
    if result.returncode:
        return f"exit code {result.returncode}\n{result.stdout}{result.stderr}"
    if command.output and result.stdout.strip() != command.output:
        return f"printed\n{result.stdout}instead of\n{command.output}"
    return None


def main() -> int:
    readme = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "README.md").resolve()
    found = commands(readme.read_text("utf-8"))
    servers, problems = [], 0
    try:
        for command in found:
            print(f"$ {shlex.join(command.words)}", flush=True)
            if command.background:
                servers.append(start(command, readme.parent))
                continue
            problem = run(command, readme.parent)
            print(problem or command.output or "(done)", flush=True)
            problems += problem is not None
    finally:
        for server in servers:
            stop(server)
    print(f"{readme.name}: {len(found)} commands, {problems} failed")
    return 1 if problems or not found else 0


if __name__ == "__main__":
    sys.exit(main())
