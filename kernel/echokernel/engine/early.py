"""A session that begins before its connection's handshake is complete: what may happen by then, and what waits.

Whoever recorded a first flight can send it again. So the dialer sends its hello and requests marked idempotent, the
acceptor runs these and nothing else, and everything waits for the handshake's end, which no recording can bring about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from echokernel.errors import ConnectionClosed, EchoError, RequestTimeout, error_from_code
from echokernel_protocol.channel import Announced, Channel, Phase, Received, Role
from echokernel_protocol.codes import Code
from echokernel_protocol.early import IDEMPOTENT, remember
from echokernel_protocol.frames import KIND_MASK, Flags, MessageType
from echokernel_protocol.maps import take_map

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echokernel.calling import CallOptions
    from echokernel.engine.stubs import Stub
    from echokernel.session import Session
    from echokernel.transport import Connection

_REQUEST = int(MessageType.REQUEST)
_METADATA = int(Flags.METADATA)

__all__ = ["Early", "explain_close"]


class Early:
    """One session's early time. It is over when the handshake is complete and, at the dialer, the answer is here."""

    def __init__(self, session: Session, connection: Connection, channel: Channel, *, callbacks: bool) -> None:
        """``callbacks``: something is called on connect, before anything of the peer is handled."""
        self._session = session
        self._connection = connection
        self._channel = channel
        self._callbacks = callbacks
        self._complete = False
        self._ended = anyio.Event()
        self._error: EchoError | None = None

    async def watch(self) -> None:
        """End the early time when it is time to. Runs as a task of the session."""
        try:
            await self._connection.confirmed()
        except ConnectionClosed:
            return  # the receive loop learns it, too, and ends the session
        self._complete = True
        self.look()

    def look(self) -> None:
        """The answer may be here."""
        channel = self._channel
        if not self._complete or channel.phase is not Phase.OPEN or channel.peer is None or self._error is not None:
            return
        self._session._end_early()
        self._connection.established()
        if channel.role is Role.DIALER:
            self._connection.remember(remember(channel.ours, channel.peer))
        self._ended.set()

    def fail(self, error: EchoError) -> None:
        """The session is over, and was never complete."""
        self._error = error
        self._ended.set()

    async def over(self) -> None:
        """Wait until the early time is over. Raises what ended the session before that."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    def refusal(self) -> EchoError | None:
        """Return the acceptor's refusal, if that is its answer."""
        refusal = self._channel.refusal
        if refusal is None:
            return None
        return error_from_code(refusal.code, f"the peer refused: {refusal.message}", refusal.details)

    # --- what this end sends -----------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        value: Any,
        timeout: float | None,
        returns: Any,
        idempotent: bool,
        metadata: Mapping[str, str] | None,
        isolated: bool,
    ) -> Any:
        """As :meth:`Session.request`: at once when it is marked, else when the early time is over."""
        timeout = await self.wait(method, timeout, idempotent and not isolated)
        return await self._session._calls.request(method, value, timeout, returns, idempotent, metadata, isolated)

    async def call(self, stub: Stub, payload: bytes, options: CallOptions) -> Any:
        """As :meth:`Session.call`, likewise."""
        calls = self._session._calls.typed
        if not stub.answers:
            await self.over()
            return await calls.tell(stub, payload, options)
        timeout = await self.wait(stub.method, options.timeout, options.idempotent and not options.isolated)
        return await calls.call(stub, payload, replace(options, timeout=timeout))

    async def wait(self, method: str, timeout: float | None, marked: bool) -> float | None:
        """Wait until a request may leave; return what is left of its time. Raises RequestTimeout, and why it never may."""
        if marked:  # only the first stream is early
            return timeout
        limit = self._session.limits.default_timeout if timeout is None else timeout
        began = anyio.current_time()
        try:
            with anyio.fail_after(limit or None):
                await self.over()
        except TimeoutError:
            raise RequestTimeout(
                f"{method}: the connection was not complete within the deadline; nothing was sent"
            ) from None
        return max(0.001, limit - (anyio.current_time() - began)) if limit else timeout

    async def emit(
        self, event: str, value: Any, metadata: Mapping[str, str] | None, reliable: bool, fallback: bool
    ) -> None:
        """As :meth:`Session.emit`, when the early time is over."""
        await self.over()
        await self._session.emit(event, value, metadata=metadata, reliable=reliable, fallback=fallback)

    # --- what the peer sends -----------------------------------------------------------------------------------

    def may_run(self, frame: Received) -> bool:
        """Whether this frame of the peer may be acted on now: a whole request that bears the mark."""
        message_type, _, _, flags, payload = frame
        if message_type != _REQUEST or flags & KIND_MASK or not flags & _METADATA or self._callbacks:
            return False
        return not isinstance(payload, Announced) and IDEMPOTENT in take_map(payload)[0]


def explain_close(error: ConnectionClosed) -> EchoError:
    """A peer that refuses may close before its answer is read: its reason is in the close then."""
    if error.by_peer and error.code in (
        Code.UNAUTHENTICATED,
        Code.INCOMPATIBLE,
        Code.RESOURCE_EXHAUSTED,
        Code.PERMISSION_DENIED,
    ):
        return error_from_code(error.code, f"the peer refused: {error.reason}")
    return error
