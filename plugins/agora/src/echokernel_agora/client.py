"""AI agents in Python: register with a router, find others, send, stream, ask and answer."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from pydantic import TypeAdapter

from echokernel import InvalidArgument
from echokernel.tasks import open_tasks
from echokernel_agora.conversation import ABSENT, FEATURES, Conversation, json_text
from echokernel_agora.engine import Engine
from echokernel_agora.errors import AgoraError
from echokernel_agora.link import parse_url
from echokernel_agora.messages import ChunkStream, Message, MessageStream, PresenceStream
from echokernel_protocol.agora import RouterRecord

__all__ = ["AgoraClient"]

PATIENCE = 60.0  # seconds that sending waits for a slow receiver
_RECORDS = TypeAdapter(list[RouterRecord])


class AgoraClient:
    """One agent: ``async with AgoraClient("ws://127.0.0.1:8765/ws", id="agent-1") as client:``, on asyncio and trio.

    ``name`` is what people read (by default the id), ``capabilities`` what others may look for, ``card`` an object that
    describes the agent. ``token`` goes into the ``Authorization`` header; ``context`` is for ``wss://``. Entering the block
    connects and registers, within ``timeout`` seconds. A lost connection is made again, after pauses of 50 ms to 4 s, until
    the block is left, the router refuses this agent, or a newer connection takes its id (:class:`Replaced`). With the router's
    feature ``resume`` nothing is lost or doubled by that, as long as it lasts no longer than the router waits.

    ``on_error`` hears of errors that nobody waits for, as those of plain ``send``; otherwise they are logged. What comes and
    is not taken is bounded by 256 frames and 1 MiB; then the socket is not read until the program reads (while an answer is
    awaited, 16 times as much comes in before). ``paced``: send a little less per second than a router takes by default.

    Raises InvalidArgument for what cannot be; on entering also TransportError, Unauthenticated, PermissionDenied, AgoraError.
    """

    def __init__(
        self,
        url: str = "ws://127.0.0.1:8765/ws",
        *,
        id: str,
        name: str | None = None,
        endpoint: str | None = None,
        capabilities: Sequence[str] = (),
        card: dict[str, Any] | None = None,
        token: str | None = None,
        features: Iterable[str] = FEATURES,
        timeout: float = 10.0,
        patience: float = PATIENCE,
        reconnect: bool = True,
        paced: bool = True,
        context: ssl.SSLContext | None = None,
        on_error: Callable[[AgoraError], object] | None = None,
    ) -> None:
        if not 0 < timeout < float("inf") or not 0 < patience < float("inf"):
            raise InvalidArgument(f"timeout={timeout}, patience={patience}: wanted more than 0 seconds, and an end")
        register: dict[str, Any] = {"id": id, "name": name or id}
        if endpoint is not None:
            register["endpoint"] = endpoint
        if capabilities:
            register["capabilities"] = list(capabilities)
        if card is not None:
            register["card"] = json_text(card, "the card")
        self._uri, self._conversation = parse_url(url), Conversation(register, features=features)
        self._options: dict[str, Any] = {
            "id": id,
            "token": token,
            "context": context,
            "timeout": timeout,
            "patience": patience,
            "reconnect": reconnect,
            "paced": paced,
            "on_error": on_error,
        }
        self._engine: Engine | None = None
        self.id = id
        """This agent's id."""

    async def __aenter__(self) -> AgoraClient:
        if self._engine is not None:
            raise InvalidArgument("a client is entered once; make another one")
        self._tasks = open_tasks()
        await self._tasks.__aenter__()
        self._engine = Engine(self._uri, self._conversation, self._tasks, **self._options)
        self._tasks.start(self._engine.run, name=f"agora: {self.id}")
        try:
            await self._engine.first.wait()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        try:
            await self._running.close()
        finally:
            await self._tasks.__aexit__(None, None, None)

    @property
    def _running(self) -> Engine:
        if self._engine is None:
            raise InvalidArgument("the client is not connected: async with AgoraClient(…) as client")
        return self._engine

    @property
    def connected(self) -> bool:
        """Whether there is a connection now on which this agent is registered."""
        return self._engine is not None and self._engine.connected

    @property
    def features(self) -> frozenset[str]:
        """Which of ``receipt credit resume presence`` the router has granted."""
        return self._conversation.features

    @property
    def failure(self) -> Exception | None:
        """Why there will be no further connection; None while there may be one."""
        return self._engine.failure if self._engine is not None else None

    async def list(self, *, capability: str | None = None, cards: bool = False) -> list[RouterRecord]:
        """Return who is registered, the oldest first; only those with a capability, with their cards, if wanted.

        Raises RequestTimeout after the client's timeout, ConnectionLost, AgoraError.
        """
        found: list[RouterRecord] = []
        fields: dict[str, Any] = {"capability": capability, "card": cards or None}
        while True:
            page = await self._running.list_page(fields)
            found += _RECORDS.validate_json(bytes(page.agents))
            if page.cursor is None:
                return found
            fields["cursor"] = page.cursor

    async def send(self, to: str, payload: Any = ABSENT, *, confirm: bool = False) -> str | None:
        """Send a message. ``payload`` is what JSON has, or a ``msgspec.Raw`` of JSON, which travels as it is.

        It waits only where the receiver is slow (credit) or there is no connection, at most ``patience`` seconds: then
        ReceiverSlow or ConnectionLost. What the router says against it goes to ``on_error``. With ``confirm`` it waits for the
        receipt and returns ``delivered``, or ``stored`` where the receiver's connection is lost and may come back; and raises
        what the router says, as NoSuchAgent or ReceiverSlow, or RequestTimeout.
        """
        return await self._running.post("send", to, {"payload": payload}, confirm=confirm)

    def stream(self, to: str, payload: Any = ABSENT, *, confirm: bool = False, reply: bool = False) -> MessageStream:
        """Send a message in chunks: ``async with client.stream("agent-2") as stream: await stream.send("…")``.

        With ``confirm``, leaving the block waits for the receipt of the end; with ``reply``, ``await stream.reply()`` is the
        answer. Raises as :meth:`send` does.
        """
        engine, asked = self._running, None
        if reply:
            asked, payload = engine.ask(to, payload)
        name = None if asked is None else asked.name
        return MessageStream(engine, "send", to, payload, request_id=name, confirm=confirm, asked=asked)

    async def request(self, to: str, payload: Any = ABSENT, *, timeout: float | None = None) -> Message:
        """Send a message and return the reply to it, which may be a stream (``reply.chunks()``).

        The request's id travels beside the payload, and within it where that is an object, for agents of the seed. ``timeout``
        in seconds, by default the client's. Raises RequestTimeout, what the router says (NoSuchAgent, …), and ConnectionLost,
        whose ``delivered`` tells whether the message can have arrived.
        """
        return await self._running.request(to, payload, timeout)

    async def request_stream(self, to: str, payload: Any = ABSENT, *, timeout: float | None = None) -> ChunkStream:
        """Send a message and return the chunks of the reply: ``async for chunk in await client.request_stream("llm", "Hi")``.

        ``timeout`` bounds the wait for its beginning. Raises as :meth:`request` does.
        """
        return (await self.request(to, payload, timeout=timeout)).chunks()

    def messages(self) -> AsyncIterator[Message]:
        """Return what comes, in order: messages, and replies that no ``request`` waits for.

        It goes on over lost connections, ends when the client is closed, and raises the reason when there will be no further
        connection. Several readers share what comes.
        """
        return _Inbox(self._running)

    def presence(self) -> PresenceStream:
        """Return who comes and goes from now on: ``async for event, agent in client.presence()``.

        ``event`` is ``online``, ``changed``, ``offline`` (it may come back) or ``gone``; ``missed``, with no agent, where a
        connection was lost and events with it: ``list`` tells what is now. Raises InvalidArgument where the router has no
        presence, when the first event is awaited.
        """
        return self._running.watch()


class _Inbox:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __aiter__(self) -> _Inbox:
        return self

    async def __anext__(self) -> Message:
        message = await self._engine.inbox.next()
        if message is None:
            raise StopAsyncIteration
        return message
