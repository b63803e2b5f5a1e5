"""The event loop of commands: uvloop where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
logger = logging.getLogger("echokernel.cli")


def run_async(function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Run ``function(*arguments)`` in a new event loop and return its result."""
    import anyio

    options: dict[str, Any] = {}
    try:
        import uvloop
    except ImportError:
        logger.debug("event loop: asyncio (uvloop is not installed: pip install 'echokernel[speed]')")
    else:
        options["use_uvloop"] = True
        logger.debug("event loop: %s", uvloop.__name__)
    return anyio.run(function, *arguments, backend="asyncio", backend_options=options)
