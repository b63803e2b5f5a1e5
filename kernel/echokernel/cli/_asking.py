"""``--call`` and ``--emit``: what a client says to a node so that the node begins to send."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from echokernel.cli._client import WrongUsage, parse_payload

if TYPE_CHECKING:
    from echokernel.client import EchoClient

T = TypeVar("T")


def add_asking_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--call METHOD [JSON]`` and ``--emit EVENT [JSON]``; ``what`` says what for."""
    parser.add_argument(
        "--call", nargs="+", metavar=("METHOD", "JSON"), help=f"send this request {what}; give it after the names"
    )
    parser.add_argument("--emit", nargs="+", metavar=("EVENT", "JSON"), help=f"send this event {what}")


class Asking:
    """What is to be said, read from the command line. Raises WrongUsage."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._call = _words("--call", arguments.call)
        self._emit = _words("--emit", arguments.emit)

    async def say(self, client: EchoClient) -> None:
        """Say it, and wait for the request's answer, however long it takes. Raises what the request raises."""
        if self._emit is not None:
            await client.emit(*self._emit)
        if self._call is not None:
            await client.request(*self._call, timeout=0)


def _words(option: str, words: list[str] | None) -> tuple[str, Any] | None:
    if words is None:
        return None
    if len(words) > 2:
        raise WrongUsage(f"{option} takes a name and a payload, which is one JSON value; this is too much: {words[2]}")
    return words[0], parse_payload(words[1] if len(words) > 1 else None)


async def while_asking(asking: Asking, client: EchoClient, work: Callable[[], Awaitable[T]]) -> T:
    """Say it, run ``work`` beside that, and return its result. Raises what the request raised, which ends ``work``.

    The answer is not waited for: a node may well send what was asked for before it answers, or never answer.
    """
    import anyio

    results: list[T] = []
    failures: list[Exception] = []  # kept out of the task group, which would wrap them

    async def say() -> None:
        try:
            await asking.say(client)
        except Exception as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(say)
        try:
            results.append(await work())
        except Exception as error:
            failures.append(error)
        tasks.cancel_scope.cancel()
    if results:
        return results[0]
    raise failures[0]
