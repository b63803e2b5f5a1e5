"""Middleware: an onion around the messages of a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from echokernel_protocol.frames import Frame, MessageType

if TYPE_CHECKING:
    from echokernel.session import Session

__all__ = ["Middleware", "Next", "compose"]

Next = Callable[[Frame], Awaitable["Frame | None"]]
"""The rest of the onion: takes the (changed) frame and returns the response frame, None for events."""


class Middleware:
    """Sees requests and events on their way to a handler, and responses on their way back.

    Override :meth:`process_request` and :meth:`process_response`, or :meth:`handle` for everything at once.
    """

    async def process_request(self, frame: Frame) -> Frame | None:
        """Return the frame to go on with; None intercepts it: an event is dropped, a request answered with PermissionDenied."""
        return frame

    async def process_response(self, frame: Frame) -> Frame | None:
        """Return the response to go on with; None intercepts it."""
        return frame

    async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
        """Handle one message: everything before ``await call_next(frame)`` runs before the handler, the rest after it.

        An exception raised here, or by the handler, answers the request with an error.
        """
        from echokernel.errors import PermissionDenied

        request = await self.process_request(frame)
        if request is None:
            if frame.header.message_type is MessageType.EVENT:
                return None
            raise PermissionDenied(f"{frame.header.method} was intercepted")
        response = await call_next(request)
        return None if response is None else await self.process_response(response)


def compose(middleware: Sequence[Middleware], session: Session, innermost: Next) -> Next:
    """Return one callable for the whole onion, outermost first. Done once per session, never per message."""
    chain = innermost
    for layer in reversed(middleware):
        chain = _layer(layer, session, chain)
    return chain


def _layer(layer: Middleware, session: Session, inner: Next) -> Next:
    async def run(frame: Frame) -> Frame | None:
        return await layer.handle(session, frame, inner)

    return run
