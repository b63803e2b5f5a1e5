"""What the actions share: the client, its failures, and texts of strangers."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echokernel.cli import FAILED, USAGE, fail

if TYPE_CHECKING:
    from msgspec import Raw

    from echokernel_agora.client import AgoraClient

__all__ = ["add_id", "add_timeout", "connect", "inert", "json_line", "parse_payload", "run_action", "token_of"]

VARIABLE = "ECHOKERNEL_AGORA_TOKEN"
# what drives a terminal, cannot be seen, or turns the direction of writing
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class WrongUsage(Exception):
    """Arguments that cannot be right."""


def inert(text: str) -> str:
    """Return a stranger's text with escapes in place of what a terminal would obey; line breaks and tabs stay."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_line(value: Any) -> str:
    """Return a value as JSON in one line, in which nothing drives a terminal."""
    return inert(json.dumps(value, ensure_ascii=False, default=str))


def add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", metavar="ID", help="register as this agent (cli- and a random number)")


def add_timeout(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help=f"seconds to wait for {what} (10)")


def token_of(arguments: argparse.Namespace) -> str | None:
    """Return the token of the file or the variable. Raises WrongUsage."""
    if arguments.token_file is None:
        return os.environ.get(VARIABLE) or None
    try:
        token = Path(arguments.token_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"--token-file: {error}") from error
    if not token:
        raise WrongUsage(f"--token-file: {arguments.token_file} is empty; wanted the token")
    return token


def connect(arguments: argparse.Namespace, **options: Any) -> AgoraClient:
    """Return the client that the arguments describe. Raises InvalidArgument, WrongUsage."""
    from echokernel_agora.client import AgoraClient

    name = getattr(arguments, "id", None) or f"cli-{secrets.token_hex(4)}"
    seconds = getattr(arguments, "timeout", 10.0)
    return AgoraClient(arguments.url, **{"id": name, "token": token_of(arguments), "timeout": seconds, **options})


def parse_payload(text: str) -> Raw:
    """Return JSON as it was written, to be sent as it is. Raises WrongUsage."""
    from msgspec import Raw

    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = f"; a text stands in double quotes: '{json.dumps(text)}'" if re.fullmatch(r"[\w .,!?-]+", text) else ""
        raise WrongUsage(f"the payload is not JSON: {error}{hint}") from error
    return Raw(text.strip().encode())


def run_action(action: Callable[[], Awaitable[int]]) -> int:
    """Run it, and return its exit code or that of what went wrong."""
    import anyio

    from echokernel import EchoError, InvalidArgument

    async def plain() -> int:
        try:
            return await action()
        except BaseExceptionGroup as group:  # of an action with several tasks: what the first one says
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    try:
        return anyio.run(plain)
    except (WrongUsage, InvalidArgument) as error:
        return fail(inert(str(error)), USAGE)
    except EchoError as error:
        reason = getattr(error, "reason", "") or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
        return fail(inert(f"{reason}: {error}"), FAILED)
