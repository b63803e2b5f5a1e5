"""The streams of one session, both ways: which are open, and which data belongs to which."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from echokernel.engine import inherited
from echokernel.engine.flow_buffer import BufferedSender
from echokernel.engine.flow_early import EarlyData, Streams
from echokernel.engine.flow_options import DELIVERY_KEY, MAX_AGE_KEY, FlowOptions
from echokernel.engine.flow_receiving import DatagramReceiver, PerFrameReceiver
from echokernel.engine.flow_sending import DatagramSender, PerFrameSender, ReliableSender
from echokernel.engine.flow_slots import FrameSlots
from echokernel.engine.taken import TakenStreams
from echokernel.errors import (
    ConnectionClosed,
    EchoError,
    HandlerError,
    MethodNotFound,
    Overloaded,
    PermissionDenied,
    StreamStopped,
    error_from_code,
)
from echokernel.flows import StreamReceiver, StreamSender
from echokernel.middleware import compose
from echokernel_protocol.channel import ALL_POSITIONS
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import KIND_MASK, Flags, Frame, Header, MessageType
from echokernel_protocol.maps import take_map
from echokernel_protocol.postcard import Malformed, Truncated, take_varint
from echokernel_protocol.streams import Prelude, StreamKind
from echokernel_protocol.timestamped import UNSYNCED, decode_data

if TYPE_CHECKING:
    from echokernel.engine.link import Link
    from echokernel.middleware import Middleware
    from echokernel.session import Session
    from echokernel.tasks import TaskScope
    from echokernel.transport import RecvStream

MAX_DROPPED = 1024
MAX_SENDERS = 1024  # streams of ours that are open at a time; a peer closes the connection at 4,096

logger = logging.getLogger("echokernel.handlers")

_NO_REFUSAL = ErrorInfo(Code.OK, "")

__all__ = ["Fate", "Flows"]


class Fate(Enum):
    """What became of a datagram."""

    TAKEN = 1
    DROPPED = 2
    """Nobody wants it any more, or there was no room."""
    BAD = 3


class Flows:
    """Opens streams, takes the peer's, and tells both what the channel says of them."""

    def __init__(
        self,
        session: Session,
        link: Link,
        handlers: Mapping[str, Callable[..., Any]],
        tasks: TaskScope,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._session = session
        self._middleware = middleware
        self._link = link
        self._channel = link.channel
        self._handlers = handlers
        self._tasks = tasks
        self._senders: dict[int, StreamSender] = {}
        self._frame_senders: dict[int, PerFrameSender] = {}  # also those that have ended and are not taken yet
        self._receivers: dict[int, StreamReceiver] = {}
        self.taken_streams = TakenStreams(self._receivers, tasks)
        self._early = EarlyData(tasks, lambda: session.is_holding, self._expired)
        self._given_up: dict[int, list[int]] = {}  # positions of data streams that came too early, by flow
        self._opened = 0  # the highest flow that was dispatched; one that is held back until on_connect returns is not
        self.slots = FrameSlots(tasks)
        self.sending: set[BufferedSender] = set()
        """Streams of ours with frames that the transport has not got yet."""

    @property
    def receiving(self) -> int:
        """Streams of the peer whose handlers still run."""
        return len(self._receivers)

    # --- ours --------------------------------------------------------------------------------------------------

    async def open(self, name: str, head: bytes, options: FlowOptions, metadata: bytes) -> StreamSender:
        """Open a stream; ``head`` is its name and flags, ``metadata`` its Map. Raises ConnectionClosed, Overloaded."""
        if len(self._senders) >= MAX_SENDERS:
            raise Overloaded(f"{MAX_SENDERS:,} streams to this peer are open already; finish some")
        if self._link.is_crowded:
            await self._link.wait_room()
        if options.delivery == "reliable":
            return await self._open_reliable(name, head, options, metadata)
        flow_id = self._channel.open_flow(head, metadata)
        sender: StreamSender
        if options.delivery == "per_frame":
            sender = self._frame_senders[flow_id] = PerFrameSender(self._session, self, name, flow_id, options)
        else:
            sender = DatagramSender(self._session, self, name, flow_id)
        self._senders[flow_id] = sender
        self._link.wake()
        return sender

    async def _open_reliable(self, name: str, head: bytes, options: FlowOptions, metadata: bytes) -> StreamSender:
        send = await self._link.connection.open_uni_stream()
        flow_id = self._channel.open_flow(head, metadata)
        sender = self._senders[flow_id] = (
            StreamSender(self._session, self, name, flow_id, send)
            if options.is_direct
            else ReliableSender(self._session, self, name, flow_id, options, send)
        )
        self._link.wake()
        try:
            await send.write(Prelude(StreamKind.FLOW, (flow_id, 0)).encode())
        except BaseException:
            sender.abort()
            raise
        return sender

    def end(self, flow_id: int, frames: int) -> None:
        """All frames of our stream were sent."""
        self._senders.pop(flow_id, None)
        self._channel.end_flow(flow_id, frames)
        self._link.wake()

    def abort(self, flow_id: int, error: ErrorInfo) -> None:
        """Our stream ends early."""
        self._senders.pop(flow_id, None)
        self._channel.abort_flow(flow_id, error)
        self._link.wake()

    def on_positions(self, positions: list[tuple[int, int]]) -> None:
        """The peer has taken frames of ``per_frame`` streams."""
        for flow_id, position in positions:
            sender = self._frame_senders.get(flow_id)
            if sender is not None:
                sender.taken(position)

    def forget(self, sender: PerFrameSender) -> None:
        """No frame of it is open any more."""
        self._frame_senders.pop(sender.id, None)

    # --- the peer's --------------------------------------------------------------------------------------------

    def on_frame(self, flow_id: int, method: str, flags: int, payload: Any) -> None:
        """The channel says something of a stream. Raises ProtocolViolation."""
        kind = flags & KIND_MASK
        if flags & Flags.BODY:
            raise ProtocolViolation("a stream frame with a body")
        sender = self._senders.pop(flow_id, None)
        if sender is not None:
            sender._stopped(_stop_reason(sender.name, kind, payload))
        elif kind == 0:
            self._opened = flow_id
            self._open_receiver(flow_id, method, take_map(payload)[0] if flags & Flags.METADATA else {})
        elif (receiver := self._receivers.get(flow_id)) is not None:
            if kind == Flags.END:
                receiver._ended(_frame_count(payload))
            else:
                receiver._aborted(ErrorInfo.decode(payload))

    def take_stream(
        self, flow_id: int, position: int, recv: RecvStream, rest: bytes
    ) -> Coroutine[Any, Any, None] | None:
        """A data stream is here; its open frame may have been, or may follow. Returns what its task has to do then.

        Raises ProtocolViolation.
        """
        receiver = self._receivers.get(flow_id)
        if receiver is not None:
            return receiver._take_stream(position, recv, rest)
        if flow_id <= self._opened:
            recv.stop(Code.CANCELLED)  # over already, or refused
        elif not self._early.hold_stream(flow_id, position, recv, rest):
            self._give_up(flow_id, position, recv)
        return None

    def take_datagram(self, flow_id: int, flags: int, payload: bytes) -> Fate:
        """A datagram with data of a stream is here."""
        try:
            frame = decode_data(flags, payload)
        except ProtocolViolation:
            return Fate.BAD
        receiver = self._receivers.get(flow_id)
        if receiver is not None:
            if not isinstance(receiver, DatagramReceiver):
                return Fate.BAD
            receiver._take_frame(frame)
            return Fate.TAKEN
        if flow_id <= self._opened or not self._early.hold_frame(flow_id, frame):
            return Fate.DROPPED
        return Fate.TAKEN

    def taken(self, flow_id: int, position: int) -> None:
        """The program has taken this frame of a ``per_frame`` stream; ``ALL_POSITIONS``: it wants no more of them."""
        if self._session.closed is None:
            self._channel.take_flow(flow_id, position, self._tasks.now())
            if self._channel.has_data:
                self._link.wake()
            else:
                self._link.keep_time()

    def _expired(self, flow_id: int, streams: Streams, datagrams: int) -> None:
        self._session._datagrams.dropped += datagrams
        try:
            for position, recv, _ in streams:
                self._give_up(flow_id, position, recv)
        except ProtocolViolation as violation:
            self._session._violated(violation)

    def _give_up(self, flow_id: int, position: int, recv: RecvStream) -> None:
        recv.stop(Code.UNAVAILABLE)
        if sum(map(len, self._given_up.values())) >= MAX_DROPPED:
            raise ProtocolViolation(
                f"more than {MAX_DROPPED:,} data streams of streams that were never opened", code=Code.LIMIT_EXCEEDED
            )
        self._given_up.setdefault(flow_id, []).append(position)

    def _open_receiver(self, flow_id: int, method: str, entries: dict[str, str]) -> None:
        streams, frames = self._early.take(flow_id)
        given_up = self._given_up.pop(flow_id, [])
        handler = self._handlers.get(method)
        limit = self._session.limits.max_streams
        receiver = None
        if handler is None:
            refusal = ErrorInfo(Code.UNIMPLEMENTED, f"no stream {method!r} here")
        elif len(self._receivers) >= limit:
            refusal = ErrorInfo(Code.RESOURCE_EXHAUSTED, f"{limit} streams are open already")
        else:
            receiver, refusal = self._make_receiver(flow_id, method, entries, given_up)
        if receiver is None or handler is None:
            for _, recv, _ in streams:
                recv.stop(refusal.code)
            self._channel.stop_flow(flow_id, refusal)
            self.taken_streams.ended(flow_id, _refused(method, refusal))
            self._link.wake()
            if entries.get(DELIVERY_KEY) == "per_frame":
                self.taken(flow_id, ALL_POSITIONS)  # its END may have crossed the refusal
            return
        receiver._synced = UNSYNCED not in entries
        self._receivers[flow_id] = receiver
        for position, recv, rest in streams:
            reading = receiver._take_stream(position, recv, rest)
            if reading is not None:
                self._tasks.start(_run, reading, name=method)
        for frame in frames:
            if isinstance(receiver, DatagramReceiver):
                receiver._take_frame(frame)
            else:
                self._session._datagrams.bad += 1
        inherited.deadline.set(None)  # that of the request before it is none of a stream's business
        inherited.metadata.set(receiver.metadata or None)
        self._tasks.start(self._serve, handler, receiver, name=method)
        inherited.metadata.set(None)  # nor is this what the next message inherits

    def _make_receiver(
        self, flow_id: int, method: str, entries: dict[str, str], given_up: list[int]
    ) -> tuple[StreamReceiver | None, ErrorInfo]:
        """Return a receiver for what the open frame says, or why there is none."""
        delivery = entries.get(DELIVERY_KEY, "reliable")
        metadata = {key: value for key, value in entries.items() if not key.startswith("$")}
        session = self._session
        if delivery == "per_frame":
            age = entries.get(MAX_AGE_KEY)
            if age is not None and not (age.isascii() and age.isdigit() and len(age) <= 9):
                raise ProtocolViolation(f"{MAX_AGE_KEY} is {age[:20]!r}; wanted milliseconds")
            max_age = None if age is None else int(age) / 1000
            return PerFrameReceiver(session, self, method, flow_id, metadata, max_age, given_up), _NO_REFUSAL
        if delivery == "datagram":
            return DatagramReceiver(session, self, method, flow_id, metadata), _NO_REFUSAL
        if delivery != "reliable":
            known = "reliable, per_frame, datagram"
            refusal = ErrorInfo(
                Code.UNIMPLEMENTED, f"{DELIVERY_KEY} {delivery[:20]!r} is unknown here; known are {known}"
            )
            return None, refusal
        if given_up:
            return None, ErrorInfo(Code.UNAVAILABLE, "its data came before it was opened, and was given up")
        return StreamReceiver(session, self, method, flow_id, metadata), _NO_REFUSAL

    async def _serve(self, handler: Callable[..., Any], receiver: StreamReceiver) -> None:
        failure: EchoError | None = None
        try:
            if self._middleware:
                await self._serve_through(receiver)
            else:
                await handler(self._session, receiver)
        except ConnectionClosed:
            logger.debug("stream %s: it ended early", receiver.name)
        except _NeverBegan as refusal:
            failure = refusal.error
        except Exception as error:
            logger.error("stream %s: the handler failed: %s", receiver.name, type(error).__name__, exc_info=error)
            failure = HandlerError(f"stream {receiver.name!r}: its handler failed: {type(error).__name__}")
        finally:
            receiver._close()
            self._receivers.pop(receiver.id, None)
            self.taken_streams.ended(receiver.id, failure or receiver.taken)

    async def _serve_through(self, receiver: StreamReceiver) -> None:
        """Serve a stream inside the middleware; one that does not reach its handler is refused."""
        began = False

        async def innermost(frame: Frame) -> None:
            nonlocal began
            handler = self._handlers.get(frame.header.method)
            if handler is None:
                raise MethodNotFound(f"no stream {frame.header.method!r} here")
            began = True
            inherited.metadata.set(frame.metadata or None)
            await handler(self._session, receiver)

        header = Header(MessageType.STREAM, receiver.id, receiver.name)
        refusal: EchoError = PermissionDenied(f"{receiver.name} was intercepted")
        try:
            await compose(self._middleware, self._session, innermost)(Frame(header, b"", receiver.metadata))
        except EchoError as error:
            if began:
                raise
            refusal = error
        if not began:
            info = ErrorInfo(refusal.code, refusal.message)
            self._channel.stop_flow(receiver.id, info)
            self._link.wake()
            raise _NeverBegan(_refused(receiver.name, info))

    def stop(self, flow_id: int) -> None:
        """We want no more of a stream of the peer's."""
        self._channel.stop_flow(flow_id)
        self._link.wake()

    def fail(self, error: EchoError) -> None:
        """The connection is over."""
        for receiver in self._receivers.values():
            receiver._lose(error)
        for sender in list(self._senders.values()):
            sender._stopped(error)
        for frame_sender in list(self._frame_senders.values()):
            frame_sender.stop_watching()


async def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    await coroutine


class _NeverBegan(Exception):
    """Middleware kept a stream from its handler."""

    def __init__(self, error: EchoError) -> None:
        super().__init__(str(error))
        self.error = error


def _refused(name: str, refusal: ErrorInfo) -> EchoError:
    return error_from_code(refusal.code, f"stream {name!r} was refused: {refusal.message}", refusal.details)


def _frame_count(payload: Any) -> int:
    try:
        count, end = take_varint(payload, 0)
    except (Truncated, Malformed, TypeError) as error:
        raise ProtocolViolation("a stream's END without the number of its frames") from error
    if end != len(payload):
        raise ProtocolViolation("a stream's END with more than the number of its frames")
    return count


def _stop_reason(name: str, kind: int, payload: Any) -> EchoError:
    if kind == Flags.ERROR:
        info = ErrorInfo.decode(payload)
        return error_from_code(info.code, f"stream {name!r} was refused: {info.message}", info.details)
    return StreamStopped(Code.CANCELLED)
