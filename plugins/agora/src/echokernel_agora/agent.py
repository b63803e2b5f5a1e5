"""Agents in Python on a session of the node: the same as :class:`AgoraClient`, without a connection of their own."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from echokernel import InvalidArgument
from echokernel.engine.redialling import ReconnectingClient
from echokernel.tasks import open_tasks
from echokernel_agora.agent_engine import FEATURES, AgentEngine
from echokernel_agora.client import PATIENCE, AgoraClient
from echokernel_agora.conversation import Conversation, json_text
from echokernel_agora.crossing import Registration

if TYPE_CHECKING:
    from echokernel import EchoClient
    from echokernel_agora.errors import AgoraError
    from echokernel_protocol.agora import RouterRecord

__all__ = ["AgoraAgent"]


class AgoraAgent(AgoraClient):
    """One agent: ``async with AgoraAgent(client, id="agent-1") as agent:``, on asyncio and trio.

    ``client`` is connected to a node with a router. It is one agent at a time, and goes on with its own requests and events.
    What can be done is what :class:`AgoraClient` does; here each stream is a QUIC stream of its own, so one that is not read
    holds up nothing else. A client that connects again registers again; what was under way is then lost, and told as such.

    Raises InvalidArgument for what cannot be, and for a client that is an agent already; on entering also AgoraError,
    MethodNotFound where the node has no bridge, PermissionDenied, and what a request raises.
    """

    def __init__(
        self,
        client: EchoClient,
        *,
        id: str,
        name: str | None = None,
        endpoint: str | None = None,
        capabilities: Sequence[str] = (),
        card: dict[str, Any] | None = None,
        timeout: float = 10.0,
        patience: float = PATIENCE,
        on_error: Callable[[AgoraError], object] | None = None,
    ) -> None:
        if not 0 < timeout < float("inf") or not 0 < patience < float("inf"):
            raise InvalidArgument(f"timeout={timeout}, patience={patience}: wanted more than 0 seconds, and an end")
        described = None if card is None else bytes(json_text(card, "the card"))
        self._client = client
        self._about = Registration(id, name or id, endpoint, list(capabilities), described)
        self._conversation = Conversation({})  # nothing is said with frames here
        self._options = {
            "id": id,
            "timeout": timeout,
            "patience": patience,
            "reconnect": isinstance(client, ReconnectingClient),
            "on_error": on_error,
        }
        self._engine: AgentEngine | None = None
        self._handlers: builtins.list[Any] = []
        self.id = id

    async def __aenter__(self) -> AgoraAgent:
        if self._engine is not None:
            raise InvalidArgument("an agent is entered once; make another one")
        self._tasks = open_tasks()
        await self._tasks.__aenter__()
        self._engine = AgentEngine(self._client, self._conversation, self._tasks, self._about, **self._options)
        try:
            for handler in self._engine.handlers():
                self._client.add_handler(handler)  # InvalidArgument: there is an agent on it already
                self._handlers.append(handler)
            self._tasks.start(self._engine.run, name=f"agora: {self.id}")
            await self._engine.first.wait()
        except BaseException:
            await self._leave()
            raise
        return self

    async def _leave(self) -> None:
        try:
            await super()._leave()
        finally:
            for handler in self._handlers:
                remove = self._client.remove_rpc if handler.kind == "rpc" else self._client.remove_event
                remove(handler.name)
            self._handlers.clear()

    @property
    def features(self) -> frozenset[str]:
        """What the router does for this agent: ``receipt``, ``credit``, ``presence``."""
        return FEATURES

    async def list(self, *, capability: str | None = None, cards: bool = False) -> builtins.list[RouterRecord]:
        if self._engine is None:
            raise InvalidArgument("the agent is not registered: async with AgoraAgent(…) as agent")
        return await self._engine.list_all(capability, cards)
