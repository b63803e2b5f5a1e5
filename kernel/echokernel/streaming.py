"""Streaming requests, at the caller: many values there, many back, both at once, with backpressure of their own."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from echokernel.engine.call_stream import CallStream, Opening
from echokernel.errors import (
    EchoError,
    InvalidArgument,
    ProtocolError,
    RequestCancelled,
    RequestTimeout,
    SerializationError,
)
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from types import TracebackType

    from echokernel.engine.own_streams import OwnStreams
    from echokernel.tasks import Task, Timer
    from echokernel_protocol.calls import CallFrame

__all__ = ["Prepared", "StreamingCall"]

Items = AsyncIterable[Any] | Iterable[Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of a call when it is opened, and not before: the peer was asked for the method's types."""

    opening: Opening
    encode: Callable[[Any], bytes]
    """Of one item."""
    returns: Any


class StreamingCall:
    """One streaming request: an async iterator over the answers, and a context manager that ends it.

    ::

        async with session.request_stream("count", 10, returns=int) as call:
            async for number in call:
                ...

    It opens with ``async with`` or with the first item that is asked for or sent. Leaving the ``async with`` early, and
    :meth:`close`, stop the handler at once. Answers that nobody reads hold the handler back, items that the handler does not
    read hold :meth:`send` back; no other call notices.
    """

    def __init__(
        self,
        calls: OwnStreams,
        opening: Opening,
        items: Items | None,
        sends: bool,
        timeout: float,
        returns: Any,
        encode: Callable[[Any], bytes],
    ) -> None:
        self.method = opening.method
        self.trailers: Mapping[str, str] = {}
        """What the handler said with its end; empty before."""
        self._calls = calls
        self._opening = opening
        self._items = items
        self._sends = sends or items is not None
        self._timeout = timeout
        self._returns = returns
        self._encode = encode
        self.prepare: Callable[[], Awaitable[Prepared]] | None = None
        """What completes the call when it is opened."""
        self.judge: Callable[[EchoError], EchoError] | None = None
        """What makes of the handler's error the one that the caller gets."""
        self._decode: Callable[[bytes], Any] | None = None
        self._stream: CallStream | None = None
        self._ready: deque[CallFrame] = deque()
        self._error: BaseException | None = None
        self._over = False
        self._timer: Timer | None = None
        self._sender: Task | None = None
        self._scope: anyio.CancelScope | None = None
        self._lock = anyio.Lock()

    def __repr__(self) -> str:
        state = "not opened" if self._stream is None else "over" if self._over else "open"
        return f"<StreamingCall {self.method!r}, {state}>"

    # --- asking ------------------------------------------------------------------------------------------------

    async def send(self, item: Any) -> None:
        """Send one item; waits while the handler is behind.

        Raises StreamStopped when the handler wants no more, SerializationError, InvalidArgument, ConnectionClosed, and what
        ended the call.
        """
        if not self._sends:
            raise InvalidArgument(f"{self.method}: this call sends no items; open it with items=… or sends=True")
        stream = await self._opened()
        self._check()
        try:
            await stream.send(self._encode(item))
        except EchoError:
            self._check()
            raise
        finally:
            if stream.is_broken:
                self._fail(RequestCancelled(f"{self.method}: an item was given up when half of it was sent"))

    async def finish(self) -> None:
        """Say that this was the last item. A second call does nothing."""
        stream = await self._opened()
        self._check()
        try:
            await stream.finish()
        except EchoError:
            self._check()
            raise

    # --- answers -----------------------------------------------------------------------------------------------

    def __aiter__(self) -> StreamingCall:
        return self

    async def __anext__(self) -> Any:
        """Return the next answer.

        Raises StopAsyncIteration behind the last one, what the handler raised, RequestTimeout, ConnectionClosed.
        """
        stream = await self._opened()
        while not self._ready:
            self._check()
            if self._over:
                raise StopAsyncIteration
            try:
                self._ready.extend(await stream.receive())
            except EchoError as error:
                self._fail(error)
        frame = self._ready.popleft()
        if frame.kind:
            self._end(frame)
            self._check()
            raise StopAsyncIteration
        if self._decode is None:
            self._decode = self._calls.decoder(self._returns, frame.flags)
        try:
            return self._decode(frame.payload)
        except SerializationError as error:
            self._fail(error)
            raise

    async def result(self) -> Any:
        """Return the single answer of a handler that takes many items and returns one value.

        Items go first: with ``items=`` they are being sent, otherwise :meth:`finish` is called. Raises ProtocolError when the
        handler answers with none or with several, and what iterating raises.
        """
        if self._items is None:
            await self.finish()
        answers = [answer async for answer in _at_most_two(self)]
        if len(answers) != 1:
            self.close()
            many = "no answer" if not answers else "more than one answer"
            raise ProtocolError(f"{self.method}: {many}; iterate over the call instead")
        return answers[0]

    # --- its life ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> StreamingCall:
        await self._opened()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self, code: int = Code.CANCELLED) -> None:
        """Give the call up: the handler is cancelled, whoever waits here gets RequestCancelled. Nothing happens after the
        end.
        """
        if not self._over:
            self._over = True
            if self._error is None:
                self._error = RequestCancelled(f"{self.method}: the call was closed here")
            self._release(code)

    def __del__(self) -> None:
        if self._stream is not None and not self._over and not self._calls.is_stopped:
            self.close()  # an `async for` that was left with break, without `async with`

    async def _opened(self) -> CallStream:
        if self._stream is None:
            await self._open()
        assert self._stream is not None
        return self._stream

    async def _open(self) -> None:
        async with self._lock:
            if self._stream is not None:
                return  # another task did
            self._check()
            tasks = self._calls.tasks
            timeout = self._calls.remaining(self.method, self._timeout)
            end = tasks.now() + timeout if timeout else math.inf
            stream: CallStream | None = None
            try:
                with anyio.CancelScope(deadline=end) as self._scope:
                    if self.prepare is not None:
                        prepared = await self.prepare()
                        self._opening, self._encode, self._returns = prepared.opening, prepared.encode, prepared.returns
                    stream = await self._calls.open_stream(self._opening, ends=not self._sends, timeout=timeout)
            finally:
                self._scope = None
            if stream is None:
                if not self._over:
                    self._expire()
                self._check()
                raise RequestCancelled(f"{self.method}: the call was closed here")
            self._stream = stream
            if self._over:  # closed at the last moment
                stream.close(Code.CANCELLED)
                self._check()
            # neither keeps the call alive: a loop that is left with break has to end them
            itself = weakref.ref(self)
            if timeout:
                self._timer = tasks.call_at(end, _expire, itself)
            if self._items is not None:
                self._sender = tasks.start(
                    _send_items, self._encode, stream, self._items, itself, name=f"items of {self.method}"
                )

    def _end(self, frame: CallFrame) -> None:
        self._over = True
        error = self._calls.error_of(frame)
        if error is None:
            self.trailers = frame.metadata
        else:
            self._error = error if self.judge is None else self.judge(error)
        self._release(Code.OK)

    def _expire(self) -> None:
        self._timer = None
        self._fail(
            RequestTimeout(f"{self.method}: not over within its deadline; the peer was told to stop"),
            Code.DEADLINE_EXCEEDED,
        )

    def _fail(self, error: BaseException, code: int = Code.CANCELLED) -> None:
        if self._error is None and not self._over:
            self._error = error
        self.close(code)

    def _release(self, code: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sender is not None:
            self._calls.tasks.stop(self._sender)
        if self._stream is not None:
            self._stream.close(code)
        elif self._scope is not None:
            self._scope.cancel()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)


def _expire(reference: weakref.ref[StreamingCall]) -> None:
    call = reference()
    if call is not None:
        call._expire()


async def _send_items(
    encode: Callable[[Any], bytes], stream: CallStream, items: Items, reference: weakref.ref[StreamingCall]
) -> None:
    failure: BaseException | None = None
    try:
        if isinstance(items, AsyncGenerator):
            async with aclosing(items):  # closed in the task that iterates it
                async for item in items:
                    await stream.send(encode(item))
        elif isinstance(items, AsyncIterable):
            async for item in items:
                await stream.send(encode(item))
        else:
            for item in items:
                await stream.send(encode(item))
        await stream.finish()
    except EchoError as error:
        if not stream.was_stopped:  # else the handler has answered without reading them all
            failure = error
    except Exception as error:  # of the caller's own iterator: the caller gets it as it is
        failure = error
    except BaseException:  # the call was closed, or the iterator was cancelled by somebody else
        failure = RequestCancelled("the items ended in a cancellation")
        raise
    finally:
        call = reference()
        if failure is not None and call is not None:
            call._fail(failure)


async def _at_most_two(call: StreamingCall) -> Any:
    count = 0
    async for answer in call:
        yield answer
        count += 1
        if count == 2:
            return
