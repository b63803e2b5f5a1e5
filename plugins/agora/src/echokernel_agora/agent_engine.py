"""What runs behind an :class:`~echokernel_agora.AgoraAgent`: a session in place of a WebSocket, with a QUIC stream for each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import anyio
from msgspec import Raw

from echokernel import ConnectionClosed, EchoError, StreamClosed, event, rpc
from echokernel_agora.bell import Bell
from echokernel_agora.bridge import flush, list_agents, register, send, tell
from echokernel_agora.bridge import leave as leave_router
from echokernel_agora.conversation import ABSENT, NOTHING, Conversation, Got, Reason, check_receiver, json_text
from echokernel_agora.crossing import (
    AgentEntry,
    AgentPage,
    Closed,
    Incoming,
    ListQuery,
    Notice,
    Outgoing,
    PresenceChange,
    Registration,
    on_closed,
    on_error,
    on_message,
    on_presence,
    on_stream,
)
from echokernel_agora.engine import Engine
from echokernel_agora.errors import AgoraError, ConnectionLost, ReceiverSlow, error_of
from echokernel_agora.inbox import Inbox
from echokernel_agora.link import LinkClosed
from echokernel_agora.messages import Asked, MessageStream, PresenceEvent
from echokernel_protocol.agora import RouterRecord

if TYPE_CHECKING:
    from websockets.uri import WebSocketURI

    from echokernel import EchoClient, Session, StreamingCall
    from echokernel.tasks import TaskScope

__all__ = ["AgentEngine", "record_of"]

FEATURES = frozenset({"receipt", "credit", "presence"})
UNREAD_MESSAGES = 256  # that the program has not taken; then the session's events wait, and their senders are told
WAITED_FOR = 16  # times as many come in while an answer is awaited, which may be behind them
UNREAD_CHUNKS, UNREAD_BYTES = 64, 64 * 1024  # of one stream; then that stream is not read
FLUSH_FRAMES, FLUSH_BYTES = (
    64,
    32 * 1024,
)  # messages for one receiver, after which it is asked whether they have gone on
LEAVE_SECONDS = 1.0
REASON_SECONDS = 1.0


class _Inbox(Inbox):
    """Streams wait each by itself, so only messages count."""

    def is_full(self) -> bool:
        return len(self._messages) > UNREAD_MESSAGES * (WAITED_FOR if self._engine.is_waiting else 1)

    def was_read(self) -> None:
        self._read.ring()


class _Out:
    """A stream on its way out."""

    __slots__ = ("call", "done", "request_id")

    def __init__(self, call: StreamingCall, done: Asked, request_id: Any) -> None:
        self.call, self.done, self.request_id = call, done, request_id


class AgentEngine(Engine):
    """One agent on one client of a node."""

    def __init__(
        self, client: EchoClient, conversation: Conversation, tasks: TaskScope, about: Registration, **options: Any
    ) -> None:
        nowhere = cast("WebSocketURI", None)  # it has no connection of its own
        super().__init__(nowhere, conversation, tasks, token=None, context=None, paced=False, **options)
        self.inbox = _Inbox(self)
        self._client, self._about = client, about
        self._session: Session | None = None
        self._over_why: Exception | None = None
        self._outs: dict[tuple[str, str, str], _Out] = {}
        self._receiving: dict[tuple[str, bool, str], anyio.CancelScope] = {}
        self._unflushed: dict[str, list[int]] = {}
        self._ended = Bell(tasks)

    # -- connections -------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def features(self) -> frozenset[str]:
        return FEATURES

    @property
    def extended(self) -> bool:
        return True

    async def close(self) -> None:
        self.closed = True
        session, self._session = self._session, None
        self._wake()
        if session is not None:
            with anyio.move_on_after(LEAVE_SECONDS, shield=True):
                try:
                    await session.call(leave_router)
                except EchoError:
                    pass  # then it is none already
        self._fail_all(ConnectionLost("the agent was closed"), everything=True)
        self._ended.ring()
        self._wake()

    async def _talk(self) -> None:
        """Live through one session: register, and wait for its end."""
        self._over_why = None
        await self._register_now()
        session = self._session = self._client.session
        watch = self.tasks.start(self._watch_session, session, name=f"agora: session of {self.id}")
        again = self.first.done
        self.first.answer()
        if again:
            for each in list(self._watching):
                each.put(PresenceEvent("missed", None))
        self._wake()
        try:
            while self._over_why is None and not self.closed:
                await self._ended.wait()
        finally:
            self._session = None
            self.tasks.stop(watch)
        raise self._over_why or ConnectionLost("the agent was closed")

    async def _register_now(self) -> None:
        about = Registration(
            self._about.id,
            self._about.name,
            self._about.endpoint,
            self._about.capabilities,
            self._about.card,
            bool(self._watching),
        )
        try:
            await self._client.with_options(timeout=self.timeout, idempotent=True).call(register, about)
        except EchoError as error:
            raise as_said(error) from None

    async def _watch_session(self, session: Session) -> None:
        self._lose(ConnectionLost(f"the session is over: {await session.wait_closed()}"))

    def _lose(self, why: Exception) -> None:
        self._over_why = self._over_why or why
        self._ended.ring()

    # -- what comes --------------------------------------------------------------------------------------------------

    def handlers(self) -> list[Any]:
        """Return what the client has to handle."""

        @event(on_message.name)
        async def message(message: Incoming) -> None:
            self._take_message(got_of(message), len(message.payload or b""))
            while self.inbox.is_full() and not self.closed:
                await self.inbox.room()

        @rpc(on_stream.name)
        async def incoming(start: Incoming, chunks: AsyncIterator[bytes]) -> None:
            await self._receive(start, chunks)

        @event(on_error.name)
        async def error(notice: Notice) -> None:
            self._take_error(
                Got(
                    type="error",
                    code=notice.code,
                    message=notice.message,
                    to=notice.to,
                    from_=notice.sender,
                    stream_id=notice.stream_id,
                    id=notice.id,
                    request_id=None if notice.request_id is None else json.loads(notice.request_id),
                    retry_ms=notice.retry_ms,
                ),
                0,
            )

        @event(on_presence.name)
        async def presence(change: PresenceChange) -> None:
            for each in list(self._watching):
                each.put(PresenceEvent(change.event, record_of(change.agent)))

        @event(on_closed.name)
        async def closed(closed: Closed) -> None:
            self._lose(LinkClosed(closed.code, closed.reason))

        return [message, incoming, error, presence, closed]

    async def _receive(self, start: Incoming, chunks: AsyncIterator[bytes]) -> None:
        """Take a stream, as far as the program reads it."""
        got = got_of(start, streamed=True)
        key = start.sender, start.reply, start.stream_id or ""
        self._take_message(got, len(start.payload or b""))
        stream = self.inbox.unread_of(key)
        kind = "reply" if start.reply else "message"
        error: Reason | None = Reason("connection_lost", "the session is over; what came is not the whole")
        try:
            with anyio.CancelScope() as scope:
                self._receiving[key] = scope
                if stream is None:
                    return  # nobody wants it
                async for chunk in chunks:
                    if chunk[:1] == b"{":
                        error = Reason(**{name: json.loads(chunk).get(name) for name in ("code", "message")})
                        return
                    self.inbox.chunk(
                        Got(type=f"{kind}_chunk", from_=start.sender, stream_id=start.stream_id, chunk=Raw(chunk)),
                        len(chunk),
                    )
                    while stream.frames > UNREAD_CHUNKS or stream.octets > UNREAD_BYTES:
                        await self.inbox.room()
                error = None
        finally:
            self._receiving.pop(key, None)
            self.inbox.end(Got(type=f"{kind}_end", from_=start.sender, stream_id=start.stream_id, error=error))

    def tell(self, fields: dict[str, Any], feature: str | None = None) -> None:
        if fields["type"] == "stop":
            scope = self._receiving.get((fields["from"], bool(fields["reply"]), fields["stream_id"]))
            if scope is not None:
                scope.cancel()
        elif self._session is not None:  # watch, unwatch
            self.tasks.start(self._tell_watching, name="agora: watch")

    async def _tell_watching(self) -> None:
        try:
            await self._register_now()
        except EchoError:
            pass  # the next session is told

    # -- what goes ---------------------------------------------------------------------------------------------------

    async def _live(self, to: str) -> Session:
        """Return the session, waiting at most ``patience`` seconds for one."""
        with anyio.move_on_after(self._patience):
            while True:
                if self.failure is not None or self.closed:
                    raise ConnectionLost(f"{self.failure or 'the agent was closed'}; nothing was sent", delivered=False)
                if self._session is not None:
                    return self._session
                await self._changed.wait()
        raise ConnectionLost(f"{to}: there is no session, for {self._patience:g} s; nothing was sent", delivered=False)

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
        check_receiver(to)
        session = await self._live(to)
        if check is not None:
            check()
        base = kind.partition("_")[0]
        try:
            if kind != base:
                return await self._go_on(kind, (base, to, fields["stream_id"]), fields, confirm)
            message = Outgoing(
                to=to,
                payload=_text(fields.get("payload", ABSENT), "the payload"),
                stream_id=fields.get("stream_id"),
                request_id=_text(fields.get("request_id"), "request_id")
                if fields.get("request_id") is not None
                else None,
                reply=base == "reply",
            )
            if fields.get("stream"):
                await self._start_stream(session, base, message, fields, marks)
                return None
            for mark in marks:
                if mark is not None:
                    mark.sent = True
            if confirm:
                status: str = await session.with_options(timeout=self.timeout).call(send, message)
                return status
            await session.call(tell, message)
            await self._flush(session, message)
            return None
        except EchoError as error:
            raise as_said(error) from None

    async def _flush(self, session: Session, message: Outgoing) -> None:
        """Now and then, wait until what was sent to an agent has gone on to it: what is not read is not sent."""
        sent = self._unflushed.setdefault(message.to, [0, 0])
        sent[0] += 1
        sent[1] += len(message.payload or b"") + 100
        if sent[0] < FLUSH_FRAMES and sent[1] < FLUSH_BYTES:
            return
        del self._unflushed[message.to]
        with anyio.move_on_after(self._patience):
            await session.with_options(timeout=0).call(flush, message.to)
            return
        raise ReceiverSlow(
            f"{message.to}: it reads more slowly than it is sent to, for {self._patience:g} s", to=message.to
        )

    async def _start_stream(
        self,
        session: Session,
        base: str,
        message: Outgoing,
        fields: dict[str, Any],
        marks: Iterable[Asked | MessageStream | None],
    ) -> None:
        call = session.request_stream("agora.stream", asdict(message), sends=True)
        await call.__aenter__()
        out = _Out(call, Asked(Bell(self.tasks)), fields.get("request_id"))
        key = base, message.to, fields["stream_id"]
        self._outs[key] = out
        for mark in marks:
            if mark is not None:
                mark.sent = True
        self.tasks.start(self._follow, key, out, name="agora: stream")

    async def _follow(self, key: tuple[str, str, str], out: _Out) -> None:
        """Learn what becomes of a stream, while it is sent and after."""
        status = ""
        try:
            async for answer in out.call:
                status = answer
            out.done.answer(status)
        except EchoError as error:
            said = as_said(error)
            out.done.answer(error=said)
            if self._session is not None and isinstance(said, AgoraError):  # else everything is told that it is lost
                _, to, stream_id = key
                text = str(said).removeprefix(f"{to}: ")
                got = Got(type="error", code=said.reason, message=text, to=to, stream_id=stream_id)
                got.request_id = out.request_id
                self._take_error(got, 0)
        finally:
            if self._outs.get(key) is out:
                del self._outs[key]
            out.call.close()

    async def _go_on(self, kind: str, key: tuple[str, str, str], fields: dict[str, Any], confirm: bool) -> str | None:
        out, to = self._outs.get(key), key[1]
        if out is None:
            raise ConnectionLost(f"{to}: the stream was lost with its session")
        with anyio.move_on_after(self._patience):
            try:
                if kind.endswith("_chunk"):
                    await out.call.send(bytes(json_text(fields["chunk"], "the chunk")))
                    return None
                if "error" in fields:
                    await out.call.send(bytes(json_text(fields["error"])))
                await out.call.finish()
            except StreamClosed:  # the router has stopped it, and says why
                with anyio.move_on_after(REASON_SECONDS):
                    await out.done.wait()
                raise
            if not confirm:
                return None
            status: str = await self._answer(out.done, self.timeout, f"{to}: no receipt")
            return status
        out.call.close()
        raise ReceiverSlow(f"{to}: it reads more slowly than it is sent to, for {self._patience:g} s", to=to)

    async def list_all(self, capability: str | None, cards: bool) -> list[RouterRecord]:
        """Ask the router who is there."""
        found: list[RouterRecord] = []
        cursor: str | None = None
        while True:
            session = await self._live("the router")
            try:
                page: AgentPage = await session.with_options(timeout=self.timeout).call(
                    list_agents, ListQuery(None, cursor, capability, cards)
                )
            except EchoError as error:
                raise as_said(error) from None
            found += map(record_of, page.agents)
            cursor = page.cursor
            if cursor is None:
                return found


def record_of(entry: AgentEntry) -> RouterRecord:
    """Return a record as :class:`~echokernel_agora.AgoraClient` shows it."""
    fields = {name: value for name, value in asdict(entry).items() if value is not None and value != []}
    if entry.card is not None:
        fields["card"] = json.loads(entry.card)
    return RouterRecord.model_validate(fields)


def got_of(message: Incoming, *, streamed: bool = False) -> Got:
    """Return what came as the frame that a WebSocket would have brought."""
    return Got(
        type="reply" if message.reply else "message",
        from_=message.sender,
        stream_id=message.stream_id,
        stream=streamed,
        payload=NOTHING if message.payload is None else Raw(message.payload),
        id=message.id,
        request_id=None if message.request_id is None else json.loads(message.request_id),
    )


def as_said(error: EchoError) -> EchoError:
    """Return the router's error where the kernel's carries one."""
    if isinstance(error, AgoraError):
        return error
    if error.details:
        try:
            about = json.loads(error.details)
            return error_of(
                about["code"],
                about["message"],
                to=about.get("to"),
                stream_id=about.get("stream_id"),
                request_id=about.get("request_id"),
                retry_ms=about.get("retry_ms"),
            )
        except (ValueError, KeyError, TypeError):
            pass  # of something else
    if isinstance(error, ConnectionClosed):
        return ConnectionLost(f"{error}; what was sent may have been delivered")
    return error


def _text(value: Any, what: str) -> bytes | None:
    return None if value is ABSENT else bytes(json_text(value, what))
