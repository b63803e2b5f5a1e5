"""From the router to a session: one event for each message, one QUIC stream for each stream, and each waits by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import anyio
import msgspec

from echokernel import ConnectionClosed, EchoError, MethodNotFound, PermissionDenied
from echokernel_agora.crossing import Incoming, on_message, on_stream
from echokernel_protocol.codes import Code
from echokernel_protocol.describe import MethodKind

if TYPE_CHECKING:
    from echokernel import Session
    from echokernel.tasks import Future, Task
    from echokernel_agora.agents import Peer
    from echokernel_agora.queues import Parcel
    from echokernel_agora.router import Router
    from echokernel_agora.streams import Stream

__all__ = ["Lane", "Outward"]

LANE_BYTES = 256 * 1024  # of one stream that its receiver leaves unread: a quarter of what waits for one agent
LANE_FRAMES = 256
ENDING_SECONDS = 0.05
PAYLOAD, CHUNK, ERROR = (
    b',"payload":',
    b',"chunk":',
    b',"error":',
)  # no name or id holds these: quotes are escaped in them


class _Head(msgspec.Struct, rename={"from_": "from"}):
    """What stands before the payload."""

    from_: str = ""
    stream_id: str | None = None
    id: str | None = None
    request_id: str | int | None = None
    hops: int | None = None


_decode_head = msgspec.json.Decoder(_Head).decode
_encode = msgspec.json.Encoder().encode


def incoming(data: bytes, *, reply: bool) -> Incoming:
    """Return a message or reply of the router's as it crosses; its payload are the very bytes."""
    head, found, rest = data.partition(PAYLOAD)
    fields = _decode_head(head + b"}" if found else data)
    return Incoming(
        sender=fields.from_,
        reply=reply,
        payload=rest[:-1] if found else None,
        stream_id=fields.stream_id,
        id=fields.id,
        request_id=None if fields.request_id is None else _encode(fields.request_id),
        hops=fields.hops,
    )


class Outward:
    """What waits for one session, and the tasks that carry it. ``start`` starts a task, ``future`` makes a future."""

    def __init__(
        self,
        session: Session,
        router: Router,
        start: Callable[..., Task],
        stop: Callable[[Task], None],
        future: Callable[[], Future[None]],
        now: Callable[[], float],
    ) -> None:
        self.session, self.router = session, router
        self.start, self.stop_task, self.future, self.now = start, stop, future, now
        self.peer: Peer
        self.waiting_since: float | None = None
        """Since when the first of the messages waits for the session to take it; None while none does."""
        self._inbox: deque[Parcel] = deque()
        self._lanes: dict[Stream, Lane] = {}
        self._tasks: dict[object, Task] = {}
        self._takes: bool | None = None

    def take(self) -> None:
        """Take the parcels that the router has for this session."""
        agent = self.peer.agent
        if agent is None:
            return
        for parcel in agent.queue.take():  # type: ignore[attr-defined]  # it holds, so this queue is a Held
            stream = parcel.stream
            if stream is None:
                self._inbox.append(parcel)
                if self not in self._tasks:
                    self._tasks[self] = self.start(self._deliver, name="agora: messages")
            elif (lane := self._lanes.get(stream)) is not None:
                lane.push(parcel)
            elif parcel.kind in ("message", "reply"):
                lane = self._lanes[stream] = Lane(self, stream, parcel)
                self._tasks[lane] = self.start(lane.run, name="agora: stream")
            else:  # of a stream that was refused
                self.router.lose(self.peer, parcel, "stream_stopped", "its receiver wants no more of it")

    def clear(self) -> None:
        """Carry nothing more: the session, or its registration, is over."""
        self._inbox.clear()
        self._lanes.clear()
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            self.stop_task(task)

    def over(self, lane: Lane) -> None:
        """A lane has ended."""
        if self._lanes.get(lane.stream) is lane:
            del self._lanes[lane.stream]
        self._tasks.pop(lane, None)

    async def _deliver(self) -> None:
        inbox, session = self._inbox, self.session
        try:
            while inbox:
                parcel = inbox[0]
                self.waiting_since = self.now()
                try:
                    if self._takes is None:
                        self._takes = await _takes_messages(session)
                    if not self._takes:
                        raise MethodNotFound(f"it takes no messages: it has no handler for the event {on_message.name}")
                    await session.call(on_message, incoming(parcel.data, reply=parcel.kind == "reply"))
                except ConnectionClosed:
                    return  # its end is told to the router by whoever waits for it
                except EchoError as error:
                    self._takes = None
                    inbox.popleft()
                    self.router.lose(self.peer, parcel, "receiver_gone", f"its session does not take it: {error}")
                else:
                    inbox.popleft()
                    self.router.settle(self.peer, parcel)
        finally:
            self.waiting_since = None
            self._tasks.pop(self, None)


async def _takes_messages(session: Session) -> bool:
    try:
        described = await session.describe(on_message.name, schemas=False)
    except (PermissionDenied, MethodNotFound):
        return True  # it does not say
    return any(each.kind is MethodKind.EVENT for each in described.methods)


class Lane:
    """One stream on its way to the session: a call of its ``agora.incoming``, whose items are the chunks."""

    def __init__(self, outward: Outward, stream: Stream, start: Parcel) -> None:
        self.stream = stream
        self._outward = outward
        self._parcels: deque[Parcel] = deque([start])
        self._size = len(start.data)
        self._ended = False  # nothing more is taken
        self._cut = b""  # what ends it instead of what its sender says
        self._wake: Future[None] | None = None

    def push(self, parcel: Parcel) -> None:
        """Put a chunk, or the end, behind what waits."""
        outward = self._outward
        if self._ended:
            outward.router.lose(outward.peer, parcel, "receiver_slow", "too much of it waits")
            return
        self._parcels.append(parcel)
        self._size += len(parcel.data)
        if parcel.kind in ("message_end", "reply_end"):
            self._ended = True
        elif parcel.account is None and (self._size > LANE_BYTES or len(self._parcels) > LANE_FRAMES):
            self._ended = True
            message = (
                f"{len(self._parcels)} frames ({self._size} bytes) of this stream wait: its receiver reads more slowly"
            )
            self._cut = _encode({"code": "receiver_slow", "message": message})
            outward.router.stop(self.stream, "receiver_slow", message)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        """Carry it to its end."""
        outward, router = self._outward, self._outward.router
        why = "its receiver wants no more of it"
        try:
            start = incoming(self._parcels[0].data, reply=self.stream.reply)
            # no deadline: a stream lasts as long as its sender likes, and the router ends one that is idle
            await outward.session.with_options(timeout=0).call(on_stream, start, self._items())
        except EchoError as error:
            why = f"its receiver stopped it: {error}"
            # by its handler's choice, or because the session ends, which is known soon
            if error.code == Code.CANCELLED or isinstance(error, ConnectionClosed):
                with anyio.move_on_after(ENDING_SECONDS):
                    await outward.session.wait_closed()
        finally:
            outward.over(self)
            if outward.session.closed is None:  # else the router hears of that, and it is another error
                for parcel in self._parcels:
                    router.lose(outward.peer, parcel, "stream_stopped", why)
                router.stop(self.stream, "stream_stopped", why)

    async def _items(self) -> AsyncIterator[bytes]:
        """Yield chunks; whoever asks for the next one has handed the last one to the transport."""
        outward, parcels = self._outward, self._parcels
        while True:
            parcel = parcels[0]
            ends = parcel.kind in ("message_end", "reply_end")
            _, found, rest = parcel.data.partition(ERROR if ends else CHUNK)
            if found and parcel.kind not in ("message", "reply"):
                yield rest[:-1]
            parcels.popleft()
            self._size -= len(parcel.data)
            outward.router.settle(outward.peer, parcel)
            if ends:
                return
            while not parcels:
                if self._cut:
                    yield self._cut
                    return
                self._wake = outward.future()
                await self._wake
