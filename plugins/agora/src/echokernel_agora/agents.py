"""Who is registered, and the connections by which they are."""

from __future__ import annotations

import secrets
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from echokernel_agora.frames import NOTHING, encode
from echokernel_agora.queues import Held, Lanes, Log

if TYPE_CHECKING:
    from msgspec import Raw

    from echokernel_agora.principal import Principal
    from echokernel_agora.queues import Account, AccountKey, Queue
    from echokernel_agora.streams import Stream

__all__ = ["Agent", "Outlet", "Peer"]


class Outlet(Protocol):
    """A connection as the router sees it. Nothing here waits."""

    holds: bool
    """Whether it takes every frame at once and tells later what has gone (``Router.settle``), instead of ``write``."""

    def write(self, frame: bytes) -> bool:
        """Take one text frame; False: there is no room, nothing was taken, and ``Router.drain`` is called when there is."""

    def taken(self) -> None:
        """``holds`` only: there are new parcels in ``peer.agent.queue.take()``."""

    def close(self, code: int, reason: str) -> None:
        """Close after what was written. ``Router.detach`` has been called already, or is called when it is closed."""

    def probe(self) -> None:
        """Find out soon whether anybody is there."""


class Peer:
    """One connection: who it is, what waits for it besides relayed frames, and how much it may send."""

    __slots__ = (
        "address",
        "agent",
        "attached_at",
        "bad",
        "blocked_since",
        "bytes_left",
        "control",
        "control_bytes",
        "credit",
        "features",
        "frames_left",
        "news",
        "outlet",
        "principal",
        "probed_at",
        "refilled_at",
        "retry_at",
        "strikes",
        "told",
        "transport",
    )

    def __init__(self, outlet: Outlet, principal: Principal, transport: str, address: str, now: float) -> None:
        self.outlet, self.principal, self.transport, self.address = outlet, principal, transport, address
        self.agent: Agent | None = None
        self.features: frozenset[str] = frozenset()
        self.attached_at = now
        self.control: deque[bytes] | None = None  # answers and errors that wait; they go before relayed frames
        self.control_bytes = 0
        self.blocked_since: float | None = None  # since when the outlet has no room
        self.frames_left = self.bytes_left = 0.0
        self.refilled_at = now
        self.retry_at = 0.0  # when the frame that was refused last would have passed
        self.strikes = 0.0  # frames that did not wait for that, and are not forgiven yet
        self.news: dict[str, bytes] | None = None  # of agents that it watches, what it has not read: the last of each
        self.probed_at = now - 3600
        self.bad: deque[float] | None = None
        self.told: dict[Any, None] | None = None  # streams which are not open and whose sender knows it
        self.credit: dict[AccountKey, Account] | None = None  # where it has the feature


class Agent:
    """One registered id. It outlives its connection where that has the feature ``resume``."""

    __slots__ = (
        "capabilities",
        "card",
        "endpoint",
        "errors",
        "head",
        "id",
        "incoming",
        "lost_at",
        "name",
        "outgoing",
        "pairs",
        "peer",
        "principal",
        "queue",
        "received",
        "record",
        "registered_at",
        "sent",
        "serial",
        "token",
        "transport",
        "unacknowledged",
    )

    def __init__(self, id: str, principal: Principal, transport: str, at: datetime, serial: int) -> None:
        self.id, self.principal, self.transport, self.serial = id, principal, transport, serial
        self.name = ""
        self.endpoint: str | None = None
        self.capabilities: tuple[str, ...] = ()
        self.card: Raw = NOTHING
        self.registered_at = at
        self.peer: Peer | None = None
        self.lost_at = 0.0  # when its connection was lost, while it has none
        self.queue: Queue = Lanes()
        self.token: str | None = None  # with it, a new connection goes on where this one was lost
        self.received = 0  # frames for others that came from it
        self.sent = 0  # frames from others that were delivered to it
        self.errors = 0  # frames of it that were not
        self.outgoing: set[Stream] | None = None
        self.incoming: set[Stream] | None = None
        self.pairs: dict[str, list[float]] | None = None
        self.unacknowledged = (0, 0.0)  # the oldest number that its log waits for, and since when
        self.head = b'"from":"%b"' % id.encode()
        self.record = b""

    def keep_log(self) -> None:
        """Keep what is sent until it is acknowledged, and give out the token that resumes."""
        self.queue = Log()
        self.token = secrets.token_urlsafe(18)

    def hold(self) -> None:
        """Let the connection tell what has gone."""
        self.queue = Held()

    def describe(self, *, strict_seed: bool) -> None:
        """Make the record that others see anew."""
        fields: dict[str, Any] = {"id": self.id, "name": self.name}
        if self.endpoint is not None:
            fields["endpoint"] = self.endpoint
        fields["registered_at"] = timestamp(self.registered_at)
        if not strict_seed:
            if self.capabilities:
                fields["capabilities"] = self.capabilities
            if self.transport != "ws":
                fields["transport"] = self.transport
            if self.peer is None:
                fields["state"] = "offline"
        self.record = encode(fields)


def timestamp(at: datetime) -> str:
    """Return it as RFC 3339 has it: in UTC, with milliseconds and Z."""
    return f"{at.strftime('%Y-%m-%dT%H:%M:%S')}.{at.microsecond // 1000:03d}Z"
