"""A sender that keeps a few frames here, in the program's reach, while one task hands them to the transport.

What is in the transport's own buffers cannot be dropped any more when it gets old.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from echokernel.engine.flow_options import BUFFER_BYTES
from echokernel.errors import EchoError, Overloaded, StreamStopped
from echokernel.flows import StreamSender
from echokernel_protocol.timestamped import MAX_U32, Timestamped

if TYPE_CHECKING:
    from echokernel.engine.flow_options import FlowOptions
    from echokernel.engine.flow_table import Flows
    from echokernel.session import Session
    from echokernel.tasks import Future, Task
    from echokernel.transport import SendStream

ROUNDING = 1e-6  # seconds; a sum of times that is off by its last bit must not wait for a moment that has passed

__all__ = ["BufferedSender"]


class BufferedSender(StreamSender):
    """Frames wait in a buffer of frames; a task sends them."""

    def __init__(
        self,
        session: Session,
        flows: Flows,
        name: str,
        flow_id: int,
        options: FlowOptions,
        send: SendStream | None = None,
    ) -> None:
        super().__init__(session, flows, name, flow_id, send)
        self.delivery = options.delivery
        self._options = options
        self._waiting: deque[tuple[float, bytes, int]] = deque()  # when it came, its payload, bytes of data in it
        self._waiting_bytes = 0
        self._room: list[Future[None]] = []
        self._news: Future[None] | None = None
        self._over = False
        """Its END is put in, or it is given up."""
        flows.sending.add(self)
        self._task: Task = session._tasks.start(self._run, name=f"stream {name}")

    # --- in ----------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        await self._put(None, data)

    async def send_timestamped(self, frame: Timestamped[bytes]) -> None:
        await self._put(frame, frame.data)

    async def _put(self, frame: Timestamped[bytes] | None, data: bytes) -> None:
        payload = self._encode(frame or self._stamped(data))
        if not self._fits(len(payload)):
            wanted = await self._make_room(len(payload))
            if frame is None:  # others may have sent while this one waited
                payload = self._encode(self._stamped(data))
            self._seq = ((self._seq if frame is None else frame.seq) + 1) & MAX_U32
            if not wanted:
                return
        else:
            self._seq = ((self._seq if frame is None else frame.seq) + 1) & MAX_U32
        self._waiting.append((self._session._tasks.now(), payload, len(data)))
        self._waiting_bytes += len(payload)
        self._tell_task()

    def _fits(self, size: int) -> bool:
        waiting = len(self._waiting)
        return waiting < self._options.buffer and (self._waiting_bytes + size <= BUFFER_BYTES or not waiting)

    async def _make_room(self, size: int) -> bool:
        """Make or await room for a frame; False: it is the one to drop."""
        policy = self._options.on_full
        if policy == "wait":
            while not self._fits(size):
                await self._wait_room()
                self._check()
                self._drop_stale()
            return True
        await anyio.lowlevel.checkpoint()  # a program that never waits must let the sending task run
        self._check()
        self._drop_stale()
        if self._fits(size):
            return True
        if policy == "error":
            raise Overloaded(
                f"stream {self.name!r}: {len(self._waiting)} frames ({self._waiting_bytes:,} bytes) wait already; the "
                "receiver or the network is slower than this sender"
            )
        if policy == "drop_newest":
            self._dropped_full += 1
            return False
        while not self._fits(size):
            self._pop()
            self._dropped_full += 1
        return True

    async def _wait_room(self) -> None:
        future: Future[None] = self._session._tasks.future()
        self._room.append(future)
        max_age = self._options.max_age
        until = None if max_age is None else self._waiting[0][0] + max_age - self._session._tasks.now()
        with anyio.move_on_after(None if until is None else max(0.0, until)):
            await future

    # --- out ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while await self._some():
                await self._ready()
                self._drop_stale()
                if self._waiting:
                    came, payload, size = self._pop()
                    await self._write(came, payload)
                    self._sent += 1
                    self._bytes += size
                else:
                    self._not_needed()
            self._over = True
            await self._end()
        except EchoError as error:
            if isinstance(error, StreamStopped):
                await self._hear_reason()
            if self._error is None and not self._over:
                self._error = error
                self._clear(error.code)
        finally:
            self._flows.sending.discard(self)

    async def _some(self) -> bool:
        """Wait for a frame; False: there will be none."""
        while not self._waiting:
            if self._finished:
                return False
            self._news = self._session._tasks.future()
            await self._news
        return True

    def _pop(self) -> tuple[float, bytes, int]:
        entry = self._waiting.popleft()
        self._waiting_bytes -= len(entry[1])
        self._give_room()
        return entry

    def _drop_stale(self) -> None:
        max_age = self._options.max_age
        if max_age is not None:
            oldest = self._session._tasks.now() - max_age + ROUNDING
            while self._waiting and self._waiting[0][0] <= oldest:
                self._pop()
                self._dropped_old += 1

    def _give_room(self) -> None:
        if self._room:
            waiting, self._room = self._room, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _tell_task(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    @abstractmethod
    async def _ready(self) -> None:
        """Wait until the carrier should get a frame."""

    def _not_needed(self) -> None:
        """What :meth:`_ready` prepared: the frame that it was for is stale."""

    @abstractmethod
    async def _write(self, came: float, payload: bytes) -> None:
        """Hand one frame over."""

    @abstractmethod
    async def _end(self) -> None:
        """Everything was handed over."""

    # --- the end -----------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        self._tell_task()

    def _stopped(self, error: EchoError) -> None:
        if self._error is None and not self._over:
            self._error = error
            self._drop(error.code)
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    def _drop(self, code: int) -> None:
        self._clear(code)
        self._flows.sending.discard(self)
        if self._told is None:  # else it waits for just this, and ends by itself
            self._session._tasks.stop(self._task)

    def _clear(self, code: int) -> None:
        self._over = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._give_room()
        super()._drop(code)
