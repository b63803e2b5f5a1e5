"""A streaming request that was made while there was no session: it opens on the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from echokernel.engine.call_stream import Opening
from echokernel.errors import RequestCancelled
from echokernel.streaming import StreamingCall

if TYPE_CHECKING:
    from echokernel.session import Session
    from echokernel.streaming import Items

__all__ = ["LaterStreamingCall"]


class LaterStreamingCall(StreamingCall):
    """A :class:`StreamingCall` whose first step is to wait for a session, within its timeout."""

    def __init__(
        self,
        connected: Callable[[str, float | None], Awaitable[Session]],
        method: str,
        value: Any,
        items: Items | None,
        sends: bool,
        timeout: float | None,
        returns: Any,
        metadata: Mapping[str, str] | None,
    ) -> None:
        opening = Opening(method, b"", b"", metadata)  # coded when it is known for which serializer
        super().__init__(None, opening, items, sends, timeout or 0, returns)  # type: ignore[arg-type]
        self._is_placed = False
        self._connected = connected
        self._value = value
        self._waits = anyio.Lock()

    async def _open(self) -> None:
        async with self._waits:
            if not self._is_placed:
                await self._find_session()
        await super()._open()

    async def _find_session(self) -> None:
        self._check()
        session: Session | None = None
        began = anyio.current_time()
        try:
            with anyio.CancelScope() as self._scope:
                session = await self._connected(self.method, self._timeout or None)
        finally:
            self._scope = None
        if session is None:
            self._check()
            raise RequestCancelled(f"{self.method}: the call was closed here")
        if self._timeout:
            self._timeout = max(0.001, self._timeout - (anyio.current_time() - began))
        calls, opening = session._calls.own_streams, self._opening
        made = calls.streaming(self.method, self._value, None, False, None, None, opening.metadata)
        self._calls, self._opening, self._is_placed = calls, made._opening, True
