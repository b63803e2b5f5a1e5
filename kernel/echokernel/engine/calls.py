"""What this end asks of the other one: requests and events, their credit and their deadlines."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from echokernel.engine.codecs import own_head
from echokernel.engine.deadlines import Deadlines, check_timeout
from echokernel.engine.inherited import deadline as inherited_deadline
from echokernel.engine.inherited import metadata as inherited_metadata
from echokernel.engine.learning import Learning
from echokernel.engine.link import YIELD_AFTER
from echokernel.engine.metadata import claimed, encode_metadata
from echokernel.engine.own_streams import OwnStreams
from echokernel.engine.typed_out import TypedOut
from echokernel.engine.waiting_events import Ready
from echokernel.engine.waiting_requests import Placed, WaitingRequest
from echokernel.errors import (
    ConnectionClosed,
    EchoError,
    InvalidArgument,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    RequestTimeout,
    error_from_code,
)
from echokernel_protocol.channel import FRAME_CHARGE, Announced, event_frame
from echokernel_protocol.early import IDEMPOTENT
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import SLOT_MASK, Flags, Frame, Header, MessageType
from echokernel_protocol.postcard import encode_varint

if TYPE_CHECKING:
    from echokernel.engine.backlog import Backlog
    from echokernel.engine.bodies import Bodies
    from echokernel.engine.codecs import Codecs
    from echokernel.engine.link import Link
    from echokernel.limits import Limits
    from echokernel.middleware import Next
    from echokernel.tasks import Future, TaskScope, Timer
    from echokernel_protocol.hello import Hello

TIMER_GRAIN = 0.002  # seconds; a timer may fire that much early where the loop counts whole milliseconds

_Pending = tuple[Any, str, float]
"""A request's future, its method, and its deadline where that is the default one, else 0."""

_BODY = int(Flags.BODY)
_ERROR = int(Flags.ERROR)
_METADATA = int(Flags.METADATA)

__all__ = ["Calls"]


class Calls:
    """Requests and events of one session, outwards."""

    def __init__(
        self,
        link: Link,
        bodies: Bodies,
        codecs: Codecs,
        peer: Hello,
        tasks: TaskScope,
        violated: Callable[[ProtocolViolation], None],
        limits: Limits,
        backlog: Backlog,
    ) -> None:
        self.backlog = backlog
        """Events that wait for credit, or for their turn behind those that do."""
        self._violated = violated
        self.outgoing: Callable[[Next], Next] | None = None
        """Puts the middleware of this end around what it sends; None where there is none."""
        self.stopped: ConnectionClosed | None = None
        """Why nothing new is started any more; None while it is."""
        self.own_streams = OwnStreams(self, link, codecs, peer, tasks, violated, limits)
        """Calls that have a stream of their own."""
        self.early = False
        """Whether the handshake is not complete: only requests marked idempotent get here, and they say so."""
        self._link = link
        link.on_room = self.wake_waiting
        self._channel = link.channel
        self._bodies = bodies
        self._codecs = codecs
        self.tasks = tasks
        self._peer = peer
        self._max_frame = peer.max_frame
        self._default_timeout = limits.default_timeout
        self.pending: dict[int, _Pending] = {}
        """Requests without an answer, by id; the session sets the futures."""
        self._deadlines = Deadlines(tasks, self._expire)
        self._next_sweep: Timer | None = None
        self._waiting: OrderedDict[int, WaitingRequest] = OrderedDict()
        """In their order, and yet whoever gives up is out at once."""
        self._waited = 0
        self._wake_is_due = False
        self._turn_deadlines = Deadlines(tasks, self._expire_turn)
        self.learning = Learning(self, codecs)
        self.typed = TypedOut(self, codecs)

    # --- requests ----------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        value: Any,
        timeout: float | None,
        returns: Any,
        idempotent: bool,
        metadata: Mapping[str, str] | None,
        isolated: bool,
    ) -> Any:
        """Send a request and return its result; see :meth:`Session.request`."""
        codecs = self._codecs
        try:
            head = codecs.heads[method]
            payload = codecs.encoders[value.__class__](value)
        except KeyError:
            head = codecs.head(method)
            payload, returns, timeout = await self.learning.encode(method, value, returns, timeout)
        if self.outgoing is not None:
            flags, answer = await self.request_through(head, method, payload, timeout, idempotent, metadata, isolated)
        else:
            exchange = self.own_streams.exchange_isolated if isolated else self.exchange
            flags, answer = await exchange(method, head, payload, timeout, idempotent, metadata)
        try:
            decode = codecs.decoders[returns, flags]
        except (KeyError, TypeError):
            if flags & _ERROR:
                raise self.error_from(answer) from None
            decode = codecs.decoder(returns, flags)
        return decode(answer)

    def remaining(self, method: str, timeout: float | None) -> tuple[float, bool]:
        """Return the seconds that a request has, 0 for no end, and whether that is the default; the deadline of the request
        that is being handled bounds it.
        """
        default = timeout is None
        if timeout is None:
            timeout = self._default_timeout
        else:
            check_timeout(method, timeout)
        outer = inherited_deadline.get()
        if outer is not None:
            left = outer - self.tasks.now()
            if not timeout or left < timeout:
                if left <= 0:
                    raise RequestTimeout(f"{method}: the deadline of the request that is being handled has passed")
                return left, False
        return timeout, default

    async def exchange(
        self,
        method: str,
        head: bytes,
        payload: bytes,
        timeout: float | None,
        idempotent: bool,
        metadata: Mapping[str, str] | None,
    ) -> tuple[int, bytes]:
        """Send a coded request over the channel; return the answer's flags and bytes."""
        if self.stopped is not None:
            raise self.stopped.with_traceback(None)
        tasks = self.tasks
        timeout, default = self.remaining(method, timeout)
        now = tasks.now()
        body: bytes | None = None
        extra = 0
        if not default or len(payload) > self._max_frame or metadata or self.early or inherited_metadata.get():
            head, payload, body = self._dress(method, head, payload, None if default else timeout, metadata)
            extra = 0 if body is None else len(body)
        channel = self._channel
        link = self._link
        size = len(payload) + extra
        ends = now + timeout if timeout else 0.0
        if self._waiting or link.is_crowded or not channel.may_call(size):
            request_id, future, bucket = await self._wait_for_credit(method, head, payload, body, size, ends, default)
        else:
            request_id, future, bucket = self._put(method, head, payload, body, extra, ends, default)
            if len(self.pending) == 1:
                link.flush()  # a lone caller waits for nobody: one turn of the loop less
            else:
                link.wake()
        try:
            flags, answer = await future
            if answer.__class__ is Announced:
                answer = await self._receive_body(method, answer, ends or None)
        except BaseException as error:
            if self.pending.pop(request_id, None) is not None:  # nobody answered: the caller gave up
                channel.cancel(request_id)
                link.wake()
            if isinstance(error, ConnectionClosed) and not self.never_ran(request_id, idempotent):
                raise OutcomeUnknown(method, error) from error
            raise
        finally:
            if bucket:
                self._deadlines.discard(bucket, request_id)
        return flags, answer

    async def request_through(
        self,
        head: bytes,
        method: str,
        payload: bytes,
        timeout: float | None,
        idempotent: bool,
        metadata: Mapping[str, str] | None,
        isolated: bool,
    ) -> tuple[int, bytes]:
        """Send a coded request through the middleware of this end."""
        assert self.outgoing is not None

        async def innermost(frame: Frame) -> Frame:
            exchange = self.own_streams.exchange_isolated if isolated else self.exchange
            head = self._codecs.head(frame.header.method)
            flags, answer = await exchange(
                frame.header.method, head, frame.payload, timeout, idempotent, claimed(metadata, method, frame)
            )
            if flags & _ERROR:
                raise self.error_from(answer)
            return Frame(Header(MessageType.RESPONSE, 0, "", flags), answer)

        header = Header(MessageType.REQUEST, 0, method, head[-1])
        response = await self.outgoing(innermost)(Frame(header, payload, dict(metadata or {})))
        if response is None:
            raise PermissionDenied(f"{method}: the response was intercepted")
        return response.header.flags & SLOT_MASK, response.payload

    # --- deadlines and failures --------------------------------------------------------------------------------

    async def request_raw(self, method: str, payload: bytes, timeout: float | None) -> bytes:
        """Ask the kernel of the peer: send ``payload`` as it is, in slot 0, and return the answer's. Harmless when repeated."""
        flags, answer = await self.exchange(method, self._codecs.head(method), payload, timeout, True, None)
        if flags & _ERROR:
            raise self.error_from(answer)
        return answer

    def _sweep(self) -> None:
        """Requests with the default deadline expire in the order in which they were made: one timer is enough."""
        self._next_sweep = None
        now = self.tasks.now()
        expired = []
        for request_id, (_, _, deadline) in self.pending.items():
            if deadline > now + TIMER_GRAIN:
                self._next_sweep = self.tasks.call_at(deadline, self._sweep)
                break
            if deadline:
                expired.append(request_id)
        for request_id in expired:
            self._expire(request_id)

    def _expire(self, request_id: int) -> None:
        entry = self.pending.pop(request_id, None)
        if entry is not None:
            future, method, _ = entry
            if not future.done():
                future.set_exception(
                    RequestTimeout(f"{method}: no answer within its deadline; the peer was told to stop")
                )
            self._channel.cancel(request_id)
            self._link.wake()

    def never_ran(self, request_id: int, idempotent: bool) -> bool:
        """Whether a request whose connection was lost did not run, or may run again."""
        goaway = self._channel.goaway
        return idempotent or (goaway is not None and request_id > goaway.last)

    async def _receive_body(self, method: str, answer: Announced, end: float | None) -> bytes:
        try:
            with anyio.fail_after(None if end is None else max(0.0, end - self.tasks.now())):
                return await self._bodies.receive(answer)
        except TimeoutError:
            raise RequestTimeout(f"{method}: its answer was announced, and did not come within the deadline") from None

    def error_from(self, payload: bytes) -> EchoError:
        """Return what an ERROR's payload raises; a payload that is none closes the connection."""
        try:
            info = ErrorInfo.decode(payload)
        except ProtocolViolation as violation:
            return self.blame(violation, "error answer")
        return error_from_code(info.code, info.message, info.details)

    def blame(self, violation: ProtocolViolation, what: str) -> ProtocolError:
        """Close the connection of a peer that broke the protocol, and return what its caller gets."""
        self._violated(violation)
        return ProtocolError(f"the peer's {what}: {violation}", code=violation.code)

    # --- events ------------------------------------------------------------------------------------------------

    async def emit(self, method: str, value: Any, metadata: Mapping[str, str] | None) -> None:
        """Send an event; waits for the peer's credit and for room."""
        codecs = self._codecs
        try:
            head = codecs.heads[method]
            payload = codecs.encoders[value.__class__](value)
        except KeyError:
            head = own_head(codecs, method)
            payload = await self.learning.encode_event(method, value)
        if self.outgoing is None:
            await self.emit_payload(method, head, payload, metadata)
        else:
            await self.emit_through(method, head, payload, metadata)

    async def emit_through(
        self, method: str, head: bytes, payload: bytes, metadata: Mapping[str, str] | None
    ) -> None:
        """Send a coded event through the middleware of this end."""
        assert self.outgoing is not None

        async def innermost(frame: Frame) -> None:
            head = own_head(self._codecs, frame.header.method)
            await self.emit_payload(frame.header.method, head, frame.payload, frame.metadata)

        await self.outgoing(innermost)(
            Frame(Header(MessageType.EVENT, 0, method, head[-1]), payload, dict(metadata or {}))
        )

    async def emit_payload(self, method: str, head: bytes, payload: bytes, metadata: Mapping[str, str] | None) -> None:
        """Send an event that is coded already; waits for the peer's credit and for room."""
        if self.stopped is not None:
            raise self.stopped.with_traceback(None)
        body: bytes | None = None
        extra = 0
        if len(payload) > self._max_frame or metadata or inherited_metadata.get():
            head, payload, body = self._dress(method, head, payload, None, metadata)
            extra = 0 if body is None else len(body)
        if len(payload) + extra + FRAME_CHARGE > self._peer.event_limit:
            raise InvalidArgument(
                f"{method}: an event of {len(payload) + extra:,} bytes; the peer's window for all events is "
                f"{self._peer.event_limit:,}. Send larger data as a stream."
            )
        channel = self._channel
        if self.backlog.queue is not None or self._link.is_crowded or not channel.may_emit(len(payload) + extra):
            await self.backlog.emit(method, Ready(event_frame(head, payload), body, len(payload) + extra))
            return
        channel.emit(head, payload, extra)
        if body is not None:
            self._bodies.send(channel.sent, body)
        self._link.wake()

    # --- what both need ----------------------------------------------------------------------------------------

    def _dress(
        self, method: str, head: bytes, payload: bytes, timeout: float | None, own: Mapping[str, str] | None
    ) -> tuple[bytes, bytes, bytes | None]:
        """Return head and payload with metadata, and the body where the payload is too long for a frame."""
        if len(payload) > self._peer.max_message:
            raise InvalidArgument(
                f"{method}: a message of {len(payload):,} bytes; the peer takes {self._peer.max_message:,}. "
                "Send larger data as a stream."
            )
        flags = head[-1]
        kernel = {} if timeout is None else {"$timeout": str(max(1, int(timeout * 1000)) if timeout else 0)}
        if self.early:
            kernel[IDEMPOTENT] = ""
        metadata = encode_metadata(method, own, kernel)
        if metadata:
            flags |= _METADATA
        body = None
        if len(metadata) + len(payload) > self._max_frame:
            body = payload
            payload = encode_varint(len(payload))
            flags |= _BODY
        return head[:-1] + bytes((flags,)), metadata + payload, body

    def _put(
        self, method: str, head: bytes, payload: bytes, body: bytes | None, extra: int, ends: float, default: bool
    ) -> Placed:
        """Put a request into the channel; return its id, the future of its answer, and its bucket among the deadlines."""
        request_id = self._channel.call(head, payload, extra)
        if body is not None:
            self._bodies.send(self._channel.sent, body)
        future: Future[tuple[int, bytes]] = self.tasks.future()
        bucket = 0
        if default:
            self.pending[request_id] = future, method, ends
            if self._next_sweep is None and ends:
                self._next_sweep = self.tasks.call_at(ends, self._sweep)
        else:
            self.pending[request_id] = future, method, 0.0
            if ends:
                bucket = self._deadlines.add(ends, request_id)
        return request_id, future, bucket

    async def _wait_for_credit(
        self,
        method: str,
        head: bytes,
        payload: bytes,
        body: bytes | None,
        size: int,
        ends: float,
        default: bool,
    ) -> Placed:
        """Wait until the peer takes one more request and those before it are put in; return what :meth:`_put` does."""
        waiting = WaitingRequest(method, head, payload, body, size, ends, default, self.tasks.future())
        self._waited = key = self._waited + 1
        self._waiting[key] = waiting
        if len(self._waiting) == 1:
            self._wake_soon()
        bucket = self._turn_deadlines.add(ends, key) if ends else 0
        try:
            await waiting.turn
        except BaseException:
            if waiting.placed is not None:  # it left in the same moment in which its caller gave up
                request_id, _, until = waiting.placed
                self._deadlines.discard(until, request_id)
                if self.pending.pop(request_id, None) is not None:
                    self._channel.cancel(request_id)
                    self._link.wake()
            elif self._waiting.pop(key, None) is not None:
                self._wake_soon()  # the next one may be smaller
            raise
        finally:
            if ends:
                self._turn_deadlines.discard(bucket, key)
        assert waiting.placed is not None
        return waiting.placed

    def _expire_turn(self, key: int) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting.turn.done():
            waiting.turn.set_exception(
                RequestTimeout(f"{waiting.method}: the peer gave no room for it within the deadline; nothing was sent")
            )

    def _wake_soon(self) -> None:
        if not self._wake_is_due:
            self._wake_is_due = True
            self.tasks.call_soon(self._put_waiting)

    def wake_waiting(self) -> None:
        """Credit may have grown, or the outbox has room."""
        if self.backlog.queue is not None:
            self.backlog.drain()
        if self._waiting:
            self._wake_soon()

    def _put_waiting(self) -> None:
        """Put in what waits, in its order, as far as credit, room and this turn of the loop allow."""
        self._wake_is_due = False
        channel, link, waiting = self._channel, self._link, self._waiting
        for _ in range(YIELD_AFTER):
            if not waiting:
                return
            key, first = next(iter(waiting.items()))
            if first.turn.done():  # given up, or expired
                del waiting[key]
            elif self.stopped is not None:
                del waiting[key]
                first.turn.set_exception(self.stopped)
            elif not channel.may_call(first.size):
                return  # answers bring more
            elif not link.has_room:
                return  # wake_waiting is called when there is some
            else:
                del waiting[key]
                extra = first.size - len(first.payload)
                first.placed = self._put(
                    first.method, first.head, first.payload, first.body, extra, first.ends, first.default
                )
                link.wake()
                first.turn.set_result(None)
        self._wake_soon()

    def fail(self, error: EchoError) -> None:
        """The connection is over: everything that waits fails at once."""
        self.stopped = error if isinstance(error, ConnectionClosed) else ConnectionClosed(str(error), code=error.code)
        self.backlog.fail(error)
        self._deadlines.close()
        self._turn_deadlines.close()
        if self._next_sweep is not None:
            self._next_sweep.cancel()
            self._next_sweep = None
        self.own_streams.gate.fail(self.stopped)
        pending, self.pending = self.pending, {}
        for future, _, _ in pending.values():
            if not future.done():
                future.set_exception(error)
        waiting, self._waiting = self._waiting, OrderedDict()
        for entry in waiting.values():
            if not entry.turn.done():
                entry.turn.set_exception(error)

    def go_away(self, last: int, error: ConnectionClosed) -> None:
        """The peer goes away: nothing new is started, and requests with ids above ``last`` will never run."""
        if self.stopped is None:
            self.stopped = error
            self.wake_waiting()
        for request_id in [request_id for request_id in self.pending if request_id > last]:
            future, _, _ = self.pending.pop(request_id)
            if not future.done():
                future.set_exception(error)
