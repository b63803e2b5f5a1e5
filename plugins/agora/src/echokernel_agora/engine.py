"""What runs behind a client: its connections one after the other, what comes on them, and what waits for answers."""

from __future__ import annotations

import logging
import secrets
import ssl
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import anyio

from echokernel import EchoError, InvalidArgument, PermissionDenied, RequestTimeout, TransportError, Unauthenticated
from echokernel_agora.bell import Bell
from echokernel_agora.conversation import ACK_AFTER, Conversation, Got, check_receiver, encoded
from echokernel_agora.errors import AgoraError, ConnectionLost, ReceiverSlow, Replaced, lost
from echokernel_agora.inbox import Inbox
from echokernel_agora.link import Link, LinkClosed
from echokernel_agora.messages import Asked, Message, MessageStream, PresenceEvent, PresenceStream, Unread
from echokernel_agora.redial import Pace, Redial
from echokernel_protocol.agora import RouterRecord

if TYPE_CHECKING:
    from websockets.uri import WebSocketURI

    from echokernel.tasks import TaskScope

__all__ = ["Engine"]

logger = logging.getLogger("echokernel.agora.client")

BACKLOG = 256 * 1024  # bytes that wait for the socket
PING_AFTER = 20.0  # seconds of silence
DEAD_AFTER = 10.0  # seconds without an answer
NO_WAY_BACK = (1002, 1003, 1007, 1009)  # the router did not like a frame: it must not be sent again
FINAL = (Replaced, Unauthenticated, PermissionDenied, InvalidArgument)
REFUSED_FOR_GOOD = ("bad_request", "forbidden", "too_large", "already_registered")  # of a registration


class Engine:
    """One agent's connections. Messages, streams and the client stand on it; programs do not see it."""

    def __init__(
        self,
        uri: WebSocketURI,
        conversation: Conversation,
        tasks: TaskScope,
        *,
        id: str,
        token: str | None,
        context: ssl.SSLContext | None,
        timeout: float,
        patience: float,
        reconnect: bool,
        paced: bool,
        on_error: Callable[[AgoraError], object] | None,
    ) -> None:
        self._uri, self._conversation, self.tasks = uri, conversation, tasks
        self.id, self.timeout = id, timeout
        self._token, self._context, self._patience = token, context, patience
        self._reconnect, self._paced, self._on_error = reconnect, paced, on_error
        self._pace = Pace(now=tasks.now())
        self._prefix, self._serial = secrets.token_hex(4), 0
        self._link: Link | None = None
        self._ack_timer: Any = None
        self._asked: dict[Any, Asked] = {}
        self._confirms: dict[Any, Asked] = {}
        self._lists: dict[Any, Asked] = {}
        self._outgoing: dict[tuple[str, str, str], MessageStream] = {}
        self._watching: weakref.WeakSet[PresenceStream] = weakref.WeakSet()
        self._changed = Bell(tasks)
        self.first, self._over = Asked(Bell(tasks)), Asked(Bell(tasks))
        self.failure: Exception | None = None
        self.closed = False
        self.inbox = Inbox(self)

    # -- connections -------------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._asked or self._confirms or self._lists)

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def features(self) -> frozenset[str]:
        return self._conversation.features

    @property
    def extended(self) -> bool:
        return self._conversation.extended

    async def close(self) -> None:
        """Say goodbye behind what was written, and end everything."""
        self.closed = True
        self._wake()
        if self._link is not None:
            self._acknowledge()  # what came is delivered, and its senders hear so
            self._link.say_goodbye()
            with anyio.move_on_after(1.0, shield=True):
                await self._over.wait()
        self._fail_all(ConnectionLost("the client was closed"), everything=True)
        self._wake()

    async def run(self) -> None:
        redial = Redial()
        while True:
            began = self.tasks.now()
            try:
                await self._talk()
            except Exception as problem:
                error = self._what(problem)
                redial.connected(self.tasks.now() - began)
            refused = isinstance(error, AgoraError) and error.reason in REFUSED_FOR_GOOD
            final = refused or isinstance(error, FINAL) or not self._reconnect or self.closed or not self.first.done
            if final:
                if not self.closed:
                    self.failure = error
                self._fail_all(error, everything=True)
                self.first.answer(error=error)
                self._over.answer()
                self._wake()
                return
            if not self._conversation.resumable:
                self._fail_all(error)
            self._wake()
            pause = redial.pause()
            logger.info("%s: %s; again in %.1f s", self.id, error, pause)
            await anyio.sleep(pause)

    def _what(self, problem: Exception) -> Exception:
        """Return what the program hears of the end of a connection."""
        if isinstance(problem, TimeoutError):
            return TransportError(f"no answer from {self._uri.host}:{self._uri.port} within {self.timeout:g} s")
        if isinstance(problem, EchoError):
            return problem
        if not isinstance(problem, LinkClosed):  # a mistake of this module, or a router that says what no router says
            logger.error("%s: %s", self.id, problem, exc_info=problem)
            return ConnectionLost(f"the connection had to be given up: {type(problem).__name__}: {problem}")
        if problem.code == 4409:
            return Replaced(f"{self.id}: {problem.reason or 'a newer connection has this id'}")
        if problem.code in NO_WAY_BACK:
            self._conversation.start_anew()
        return ConnectionLost(f"the connection to {self._uri.host}:{self._uri.port} was lost: {problem}")

    async def _talk(self) -> None:
        """Connect, register, and take what comes. Ends with an exception."""
        link: Link | None = None
        beat = None
        try:
            with anyio.fail_after(self.timeout):
                link = await Link.open(self._uri, self.tasks, token=self._token, context=self._context)
                rest = await self._register(link)
            self._link, link.on_room = link, self._wake
            beat = self.tasks.start(self._beat, link, name="agora: heartbeat")
            self.first.answer()
            self._wake()
            while True:
                for text in rest:
                    self._take(text)
                while self.inbox.is_full() and not self.closed:
                    await self.inbox.room()
                rest = await link.receive()
        finally:
            self._link = None
            if self._ack_timer is not None:
                self._ack_timer.cancel()
                self._ack_timer = None
            if beat is not None:
                self.tasks.stop(beat)
            if link is not None:
                await link.release()

    async def _register(self, link: Link) -> list[bytes]:
        """Send the first frame and take its answer; return what came behind that."""
        conversation = self._conversation
        link.write(conversation.hello())
        while True:
            texts = await link.receive()
            for number, text in enumerate(texts):
                got = conversation.receive(text)
                if got is not None and got.type == "error":
                    with anyio.move_on_after(0.2):  # a client that lost its id for good is told by the close
                        while True:
                            await link.receive()
                    raise got.as_error()
                if got is not None and got.type == "registered":
                    again = conversation.registered(got)
                    if again is None and self.first.done:
                        self._fail_all(ConnectionLost("the router could not go on where the connection was lost"))
                    for frame in again or ():
                        link.write(frame)
                    self._watch_again(link)
                    return texts[number + 1 :]

    async def _beat(self, link: Link) -> None:
        """Find out whether a silent router is there."""
        while True:
            await anyio.sleep(PING_AFTER / 4)
            silence = self.tasks.now() - link.heard_at
            if self.inbox.is_full():
                continue  # it is us who do not listen
            if silence > PING_AFTER + DEAD_AFTER:
                await link.release()
            elif silence > PING_AFTER:
                link.ping()

    # -- what comes --------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._changed.ring()
        self.inbox.look()
        for each in list(self._watching):
            each.look()

    def _take(self, text: bytes) -> None:
        got = self._conversation.receive(text)
        if got is None:
            return
        if got.seq is not None:
            if self._conversation.ack_due:
                self._acknowledge()
            elif self._ack_timer is None:
                self._ack_timer = self.tasks.call_at(self.tasks.now() + ACK_AFTER, self._acknowledge)
        handler = self._HANDLERS.get(got.type)
        if handler is not None:  # other types are of a later version
            handler(self, got, len(text))

    def _acknowledge(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        frame = self._conversation.ack()
        if frame is not None and self._link is not None:
            self._link.write(frame)

    def _take_message(self, got: Got, size: int) -> None:
        is_reply = got.type == "reply"
        is_stream = bool(got.stream) or (is_reply and got.stream is None and got.stream_id is not None)
        message = Message(self, got, is_reply=is_reply, stream=self.inbox.open(got) if is_stream else None)
        asked = self._who_asked(message) if is_reply else None
        if asked is not None:
            message.sender = message.sender or asked.to
            asked.answer(message)
        else:
            self.inbox.put(message, size)

    def _who_asked(self, message: Message) -> Asked | None:
        if message.request_id is not None:
            return self._asked.pop(message.request_id, None)
        candidates = [asked for asked in self._asked.values() if asked.to == message.sender and asked.sent]
        return self._asked.pop(candidates[0].name) if len(candidates) == 1 else None

    def _take_agents(self, got: Got, size: int) -> None:
        asked = self._lists.pop(next(iter(self._lists), None) if got.id is None else got.id, None)  # one of the seed: in order
        if asked is not None:
            asked.answer(got)

    def _take_receipt(self, got: Got, size: int) -> None:
        asked = self._confirms.pop(got.id or "", None)
        if asked is not None:
            asked.answer(got.status)

    def _take_presence(self, got: Got, size: int) -> None:
        for each in list(self._watching):
            each.put(PresenceEvent(got.event, RouterRecord.model_validate_json(bytes(got.agent))))

    def _take_error(self, got: Got, size: int) -> None:
        error = got.as_error()
        if got.code == "rate_limited" and error.retry_after is not None:
            self._pace.hold(error.retry_after)
        asked = self._confirms.pop(got.id, None) or self._lists.pop(got.id, None) or self._asked.pop(got.request_id, None)
        heard = asked is not None
        if asked is not None:
            asked.answer(error=error)
        for kind in ("send", "reply"):
            stream = self._outgoing.get((kind, got.to or "", got.stream_id or ""))
            if stream is not None:
                stream.fail(error)
                heard = True
                for waiting in list(self._confirms.values()):  # for the receipt of its end
                    if (waiting.to, waiting.stream_id) == (got.to, got.stream_id):
                        waiting.answer(error=error)
        self._changed.ring()
        if not heard and got.from_ is None:  # with `from` it is about a stream that was refused and had ended already
            if self._on_error is None:
                logger.warning("%s: %s: %s", self.id, error.reason, error)
                return
            try:
                self._on_error(error)
            except Exception:
                logger.exception("%s: on_error failed", self.id)

    _HANDLERS: dict[str, Callable[[Engine, Got, int], None]] = {  # noqa: RUF012  # never changed
        "message": _take_message,
        "reply": _take_message,
        "message_chunk": lambda engine, got, size: engine.inbox.chunk(got, size),
        "reply_chunk": lambda engine, got, size: engine.inbox.chunk(got, size),
        "message_end": lambda engine, got, size: engine.inbox.end(got),
        "reply_end": lambda engine, got, size: engine.inbox.end(got),
        "agents": _take_agents,
        "receipt": _take_receipt,
        "presence": _take_presence,
        "credit": lambda engine, got, size: engine._changed.ring(),
        "pong": lambda engine, got, size: engine._changed.ring(),
        "error": _take_error,
    }

    def _fail_all(self, error: Exception, *, everything: bool = False) -> None:
        """Let everything that had left fail; ``everything``: also what had not."""
        for table in (self._asked, self._confirms, self._lists):
            for name, asked in list(table.items()):
                if asked.sent or everything:
                    del table[name]
                    asked.answer(error=lost(error, delivered=None if asked.sent else False))
        for stream in list(self._outgoing.values()):
            if stream.sent or everything:
                stream.fail(lost(error))
        self.inbox.end_all(lost(error))

    # -- what goes ---------------------------------------------------------------------------------------------------

    def tell(self, fields: dict[str, Any], feature: str | None = None) -> None:
        """Tell the router something, if there is a connection and it knows that."""
        if self._link is not None and self.extended and (feature is None or feature in self.features):
            self._link.write(encoded(fields))

    def new_id(self, letter: str) -> str:
        """Return an id that no other client makes."""
        self._serial += 1
        return f"{letter}-{self._prefix}-{self._serial}"

    def _way(self, to: str) -> Link | str | float:
        """Return the connection on which a frame may go to an agent now; or why none may; or in how many seconds."""
        if self.failure is not None or self.closed:
            raise lost(self.failure or ConnectionLost("the client was closed"), delivered=False)
        link = self._link
        if link is None:
            return "there is no connection to the router"
        if link.backlog > BACKLOG:
            return "the router does not read"
        blocked = self._conversation.blocked(to)
        if blocked:
            return blocked
        pause = self._pace.pause(now=self.tasks.now()) if self._paced and self.extended else 0.0
        return pause or link

    async def _room(self, to: str, check: Callable[[], None] | None) -> Link:
        """Wait until a frame may be sent to an agent, at most ``patience`` seconds."""
        why = ""
        way = self._way(to)
        if isinstance(way, Link):  # a scope with a deadline costs more than all of this
            return way
        with anyio.move_on_after(self._patience):
            while not isinstance(way, Link):
                if isinstance(way, float):
                    await anyio.sleep(way)
                else:
                    why = way
                    await self._changed.wait()
                if check is not None:
                    check()
                way = self._way(to)
            return way
        if self._link is None:
            raise ConnectionLost(f"{to}: {why}, for {self._patience:g} s; nothing was sent", delivered=False)
        raise ReceiverSlow(f"{to}: {why}, for {self._patience:g} s; nothing was sent", to=to)

    async def post(
        self,
        kind: str,
        to: str,
        fields: dict[str, Any],
        *,
        confirm: bool = False,
        check: Callable[[], None] | None = None,
        marks: Iterable[Asked | MessageStream | None] = (),
    ) -> str | None:
        """For messages and streams: send a frame to an agent, and wait for its receipt if ``confirm``."""
        check_receiver(to)
        asked = None
        if confirm:
            if self.connected and "receipt" not in self.features:
                raise InvalidArgument("this router gives no receipts; send without confirm=True")
            asked = Asked(Bell(self.tasks), self.new_id("c"), to, fields.get("stream_id"))
            self._confirms[asked.name] = asked
            self.inbox.was_read()
        try:
            frame = encoded({"type": kind, "to": to, "id": asked.name if asked else None, **fields})
            link = await self._room(to, check)
            for written in self._conversation.relay(to, frame):
                link.write(written)
            self._pace.sent(len(frame))
            for mark in (asked, *marks):
                if mark is not None:
                    mark.sent = True
            return None if asked is None else await self._answer(asked, self.timeout, f"{to}: no receipt")
        finally:
            if asked is not None:
                self._confirms.pop(asked.name, None)

    async def _answer(self, asked: Asked, timeout: float, what: str) -> Any:
        with anyio.move_on_after(timeout):
            return await asked.wait()
        raise RequestTimeout(f"{what} within {timeout:g} s")

    def open_stream(self, stream: MessageStream) -> None:
        """For streams: one begins. Raises InvalidArgument where one of its name is open."""
        key = stream.kind, stream.to, stream.stream_id
        if key in self._outgoing:
            raise InvalidArgument(f"a stream {stream.stream_id!r} to {stream.to} is open already")
        self._outgoing[key] = stream

    def close_stream(self, stream: MessageStream) -> None:
        """For streams: one is over."""
        self._outgoing.pop((stream.kind, stream.to, stream.stream_id), None)

    def ask(self, to: str, payload: Any) -> tuple[Asked, Any]:
        name: Any = self.new_id("r")
        if isinstance(payload, dict):
            given = payload.get("request_id")
            if isinstance(given, str | int) and given not in self._asked:
                name = given
            else:
                payload = {**payload, "request_id": name}
        asked = self._asked[name] = Asked(Bell(self.tasks), name, to)
        self.inbox.was_read()  # more comes in while an answer is awaited
        return asked, payload

    async def request(self, to: str, payload: Any, timeout: float | None) -> Message:
        asked, payload = self.ask(to, payload)
        seconds = self.timeout if timeout is None else timeout
        try:
            with anyio.move_on_after(seconds):
                await self.post("send", to, {"payload": payload, "request_id": asked.name}, marks=(asked,))
                message: Message = await asked.wait()
                return message
            raise RequestTimeout(f"{to} did not answer within {seconds:g} s")
        finally:
            self.forget_request(asked)

    async def answer_to(self, asked: Asked, timeout: float | None) -> Message:
        """For streams: the reply to one."""
        try:
            message: Message = await self._answer(
                asked, self.timeout if timeout is None else timeout, f"{asked.to} did not answer"
            )
            return message
        finally:
            self.forget_request(asked)

    def forget_request(self, asked: Asked) -> None:
        """For streams: nobody waits for an answer any more."""
        if self._asked.get(asked.name) is asked:
            del self._asked[asked.name]

    async def list_page(self, fields: dict[str, Any]) -> Got:
        """Ask the router who is there."""
        asked = Asked(Bell(self.tasks), self.new_id("l"))
        link = await self._room("", None)
        self._lists[asked.name] = asked
        self.inbox.was_read()
        link.write(encoded({"type": "list", "id": asked.name, **fields}))
        asked.sent = True
        try:
            got: Got = await self._answer(asked, self.timeout, "the router did not list its agents")
            return got
        finally:
            self._lists.pop(asked.name, None)

    def watch(self) -> PresenceStream:
        """Let the router tell who comes and goes."""
        unread = Unread(self.inbox.unread)
        stream = PresenceStream(self, unread)
        us = weakref.ref(self)

        def dropped() -> None:
            engine = us()
            if engine is not None:
                unread.add(-unread.frames, 0)
                engine.inbox.was_read()
                if not engine._watching:
                    engine.tell({"type": "unwatch"}, "presence")

        weakref.finalize(stream, dropped).atexit = False
        self._watching.add(stream)
        self.tell({"type": "watch"}, "presence")
        return stream

    def _watch_again(self, link: Link) -> None:
        if self._watching and "presence" in self.features:
            link.write(encoded({"type": "watch"}))
        for each in list(self._watching):
            each.put(PresenceEvent("missed", None))
