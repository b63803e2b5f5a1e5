"""What the console page sees: the router's snapshot each second over a WebSocket, and one thing that it may do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from echokernel_agora.principal import Principal

if TYPE_CHECKING:
    from echokernel_agora.router import Router
    from echokernel_agora.websocket import WebSocket

__all__ = ["ConsoleFeed", "Watcher"]

PERIOD = 1.0  # s between two snapshots
MOST = 1000  # agents, and streams, of one snapshot; a page shows fewer
SHARE = 0.02  # of the time at most goes into them: with thousands of agents they come less often


class Watcher:
    """One console page."""

    __slots__ = ("agent", "outlet", "principal", "ready")

    def __init__(self, outlet: WebSocket, principal: Principal) -> None:
        self.outlet, self.principal = outlet, principal
        self.agent = self  # it has said who it is with its token
        self.ready = True
        """It has taken the last snapshot; one that has not misses some, rather than to have them wait for it."""


class ConsoleFeed:
    """The sink of WebSockets at ``/console``."""

    def __init__(
        self,
        router: Router,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self._router, self._loop, self._on_event = router, loop, on_event
        self._watchers: set[Watcher] = set()
        self._timer: asyncio.Handle | None = None

    def open(self, outlet: WebSocket, principal: Principal) -> tuple[ConsoleFeed, Watcher]:
        """Return what a new WebSocket is given: this sink, and its peer."""
        watcher = Watcher(outlet, principal)
        self._watchers.add(watcher)
        self._on_event("console", {"principal": principal.name, "address": outlet.address})
        if self._timer is None:
            self._timer = self._loop.call_soon(self._tell)
        return self, watcher

    def receive(self, peer: Watcher, frame: bytes) -> None:
        try:
            wish: Any = msgspec.json.decode(frame)
            kind, agent = wish["type"], wish["id"]
            if kind != "disconnect" or not isinstance(agent, str):
                raise ValueError
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, RecursionError):
            self._say(peer, "bad_request", 'wanted is {"type":"disconnect","id":"…"}')
            return
        if self._router.disconnect(agent):
            self._on_event("disconnected_by_operator", {"agent": agent, "by": peer.principal.name})
        else:
            self._say(peer, "no_such_agent", f"there is no agent {agent[:128]!r}")

    def drain(self, peer: Watcher) -> None:
        peer.ready = True

    def detach(self, peer: Watcher, *, resumable: bool, reason: str) -> None:
        self._on_event("console_left", {"principal": peer.principal.name, "reason": reason})
        self._watchers.discard(peer)
        if not self._watchers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        began = self._loop.time()
        ready = [watcher for watcher in self._watchers if watcher.ready]
        if ready:
            frame = self._snapshot()
            for watcher in ready:
                watcher.ready = watcher.outlet.write(frame)
        took = self._loop.time() - began
        self._timer = self._loop.call_later(max(PERIOD, took / SHARE), self._tell)

    def _snapshot(self) -> bytes:
        return msgspec.json.encode({"type": "snapshot", **self._router.snapshot(MOST)})

    @staticmethod
    def _say(peer: Watcher, code: str, message: str) -> None:
        peer.outlet.write(msgspec.json.encode({"type": "error", "code": code, "message": message}))
