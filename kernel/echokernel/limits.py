"""Every bound of a node: its unit, its default, its reason, and what happens when it is reached."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one node, per session where nothing else is said. Sizes in bytes, times in seconds."""

    default_timeout: float = 10.0
    """A request's deadline when the caller names none; 0: no deadline. Reached: RequestTimeout, the handler is cancelled."""
    max_frame: int = 65_536
    """Longest payload of one frame; longer ones travel beside the channel as a body. Exceeded by the peer: it is closed."""
    max_message: int = 4_194_304
    """Longest payload with its body; more than that is a stream. Exceeded: InvalidArgument at the sender."""
    max_requests: int = 1_024
    """Requests of the peer that are open at a time. Reached: further ones wait at the peer."""
    max_request_bytes: int = 16_777_216
    """Their frames and bodies together. Reached: further ones wait at the peer."""
    event_window: int = 8_388_608
    """Bytes of the peer's events that no handler took yet; at least ``max_message`` and 16 KiB. Reached: emit() waits."""
    max_datagram_events: int = 256
    """The peer's events that came as datagrams and wait for their handlers; 256 of 1,170 bytes are 300 kB, and 5 s at 50 a
    second. Reached: the newest is dropped and counted."""
    outbox: int = 8_388_608
    """Bytes of our frames that the transport has not taken yet. Reached: callers wait."""
    broadcast_backlog: int = 8_388_608
    """Bytes of broadcasts that wait for one session. Reached: policy ``wait`` closes the session, the others drop."""
    broadcast_keep: int = 64
    """Broadcasts of one event that wait with policy ``drop_oldest``: some seconds of news. Reached: the oldest is dropped."""
    max_groups: int = 1_024
    """Groups that a session is in: a peer that may choose names cannot fill memory. Reached: join() raises Overloaded."""
    max_streams: int = 64
    """Streams that the peer may have open at a time. Exceeded: the new one is refused with Overloaded."""
    max_sessions: int = 10_000
    """Sessions of the whole node. Reached: a new peer is refused with Overloaded."""
    hello_timeout: float = 5.0
    """Time for the hello and its answer. Exceeded: the connection is closed."""
    max_unauthenticated: int = 256
    """Connections of the whole node whose hello is not accepted yet. Reached: a new one is closed at once."""
    drain_timeout: float = 10.0
    """Time that open requests, events and streams get when the node stops."""

    def __post_init__(self) -> None:
        for name in ("default_timeout", "hello_timeout", "drain_timeout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted 0 or more seconds")
        if not 16_384 <= self.max_frame <= 16_777_216:
            raise ValueError(f"max_frame is {self.max_frame:,}; wanted 16,384 to 16,777,216 bytes")
        for name in ("max_message", "event_window", "max_request_bytes", "outbox"):
            least = "max_frame" if name == "max_message" else "max_message"
            if getattr(self, name) < getattr(self, least):
                raise ValueError(
                    f"{name} is {getattr(self, name):,} bytes, less than {least} ({getattr(self, least):,})"
                )
        if self.event_window < self.max_message + 16_384:  # a message of the greatest length has metadata and a charge
            raise ValueError(
                f"event_window is {self.event_window:,} bytes; wanted max_message and 16 KiB: {self.max_message + 16_384:,}"
            )
        for name in (
            "max_requests",
            "max_datagram_events",
            "max_streams",
            "max_sessions",
            "max_unauthenticated",
            "max_groups",
            "broadcast_keep",
            "broadcast_backlog",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted at least 1")
