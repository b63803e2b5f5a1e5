"""What this end asks of the other one: requests and events, their credit and their deadlines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from echokernel._context import deadline as inherited_deadline
from echokernel.deadlines import Deadlines
from echokernel.errors import ConnectionClosed, InvalidArgument, OutcomeUnknown, RequestTimeout
from echokernel_protocol.channel import Announced
from echokernel_protocol.frames import Flags
from echokernel_protocol.maps import encode_map
from echokernel_protocol.postcard import encode_varint

if TYPE_CHECKING:
    from echokernel._bodies import Bodies
    from echokernel._link import Link
    from echokernel.tasks import Future, TaskScope
    from echokernel_protocol.hello import Hello

_BODY = int(Flags.BODY)
_METADATA = int(Flags.METADATA)

__all__ = ["Calls"]


class Calls:
    """Requests and events of one session, outwards."""

    def __init__(self, link: Link, bodies: Bodies, peer: Hello, tasks: TaskScope) -> None:
        self._link = link
        self._channel = link.channel
        self._bodies = bodies
        self._tasks = tasks
        self._peer = peer
        self._max_frame = peer.max_frame
        self._pending: dict[int, tuple[Future[Any], str, bool]] = {}
        self._deadlines = Deadlines(tasks, self._expire)
        self._waiting: deque[tuple[Callable[[int], bool], int, Future[None]]] = deque()

    # --- requests ----------------------------------------------------------------------------------------------

    async def request(
        self, method: str, head: bytes, payload: bytes, timeout: float, explicit: bool, idempotent: bool
    ) -> tuple[int, bytes]:
        """Send a request and return its answer's flags and payload.

        ``head`` is the method's name and flags; ``timeout`` in seconds, 0 for none; ``explicit``: it is not the hello's.
        """
        now = self._tasks.now()
        outer = inherited_deadline.get()
        if outer is not None and (not timeout or outer < now + timeout):
            timeout, explicit = outer - now, True
            if timeout <= 0:
                raise RequestTimeout(f"{method}: the deadline of the request that is being handled has passed")
        body: bytes | None = None
        if explicit or len(payload) > self._max_frame:
            head, payload, body = self._dress(method, head, payload, timeout if explicit else None)
        extra = 0 if body is None else len(body)
        size = len(payload) + extra
        channel = self._channel
        if self._waiting or not channel.may_call(size) or self._link.is_crowded:
            await self._wait_for_credit(channel.may_call, size, method, timeout)
        request_id = channel.call(head, payload, extra)
        if body is not None:
            self._bodies.send(channel.sent, body)
        future = self._tasks.future()
        self._pending[request_id] = future, method, idempotent
        bucket = self._deadlines.add(now + timeout, request_id) if timeout else 0
        self._link.wake()
        try:
            flags, result = await future
            if isinstance(result, Announced):
                result = await self._bodies.receive(result)
        except BaseException as error:
            self._deadlines.discard(bucket, request_id)
            if self._pending.pop(request_id, None) is not None:  # nobody answered: the caller gave up
                channel.cancel(request_id)
                self._link.wake()
            if isinstance(error, ConnectionClosed):
                raise self._lost(method, request_id, error, idempotent) from error
            raise
        self._deadlines.discard(bucket, request_id)
        return flags, result

    def on_response(self, request_id: int, flags: int, payload: bytes | Announced) -> None:
        """A response is here. One that nobody waits for any more is dropped."""
        entry = self._pending.pop(request_id, None)
        if entry is not None and not entry[0].done():
            entry[0].set_result((flags, payload))
        elif isinstance(payload, Announced):
            self._bodies.discard(payload)

    def _expire(self, request_id: int) -> None:
        entry = self._pending.pop(request_id, None)
        if entry is not None:
            future, method, _ = entry
            if not future.done():
                future.set_exception(RequestTimeout(f"{method}: no answer within its deadline; the peer was told to stop"))
            self._channel.cancel(request_id)
            self._link.wake()

    def _lost(self, method: str, request_id: int, error: ConnectionClosed, idempotent: bool) -> ConnectionClosed:
        goaway = self._channel.goaway
        if idempotent or (goaway is not None and request_id > goaway.last):
            return error  # it never ran, or may run again
        return OutcomeUnknown(method, error)

    # --- events ------------------------------------------------------------------------------------------------

    async def emit(self, method: str, head: bytes, payload: bytes) -> None:
        """Send an event; waits for the peer's credit and for room."""
        body: bytes | None = None
        if len(payload) > self._max_frame:
            head, payload, body = self._dress(method, head, payload, None)
        extra = 0 if body is None else len(body)
        size = len(payload) + extra
        channel = self._channel
        if self._waiting or not channel.may_emit(size) or self._link.is_crowded:
            await self._wait_for_credit(channel.may_emit, size, method, 0)
        channel.emit(head, payload, extra)
        if body is not None:
            self._bodies.send(channel.sent, body)
        self._link.wake()

    # --- what both need ----------------------------------------------------------------------------------------

    def _dress(self, method: str, head: bytes, payload: bytes, timeout: float | None) -> tuple[bytes, bytes, bytes | None]:
        """Return head and payload with metadata, and the body where the payload is too long for a frame."""
        if len(payload) > self._peer.max_message:
            raise InvalidArgument(
                f"{method}: a message of {len(payload):,} bytes; the peer takes {self._peer.max_message:,}. "
                "Send larger data as a stream."
            )
        flags = head[-1]
        metadata = b""
        if timeout is not None:
            metadata = encode_map({"$timeout": str(max(1, int(timeout * 1000)) if timeout else 0)})
            flags |= _METADATA
        body = None
        if len(metadata) + len(payload) > self._max_frame:
            body = payload
            payload = encode_varint(len(payload))
            flags |= _BODY
        return head[:-1] + bytes((flags,)), metadata + payload, body

    async def _wait_for_credit(self, may: Callable[[int], bool], size: int, method: str, timeout: float) -> None:
        try:
            with anyio.fail_after(timeout or None):
                await self._link.wait_room()
                while not may(size):
                    future: Future[None] = self._tasks.future()
                    entry = may, size, future
                    self._waiting.append(entry)
                    try:
                        await future
                    except BaseException:
                        if entry in self._waiting:
                            self._waiting.remove(entry)
                        self.wake_waiting()  # its turn, if it had come, is the next one's
                        raise
        except TimeoutError:
            raise RequestTimeout(f"{method}: the peer gave no room for it within the deadline; nothing was sent") from None
        self._tasks.call_soon(self.wake_waiting)

    def wake_waiting(self) -> None:
        """Credit may have grown: let the first of those who wait try, one at a time and in their order."""
        while self._waiting:
            may, size, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
            elif may(size):
                self._waiting.popleft()
                future.set_result(None)
                return
            else:
                return

    def fail(self, error: Exception) -> None:
        """The connection is over: everything that waits fails at once."""
        self._deadlines.close()
        pending, self._pending = self._pending, {}
        for future, _, _ in pending.values():
            if not future.done():
                future.set_exception(error)
        waiting, self._waiting = self._waiting, deque()
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def fail_above(self, last: int, error: Exception) -> None:
        """The peer goes away: requests with ids above ``last`` will never run."""
        for request_id in [request_id for request_id in self._pending if request_id > last]:
            future, _, _ = self._pending.pop(request_id)
            if not future.done():
                future.set_exception(error)
