"""The streams of one session, both ways: which are open, and which data stream belongs to which."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from echokernel.engine import inherited
from echokernel.engine.taken import TakenStreams
from echokernel.errors import ConnectionClosed, EchoError, HandlerError, StreamStopped, error_from_code
from echokernel.flows import StreamReceiver, StreamSender
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import KIND_MASK, Flags
from echokernel_protocol.postcard import Malformed, Truncated, take_varint
from echokernel_protocol.streams import Prelude, StreamKind

if TYPE_CHECKING:
    from echokernel.engine.link import Link
    from echokernel.session import Session
    from echokernel.tasks import TaskScope
    from echokernel.transport import RecvStream

HELD_FLOWS = 64  # data streams whose open frame has not come yet; the channel is rarely a round trip behind
HELD_SECONDS = 1.0
MAX_DROPPED = 1024

logger = logging.getLogger("echokernel.handlers")

__all__ = ["Flows"]


class Flows:
    """Opens streams, takes the peer's, and tells both what the channel says of them."""

    def __init__(
        self, session: Session, link: Link, handlers: Mapping[str, Callable[..., Any]], tasks: TaskScope
    ) -> None:
        self._session = session
        self._link = link
        self._channel = link.channel
        self._handlers = handlers
        self._tasks = tasks
        self._senders: dict[int, StreamSender] = {}
        self._receivers: dict[int, StreamReceiver] = {}
        self.taken = TakenStreams(self._receivers, tasks)
        self._early: dict[int, tuple[RecvStream, bytes]] = {}
        self._dropped: set[int] = set()  # flows whose data came so early that it was given up
        self._opened = 0  # the highest flow that was dispatched; one that is held back until on_connect returns is not

    @property
    def receiving(self) -> int:
        """Streams of the peer whose handlers still run."""
        return len(self._receivers)

    # --- ours --------------------------------------------------------------------------------------------------

    async def open(self, name: str, head: bytes) -> StreamSender:
        """Open a stream; ``head`` is its name and flags. Raises ConnectionClosed."""
        send = await self._link.connection.open_uni_stream()
        flow_id = self._channel.open_flow(head, b"")
        sender = self._senders[flow_id] = StreamSender(self._session, self, name, flow_id, send)
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

    # --- the peer's --------------------------------------------------------------------------------------------

    def on_frame(self, flow_id: int, method: str, flags: int, payload: Any) -> None:
        """The channel says something of a stream. Raises ProtocolViolation."""
        kind = flags & KIND_MASK
        sender = self._senders.pop(flow_id, None)
        if sender is not None:
            sender._stopped(_stop_reason(sender.name, kind, payload))
        elif kind == 0:
            self._opened = flow_id
            self._open_receiver(flow_id, method)
        elif (receiver := self._receivers.get(flow_id)) is not None:
            if kind == Flags.END:
                receiver._ended(_frame_count(payload))
            else:
                receiver._aborted(ErrorInfo.decode(payload))

    def take_stream(self, flow_id: int, recv: RecvStream, rest: bytes) -> None:
        """The data stream of a flow is here; its open frame may have been, or may follow."""
        receiver = self._receivers.get(flow_id)
        if receiver is not None:
            receiver._attach(recv, rest)
        elif flow_id <= self._opened:
            recv.stop(Code.CANCELLED)  # over already, or refused
        elif len(self._early) >= HELD_FLOWS:
            self._give_up(flow_id, recv)
        else:
            self._early[flow_id] = recv, rest
            self._tasks.call_at(self._tasks.now() + HELD_SECONDS, self._forget_early, flow_id)

    def _forget_early(self, flow_id: int) -> None:
        if self._session.is_holding:  # the open may be here, waiting for on_connect
            self._tasks.call_at(self._tasks.now() + HELD_SECONDS, self._forget_early, flow_id)
        elif flow_id in self._early:
            try:
                self._give_up(flow_id, self._early.pop(flow_id)[0])
            except ProtocolViolation as violation:
                self._session._violated(violation)

    def _give_up(self, flow_id: int, recv: RecvStream) -> None:
        recv.stop(Code.UNAVAILABLE)
        if len(self._dropped) >= MAX_DROPPED:
            raise ProtocolViolation(
                f"data of more than {MAX_DROPPED} streams that were never opened", code=Code.LIMIT_EXCEEDED
            )
        self._dropped.add(flow_id)

    def _open_receiver(self, flow_id: int, method: str) -> None:
        early = self._early.pop(flow_id, None)
        handler = self._handlers.get(method)
        limit = self._session.limits.max_streams
        if flow_id in self._dropped:
            self._dropped.discard(flow_id)
            refusal = ErrorInfo(Code.UNAVAILABLE, "its data came before it was opened, and was given up")
        elif handler is None:
            refusal = ErrorInfo(Code.UNIMPLEMENTED, f"no stream {method!r} here")
        elif len(self._receivers) >= limit:
            refusal = ErrorInfo(Code.RESOURCE_EXHAUSTED, f"{limit} streams are open already")
        else:
            receiver = self._receivers[flow_id] = StreamReceiver(self._session, self, method, flow_id)
            if early is not None:
                receiver._attach(*early)
            inherited.deadline.set(None)  # that of the request before it is none of a stream's business
            self._tasks.start(self._serve, handler, receiver, name=method)
            return
        if early is not None:
            early[0].stop(refusal.code)
        self.taken.ended(flow_id, error_from_code(refusal.code, f"stream {method!r} was refused: {refusal.message}"))
        self._channel.stop_flow(flow_id, refusal)
        self._link.wake()

    async def _serve(self, handler: Callable[..., Any], receiver: StreamReceiver) -> None:
        failure: EchoError | None = None
        try:
            await handler(self._session, receiver)
        except ConnectionClosed:
            logger.debug("stream %s: it ended early", receiver.name)
        except Exception as error:
            logger.error("stream %s: the handler failed: %s", receiver.name, type(error).__name__, exc_info=error)
            failure = HandlerError(f"stream {receiver.name!r}: its handler failed: {type(error).__name__}")
        finally:
            receiver._close()
            self._receivers.pop(receiver.id, None)
            self.taken.ended(receiver.id, failure or receiver.taken)

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
