"""What a node keeps for its handlers: data, and on a server the sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from echokernel.errors import EchoError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echokernel.session import Session

__all__ = ["ClientContext", "ServerContext", "Store"]


class Store:
    """Keeps values for a program, by name."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._data[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was kept under ``key``."""
        return self._data.get(key, default)

    def remove(self, key: str) -> Any:
        """Forget what was kept under ``key``, and return it; None where nothing was."""
        return self._data.pop(key, None)


class ServerContext(Store):
    """A server's data and its sessions."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[int, Session] = {}

    def sessions(self) -> list[Session]:
        """Return the sessions that are open now."""
        return list(self._sessions.values())

    async def broadcast(self, event: str, data: Any = None) -> None:
        """Send an event to every session, to all at once; waits for the slowest. One that is lost meanwhile is left out."""

        async def emit(session: Session) -> None:
            try:
                await session.emit(event, data)
            except EchoError:
                pass

        async with anyio.create_task_group() as tasks:
            for session in self.sessions():
                tasks.start_soon(emit, session)

    def stats(self) -> Mapping[str, int | float]:
        """Return counters."""
        return {"sessions": len(self._sessions)}


class ClientContext(Store):
    """A client's data."""

    session: Session | None = None
    """The session with the server; None before it is connected."""

    def stats(self) -> Mapping[str, int | float]:
        """Return the session's counters."""
        return {} if self.session is None else self.session.stats()
