"""One session at the router: what it sends waits here for credit, what becomes of it is told to whoever waits."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from echokernel import ConnectionClosed, EchoError, HandlerError, InvalidArgument
from echokernel_agora.controls import Control, entry, notice, problem, read_control
from echokernel_agora.crossing import (
    Closed,
    Notice,
    Outgoing,
    PresenceChange,
    checked,
    checked_chunk,
    on_closed,
    on_error,
    on_presence,
)
from echokernel_agora.outward import Outward
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from echokernel import Session
    from echokernel.tasks import Future
    from echokernel_agora.agents import Peer
    from echokernel_agora.bridge import AgoraBridge
    from echokernel_agora.queues import AccountKey

__all__ = ["Seat"]

MOST_CONTROLS = (
    256  # errors and changes of presence that wait for the session; then the router keeps them, 256 KiB at most
)
PROBE_SECONDS = 5.0
UNDER_WAY = 1024 * 1024  # bytes to one receiver on all streams, each of which has a window: a quarter of what the router keeps
POSTED_FRAMES = 1024  # messages for one receiver that came as events and wait for credit: as many as wait for one agent
POSTED_BYTES = 4 * 1024 * 1024  # of them together
_encode = msgspec.json.Encoder().encode


class _Sending:
    """A stream, or a message with a request, on its way to its outcome."""

    __slots__ = ("done", "error", "id", "key", "reply", "scope", "status", "stream_id", "to")

    def __init__(self, to: str, stream_id: str | None, id: str | None, reply: bool) -> None:
        self.to, self.stream_id, self.id, self.reply = to, stream_id, id, reply
        self.key: AccountKey = to if stream_id is None else (to, reply, stream_id)
        self.error: EchoError | None = None
        self.status = ""
        self.scope: anyio.CancelScope | None = None
        self.done: Future[None] | None = None

    def fail(self, error: EchoError) -> None:
        if self.error is None:
            self.error = error
            if self.scope is not None:
                self.scope.cancel()
        self.wake()

    def wake(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(None)


class Seat:
    """An ``Outlet`` of the router, for one session."""

    holds = True

    def __init__(self, bridge: AgoraBridge, session: Session) -> None:
        self.bridge, self.session, self.router = bridge, session, bridge.router
        self.outward = Outward(session, bridge.router, bridge.start_task, bridge.stop_task, bridge.future, bridge.now)
        self.peer: Peer = bridge.router.attach(
            self, bridge.principal_of(session), transport="quic", address=session.peer_addr[0]
        )
        self.outward.peer = self.peer
        self.is_over = False
        self._answers: list[Control] | None = None  # what the router says while it is told something
        self._window = 0
        self._credit: dict[AccountKey, int] = {}  # what is left of a window, where it is not all of it
        self._under_way: dict[str, int] = {}  # bytes, to each receiver
        self._waiting: dict[str, deque[Future[None]]] = {}
        self._turn = anyio.Lock(fast_acquire=True)  # for whoever waits for the rate: one task looks, the others queue
        self._sendings: dict[_Sending, None] = {}
        self._controls: deque[tuple[Any, Any]] = deque()
        self._telling = False
        self._number = 0
        self._posts: dict[str, deque[tuple[Outgoing, bytes]]] = {}
        self._posted_bytes = 0
        self._flushing: dict[str, list[Future[None]]] = {}

    # --- Outlet: what the router says ----------------------------------------------------------------------------

    def write(self, frame: bytes) -> bool:
        control = read_control(frame)
        kind = control.type
        if kind == "credit":
            assert control.to is not None
            to, stream_id = control.to, control.stream_id
            self._grant(to, to if stream_id is None else (to, control.reply, stream_id), control.bytes)
        elif kind == "receipt":
            self._receipt(control)
        elif kind == "error":
            if self._owner_told(control):
                return True
            if self._answers is not None:
                self._answers.append(control)
                return True
            return self._tell(on_error, notice(control))
        elif kind == "presence":
            assert control.agent is not None
            return self._tell(on_presence, PresenceChange(control.event, entry(control.agent)))
        elif self._answers is not None:
            self._answers.append(control)
        return True

    def taken(self) -> None:
        self.outward.take()

    def close(self, code: int, reason: str) -> None:
        self.leave(reason)
        if code != 4408:  # else it was none
            self._controls.append((on_closed, Closed(code, reason)))  # beyond the bound: it is the last one
            self._start_telling()

    def probe(self) -> None:
        self.bridge.start_task(self._probe, name="agora: probe")

    async def _probe(self) -> None:
        try:
            await self.session.ping(PROBE_SECONDS)
        except EchoError:
            self.leave("it does not answer")

    # --- life ----------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Leave when the session is over."""
        error = await self.session.wait_closed()
        self.leave(str(error))

    def leave(self, reason: str) -> None:
        """Be no agent any more: streams end on both sides, whoever waits here gets an error. Once is enough."""
        if self.is_over:
            return
        self.is_over = True
        self.bridge.forget(self)
        self.router.detach(self.peer, reason=reason)
        self.outward.clear()
        error = HandlerError(f"this session is no agent any more: {reason}", code=Code.ABORTED)
        for sending in list(self._sendings):
            sending.fail(error)
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def check_stuck(self) -> None:
        """Close a registration whose session takes no messages, as a WebSocket that is not read is closed."""
        since, limit = self.outward.waiting_since, self.router.limits.stuck_after
        if since is not None and self.bridge.now() - since > limit:
            self.router.counters.slow += 1
            self.close(1013, f"no message was taken for {limit:g} s")

    # --- asking the router ---------------------------------------------------------------------------------------

    def ask(self, fields: dict[str, Any]) -> Control:
        """Give the router a frame that it answers at once. Raises what its error means."""
        before, self._answers = self._answers, []
        try:
            self.router.receive(self.peer, _encode(fields))
            answers = self._answers
        finally:
            self._answers = before
        for answer in answers:
            if answer.type == "error":
                raise problem(answer)
            if answer.type == "registered":
                self._window = answer.credit or self._window  # an update changes nothing of what is under way
        return answers[0] if answers else Control("none")

    # --- sending to agents ---------------------------------------------------------------------------------------

    async def send(self, message: Outgoing) -> str:
        """Send a message of its own. Returns what became of it, ``delivered`` or ``stored``, or raises."""
        id = self._own_id() if message.id is None else message.id
        sending = _Sending(message.to, None, id, message.reply)
        self._sendings[sending] = None
        try:
            await self._relay(sending, self._message(message, id, stream=False))
            return await self._outcome(sending)
        finally:
            del self._sendings[sending]

    def post(self, message: Outgoing) -> None:
        """Take a message for which nobody waits. It may wait here for its receiver, and holds up nothing for others."""
        sending = _Sending(message.to, None, message.id, message.reply)
        posts = self._posts.get(message.to)
        try:
            text = self._message(message, message.id, stream=False)
            self._check()
            if self._posted_bytes + len(text) > POSTED_BYTES or (posts is not None and len(posts) >= POSTED_FRAMES):
                slow = "too much waits for it already: send with a request, or call agora.flush now and then"
                raise problem(Control("error", "receiver_slow", slow, to=message.to, id=message.id))
            if posts is None and self._may_send(sending) and not self._turn.locked() and not self.router.pause(self.peer):
                self._check_size(sending, text)
                self._give(sending, text)
                return
        except EchoError as error:
            self.refuse(message, error)
            return
        self._posted_bytes += len(text)
        if posts is not None:
            posts.append((message, text))
        else:
            self._posts[message.to] = deque([(message, text)])
            self.bridge.start_task(partial(self._post_all, message.to), name="agora: posts")

    async def _post_all(self, to: str) -> None:
        posts = self._posts[to]
        while posts:
            message, text = posts[0]
            try:
                await self._relay(_Sending(to, None, message.id, message.reply), text)
            except EchoError as error:
                self.refuse(message, error)
            posts.popleft()
            self._posted_bytes -= len(text)
        del self._posts[to]
        for future in self._flushing.pop(to, ()):
            if not future.done():
                future.set_result(None)

    async def flush(self, to: str) -> None:
        """Wait until nothing of that waits for an agent any more."""
        if to in self._posts:
            future: Future[None] = self.bridge.future()
            self._flushing.setdefault(to, []).append(future)
            await future

    def refuse(self, message: Outgoing, error: EchoError) -> None:
        """Tell the session what became of a message that it sent as an event."""
        about: dict[str, Any] = {"code": "bad_request", "message": error.message}
        if error.details:
            about = json.loads(error.details)
        self._tell(
            on_error,
            Notice(
                about["code"],
                about["message"],
                message.to,
                None,
                message.stream_id,
                message.id,
                message.request_id,
                about.get("retry_ms"),
            ),
        )

    async def stream(self, start: Outgoing, chunks: AsyncIterator[bytes]) -> str:
        """Send a stream. Returns when all of it has gone to the receiver; raises where it has not, as soon as that is known."""
        if start.stream_id is None:
            raise InvalidArgument("stream_id is missing: a stream needs one")
        kinds = ("reply_chunk", "reply_end") if start.reply else ("send_chunk", "send_end")
        chunk_head, end_head = (self._head(kind, start) for kind in kinds)
        sending = _Sending(start.to, start.stream_id, start.id, start.reply)
        is_open = False
        try:
            with anyio.CancelScope() as scope:
                await self._relay(sending, self._message(start, start.id, stream=True))
                is_open, sending.scope, sending.id = True, scope, self._own_id()
                self._sendings[sending] = None
                error = b""
                async for chunk in chunks:
                    if checked_chunk(chunk)[:1] == b"{":
                        error = b',"error":' + chunk
                        break
                    await self._relay(sending, b'%b,"chunk":%b}' % (chunk_head, chunk))
                await self._relay(sending, b'%b,"id":%b%b}' % (end_head, _encode(sending.id), error))
                is_open, sending.scope = False, None
                return await self._outcome(sending)
            assert sending.error is not None
            raise sending.error
        finally:
            self._sendings.pop(sending, None)
            if is_open:
                self._abort(sending, end_head)

    def _abort(self, sending: _Sending, end_head: bytes) -> None:
        """End a stream that its sender gave up; the receiver is told that this is not the whole."""
        if self.session.closed is not None:
            self.leave(str(self.session.closed))
            return
        try:
            self._give(sending, end_head + b',"error":{"code":"aborted","message":"its sender gave it up"}}')
        except EchoError:
            pass  # it had failed already

    async def _outcome(self, sending: _Sending) -> str:
        while sending.error is None and not sending.status and "receipt" in self.peer.features:
            sending.done = self.bridge.future()
            await sending.done
        if sending.error is not None:
            raise sending.error
        return sending.status or "delivered"

    def _message(self, message: Outgoing, id: str | None, *, stream: bool) -> bytes:
        text = b'{"type":"%b","to":%b' % (b"reply" if message.reply else b"send", _encode(message.to))
        if message.stream_id is not None:
            text += b',"stream_id":' + _encode(message.stream_id)
        if stream or message.stream_id is not None:  # a reply with a stream id and without this would begin a stream
            text += b',"stream":true' if stream else b',"stream":false'
        if id is not None:
            text += b',"id":' + _encode(id)
        if message.request_id is not None:
            text += b',"request_id":' + checked(message.request_id, "request_id")
        if message.hops is not None:
            text += b',"hops":%d' % message.hops
        if message.payload is not None:
            text += b',"payload":' + checked(message.payload, "the payload")
        return text + b"}"

    def _head(self, kind: str, start: Outgoing) -> bytes:
        return b'{"type":"%b","to":%b,"stream_id":%b' % (kind.encode(), _encode(start.to), _encode(start.stream_id))

    def _own_id(self) -> str:
        self._number += 1
        return f"bridge-{self._number}"

    async def _relay(self, sending: _Sending, text: bytes) -> None:
        """Give the router a frame for an agent, when that reads and the rate allows it. Raises what it says at once."""
        to = sending.to
        self._check_size(sending, text)
        while True:
            self._check()
            if not self._may_send(sending):
                await self._wait_for_credit(to)
            elif not self._turn.locked() and not self.router.pause(self.peer):
                break
            else:
                async with self._turn:
                    while pause := self.router.pause(self.peer):  # noqa: ASYNC110 - it says itself how long
                        await anyio.sleep(pause)
                    self._check()
                    if self._may_send(sending):
                        break
        self._give(sending, text)

    def _check_size(self, sending: _Sending, text: bytes) -> None:
        most = self.router.limits.max_frame
        if len(text) > most:
            message = f"a frame of {len(text)} bytes; at most {most} travel in one: send a stream of chunks"
            raise problem(Control("error", "too_large", message, to=sending.to, id=sending.id))

    def _check(self) -> None:
        if self.is_over:
            raise HandlerError("this session is no agent any more", code=Code.ABORTED)

    def _may_send(self, sending: _Sending) -> bool:
        if not self._window:
            return True
        return self._credit.get(sending.key, 1) > 0 and self._under_way.get(sending.to, 0) < UNDER_WAY

    def _give(self, sending: _Sending, text: bytes) -> None:
        if self._window:
            self._credit[sending.key] = self._credit.get(sending.key, self._window) - len(text)
            self._under_way[sending.to] = self._under_way.get(sending.to, 0) + len(text)
        before, self._answers = self._answers, []
        try:
            self.router.receive(self.peer, text)
            answers = self._answers
        finally:
            self._answers = before
        refusal: EchoError | None = None
        for answer in answers:
            if refusal is None and answer.to in (None, sending.to) and answer.id in (None, sending.id):
                refusal = problem(answer)
            else:
                self._tell(on_error, notice(answer))
        if refusal is not None:
            raise refusal

    async def _wait_for_credit(self, to: str) -> None:
        future: Future[None] = self.bridge.future()
        waiting = self._waiting.setdefault(to, deque())
        waiting.append(future)
        try:
            await future
        finally:
            waiting.remove(future)
            if not waiting and self._waiting.get(to) is waiting:
                del self._waiting[to]

    def _grant(self, to: str, key: AccountKey, size: int) -> None:
        left = self._credit.get(key, self._window) + size
        if left >= self._window:
            self._credit.pop(key, None)
        else:
            self._credit[key] = left
        under_way = self._under_way.get(to, 0) - size
        if under_way > 0:
            self._under_way[to] = under_way
        else:
            self._under_way.pop(to, None)
        for future in self._waiting.get(to, ()):
            if not future.done():
                future.set_result(None)

    # --- what became of it ---------------------------------------------------------------------------------------

    def _receipt(self, control: Control) -> None:
        for sending in self._sendings:
            if sending.id == control.id and sending.to == control.to:
                sending.status = sending.status or control.status
                sending.wake()
                return

    def _owner_told(self, control: Control) -> bool:
        """Tell an error to the stream or request that it is about; False where there is none."""
        fitting = [each for each in self._sendings if each.error is None and self._is_about(control, each)]
        if not fitting:
            return False
        fitting[0].fail(problem(control))
        return True

    def _is_about(self, control: Control, sending: _Sending) -> bool:
        if control.to != sending.to:
            return False
        if sending.stream_id is None:
            return control.id is not None and control.id == sending.id
        agent = self.peer.agent
        if control.stream_id != sending.stream_id or agent is None:
            return False
        key = (agent.id, sending.to, sending.reply, sending.stream_id)  # a stream and a reply may have the same id
        return not any(each.key == key and not each.failed for each in agent.outgoing or ())

    # --- telling the session -------------------------------------------------------------------------------------

    def _tell(self, handler: Any, value: Notice | PresenceChange | Closed) -> bool:
        if len(self._controls) >= MOST_CONTROLS:
            return False
        self._controls.append((handler, value))
        self._start_telling()
        return True

    def _start_telling(self) -> None:
        if not self._telling and self.bridge.is_running:
            self._telling = True
            self.bridge.start_task(self._tell_all, name="agora: notices")

    async def _tell_all(self) -> None:
        controls = self._controls
        try:
            while controls:
                handler, value = controls[0]
                try:
                    await self.session.call(handler, value)
                except ConnectionClosed:
                    return
                except EchoError:
                    pass  # it takes others, or none: then it does not want to know
                controls.popleft()
                if self.peer.blocked_since is not None and len(controls) < MOST_CONTROLS // 2:
                    self.router.drain(self.peer)
        finally:
            self._telling = False
