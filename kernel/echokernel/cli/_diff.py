"""Say what changed between two nodes, and whom it breaks.

echokernel describe quic://127.0.0.1:4433 --json > released.json
echokernel diff released.json quic://127.0.0.1:4433

OLD and NEW are each a file that `describe --json` wrote, the URL of a running node, or - for stdin.
Exit code 0: nothing breaks, 1: something does, or a node did not answer, 2: arguments or files that cannot be right.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from echokernel.cli import DONE, FAILED, USAGE, fail
from echokernel.cli._client import WrongUsage, add_trust_arguments, with_client

if TYPE_CHECKING:
    from echokernel.client import EchoClient
    from echokernel.contracts.changes import Change
    from echokernel_protocol.describe import Description

MAX_FILE = 64 * 1024 * 1024  # bytes; what a node says about itself is never so long


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "old", metavar="OLD", help="a file, quic://HOST:PORT, or - for stdin: what callers were made for"
    )
    parser.add_argument("new", metavar="NEW", help="likewise: what they will talk to")
    add_trust_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    from echokernel.contracts.changes import compare
    from echokernel.errors import InvalidArgument

    if arguments.old == arguments.new == "-":
        return fail("both are -, and there is one stdin", USAGE)
    found: list[Description] = []
    for source in (arguments.old, arguments.new):
        try:
            code = _read(source, arguments, found)
        except (InvalidArgument, WrongUsage) as error:
            from echokernel.cli._output import harmless

            return fail(harmless(str(error)), USAGE)
        if code != DONE:
            return code
    changes = compare(*found)
    if arguments.json:
        _print_for_programs(changes)
    else:
        _print(changes)
    return FAILED if any(change.breaks for change in changes) else DONE


def _read(source: str, arguments: argparse.Namespace, found: list[Description]) -> int:
    """Append what ``source`` describes and return DONE, or the exit code of what went wrong."""
    from echokernel.contracts.reading import read_description

    if source == "-":
        found.append(read_description(_decoded(sys.stdin.buffer.read(MAX_FILE + 1), "stdin"), "stdin"))
        return DONE
    path = Path(source)
    if "://" in source or (re.fullmatch(r".+:\d+", source) and not path.exists()):

        async def use(client: EchoClient) -> int:
            found.append(await client.describe())
            return DONE

        return with_client(argparse.Namespace(**{**vars(arguments), "url": source}), use)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WrongUsage(f"{source}: {reason}; a file of `describe --json`, a URL or - is wanted") from error
    found.append(read_description(_decoded(content, source), source))
    return DONE


def _decoded(content: bytes, where: str) -> str:
    if len(content) > MAX_FILE:
        raise WrongUsage(f"{where}: more than {MAX_FILE:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{where}: no UTF-8: {error}") from error


def _print(changes: list[Change]) -> None:
    from echokernel.cli._output import count, harmless

    breaking = [change for change in changes if change.breaks]
    compatible = [change for change in changes if not change.breaks]
    for title, group in (("breaking", breaking), ("compatible", compatible)):
        if group:
            print(f"{title}:")
            for change in group:
                print(f"  {harmless(str(change))}".replace("\n", " "))
    print(f"{count(len(breaking), 'breaking change')}, {len(compatible):,} compatible" if changes else "no changes")


def _print_for_programs(changes: list[Change]) -> None:
    from echokernel.cli._output import print_json

    print_json(
        {
            "breaking": sum(bool(change.breaks) for change in changes),
            "changes": [
                {
                    "kind": change.kind,
                    "method": change.method,
                    "path": change.path,
                    "change": change.what,
                    "breaking": bool(change.breaks),
                    "breaks": list(change.breaks),
                }
                for change in changes
            ],
        }
    )
