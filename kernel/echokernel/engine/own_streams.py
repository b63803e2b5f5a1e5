"""Requests that leave on streams of their own: isolated ones, and those with many values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from echokernel.engine.call_stream import CallStream, Gate, Opening
from echokernel.engine.deadlines import check_timeout
from echokernel.engine.metadata import Claim, claimed, encode_metadata
from echokernel.errors import (
    ConnectionClosed,
    EchoError,
    InvalidArgument,
    OutcomeUnknown,
    PermissionDenied,
    RequestTimeout,
    StreamClosed,
    StreamStopped,
)
from echokernel.streaming import Items, Prepared, StreamingCall
from echokernel_protocol.codes import Code
from echokernel_protocol.describe import MethodKind
from echokernel_protocol.frames import SLOT_MASK, Flags, Frame, Header, MessageType

if TYPE_CHECKING:
    from echokernel.calling import CallOptions
    from echokernel.engine.calls import Calls
    from echokernel.engine.codecs import Codecs
    from echokernel.engine.link import Link
    from echokernel.engine.stubs import Stub
    from echokernel.limits import Limits
    from echokernel.tasks import TaskScope
    from echokernel_protocol.calls import CallFrame
    from echokernel_protocol.errors import ProtocolViolation
    from echokernel_protocol.hello import Hello

_ERROR = int(Flags.ERROR)

__all__ = ["OwnStreams"]


class OwnStreams:
    """Opens calls, as many at a time as the peer serves."""

    def __init__(
        self,
        calls: Calls,
        link: Link,
        codecs: Codecs,
        peer: Hello,
        tasks: TaskScope,
        violated: Callable[[ProtocolViolation], None],
        limits: Limits,
    ) -> None:
        self.tasks = tasks
        self.gate = Gate(peer.max_requests, tasks)
        self._calls = calls
        self._link = link
        self._channel = link.channel
        self._codecs = codecs
        self._peer = peer
        self._violated = violated
        self._limits = limits

    @property
    def is_stopped(self) -> bool:
        """Whether nothing new is started any more."""
        return self._calls.stopped is not None

    async def exchange_isolated(
        self,
        method: str,
        head: bytes,
        payload: bytes,
        timeout: float | None,
        idempotent: bool,
        metadata: Mapping[str, str] | None,
    ) -> tuple[int, bytes]:
        """Send a coded request over a stream of its own; return the answer's flags and bytes."""
        timeout, _ = self._calls.remaining(method, timeout)
        opening = Opening(method, head, payload, metadata)
        stream: CallStream | None = None
        until = self.tasks.now() + timeout if timeout else 0.0
        await self._enter(method, until)
        try:
            with anyio.fail_after(max(0.0, until - self.tasks.now()) if until else None):
                stream = await self._open_stream(opening, ends=True, until=until)
                frames = await stream.receive()
                while not frames[-1].kind and len(frames) < 2:  # a second answer is one too many
                    frames += await stream.receive()
        except TimeoutError:
            if stream is not None:
                stream.close(Code.DEADLINE_EXCEEDED)
            raise RequestTimeout(f"{method}: no answer within its deadline; the peer was told to stop") from None
        except ConnectionClosed as error:
            if stream is None or isinstance(error, StreamClosed) or self._calls.never_ran(stream.id, idempotent):
                raise
            raise OutcomeUnknown(method, error) from error
        finally:
            if stream is not None:
                stream.close(Code.CANCELLED)
        if frames[-1].kind == _ERROR:
            return _ERROR, frames[-1].payload
        if len(frames) != 2 or not frames[-1].kind:
            raise InvalidArgument(f"{method} takes or answers with many values: use request_stream")
        return frames[0].flags & SLOT_MASK, frames[0].payload

    def streaming(
        self,
        method: str,
        value: Any,
        items: Items | None,
        sends: bool,
        timeout: float | None,
        returns: Any,
        metadata: Mapping[str, str] | None,
    ) -> StreamingCall:
        """Return a streaming request that is still to be opened; see :meth:`Session.request_stream`."""
        check_timeout(method, timeout)
        codecs = self._codecs
        head = codecs.head(method)
        if not codecs.learns:
            opening = Opening(method, head, codecs.encode(value), metadata)
            return StreamingCall(self, opening, items, sends, timeout or 0, returns, codecs.encode)

        async def prepare() -> Prepared:
            coding, _ = await self._calls.learning.learn(MethodKind.RPC, method, timeout)  # the call's own clock runs
            opening = Opening(method, head, coding.encode(value), metadata)
            return Prepared(opening, coding.encode_item, coding.returns if returns is Any else returns)

        call = StreamingCall(self, Opening(method, head, b"", metadata), items, sends, timeout or 0, returns, codecs.encode)
        call.prepare = prepare
        return call

    def typed(self, stub: Stub, payload: bytes, items: Items | None, options: CallOptions) -> StreamingCall:
        """Return a streaming request that is coded by its handler's types."""
        method = stub.method
        check_timeout(method, options.timeout)
        metadata = options.metadata if stub.is_known else Claim(options.metadata, stub.fingerprint)
        opening = Opening(method, stub.head, payload, metadata)
        call = StreamingCall(self, opening, items, False, options.timeout or 0, stub.returns, stub.encode_item)
        call.judge = stub.judge
        return call

    def remaining(self, method: str, timeout: float) -> float:
        """Return the seconds that a call which is opened now has, 0 for no end. Raises RequestTimeout."""
        return self._calls.remaining(method, timeout)[0]

    async def open_stream(self, opening: Opening, *, ends: bool, timeout: float) -> CallStream:
        """Open a call, through the middleware of this end. Raises InvalidArgument, ConnectionClosed."""
        until = self.tasks.now() + timeout if timeout else 0.0
        if self._calls.outgoing is None:
            await self._enter(opening.method, until)
            return await self._open_stream(opening, ends=ends, until=until)
        opened: list[CallStream] = []

        async def innermost(frame: Frame) -> Frame:
            head = self._codecs.head(frame.header.method)
            metadata = claimed(opening.metadata, opening.method, frame)
            changed = Opening(frame.header.method, head, frame.payload, metadata)
            await self._enter(changed.method, until)
            opened.append(await self._open_stream(changed, ends=ends, until=until))
            return Frame(Header(MessageType.RESPONSE, 0, "", int(Flags.END)), b"")

        header = Header(MessageType.REQUEST, 0, opening.method, opening.head[-1])
        try:
            response = await self._calls.outgoing(innermost)(
                Frame(header, opening.payload, dict(opening.metadata or {}))
            )
            if response is None or not opened:
                raise PermissionDenied(f"{opening.method} was intercepted")
            return opened.pop()
        finally:  # what failed, and what middleware opened more than once
            for stream in opened:
                stream.close(Code.CANCELLED)

    async def _enter(self, method: str, until: float) -> None:
        if self._calls.stopped is not None:
            raise self._calls.stopped.with_traceback(None)
        await self.gate.enter(method, until)

    async def _open_stream(self, opening: Opening, *, ends: bool, until: float) -> CallStream:
        """Open a call that has its place; the place is given back when the stream is closed, or cannot be opened."""
        try:
            if self._calls.stopped is not None:
                raise self._calls.stopped.with_traceback(None)
            if len(opening.payload) > self._peer.max_message:
                raise InvalidArgument(
                    f"{opening.method}: a message of {len(opening.payload):,} bytes; the peer takes "
                    f"{self._peer.max_message:,}. Send larger data as items."
                )
            send, recv = await self._link.connection.open_bi_stream()
            left = max(1, int((until - self.tasks.now()) * 1000)) if until else 0
            metadata = encode_metadata(opening.method, opening.metadata, {"$timeout": str(left)})
        except BaseException:
            self.gate.leave()
            raise
        stream = CallStream(
            self._channel.take_id(),
            opening.head[-1],
            send,
            recv,
            self.gate,
            limits=self._limits,
            peer=self._peer,
            violated=self._violated,
        )
        try:
            await stream.open(opening, metadata, ends=ends)
        except StreamStopped:
            pass  # refused while it was written: its answer says why
        except BaseException:
            stream.close(Code.CANCELLED)
            raise
        return stream

    def decoder(self, returns: Any, flags: int) -> Callable[[bytes], Any]:
        """Return what builds ``returns`` from answers with ``flags``."""
        return self._codecs.decoder(returns, flags & SLOT_MASK)

    def error_of(self, frame: CallFrame) -> EchoError | None:
        """Return what the last frame of a call raises; None for an END."""
        return self._calls.error_from(frame.payload) if frame.kind == _ERROR else None
