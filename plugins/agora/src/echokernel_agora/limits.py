"""What the router allows: small, frozen, with units."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one router. Each has a named behaviour when it is reached; ``docs/guide/agora.md`` has the table."""

    max_frame: int = 1024 * 1024
    """Largest frame from a client, in bytes; a longer one closes its connection with 1009."""
    queue_frames: int = 1024
    """Frames that wait for one agent. One more is refused: its sender gets ``receiver_slow``."""
    queue_bytes: int = 1024 * 1024
    """Bytes that wait for one agent, as above. A single longer frame is accepted by an empty queue."""
    credit_window: int = 64 * 1024
    """Bytes that a client with the feature ``credit`` may have under way to one agent."""
    credit_bytes: int = 4 * 1024 * 1024
    """Bytes from clients with ``credit`` that wait for one agent beyond ``queue_bytes``; one more frame is refused as above."""
    control_bytes: int = 256 * 1024
    """Bytes of answers and errors that wait for one connection; one that does not read even those is closed with 1013."""
    stuck_after: float = 10.0
    """Seconds for which an agent may read nothing while frames wait for it; then it is closed with 1013."""
    stream_idle: float = 300.0
    """Seconds without a frame after which a stream is ended on both sides."""
    streams: int = 1000
    """Streams that one agent may have open as their sender; one more is refused with ``too_many_streams``."""
    frame_rate: float = 1000.0
    """Frames per second from one agent, in the long run; over it: ``rate_limited``."""
    frame_burst: float = 2000.0
    """Frames that one agent may send at once."""
    byte_rate: float = 4.0 * 1024 * 1024
    """Bytes per second from one agent, in the long run; the burst is twice that."""
    rate_patience: float = 10.0
    """Seconds for which an agent may send at thrice its rate without waiting; then it is closed with 1008, a flood sooner."""
    self_per_minute: int = 20
    """One-shot messages per minute from an agent to itself; 0: no limit."""
    pair_per_minute: int = 0
    """One-shot messages and replies per minute in one direction between two agents; 0: no limit."""
    hops: int = 8
    """Routers that a frame may pass; it counts where bridges join routers."""
    bad_frames: int = 10
    """Frames that are no frames which a client may send within 10 s; then it is closed with 1008."""
    takeovers: int = 3
    """Times an id may change its connection within 10 s; then a newcomer is refused."""
    resume_window: float = 30.0
    """Seconds for which an agent with ``resume`` is kept after its connection was lost."""
    list_page: int = 1000
    """Agents in one answer to ``list``."""
    card_bytes: int = 64 * 1024
    """Largest card of an agent, in bytes."""
    capabilities: int = 64
    """Capabilities of one agent, each of at most 128 characters."""
    idle_unregistered: float = 30.0
    """Seconds after which a connection that has registered nobody is closed."""
    unregistered_per_address: int = 64
    """Connections of one address that have not registered; more are refused with 503."""
    connections: int = 10_000
    """Connections of the router; more are refused with 503."""
    handshake_timeout: float = 10.0
    """Seconds in which an HTTP request must be complete."""
    ping_interval: float = 20.0
    """Seconds between two pings of the router to a connection that was quiet."""
    ping_timeout: float = 10.0
    """Seconds in which a ping must be answered, by whatever arrives; then the connection is dropped."""
    close_timeout: float = 5.0
    """Seconds in which a close must be answered, and an answer of HTTP read; then the connection is dropped."""
