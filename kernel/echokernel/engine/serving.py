"""What the other end asks of this one: requests in tasks of their own, events of one name in order."""

from __future__ import annotations

import contextvars
import logging
from collections import deque
from typing import TYPE_CHECKING

import anyio.lowlevel

from echokernel.engine import inherited
from echokernel.engine.calls import TIMER_GRAIN
from echokernel.engine.deadlines import Deadlines
from echokernel.engine.failures import describe_failure
from echokernel.engine.metadata import SHAPE, take_timeout
from echokernel.engine.stubs import check_claim
from echokernel.errors import ConnectionClosed, MethodNotFound, PermissionDenied
from echokernel.introspection import KERNEL_METHODS
from echokernel.middleware import compose
from echokernel_protocol.channel import Announced
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo
from echokernel_protocol.frames import KIND_MASK, SLOT_MASK, SLOT_SHIFT, Flags, Frame, Header, MessageType
from echokernel_protocol.maps import take_map
from echokernel_protocol.postcard import encode_varint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from echokernel.engine.bodies import Bodies
    from echokernel.engine.link import Link
    from echokernel.handlers import Runner
    from echokernel.methods import BoundMethods
    from echokernel.middleware import Middleware, Next
    from echokernel.session import Session
    from echokernel.tasks import Task, TaskScope, Timer
    from echokernel_protocol.hello import Hello

_ERROR = int(Flags.ERROR)
_METADATA = int(Flags.METADATA)
_BODY = int(Flags.BODY)
EVENTS_BEFORE_YIELD = 64  # handled in one go before others run: about 0.5 ms
_FREE = -1  # the charge of an event that came as a datagram: it used no credit, and gives none back

logger = logging.getLogger("echokernel.handlers")

__all__ = ["Serving"]


class _EventQueue:
    """Events of one name that wait for their turn."""

    __slots__ = ("busy", "context", "items", "name", "runners")

    def __init__(self, name: str, runners: tuple[Runner, ...]) -> None:
        self.name = name
        self.runners = runners
        self.items: deque[tuple[int, bytes | Announced, int, Mapping[str, str] | None]] = deque()
        self.busy = 0
        """Tasks that handle them: one, or as many as there may be requests where they are concurrent."""
        self.context = contextvars.copy_context()


class Serving:
    """Requests and events of one session, inwards."""

    def __init__(
        self,
        session: Session,
        link: Link,
        bodies: Bodies,
        methods: BoundMethods,
        middleware: Sequence[Middleware],
        peer: Hello,
        tasks: TaskScope,
    ) -> None:
        self._session = session
        self._link = link
        self._channel = link.channel
        self._bodies = bodies
        self._tasks = tasks
        self._methods = methods
        self._version = methods.version
        self._rpcs = methods.rpcs
        self._concurrent = methods.concurrent
        self._tracebacks = session.shows_tracebacks
        self._onion: Next | None = compose(middleware, session, self._innermost) if middleware else None
        self._peer = peer
        self._max_frame = peer.max_frame
        self._default_timeout = peer.timeout / 1000
        self._running: dict[int, tuple[Task, float, int]] = {}
        self._next_sweep: Timer | None = None
        self._reasons: dict[int, ErrorInfo] = {}
        self._deadlines = Deadlines(tasks, self._expire)
        self._queues: dict[str, _EventQueue] = {}  # made when the first event of a name comes
        self._busy_events = 0
        self._dressed = False  # whether an event with metadata has come
        self._waiting_datagrams = 0
        self.unknown_events = 0
        self.unknown_methods = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being handled and no answer waits to be put in."""
        return not self._running and not self._busy_events

    # --- requests ----------------------------------------------------------------------------------------------

    def on_request(self, request_id: int, method: str, flags: int, payload: bytes | Announced, now: float) -> None:
        """A request, or the CANCEL of one, is here."""
        if flags & KIND_MASK:
            self._stop(request_id, ErrorInfo(Code.CANCELLED, "cancelled by the caller"))
            return
        timeout = default = self._default_timeout
        metadata: dict[str, str] | None = None
        if flags & _METADATA:
            payload, metadata = _undress(payload)
            claim = metadata.get(SHAPE)
            timeout = take_timeout(metadata, timeout)
            if claim is not None and self._refuse_claim(request_id, method, claim, payload):
                return
        runners = self._rpcs.get(method) or KERNEL_METHODS.get(method)
        slot = (flags & SLOT_MASK) >> SLOT_SHIFT
        if runners is None or slot >= len(runners):
            self._refuse(request_id, method, slot, payload, known=runners is not None)
            return
        deadline = now + timeout if timeout else None
        inherited.deadline.set(deadline)  # the task copies the context as it is now
        if metadata:
            inherited.metadata.set(metadata)
        task = self._tasks.start(self._serve, request_id, method, runners[slot], payload, flags, name=method)
        if metadata:
            inherited.metadata.set(None)
        if deadline is None:
            self._running[request_id] = task, 0.0, 0
        elif timeout == default:
            self._running[request_id] = task, deadline, 0
            if self._next_sweep is None:
                self._next_sweep = self._tasks.call_at(deadline, self._sweep)
        else:
            self._running[request_id] = task, 0.0, self._deadlines.add(deadline, request_id)

    def _refuse(self, request_id: int, method: str, slot: int, payload: bytes | Announced, *, known: bool) -> None:
        if isinstance(payload, Announced):
            self._bodies.discard(payload)
        if known:
            info = ErrorInfo(Code.INVALID_ARGUMENT, f"{method}: serializer slot {slot} was not agreed in the hello")
        elif method in self._methods.streaming:
            info = ErrorInfo(Code.INVALID_ARGUMENT, f"{method} takes or answers with many values: use request_stream")
        else:
            self.unknown_methods += 1
            info = ErrorInfo(Code.UNIMPLEMENTED, f"no method {method!r} here")
        self._channel.respond(request_id, _ERROR, info.encode())
        self._link.wake()

    def _refuse_claim(self, request_id: int, method: str, claim: str, payload: bytes | Announced) -> bool:
        """Whether the caller's types are others than the handler's; it is told."""
        error = check_claim(self._session._node.methods.find("rpc", method), method, claim)
        if error is None:
            return False
        if isinstance(payload, Announced):
            self._bodies.discard(payload)
        self._channel.respond(request_id, _ERROR, ErrorInfo(error.code, error.message, error.details).encode())
        self._link.wake()
        return True

    async def _serve(self, request_id: int, method: str, run: Runner, payload: bytes | Announced, flags: int) -> None:
        try:
            if isinstance(payload, Announced):
                payload = await self._bodies.receive(payload)
            if self._onion is None:
                result = await run(self._session, payload)
            else:
                result = await self._serve_through(request_id, method, payload, flags)
            if result.__class__ is not bytes:
                result = bytes(memoryview(result))  # a handler class may return any bytes; nothing else is one
            flags &= SLOT_MASK
        except Exception as error:
            result, flags = describe_failure(method, error, self._tracebacks), _ERROR
        except BaseException:  # cancelled: by the peer, by the deadline, or because the session ends
            info = self._reasons.get(request_id) or ErrorInfo(Code.CANCELLED, "the handler was cancelled")
            self._forget(request_id)
            self._answer(request_id, method, _ERROR, info.encode())
            raise
        if self._link.is_crowded:
            try:
                await self._link.wait_room()
            except ConnectionClosed:
                self._forget(request_id)
                return
            except BaseException:
                reason = self._reasons.get(request_id)
                self._forget(request_id)
                if reason is not None and len(result) > self._max_frame:
                    self._answer(request_id, method, _ERROR, reason.encode())  # there is no room for its body
                else:
                    self._answer(request_id, method, flags, result)  # it has run; an answer is better than none
                raise
        self._forget(request_id)
        if len(result) <= self._max_frame:
            self._channel.respond(request_id, flags, result)
            if self._running:
                self._link.wake()
            else:
                self._link.flush()  # the last open answer waits for nobody
        else:
            self._answer(request_id, method, flags, result)

    def _forget(self, request_id: int) -> None:
        entry = self._running.pop(request_id, None)
        if entry is not None and entry[2]:
            self._deadlines.discard(entry[2], request_id)
        if self._reasons:
            self._reasons.pop(request_id, None)

    def _answer(self, request_id: int, method: str, flags: int, payload: bytes) -> None:
        size = len(payload)
        if size <= self._max_frame:
            self._channel.respond(request_id, flags, payload)
        elif size <= self._peer.max_message:
            self._channel.respond(request_id, flags | _BODY, encode_varint(size))
            self._bodies.send(self._channel.sent, payload)
        else:
            info = ErrorInfo(
                Code.RESOURCE_EXHAUSTED,
                f"{method}: the result has {size:,} bytes; the caller takes {self._peer.max_message:,}. Send it as a stream.",
            )
            self._channel.respond(request_id, _ERROR, info.encode())
        self._link.wake()

    def _stop(self, request_id: int, reason: ErrorInfo) -> None:
        entry = self._running.get(request_id)
        if entry is not None and request_id not in self._reasons:  # once: each stop repeats itself until the task ends
            task = entry[0]
            self._reasons[request_id] = reason
            # not at once: asyncio would drop a task that has not begun, and with it the answer
            self._tasks.call_soon(self._tasks.stop, task)

    def _sweep(self) -> None:
        """Requests with the caller's default deadline expire in the order in which they came: one timer is enough."""
        self._next_sweep = None
        now = self._tasks.now()
        for request_id, (_, deadline, _) in self._running.items():
            if deadline > now + TIMER_GRAIN:
                self._next_sweep = self._tasks.call_at(deadline, self._sweep)
                break
            if deadline and request_id not in self._reasons:
                self._expire(request_id)

    def _expire(self, request_id: int) -> None:
        self._stop(request_id, ErrorInfo(Code.DEADLINE_EXCEEDED, "the deadline passed; the handler was stopped"))

    # --- middleware --------------------------------------------------------------------------------------------

    async def _serve_through(self, request_id: int, method: str, payload: bytes, flags: int) -> bytes:
        assert self._onion is not None
        header = Header(MessageType.REQUEST, request_id, method, flags & SLOT_MASK)
        frame = Frame(header, payload, inherited.metadata.get() or {})
        response = await self._onion(frame)
        if response is None:
            raise PermissionDenied(f"{method}: the response was intercepted")
        return response.payload

    async def _innermost(self, frame: Frame) -> Frame | None:
        header = frame.header
        inherited.metadata.set(frame.metadata or None)
        if header.message_type is MessageType.EVENT:
            handlers = self._methods.events.get(header.method)
            if handlers is not None:
                await handlers[header.slot](self._session, frame.payload)
            return None
        runners = self._rpcs.get(header.method) or KERNEL_METHODS.get(header.method)
        if runners is None:
            raise MethodNotFound(f"no method {header.method!r} here")  # it was removed, or middleware made it up
        payload = await runners[header.slot](self._session, frame.payload)
        return Frame(Header(MessageType.RESPONSE, header.request_id, "", header.flags & SLOT_MASK), payload)

    # --- events ------------------------------------------------------------------------------------------------

    def on_event(self, method: str, flags: int, payload: bytes | Announced, now: float) -> None:
        """An event is here."""
        if self._version != self._methods.version:
            self._refresh()
        queue = self._queues.get(method) or self._open_queue(method)
        size = payload.size if isinstance(payload, Announced) else len(payload)
        metadata: dict[str, str] | None = None
        if flags & _METADATA:
            payload, metadata = _undress(payload)
            take_timeout(metadata, 0)
        if queue is None or (flags & SLOT_MASK) >> SLOT_SHIFT >= len(queue.runners):
            self.unknown_events += 1
            self._channel.take_events(size, 1, now)
            if isinstance(payload, Announced):
                self._bodies.discard(payload)
            return
        self._dispatch(queue, method, flags, payload, size, metadata)

    def on_datagram(self, method: str, flags: int, payload: bytes) -> bool:
        """An event is here that came as a datagram. Return whether there was room for it."""
        if self._version != self._methods.version:
            self._refresh()
        queue = self._queues.get(method) or self._open_queue(method)
        if queue is None or (flags & SLOT_MASK) >> SLOT_SHIFT >= len(queue.runners):
            self.unknown_events += 1
            return True
        if self._waiting_datagrams >= self._session.limits.max_datagram_events:
            return False
        self._waiting_datagrams += 1
        self._dispatch(queue, method, flags, payload, _FREE, None)
        return True

    def _dispatch(
        self,
        queue: _EventQueue,
        method: str,
        flags: int,
        payload: bytes | Announced,
        size: int,
        metadata: Mapping[str, str] | None,
    ) -> None:
        queue.items.append((flags, payload, size, metadata))
        if method in self._concurrent:
            if queue.busy < self._session.limits.max_requests:  # the others wait: small ones cost more as tasks
                self._handle_next(queue)
            return
        if not queue.busy:
            queue.busy = 1
            self._busy_events += 1
            inherited.deadline.set(None)  # that of the request before it is none of an event's business
            self._tasks.start(self._work, queue, name=method)

    def _open_queue(self, method: str) -> _EventQueue | None:
        runners = self._methods.events.get(method)
        if runners is None:
            return None
        inherited.deadline.set(None)
        queue = self._queues[method] = _EventQueue(method, runners)
        return queue

    def _refresh(self) -> None:
        """Handlers came or went. Events that wait for one that went are dropped, one by one, by whoever handles them."""
        self._version = self._methods.version
        for name, queue in list(self._queues.items()):
            queue.runners = self._methods.events.get(name, ())
            if not queue.runners and not queue.busy:
                del self._queues[name]

    def _handle_next(self, queue: _EventQueue) -> None:
        """Handle the next event of a concurrent name, in a task and a context of its own."""
        queue.busy += 1
        self._busy_events += 1
        task = self._handle_concurrently, queue, *queue.items.popleft()
        self._tasks.start(*task, name=queue.name, context=queue.context.copy())

    async def _handle_concurrently(
        self,
        queue: _EventQueue,
        flags: int,
        payload: bytes | Announced,
        size: int,
        metadata: Mapping[str, str] | None,
    ) -> None:
        try:
            await self._handle_event(queue, flags, payload, metadata)
        finally:
            queue.busy -= 1
            self._busy_events -= 1
            if size == _FREE:
                self._waiting_datagrams -= 1
            else:
                self._taken(size, 1)
            if queue.items:
                self._handle_next(queue)

    async def _work(self, queue: _EventQueue) -> None:
        """Handle the events of one name until none waits."""
        items = queue.items
        size = count = handled = 0
        try:
            while items:
                flags, payload, charge, metadata = items.popleft()
                handled += 1
                if charge == _FREE:
                    self._waiting_datagrams -= 1
                else:
                    size += charge
                    count += 1
                await self._handle_event(queue, flags, payload, metadata)
                if handled >= EVENTS_BEFORE_YIELD or size > 65_536:
                    self._taken(size, count)
                    size = count = handled = 0
                    await anyio.lowlevel.checkpoint()
        finally:
            self._taken(size, count)
            if items:  # a handler ended in a cancellation that nobody here asked for; the others are not to blame
                self._tasks.start(self._work, queue, name=queue.name, context=queue.context.copy())
            else:
                queue.busy = 0
                self._busy_events -= 1

    async def _handle_event(
        self, queue: _EventQueue, flags: int, payload: bytes | Announced, metadata: Mapping[str, str] | None
    ) -> None:
        if metadata or self._dressed or self._onion is not None:  # middleware may have put some in
            inherited.metadata.set(metadata)
            self._dressed = True  # the next event of this task may have none
        try:
            if payload.__class__ is Announced:
                payload = await self._bodies.receive(payload)
            if self._version != self._methods.version:
                self._refresh()
            if not queue.runners:
                self.unknown_events += 1
            elif self._onion is None:
                await queue.runners[(flags & SLOT_MASK) >> SLOT_SHIFT](self._session, payload)  # type: ignore[arg-type]
            else:
                header = Header(MessageType.EVENT, 0, queue.name, flags & SLOT_MASK)
                await self._onion(Frame(header, payload, metadata or {}))  # type: ignore[arg-type]
        except ConnectionClosed:
            logger.debug("event %s: the session ended while it was handled", queue.name)
        except Exception as error:
            logger.error("event %s: the handler failed: %s", queue.name, type(error).__name__, exc_info=error)

    def _taken(self, size: int, count: int) -> None:
        if count:
            self._channel.take_events(size, count, self._tasks.now())
            if self._channel.has_data:
                self._link.wake()
            else:
                self._link.keep_time()

    def drop_events(self) -> None:
        """The time for events that had arrived is over."""
        for queue in self._queues.values():
            queue.items.clear()

    def cancel_requests(self) -> None:
        """Nobody waits for the answers any more."""
        for request_id in list(self._running):
            self._stop(request_id, ErrorInfo(Code.CANCELLED, "the session is over"))

    def close(self) -> None:
        """The session ends: no deadline matters any more."""
        self._deadlines.close()
        if self._next_sweep is not None:
            self._next_sweep.cancel()
            self._next_sweep = None


def _undress(payload: bytes | Announced) -> tuple[bytes | Announced, dict[str, str]]:
    """Return the payload without the Map before it, and the Map. Raises ProtocolViolation."""
    if isinstance(payload, Announced):
        return payload, take_map(payload.metadata)[0]
    metadata, position = take_map(payload)
    return payload[position:], metadata
