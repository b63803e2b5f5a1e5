"""Middleware: an onion around the messages of a node, and around its sessions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from echokernel.context import ClientContext
from echokernel_protocol.frames import Frame, MessageType

if TYPE_CHECKING:
    from echokernel.session import Session

__all__ = ["Middleware", "Next", "compose", "compose_outgoing", "compose_sessions", "overrides"]

Next = Callable[[Frame], Awaitable["Frame | None"]]
"""The rest of the onion: takes the (changed) frame and returns the response frame, None for events and streams."""


class Middleware:
    """Sees messages on their way to a handler, and responses on their way back. Override what you need:

    * :meth:`process_request` and :meth:`process_response`: look at, change or stop one message;
    * :meth:`handle`: everything around one message that the peer sent, errors included;
    * :meth:`handle_outgoing`: the same around one message that this end sends;
    * :meth:`handle_session`: everything around the whole life of one session.

    What passes are frames: ``header.message_type`` is REQUEST, EVENT or STREAM (the opening of a stream), ``header.method``
    the name, ``payload`` the serialized value, ``metadata`` the texts that came with it. A request with many values passes
    once, with its first frame; its response is an empty frame with END: once all answers are sent, or, where it goes out, once
    it is open.
    """

    async def process_request(self, frame: Frame) -> Frame | None:
        """Return the frame to go on with. None intercepts it: an event is dropped, anything else gets PermissionDenied."""
        return frame

    async def process_response(self, frame: Frame) -> Frame | None:
        """Return the response to go on with. None intercepts it: the caller gets PermissionDenied."""
        return frame

    async def handle(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
        """Handle one message of the peer: before ``await call_next(frame)`` is before the handler, behind it after.

        An exception of the handler comes out of ``call_next`` as it was raised; one that leaves here answers the request.
        """
        return await self._process(frame, call_next)

    async def handle_outgoing(self, session: Session, frame: Frame, call_next: Next) -> Frame | None:
        """Handle one message that this end sends; ``call_next`` returns the peer's response, or raises its error.

        By default what a client sends passes :meth:`process_request` and :meth:`process_response` too, and what a server sends
        does not: there the two are about what its clients ask. Broadcasts are coded once for all sessions and never pass.
        """
        if isinstance(session._node.context, ClientContext):
            return await self._process(frame, call_next)
        return await call_next(frame)

    async def handle_session(self, session: Session, call_next: Callable[[], Awaitable[None]]) -> None:
        """Handle a session: ``await call_next()`` returns when it is over; nothing of it is handled before.

        The session does not outlive it: an exception closes it, with the code and message of an EchoError, and so does a
        return before it is over.
        """
        await call_next()

    async def _process(self, frame: Frame, call_next: Next) -> Frame | None:
        from echokernel.errors import PermissionDenied

        request = await self.process_request(frame)
        if request is None:
            if frame.header.message_type is MessageType.EVENT:
                return None
            raise PermissionDenied(f"{frame.header.method} was intercepted")
        response = await call_next(request)
        if response is None:
            return None
        processed = await self.process_response(response)
        if processed is None:
            raise PermissionDenied(f"{frame.header.method}: the response was intercepted")
        return processed


def overrides(layer: Middleware, name: str) -> bool:
    """Whether a middleware has a method of its own of that name."""
    own = getattr(type(layer), name, None)
    return own is not None and own is not getattr(Middleware, name)


def compose(middleware: Sequence[Middleware], session: Session, innermost: Next) -> Next:
    """Return one callable for the whole onion, outermost first. Done once per session, never per message."""
    chain = innermost
    for layer in reversed(middleware):
        chain = _layer(layer.handle, session, chain)
    return chain


def compose_outgoing(middleware: Sequence[Middleware], session: Session) -> Callable[[Next], Next] | None:
    """Return what puts the onion around the sending of a message; None where no layer wants to see what this end sends."""
    is_client = isinstance(session._node.context, ClientContext)
    wanted = [
        layer.handle_outgoing
        for layer in middleware
        if overrides(layer, "handle_outgoing")
        or (is_client and (overrides(layer, "process_request") or overrides(layer, "process_response")))
    ]
    if not wanted:
        return None
    wanted.reverse()

    def wrap(innermost: Next) -> Next:
        for handle in wanted:
            innermost = _layer(handle, session, innermost)
        return innermost

    return wrap


def compose_sessions(
    middleware: Sequence[Middleware], session: Session, innermost: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]] | None:
    """Return the onion around a session; None where no layer wants one."""
    wanted = [layer for layer in middleware if overrides(layer, "handle_session")]
    chain = innermost
    for layer in reversed(wanted):
        chain = _session_layer(layer, session, chain)
    return chain if wanted else None


def _layer(handle: Callable[[Session, Frame, Next], Awaitable[Frame | None]], session: Session, inner: Next) -> Next:
    async def run(frame: Frame) -> Frame | None:
        return await handle(session, frame, inner)

    return run


def _session_layer(
    layer: Middleware, session: Session, inner: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await layer.handle_session(session, inner)

    return run
