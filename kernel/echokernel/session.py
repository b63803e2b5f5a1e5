"""A session: one peer as the other sees it. The same engine serves both ends; they differ in who dialled.

The receive loop reads the channel, lets it judge every frame, and hands what is left to queues whose room the peer was
granted beforehand: it never waits for a handler. What goes out is put into the channel and leaves once per loop turn.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NewType

import anyio
import anyio.lowlevel

from echokernel import introspection
from echokernel.calling import CallOptions, TypedCalls
from echokernel.clock import SYSTEM_CLOCK
from echokernel.context import ClientContext, ServerContext, Store
from echokernel.engine import inherited
from echokernel.engine.backlog import Backlog
from echokernel.engine.bodies import Bodies
from echokernel.engine.broadcast import Broadcasts
from echokernel.engine.calls import Calls
from echokernel.engine.clock_frames import ClockFrames
from echokernel.engine.codecs import Codecs, own_head
from echokernel.engine.datagrams import Datagrams
from echokernel.engine.early import Early, explain_close
from echokernel.engine.flow_options import BUFFER_FRAMES, FlowOptions
from echokernel.engine.flow_table import Flows
from echokernel.engine.link import Link
from echokernel.engine.metadata import encode_metadata
from echokernel.engine.preludes import PRELUDE_SECONDS, read_prelude, refuse_stream
from echokernel.engine.served_calls import ServedCalls
from echokernel.engine.serving import Serving
from echokernel.errors import (
    ConnectionClosed,
    EchoError,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    ProtocolError,
    RequestTimeout,
)
from echokernel.middleware import compose_outgoing, compose_sessions
from echokernel.tasks import open_tasks
from echokernel_protocol.channel import Announced, Phase, Received
from echokernel_protocol.clock import CLOCK_FEATURE
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.frames import Flags, Frame, Header, MessageType
from echokernel_protocol.link import GoAway
from echokernel_protocol.streams import StreamKind, UnknownKind
from echokernel_protocol.timestamped import UNSYNCED

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from echokernel.engine.groups import Groups
    from echokernel.engine.node import Node
    from echokernel.flows import Delivery, OnFull, StreamSender
    from echokernel.serializer import Serializer
    from echokernel.streaming import Items, StreamingCall
    from echokernel.tasks import Future, Task, TaskScope
    from echokernel.transport import Connection, PeerIdentity, RecvStream, SendStream
    from echokernel_protocol.channel import Channel
    from echokernel_protocol.describe import Description, Health
    from echokernel_protocol.hello import Hello

SessionId = NewType("SessionId", int)
CLOSE_SECONDS = 2.0
LINGER_SECONDS = 2.0
MAX_REASON = 1_024  # characters of a refusal: a Map has 8 KiB
MAX_PINGS = 32  # half of what the peer lets wait
READ_AT_ONCE = 4_096  # bytes of a channel: up to 80 small requests, 1 to 2 ms of work
TURN = 65_536  # bytes after which the other sessions come first; a frame counts as FRAME_WORK more
FRAME_WORK = 1_024
MAX_HELD = 8_192  # frames of streams, and cancellations, until on_connect returns: what no credit bounds

logger = logging.getLogger("echokernel.session")
_REQUEST, _RESPONSE, _EVENT, _STREAM = (int(kind) for kind in MessageType)
_CANCEL = int(Flags.CANCEL)

__all__ = ["Session", "SessionId", "SessionInfo"]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Facts about a session."""

    id: SessionId
    peer_addr: tuple[str, int]
    created_at: float
    """Seconds since 1970."""


class Session(TypedCalls, Store):
    """One peer. Handlers get it as their first parameter; :class:`~echokernel.client.EchoClient` has one inside."""

    def __init__(
        self,
        id: int,
        node: Node,
        connection: Connection,
        channel: Channel,
        send: SendStream,
        recv: RecvStream,
        *,
        principal: str | None = None,
        received: list[Received] | None = None,
    ) -> None:
        super().__init__()
        peer = channel.peer
        assert peer is not None
        self.id = SessionId(id)
        self.limits = node.limits
        self.peer: Hello = peer
        """What the other end announced."""
        self.principal = principal
        """Who the peer is, as an authenticator said; None where nobody was asked."""
        self.created_at = time.time()
        self.closed: EchoError | None = None
        """Why the session is over; None while it is not."""
        self.closed_here = False
        """Whether this end chose to end it, with :meth:`close`."""
        self._node = node
        self._connection = connection
        self._channel = channel
        self._send, self._recv = send, recv
        self._received = received or []
        self._codecs = Codecs(node.chosen(channel.serializers))
        self._pings: dict[int, Future[float]] = {}
        self._ping_number = 0
        self._held: list[Received] | None = []
        self._held_free = 0
        self._until_connected: list[Future[None]] = []
        self._beginning: Task
        self._over: Future[None] | None = None
        self._waiting_for_end: list[Future[None]] | None = None
        self._early: Early | None = None
        if connection.early or channel.phase is Phase.ASSUMED:
            self._early = Early(self, connection, channel, callbacks=node.is_told_of_sessions)
        self._tasks: TaskScope
        self._groups: set[str] | None = None

    # --- facts -------------------------------------------------------------------------------------------------

    @property
    def info(self) -> SessionInfo:
        """Id, address and age in one value."""
        return SessionInfo(self.id, self.peer_addr, self.created_at)

    @property
    def peer_addr(self) -> tuple[str, int]:
        """Host and port of the peer."""
        return self._connection.peer_addr

    @property
    def peer_identity(self) -> PeerIdentity | None:
        """Who the transport proved the peer to be."""
        return self._connection.peer_identity

    @property
    def server_ctx(self) -> ServerContext:
        """The server's context. Raises AttributeError on the calling side, which has :attr:`client_ctx`."""
        if not isinstance(self._node.context, ServerContext):
            raise AttributeError("this session belongs to a client; it has client_ctx")
        return self._node.context

    @property
    def client_ctx(self) -> ClientContext:
        """The client's context. Raises AttributeError on the serving side, which has :attr:`server_ctx`."""
        if not isinstance(self._node.context, ClientContext):
            raise AttributeError("this session belongs to a server; it has server_ctx")
        return self._node.context

    @property
    def groups(self) -> frozenset[str]:
        """The groups that the session is in; ``on_disconnect`` still sees those that it was in. Empty on a client."""
        return frozenset(self._groups or ())

    @property
    def takes_events(self) -> bool:
        """Whether a broadcast may be sent to it: it is open, and nothing has told it to stop."""
        return self.closed is None and self._early is None and self._calls.stopped is None

    @property
    def is_holding(self) -> bool:
        """Whether what the peer asks waits for ``on_connect`` to return."""
        return self._held is not None

    @property
    def shows_tracebacks(self) -> bool:
        """Whether the peer gets tracebacks of handlers that fail."""
        return self._node.tracebacks

    @property
    def serializer(self) -> Serializer:
        """What this end codes its own messages with."""
        return self._codecs.serializers[self._codecs.slot]

    def __repr__(self) -> str:
        host, port = self.peer_addr
        return f"<Session {self.id} with {host}:{port}{'' if self.closed is None else ', closed'}>"

    def stats(self) -> Mapping[str, int | float]:
        """Return counters: frames, open requests, what was dropped, and the transport's own."""
        channel = self._channel
        datagrams = self._datagrams.stats()
        transport = self._connection.stats()
        return {
            "frames_sent": channel.sent,
            "frames_received": channel.received,
            "frames_late": channel.late,
            "open_requests": channel.open_calls + self._calls.own_streams.gate.inside,
            "open_peer_requests": channel.open_peer_calls + len(self._served),
            "outbox_bytes": channel.outbox_size,
            "unknown_events": self._serving.unknown_events,
            "unknown_methods": self._serving.unknown_methods,
            **self._calls.backlog.stats(),
            "clock_dropped": self._clock_frames.dropped,
            **transport,
            **datagrams,
            "datagrams_dropped": datagrams["datagrams_dropped"] + transport.get("datagrams_dropped", 0),
        }

    # --- groups ------------------------------------------------------------------------------------------------

    def join(self, group: str) -> None:
        """Become a member of a group, to which ``context.broadcast(…, group=…)`` sends. Once is enough.

        Only on the serving side. Raises InvalidArgument for a name that has not 1 to 128 characters, Overloaded beyond
        ``Limits.max_groups``, ConnectionClosed.
        """
        table = self._group_table("join")
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        if self._groups is None:
            self._groups = set()
        table.join(self, group, self._groups, self.limits.max_groups)

    def leave(self, group: str) -> None:
        """Leave a group; nothing happens where the session is not in it. One that ends leaves all of its groups."""
        table = self._group_table("leave")
        if self.closed is None:
            table.leave(self, group, self._groups or set())

    def _group_table(self, what: str) -> Groups:
        if not isinstance(self._node.context, ServerContext):
            raise InvalidArgument(
                f"{what}: groups are the server's; let one of its handlers do it with its own session"
            )
        return self._node.context._groups

    # --- talking -----------------------------------------------------------------------------------------------

    # Requests and events return the coroutine of a part instead of awaiting it: once per message, that is worth it.

    def request(
        self,
        method: str,
        value: Any = None,
        *,
        timeout: float | None = None,
        returns: Any = Any,
        idempotent: bool = False,
        metadata: Mapping[str, str] | None = None,
        isolated: bool = False,
    ) -> Coroutine[Any, Any, Any]:
        """Call a method of the peer and return its result.

        ``value``: the one parameter, a tuple for several, None for none. ``timeout``: seconds, 0 for no deadline, None
        for the node's default; a request made inside a handler never outlives the one that is handled. ``returns``: the
        type to check the result against and to build. ``idempotent``: running it twice does no harm, so a lost connection
        is a ConnectionClosed that may be tried again, not an OutcomeUnknown. ``metadata``: texts by name, which the handler
        reads with :func:`~echokernel.metadata.current_metadata`; at most 64, and 8 KiB together. ``isolated``: give it a stream
        of its own, so that neither large messages before it nor lost packets of others hold it up; costs several times as much.

        Raises MethodNotFound, InvalidArgument, HandlerError, RequestTimeout, OutcomeUnknown, ConnectionClosed and
        whatever else the peer's handler raised. Cancelled, the handler at the peer is cancelled too.
        """
        if self._early is not None:
            return self._early.request(method, value, timeout, returns, idempotent, metadata, isolated)
        return self._calls.request(method, value, timeout, returns, idempotent, metadata, isolated)

    def request_stream(
        self,
        method: str,
        value: Any = None,
        *,
        items: Items | None = None,
        sends: bool = False,
        timeout: float | None = None,
        returns: Any = Any,
        metadata: Mapping[str, str] | None = None,
    ) -> StreamingCall:
        """Call a method that takes or answers with many values; nothing happens before the result is entered or iterated.

        ``value``: what the handler's parameters get, beside its async iterator. ``items``: values to send, from any iterable
        or async iterable. ``sends``: items are sent with :meth:`StreamingCall.send`. ``timeout``: seconds for the whole call,
        None and 0 for no end; a call made inside a handler never outlives the request that is handled. ``returns``: the type
        of each answer.

        Raises InvalidArgument, SerializationError; what the handler raises comes out of the iteration.
        """
        return self._calls.own_streams.streaming(method, value, items, sends, timeout, returns, metadata)

    def _call(self, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions) -> Any:
        """See :meth:`call`."""
        typed = self._calls.typed
        stub = typed.stub(handler)
        payload, items = stub.encode(args, kwargs)
        if stub.streams:
            return self._calls.own_streams.typed(stub, payload, items, options)
        if items is not None:
            return self._calls.own_streams.typed(stub, payload, items, options).result()
        if self._early is not None:
            return self._early.call(stub, payload, options)
        return typed.call(stub, payload, options) if stub.answers else typed.tell(stub, payload, options)

    def emit(
        self,
        event: str,
        value: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        reliable: bool = True,
        fallback: bool = False,
    ) -> Coroutine[Any, Any, None]:
        """Send an event. Returns once it is on its way; waits while the peer is an event window behind.

        ``reliable=False`` sends it as one datagram: it may be lost, or overtake others, and never waits for the peer. It
        has to fit in :attr:`max_datagram` (:meth:`datagram_size` tells its size); where it does not, that is an
        InvalidArgument, or with ``fallback=True`` it is sent reliably; metadata, which does not travel in datagrams, likewise.

        Raises SerializationError, InvalidArgument, ConnectionClosed.
        """
        if self._early is not None:
            return self._early.emit(event, value, metadata, reliable, fallback)
        if not reliable:
            return self._datagrams.emit(event, value, fallback, metadata)
        return self._calls.emit(event, value, metadata)

    @property
    def max_datagram(self) -> int:
        """Bytes that fit in one datagram as of now, our own header included; 0: this connection has no datagrams."""
        return self._connection.max_datagram

    def datagram_size(self, event: str, value: Any = None) -> int:
        """Return the bytes that an event takes as a datagram; at most :attr:`max_datagram` of them can be sent.

        Raises SerializationError, InvalidArgument for a name that is not valid.
        """
        return len(self._datagrams.encode(event, value))

    async def create_stream(
        self,
        name: str,
        *,
        delivery: Delivery = "reliable",
        max_age: float | None = None,
        on_full: OnFull = "wait",
        buffer: int = BUFFER_FRAMES,
        metadata: Mapping[str, str] | None = None,
    ) -> StreamSender:
        """Open a stream to the peer's handler of that name. A refusal shows when sending.

        ``delivery``: ``"reliable"``, all frames in order; ``"per_frame"``, each frame by itself, so that a lost packet
        delays one of them only, in any order; ``"datagram"``, frames that fit in one, which may be lost.
        ``max_age``: seconds after which a frame is dropped instead of sent; with ``per_frame`` also while it is under way.
        ``on_full``: what :meth:`StreamSender.send` does while the receiver or the network is slower: ``"wait"``,
        ``"drop_oldest"`` or ``"drop_newest"`` of what is buffered here, or ``"error"`` (Overloaded). ``buffer``: frames (and
        at most 1 MiB) that may wait here; a reliable stream that waits, and has no ``max_age``, has no buffer but the
        transport's. Neither holds for datagrams, which leave at once; the transport drops its oldest one when 256 wait.
        ``metadata``: short texts for the receiver; trace keys of the message that is being handled pass on.

        Raises InvalidArgument for what is not valid and for datagrams where there are none, Overloaded for more than 1,024
        streams at a time, ConnectionClosed.
        """
        options = FlowOptions(delivery, max_age, on_full, buffer)
        options.check(name)
        outgoing = self._calls.outgoing
        if outgoing is None:
            return await self._open_flow(name, options, metadata)
        opened: list[StreamSender] = []

        async def innermost(frame: Frame) -> None:
            opened.append(await self._open_flow(frame.header.method, options, frame.metadata))

        await outgoing(innermost)(Frame(Header(MessageType.STREAM, 0, name), b"", dict(metadata or {})))
        if not opened:
            raise PermissionDenied(f"{name} was intercepted")
        return opened[0]

    async def _open_flow(self, name: str, options: FlowOptions, metadata: Mapping[str, str] | None) -> StreamSender:
        if self._early is not None:
            await self._early.over()
        clock = self._node.context.clock
        kernel = options.entries() if clock is not SYSTEM_CLOCK else {UNSYNCED: "", **options.entries()}
        entries = encode_metadata(name, metadata, kernel)
        head = own_head(self._codecs, name)[:-1] + (b"\x08" if entries else b"\x00")
        if self._calls.stopped is not None:
            raise self._calls.stopped.with_traceback(None)
        if options.delivery == "datagram" and not self.max_datagram:
            raise InvalidArgument(f'stream {name!r}: this connection has no datagrams; use delivery="per_frame"')
        return await self._flows.open(name, head, options, entries)

    async def describe(self, *methods: str, schemas: bool = True, timeout: float | None = None) -> Description:
        """Ask the peer for its methods, plugins and versions; ``methods``: only for those with these names.

        ``schemas``: with the JSON Schemas, which are most of the answer. Raises PermissionDenied where the peer does not
        want to be described, MethodNotFound from one that cannot, Overloaded where the answer would be too large.
        """
        return await introspection.ask_description(self, methods, schemas=schemas, timeout=timeout)

    async def health(self, timeout: float | None = None) -> Health:
        """Ask the peer whether it takes new work, since when it runs, and how busy it is. Raises as :meth:`request`."""
        return await introspection.ask_health(self, timeout)

    async def ping(self, timeout: float = 10.0) -> float:
        """Return the time that a round trip to the peer's kernel takes now, in seconds. Raises RequestTimeout."""
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        if len(self._pings) >= MAX_PINGS:
            raise Overloaded(f"{MAX_PINGS} pings are under way already")
        self._ping_number += 1
        number = self._ping_number
        future = self._pings[number] = self._tasks.future()
        started = time.perf_counter()  # uvloop's own clock counts whole milliseconds
        self._channel.ping(number)
        self._link.wake()
        try:
            with anyio.fail_after(timeout):
                answered: float = await future
                return answered - started
        except TimeoutError:
            raise RequestTimeout(f"no answer to a ping within {timeout:g} s") from None
        finally:
            self._pings.pop(number, None)

    @property
    def answers_clock(self) -> bool:
        """Whether the peer has a clock that answers probes."""
        return CLOCK_FEATURE in self.peer.features

    def send_clock(self, payload: bytes) -> bool:
        """Send a ``$clock`` now: see :mod:`echokernel_protocol.clock`. For clocks; never waits.

        Returns False where nothing was sent: the connection is over, or too much waits before it.
        """
        return self.closed is None and self._clock_frames.send(payload)

    async def close(self, code: int = Code.OK, reason: str = "") -> None:
        """End the session: what was sent before still arrives, what waits fails. Never raises; once is enough."""
        if self.closed is None:
            self.closed_here = True
            try:
                with anyio.move_on_after(CLOSE_SECONDS):
                    await self._drain_out()
            except ConnectionClosed:
                pass
        await self._connection.close(code, reason)

    async def wait_closed(self) -> EchoError:
        """Wait until the session is over, and return why: what :attr:`closed` says from then on."""
        if self.closed is None:
            future: Future[None] = self._tasks.future()
            if self._waiting_for_end is None:
                self._waiting_for_end = []
            self._waiting_for_end.append(future)
            try:
                await future
            finally:
                self._waiting_for_end.remove(future)
        assert self.closed is not None
        return self.closed

    async def _drain_out(self) -> None:
        """Wait until all that was put in, and all events that wait, are with the transport. Raises ConnectionClosed.

        It looks every 5 ms, once a session; the caller bounds it.
        """
        await self._link.drain()
        backlog, bodies, flows = self._calls.backlog, self._bodies, self._flows
        while (bodies.sending or flows.sending or backlog.queue is not None) and self.closed is None:  # noqa: ASYNC110
            await anyio.sleep(0.005)

    # --- the life of a session ---------------------------------------------------------------------------------

    async def run(self, opened: Future[None]) -> None:
        """Serve the session until it is over; ``opened`` gets its result when it can be used. Never raises."""
        # a handler may have dialled: its deadline and its metadata are none of this session's
        inherited.deadline.set(None)
        inherited.metadata.set(None)
        self._context = contextvars.copy_context()
        async with open_tasks() as tasks:
            self._tasks = tasks
            link = self._link = Link(self._channel, self._connection, self._send, tasks, self.limits.outbox)
            self._bodies = Bodies(link, tasks, self._violated)
            context = self._node.context
            shared = context._broadcasts if isinstance(context, ServerContext) else Broadcasts()
            backlog = Backlog(link, self._bodies, self.limits, tasks, shared.tally, shared.flushes, self._close_slow)
            self._calls = Calls(
                link,
                self._bodies,
                self._codecs,
                self.peer,
                tasks,
                self._violated,
                self.limits,
                backlog,
            )
            self._calls.outgoing = compose_outgoing(self._node.middleware, self)
            methods = self._node.methods.bind(self._codecs.serializers[1:])
            self._serving = Serving(self, link, self._bodies, methods, self._node.middleware, self.peer, tasks)
            self._served = ServedCalls(self, link, methods, self._node.middleware, tasks)
            self._flows = Flows(self, link, methods.streams, tasks, self._node.middleware)
            self._clock_frames = ClockFrames(self, link, tasks)
            self._datagrams = Datagrams(
                self._connection, self._codecs, self._calls, self._serving, self._flows, self._clock_frames
            )
            if self._early is not None:
                self._calls.early = True
                tasks.start(self._early.watch, name="session early")
            tasks.start(link.pump, name="session pump")
            tasks.start(self._accept_uni, name="session streams")
            tasks.start(self._accept_bi, name="session calls")
            self._beginning = tasks.start(self._begin, name="on_connect")
            link.wake()  # a hello's answer may wait
            opened.set_result(None)
            try:
                self._end(await self._receive())
                await self._linger()
            finally:
                if self.closed is None:
                    self._end(ConnectionClosed("the session was cancelled", code=Code.CANCELLED))
                self._serving.drop_events()
                with anyio.CancelScope(shield=True):  # bounded by itself; whoever ended it, nothing stays open
                    await self._connection.close(drain=0.0)

    async def _linger(self) -> None:
        """Let events that have arrived be handled, stream handlers and the middleware around the session see the end;
        requests have lost their caller.
        """
        self._serving.cancel_requests()
        self._served.cancel_all()
        with anyio.move_on_after(LINGER_SECONDS):
            while (  # noqa: ASYNC110 - at most 2 s, once a session
                not self._serving.is_idle
                or self._flows.receiving
                or (self._over is not None and not self._beginning.done())
            ):
                await anyio.sleep(0.005)

    async def _receive(self) -> EchoError:
        """The receive loop. Returns why it ended."""
        try:
            self._act(self._received)
            work = 0
            while True:
                data = await self._recv.read(READ_AT_ONCE)
                if not data:
                    self._channel.end_of_stream()
                    return await self._await_close()
                frames = self._channel.receive(data)
                self._act(frames)
                if self._early is not None and (refusal := self._early.refusal()) is not None:
                    return refusal
                work += len(data) + len(frames) * FRAME_WORK
                if work >= TURN:
                    work = 0
                    await anyio.lowlevel.checkpoint()  # there may be more; the other sessions come first
        except ProtocolViolation as violation:
            return await self._close_for(violation)
        except ConnectionClosed as error:
            return error if self._early is None else explain_close(error)
        except Exception as error:  # a fault of ours; the peer must not wait for ever
            logger.error("session %s: %s in the receive loop", self.id, type(error).__name__, exc_info=error)
            await self._connection.close(Code.INTERNAL, "internal error")
            return ConnectionClosed("an internal error ended the session", code=Code.INTERNAL)

    async def _await_close(self) -> EchoError:
        """The peer has finished the channel; it may close the connection itself, but not stay without one."""
        with anyio.move_on_after(2.0):
            error = await self._connection.wait_closed()
            return error if isinstance(error, EchoError) else ConnectionClosed(str(error))
        return await self._close_for(ProtocolViolation("the channel was finished, and the connection left open"))

    async def _close_for(self, violation: ProtocolViolation) -> EchoError:
        logger.warning("session %s: closed, the peer broke the protocol: %s", self.id, violation)
        await self._connection.close(violation.code, str(violation), drain=0.2)
        return ProtocolError(f"the peer broke the protocol, and was closed: {violation}", code=violation.code)

    def _act(self, frames: list[Received]) -> None:
        now = self._tasks.now()
        self._link.batch(len(frames))
        held = self._held
        serving = self._serving
        pending = self._calls.pending
        for frame in frames:
            message_type, request_id, method, flags, payload = frame
            if message_type == _RESPONSE:
                entry = pending.pop(request_id, None)
                if entry is not None and not entry[0].done():
                    entry[0].set_result((flags, payload))
                elif isinstance(payload, Announced):
                    self._bodies.discard(payload)  # its caller gave up
            elif held is not None and (self._early is None or not self._early.may_run(frame)):
                held.append(frame)  # on_connect has not returned yet
                if message_type == _STREAM or flags & _CANCEL:
                    self._count_held()
            elif message_type == _REQUEST:
                serving.on_request(request_id, method, flags, payload, now)
            elif message_type == _EVENT:
                serving.on_event(method, flags, payload, now)
            else:
                self._flows.on_frame(request_id, method, flags, payload)
        self._after_batch()

    def _count_held(self) -> None:
        self._held_free += 1
        if self._held_free > MAX_HELD:
            raise ProtocolViolation(
                f"more than {MAX_HELD:,} frames of streams, or cancellations, before on_connect has returned",
                code=Code.LIMIT_EXCEEDED,
            )

    def _after_batch(self) -> None:
        if self._early is not None:
            self._early.look()
        self._calls.wake_waiting()
        channel = self._channel
        if channel.outbox_size > self.limits.outbox + self.limits.max_message:
            raise ProtocolViolation("answers are not read while more is asked", code=Code.LIMIT_EXCEEDED)
        if channel.has_data:
            self._link.wake()
        if channel.positions:
            self._flows.on_positions(channel.take_positions())
        for payload in channel.take_clocks():
            self._clock_frames.take(payload)
        for number in channel.take_pongs():
            future = self._pings.get(number)
            if future is not None and not future.done():
                future.set_result(time.perf_counter())
        goaway = channel.goaway
        if goaway is not None:
            code = goaway.code or Code.GOING_AWAY
            reason = f": {goaway.reason}" if goaway.reason else ""
            self._calls.go_away(
                goaway.last,
                ConnectionClosed(
                    f"the peer goes away{reason}; this was never run",
                    code=code,
                    reason=goaway.reason,
                    by_peer=True,
                    retryable=code == Code.GOING_AWAY,
                ),
            )

    async def connected(self) -> None:
        """Wait until ``on_connect`` has returned: nothing of the peer is handled before."""
        if self._held is not None:
            future: Future[None] = self._tasks.future()
            self._until_connected.append(future)
            await future

    async def _begin(self) -> None:
        """Tell ``on_connect``, inside the middleware around the session, and let what the peer has asked begin."""
        try:
            if self._early is not None:
                await self._early.over()
        except EchoError:
            return  # nobody hears of it
        run = compose_sessions(self._node.middleware, self, self._live)
        try:
            if run is None:
                await self._tell_connected()
            else:
                await run()
                if self._held is not None:
                    raise PermissionDenied("the session was intercepted")
                if self.closed is None:  # it has stopped waiting for the end: then this is the end
                    self._tasks.start(self.close, Code.OK, "the middleware around the session has returned")
        except Exception as error:
            if self.closed is not None:
                logger.error(
                    "session %s: middleware failed at its end: %s", self.id, type(error).__name__, exc_info=error
                )
                return
            if isinstance(error, EchoError):
                code, reason = error.code, error.message
                logger.info("session %s is refused: %s", self.id, reason)
            else:
                who = "the middleware around the session" if self._held is None else "on_connect"
                code, reason = int(Code.INTERNAL), f"{who} failed"
                logger.error("%s failed, the session is closed: %s", who, type(error).__name__, exc_info=error)
            if self._held is not None:  # then nothing of the peer's was run, and it may know
                self._channel.go_away(GoAway(last=0, code=code, reason=reason[:MAX_REASON]))
                self._link.flush()
            self._tasks.start(self._connection.close, code, reason)

    async def _live(self) -> None:
        """The innermost of the middleware around a session: returns when the session is over."""
        await self._tell_connected()
        self._over = self._tasks.future()
        if self.closed is None:
            await self._over

    async def _tell_connected(self) -> None:
        for callback in self._node.on_connect:
            result = callback(self._node.subject(self))
            if inspect.isawaitable(result):
                await result
        held, self._held = self._held, None
        try:
            self._context.run(self._act, held or [])  # not in the context that on_connect has made its own
        except ProtocolViolation as violation:
            self._violated(violation)
        for future in self._until_connected:
            if not future.done():
                future.set_result(None)
        self._until_connected.clear()
        if self._connection.max_datagram:  # they wait in the transport until now
            self._tasks.start(self._datagrams.run, name="session datagrams")
        clock = self._node.context.clock
        if self._node.follows and clock is not SYSTEM_CLOCK and isinstance(self._node.context, ClientContext):
            self._tasks.start(clock.follow, self, name="clock")

    async def _tell_disconnected(self) -> None:
        if self._early is not None:
            return  # nobody heard that it came
        inherited.deadline.set(None)  # the last request's is over
        for callback in self._node.on_disconnect:
            try:
                result = callback(self._node.subject(self))
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                logger.error("on_disconnect failed: %s", type(error).__name__, exc_info=error)

    def _end(self, error: EchoError) -> None:
        """Everything that waits learns at once that the session is over."""
        if self.closed is not None:
            return
        self.closed = error
        if self._early is not None:
            self._early.fail(error)
        self._link.fail(error)
        self._calls.fail(error)
        self._bodies.fail(error)
        self._serving.close()
        for future in self._pings.values():
            if not future.done():
                future.set_exception(error)
        self._flows.fail(error)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        for waiting in self._waiting_for_end or ():
            if not waiting.done():
                waiting.set_result(None)
        if self._groups:
            self._group_table("leave").leave_all(self, self._groups)

    def _close_slow(self, reason: str) -> None:
        """What is broadcast comes faster than the peer takes it."""
        logger.warning("session %s: closed: %s", self.id, reason)
        self._tasks.start(partial(self._connection.close, drain=0.2), Code.RESOURCE_EXHAUSTED, reason, name="close")

    def _end_early(self) -> None:
        """The handshake is complete, and the hello answered: from now on this is a session like any other."""
        assert self._channel.peer is not None
        self.peer = self._channel.peer
        self._early = None
        self._calls.early = False

    def _violated(self, violation: ProtocolViolation) -> None:
        """Something beside the channel broke the protocol: close, from a task that may."""
        logger.warning("session %s: closed, the peer broke the protocol: %s", self.id, violation)
        self._tasks.start(self._connection.close, violation.code, str(violation))

    async def drain(self, reason: str, retry_after: float = 0.0) -> None:
        """Tell the peer that we stop, let everything open finish, and close. Cancel it to close at once."""
        self._calls.stopped = ConnectionClosed(f"nothing new is started: {reason}", code=Code.GOING_AWAY)
        try:
            after = int(retry_after * 1000)
            self._channel.go_away(GoAway(code=Code.GOING_AWAY, retry_after=after, reason=reason))
            self._link.wake()
            await self.ping(2.0)  # what the peer sent before it knew is here after a round trip
            last = max(self._channel.last_peer_id, self._served.last_id)
            self._channel.go_away(GoAway(last=last, code=Code.GOING_AWAY, retry_after=after, reason=reason))
            self._link.wake()
            while (  # noqa: ASYNC110 - bounded by the caller, once a session
                self._channel.open_peer_calls
                or not self._serving.is_idle
                or self._served
                or self._calls.own_streams.gate.inside
                or self._flows.receiving
                or self._channel.open_calls
                or self._channel.open_flows
            ):
                await anyio.sleep(0.02)
            await self._drain_out()
        except EchoError:
            pass  # it is gone already, or does not answer
        await self._connection.close(Code.GOING_AWAY, reason)

    # --- streams -----------------------------------------------------------------------------------------------

    async def _accept_uni(self) -> None:
        try:
            while True:
                recv = await self._connection.accept_uni_stream()
                self._tasks.start(self._take_stream, recv, name="stream")
        except ConnectionClosed:
            return

    async def _accept_bi(self) -> None:
        try:
            while True:
                self._served.take(*await self._connection.accept_bi_stream())
        except ConnectionClosed:
            return

    async def _take_stream(self, recv: RecvStream) -> None:
        """Read a new stream's prelude and hand it on; one that is not understood is refused alone."""
        rest_of_it: Coroutine[Any, Any, None] | None = None
        try:
            with anyio.fail_after(PRELUDE_SECONDS):
                prelude, rest = await read_prelude(recv)
            if prelude.kind is StreamKind.BODY:
                self._bodies.arrived(prelude.numbers[0], recv, rest)
            elif prelude.kind is StreamKind.FLOW:
                flow_id, position = prelude.numbers
                rest_of_it = self._flows.take_stream(flow_id, position, recv, rest)
            else:
                raise ProtocolViolation(f"a {prelude.kind.name.lower()} stream where none may be")
        except (UnknownKind, TimeoutError):
            refuse_stream(recv, None, Code.UNKNOWN_KIND)
        except ProtocolViolation as violation:
            refuse_stream(recv, None, violation.code)
            self._violated(violation)
        except ConnectionClosed:
            return
        if rest_of_it is not None:
            await rest_of_it
