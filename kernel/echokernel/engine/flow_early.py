"""Data of streams whose open frame has not come yet: the channel and what travels beside it overtake each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from echokernel.tasks import TaskScope
    from echokernel.transport import RecvStream
    from echokernel_protocol.timestamped import Timestamped

HELD_STREAMS: Final = (
    128  # of a session: as many as a transport lets be open, and more than per_frame flows use together
)
HELD_DATAGRAMS: Final = 64  # of a session; the channel is rarely a round trip behind
HELD_BYTES: Final = 262_144  # of these datagrams; a stream's bytes stay with the transport
HELD_SECONDS: Final = 1.0

Streams = list[tuple[int, "RecvStream", bytes]]
"""Position, stream, and what was read of it."""
Frames = list["Timestamped[bytes]"]

__all__ = ["EarlyData"]


class EarlyData:
    """Holds it for a second. ``expired(flow id, streams, number of datagrams)`` is told of what was held in vain."""

    __slots__ = ("_bytes", "_datagrams", "_expired", "_flows", "_is_holding", "_streams", "_tasks")

    def __init__(
        self, tasks: TaskScope, is_holding: Callable[[], bool], expired: Callable[[int, Streams, int], None]
    ) -> None:
        self._tasks = tasks
        self._is_holding = is_holding
        self._expired = expired
        self._flows: dict[int, tuple[Streams, Frames]] = {}
        self._streams = 0
        self._datagrams = 0
        self._bytes = 0

    def hold_stream(self, flow_id: int, position: int, recv: RecvStream, rest: bytes) -> bool:
        """Hold a stream; False: there is no room."""
        if self._streams >= HELD_STREAMS:
            return False
        self._streams += 1
        self._of(flow_id)[0].append((position, recv, rest))
        return True

    def hold_frame(self, flow_id: int, frame: Timestamped[bytes]) -> bool:
        """Hold a datagram's frame; False: there is no room."""
        if self._datagrams >= HELD_DATAGRAMS or self._bytes + len(frame.data) > HELD_BYTES:
            return False
        self._datagrams += 1
        self._bytes += len(frame.data)
        self._of(flow_id)[1].append(frame)
        return True

    def take(self, flow_id: int) -> tuple[Streams, Frames]:
        """Return what was held for a flow: its open frame is here."""
        streams, frames = self._flows.pop(flow_id, ([], []))
        self._streams -= len(streams)
        self._datagrams -= len(frames)
        self._bytes -= sum(len(frame.data) for frame in frames)
        return streams, frames

    def _of(self, flow_id: int) -> tuple[Streams, Frames]:
        entry = self._flows.get(flow_id)
        if entry is None:
            entry = self._flows[flow_id] = [], []
            self._tasks.call_at(self._tasks.now() + HELD_SECONDS, self._forget, flow_id)
        return entry

    def _forget(self, flow_id: int) -> None:
        if self._is_holding():  # the open may be here, waiting for on_connect
            self._tasks.call_at(self._tasks.now() + HELD_SECONDS, self._forget, flow_id)
        elif flow_id in self._flows:
            streams, frames = self.take(flow_id)
            self._expired(flow_id, streams, len(frames))
