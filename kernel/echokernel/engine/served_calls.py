"""Requests of the peer that have a stream of their own: isolated ones, and those with many values."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from echokernel.engine import inherited
from echokernel.engine.failures import describe_failure
from echokernel.engine.metadata import SHAPE, encode_trailers, take_timeout
from echokernel.engine.parts import parts
from echokernel.engine.preludes import PRELUDE_SECONDS, read_prelude, refuse_stream
from echokernel.engine.room import Room
from echokernel.engine.stubs import check_claim
from echokernel.errors import (
    ConnectionClosed,
    EchoError,
    InvalidArgument,
    MethodNotFound,
    Overloaded,
    PermissionDenied,
    ProtocolError,
    RequestCancelled,
    StreamReset,
)
from echokernel.introspection import KERNEL_METHODS
from echokernel.middleware import compose
from echokernel_protocol.calls import CallFrame, CallReader, encode_call_frame
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import NAMELESS, SLOT_MASK, SLOT_SHIFT, Flags, Frame, Header, MessageType
from echokernel_protocol.streams import StreamKind, UnknownKind

if TYPE_CHECKING:
    from echokernel.engine.link import Link
    from echokernel.methods import BoundMethods
    from echokernel.middleware import Middleware, Next
    from echokernel.session import Session
    from echokernel.tasks import Task, TaskScope, Timer
    from echokernel.transport import RecvStream, SendStream

REQUEST_SECONDS = 30.0  # for the request itself, which may have a body of several MiB
CALL_BYTES = 65_536  # read at once with the prelude: nearly always the whole call
MIN_ARRIVING = 64  # streams that may say nothing yet, where fewer requests than that are served

logger = logging.getLogger("echokernel.handlers")
_END = int(Flags.END)
_ERROR = int(Flags.ERROR)

__all__ = ["ServedCalls"]


class GoingAway(EchoError):
    """The node drains: what it is asked now is never run."""

    default_code = Code.GOING_AWAY


class ServedCalls:
    """The peer's calls on streams of their own, of one session."""

    def __init__(
        self, session: Session, link: Link, methods: BoundMethods, middleware: Sequence[Middleware], tasks: TaskScope
    ) -> None:
        self.session = session
        self.methods = methods
        self.tasks = tasks
        self.channel = link.channel
        self.onion: Next | None = compose(middleware, session, self._innermost) if middleware else None
        self.bodies = Room(session.limits.max_request_bytes, tasks)
        """For what is announced as bodies: a call holds its own until it ends, an item's until the next one is asked for."""
        self.arriving = 0
        """Streams of the peer whose call has not arrived yet."""
        self.begun = 0
        """Those of them that have said what they are."""
        self.last_id = 0
        """The highest id that was run."""
        self._running: dict[int, ServedCall] = {}

    def __len__(self) -> int:
        """Calls that run, or are on their way."""
        return len(self._running) + self.begun

    def take(self, send: SendStream, recv: RecvStream) -> None:
        """Serve a stream that the peer opened in both directions."""
        if self.arriving >= max(MIN_ARRIVING, self.session.limits.max_requests):  # each costs a task
            refuse_stream(recv, send, Code.RESOURCE_EXHAUSTED)
            return
        self.arriving += 1
        ServedCall(self, send, recv).start()

    def enter(self, call: ServedCall, request_id: int) -> None:
        """Let a call in. Raises ProtocolViolation, GoingAway while the session drains, Overloaded."""
        if request_id % 2 != self.channel.peer_parity:
            raise ProtocolViolation(f"a call with id {request_id}, which is not one of the peer's")
        if request_id in self._running:
            raise ProtocolViolation(f"two calls with id {request_id}")
        if request_id > self.channel.goaway_last:
            raise GoingAway("this node stops; the call was never run")
        limit = self.session.limits.max_requests
        if len(self._running) >= limit:
            raise Overloaded(f"{limit:,} calls are open already; it was never run")
        self.last_id = max(self.last_id, request_id)
        self._running[request_id] = call

    def check_claim(self, method: str, claim: str) -> None:
        """Raise InvalidArgument where the caller's types are others than the handler's."""
        error = check_claim(self.session._node.methods.find("rpc", method), method, claim)
        if error is not None:
            raise error

    def leave(self, request_id: int) -> None:
        """The call is over."""
        self._running.pop(request_id, None)

    def cancel_all(self) -> None:
        """The session ends; nobody waits for the answers."""
        for call in list(self._running.values()):
            call.stop(Code.CANCELLED)

    async def _innermost(self, frame: Frame) -> Frame | None:
        header = frame.header
        call = self._running.get(header.request_id)
        if call is None:
            raise InvalidArgument("middleware changed the id of a call; it has to stay what it is")
        inherited.metadata.set(frame.metadata or None)
        answer = await call.handle(header.method, frame.payload)
        if answer is None:
            return Frame(Header(MessageType.RESPONSE, header.request_id, "", _END), b"")
        return Frame(Header(MessageType.RESPONSE, header.request_id, "", header.flags & SLOT_MASK), answer)


class ServedCall:
    """One call: reads its items, runs its handler, writes its answers. An Exchange for streaming handlers."""

    __slots__ = (
        "_code",
        "_coming",
        "_has_begun",
        "_head",
        "_held",
        "_is_unwanted",
        "_item_held",
        "_owner",
        "_reader",
        "_ready",
        "_recv",
        "_send",
        "_timer",
        "request_id",
        "task",
    )

    def __init__(self, owner: ServedCalls, send: SendStream, recv: RecvStream) -> None:
        limits = owner.session.limits
        self.task: Task
        self.request_id = 0
        self._owner = owner
        self._send = send
        self._recv = recv
        self._reader = CallReader(MessageType.REQUEST, max_frame=limits.max_frame, max_message=limits.max_message)
        self._ready: deque[CallFrame] = deque()
        self._head = NAMELESS[0]
        self._code = int(Code.CANCELLED)
        self._has_begun = False
        self._held = 0
        self._item_held = 0
        self._coming = 0
        self._is_unwanted = False
        self._timer: Timer | None = None

    # --- its life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve the call."""
        tasks = self._owner.tasks
        # timers, and no cancel scopes: this runs for every isolated request
        self._timer = tasks.call_at(tasks.now() + PRELUDE_SECONDS, self.stop, Code.DEADLINE_EXCEEDED)
        self.task = tasks.start(self._run, name="call")
        self._send.on_stop(self._caller_gave_up)

    async def _run(self) -> None:
        """Serve the call, from its prelude to its last byte."""
        session = self._owner.session
        frame: CallFrame | None = None
        try:
            try:
                frame = await self._read_request()
                claim = frame.metadata.get(SHAPE)
                timeout = take_timeout(frame.metadata, session.peer.timeout / 1000)
                await session.connected()
                if claim is not None:
                    self._owner.check_claim(frame.method, claim)
                self._owner.enter(self, frame.request_id)
            finally:
                self._owner.arriving -= 1
                self._owner.begun -= self._has_begun
        except UnknownKind as error:
            refuse_stream(self._recv, self._send, error.code)
        except ProtocolViolation as violation:
            refuse_stream(self._recv, self._send, violation.code)
            session._violated(violation)
        except (Overloaded, GoingAway, InvalidArgument) as error:
            assert frame is not None
            await self._fail(frame.request_id, ErrorInfo(error.code, error.message, error.details).encode())
            self._stop_reading()
        except ConnectionClosed:
            self._send.reset(Code.CANCELLED)  # the caller gave up before its call was read
        except BaseException:  # it said nothing in time, or the session ends
            refuse_stream(self._recv, self._send, self._code)
            raise
        else:
            self.request_id = frame.request_id
            try:
                await self._serve(frame, timeout)
            finally:
                self._owner.leave(frame.request_id)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._owner.bodies.give(self._held)
            del self._send, self._recv  # the stream knows this call, too: a circle is work for the garbage collector

    async def _read_request(self) -> CallFrame:
        """Return the call. Raises UnknownKind, ProtocolViolation, ConnectionClosed."""
        prelude, data = await read_prelude(self._recv, CALL_BYTES)
        self._has_begun = True
        self._owner.begun += 1
        if prelude.kind is not StreamKind.CALL:
            raise ProtocolViolation(f"a {prelude.kind.name.lower()} stream where none may be")
        self._ready.extend(self._reader.receive(data))
        if not self._ready:
            tasks = self._owner.tasks
            if self._timer is not None:
                self._timer.cancel()
            self._timer = tasks.call_at(tasks.now() + REQUEST_SECONDS, self.stop, Code.DEADLINE_EXCEEDED)
        while not self._ready:
            await self._make_room()
            data = await self._recv.read()
            if not data:
                self._reader.end_of_stream()
            self._receive(data)
        self._item_held = 0  # the call's own body stays until its end
        return self._ready.popleft()

    def _receive(self, data: bytes) -> None:
        self._ready.extend(self._reader.receive(data))
        if self._ready:  # the body that was coming is whole
            self._item_held += self._coming
            self._coming = 0

    async def _make_room(self) -> None:
        """A body is announced: wait until it may come. The stream's credit holds the caller back meanwhile."""
        size = self._reader.missing
        if size and not self._coming:
            await self._owner.bodies.take(size)
            self._held += size
            self._coming = size

    async def _serve(self, frame: CallFrame, timeout: float) -> None:
        owner, tasks = self._owner, self._owner.tasks
        slot = frame.flags & SLOT_MASK
        self._head = NAMELESS[slot]
        deadline = tasks.now() + timeout if timeout else None
        inherited.deadline.set(deadline)
        inherited.metadata.set(frame.metadata or None)
        trailers: dict[str, str] = {}
        inherited.trailers.set(trailers)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else tasks.call_at(deadline, self.stop, Code.DEADLINE_EXCEEDED)
        try:
            if owner.onion is None:
                answer = await self.handle(frame.method, frame.payload)
            else:
                header = Header(MessageType.REQUEST, frame.request_id, frame.method, slot)
                response = await owner.onion(Frame(header, frame.payload, frame.metadata))
                if response is None:
                    raise PermissionDenied(f"{frame.method}: the response was intercepted")
                answer = None if response.header.flags & _END else response.payload
            end = encode_call_frame(
                MessageType.RESPONSE,
                frame.request_id,
                NAMELESS[_END],
                b"",
                metadata=encode_trailers(frame.method, trailers) if trailers else b"",
                max_frame=owner.session.peer.max_frame,
            )
            await self._write((b"" if answer is None else self._encode(answer)) + end)
            await self._send.finish()
        except ConnectionClosed as error:
            if self._is_unwanted:
                self._send.reset(Code.CANCELLED)
            elif owner.session.closed is None:
                await self._fail(frame.request_id, describe_failure(frame.method, error))
        except Exception as error:
            await self._fail(frame.request_id, describe_failure(frame.method, error, owner.session.shows_tracebacks))
        except BaseException:  # cancelled: by the caller, by the deadline, or because the session ends
            self._send.reset(self._code)
            raise
        finally:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if not self._reader.ended:
            self._recv.stop(Code.CANCELLED)

    async def handle(self, method: str, payload: bytes) -> bytes | None:
        """Run the handler; return its one answer, or None when it has sent its answers itself."""
        methods, session = self._owner.methods, self._owner.session
        slot = self._head[1] >> SLOT_SHIFT
        runners = methods.rpcs.get(method) or KERNEL_METHODS.get(method)
        streaming = methods.streaming.get(method)
        if runners is None and streaming is None:
            raise MethodNotFound(f"no method {method!r} here")
        if slot >= len(runners or streaming or ()):
            raise InvalidArgument(f"{method}: serializer slot {slot} was not agreed in the hello")
        if runners is not None:
            return bytes(memoryview(await runners[slot](session, payload)))
        assert streaming is not None
        await streaming[slot](session, payload, self)
        return None

    async def _fail(self, request_id: int, info: bytes) -> None:
        """Answer with an error. The caller may be far behind: what it did not read yet is still in front of it."""
        peer = self._owner.session.peer
        if len(info) > peer.max_message:
            message = f"the error has {len(info):,} bytes; the caller takes {peer.max_message:,}"
            info = ErrorInfo(Code.RESOURCE_EXHAUSTED, message).encode()
        try:
            await self._write(
                encode_call_frame(MessageType.RESPONSE, request_id, NAMELESS[_ERROR], info, max_frame=peer.max_frame)
            )
            await self._send.finish()
        except ConnectionClosed:
            self._send.reset(Code.CANCELLED)
        except BaseException:  # the caller reads nothing, and was given up
            self._send.reset(self._code)
            raise

    def stop(self, code: int) -> None:
        """Cancel the handler; the caller is told the code."""
        self._code = int(code)
        # not at once: asyncio would drop a task that has not begun
        self._owner.tasks.call_soon(self._owner.tasks.stop, self.task)

    def _caller_gave_up(self) -> None:
        self._is_unwanted = True
        self.stop(Code.CANCELLED)

    # --- the Exchange ------------------------------------------------------------------------------------------

    def items(self, decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """The caller's items; see :class:`echokernel.handlers.Exchange`."""
        return _Items(self, decode)

    async def send(self, payload: bytes) -> None:
        """Send one answer; waits while the caller is behind. Raises StreamStopped when it wants no more."""
        await self._write(self._encode(payload))

    def _encode(self, payload: bytes) -> bytes:
        peer = self._owner.session.peer
        if len(payload) > peer.max_message:
            raise InvalidArgument(
                f"an answer has {len(payload):,} bytes; the caller takes {peer.max_message:,}. Send it in parts.",
                code=Code.RESOURCE_EXHAUSTED,
            )
        return encode_call_frame(MessageType.RESPONSE, self.request_id, self._head, payload, max_frame=peer.max_frame)

    async def _write(self, data: bytes) -> None:
        for part in parts(data):
            await self._send.write(part)

    async def next_item(self) -> CallFrame | None:
        """Return the caller's next item; None behind the last one."""
        if self._item_held:
            self._owner.bodies.give(self._item_held)
            self._held -= self._item_held
            self._item_held = 0
        while not self._ready:
            if self._reader.ended:
                return None
            try:
                await self._make_room()
                data = b"" if self._reader.has_more else await self._recv.read()
                if not data and not self._reader.has_more:
                    self._reader.end_of_stream()
                self._receive(data)
            except StreamReset as error:
                raise RequestCancelled("the caller gave up while it sent its items", code=error.code) from None
            except ProtocolViolation as violation:
                self._owner.session._violated(violation)
                raise ProtocolError(str(violation), code=violation.code) from None
        if self._ready[0].kind == _END:
            return None
        return self._ready.popleft()


class _Items:
    """An async iterator, and not a generator: left half read, there is nothing to close."""

    def __init__(self, call: ServedCall, decode: Callable[[bytes], Any]) -> None:
        self._call, self._decode = call, decode

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> Any:
        frame = await self._call.next_item()
        if frame is None:
            raise StopAsyncIteration
        return self._decode(frame.payload)
