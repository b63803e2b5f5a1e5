"""Joins a channel, which is a value, to the stream of a connection: reads, flushes once per loop turn, keeps its timer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from echokernel.errors import ConnectionClosed, StreamStopped
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from echokernel.tasks import Future, TaskScope, Timer
    from echokernel.transport import Connection, SendStream
    from echokernel_protocol.channel import Channel

LARGE_BATCH = 48  # frames; the other end works on one half while this one makes the other (docs/decisions/0004)
YIELD_AFTER = 128  # frames put in during one loop turn before their sender lets others run

__all__ = ["Link"]


class Link:
    """What is put into the channel leaves at the end of the loop turn, as far as the transport has room."""

    __slots__ = (
        "_failure",
        "_flush_due",
        "_half",
        "_limit",
        "_pump",
        "_put_since_flush",
        "_room",
        "_send",
        "_timer",
        "beside",
        "channel",
        "connection",
        "is_crowded",
        "is_listed",
        "on_room",
        "tasks",
    )

    def __init__(
        self, channel: Channel, connection: Connection, send: SendStream, tasks: TaskScope, outbox: int
    ) -> None:
        self.channel = channel
        self.connection = connection
        self.tasks = tasks
        self.beside = 0
        """Bytes of bodies that the transport has not taken yet: they count against the outbox, too."""
        self._send = send
        self._limit = outbox
        self._flush_due = False
        self._put_since_flush = 0
        self._half = -1
        self._failure: Exception | None = None
        self.is_crowded = False
        """Whether a caller has to wait in :meth:`wait_room` before it puts a counted frame in."""
        self.is_listed = False
        """Whether a broadcast sees to it that this link is flushed."""
        self.on_room: Callable[[], None] | None = None
        """Called whenever the outbox is empty and has room."""
        self._timer: Timer | None = None
        self._pump: Future[None] | None = None
        self._room: list[Future[None]] = []

    def wake(self) -> None:
        """Frames were put in: flush when this turn of the loop ends, or now when half of a large batch is done."""
        self._put_since_flush = put = self._put_since_flush + 1
        if not self._flush_due:
            self._flush_due = True
            self.tasks.call_soon(self._flush_turn)
        if put == self._half and self._send.room > 0:
            self.flush()
        elif put >= YIELD_AFTER or self.channel.outbox_size + self.beside > self._limit:  # once per frame: no call
            self.is_crowded = True

    def flush_listed(self) -> None:
        """Its turn has come among the links of a broadcast."""
        self.is_listed = False
        if not self._flush_due:  # else this turn ends with a flush anyway
            self.flush()

    def batch(self, frames: int) -> None:
        """So many frames arrived together; about as many will be put in because of them."""
        self._half = frames // 2 if frames >= LARGE_BATCH else -1

    def _flush_turn(self) -> None:
        self._flush_due = False
        self._put_since_flush = 0
        self.flush()
        self.is_crowded = not self.has_room

    def flush(self) -> None:
        """Hand frames to the transport now, as many as it has room for."""
        channel = self.channel
        send = self._send
        room = send.room
        try:
            data = channel.data_to_send(room if room > 0 else 0)
            if data:
                send.write_nowait(data)
                self.connection.flush()
        except StreamStopped:
            self._stopped()
            return
        except ConnectionClosed:
            return  # the receive loop learns it too, and ends the session
        if channel.has_data and self._pump is not None and not self._pump.done():
            self._pump.set_result(None)
        if not channel.outbox_size:
            self._tell_room()
        self.keep_time()

    def _stopped(self) -> None:
        """The peer reads the channel no more: without it there is no session."""
        if self._failure is None:
            self._failure = ConnectionClosed("the peer stopped reading the channel", code=Code.PROTOCOL_ERROR)
            self.tasks.start(self.connection.close, Code.PROTOCOL_ERROR, "the channel was stopped", name="close")

    def _on_timer(self) -> None:
        self._timer = None
        self.channel.handle_time(self.tasks.now())
        if self.channel.has_data:
            self.flush()
        else:
            self.keep_time()

    def keep_time(self) -> None:
        """The channel may want to be called later: see that it is."""
        if self._timer is None and self.channel.next_time is not None:
            self._timer = self.tasks.call_at(self.channel.next_time, self._on_timer)

    async def pump(self) -> None:
        """Go on flushing whenever the transport had no room for all. Runs as long as the session."""
        while True:
            if not self.channel.has_data:
                self._pump = self.tasks.future()
                await self._pump
            try:
                await self._send.wait_room()
            except StreamStopped:
                self._stopped()
                return
            except ConnectionClosed:
                return
            self.flush()

    # --- room for callers --------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether the outbox, bodies included, is below its limit."""
        return self.channel.outbox_size + self.beside <= self._limit

    async def wait_room(self) -> None:
        """Wait until the outbox is below its limit, and let others run."""
        await anyio.lowlevel.checkpoint()
        while not self.has_room:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            future: Future[Any] = self.tasks.future()
            self._room.append(future)
            await future
        self.is_crowded = False

    def body_left(self, size: int) -> None:
        """The transport has taken ``size`` bytes of a body, or nobody wants them any more."""
        self.beside -= size
        if size and self.has_room and not self.channel.outbox_size:
            self._tell_room()

    def _tell_room(self) -> None:
        if self._room:
            self._give_room()
        if self.on_room is not None:
            self.on_room()

    def _give_room(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        """The connection is over: wake everybody who waits for room."""
        self._failure = error
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drain(self) -> None:
        """Wait until the transport has taken everything. Raises ConnectionClosed."""
        self.flush()
        while self.channel.outbox_size:
            await self._send.wait_room()
            self.flush()
