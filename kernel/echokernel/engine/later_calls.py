"""A streaming request that was made while there was no session: it opens on the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
        make: Callable[[Session], StreamingCall],
        method: str,
        items: Items | None,
        sends: bool,
        timeout: float | None,
    ) -> None:
        """``make`` makes the same call on a session; it is not opened, but says how to."""
        opening = Opening(method, b"", b"", None)  # coded when it is known for which serializer
        super().__init__(None, opening, items, sends, timeout or 0, Any, _unplaced)  # type: ignore[arg-type]
        self._is_placed = False
        self._connected = connected
        self._make = make
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
        made = self._make(session)
        self._calls, self._opening, self._encode = made._calls, made._opening, made._encode
        self._returns, self._items, self.prepare, self.judge = made._returns, made._items, made.prepare, made.judge
        self._is_placed = True


def _unplaced(item: Any) -> bytes:
    raise AssertionError("an item before the call was placed")
