"""What a node keeps for its handlers: data, and on a server the sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echokernel.clock import SYSTEM_CLOCK
from echokernel.engine.broadcast import Broadcasts
from echokernel.engine.groups import Groups
from echokernel.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from echokernel.client import EchoClient
    from echokernel.clock import Clock
    from echokernel.engine.broadcast import BroadcastPolicy
    from echokernel.session import Session
    from echokernel.transport import Listener

__all__ = ["ClientContext", "ServerContext", "Store"]


class Store:
    """Keeps values for a program, by name."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._data[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was kept under ``key``."""
        return self._data.get(key, default)

    def remove(self, key: str) -> Any:
        """Forget what was kept under ``key``, and return it; None where nothing was."""
        return self._data.pop(key, None)


class ServerContext(Store):
    """A server's data, its sessions and their groups."""

    clock: Clock = SYSTEM_CLOCK
    """What stamps the streams of this node: the machine's own clock without a clock plugin."""
    name: str = ""
    """The node's name."""
    boot: str = ""
    """A random text that changes with every start of the node."""
    listeners: Sequence[Listener] = ()
    """Where the server listens; empty while it does not."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[int, Session] = {}
        self._groups = Groups()
        self._broadcasts = Broadcasts()
        self._clients: dict[str, EchoClient] = {}

    def client(self, name: str) -> EchoClient:
        """Return the connection to another node that this server makes under ``name``, as ``[connect.NAME]`` or in code.

        Raises InvalidArgument for a name that it has not.
        """
        try:
            return self._clients[name]
        except KeyError:
            known = ", ".join(self._clients) or "none"
            raise InvalidArgument(f"this server connects to no node as {name!r}; there are: {known}") from None

    def sessions(self, group: str | None = None) -> list[Session]:
        """Return the sessions that are open now: all of them, or those of a group in the order in which they joined."""
        sessions = self._sessions.values() if group is None else self._groups.members(group)
        return [session for session in sessions if session.closed is None]

    def groups(self) -> frozenset[str]:
        """Return the names of the groups that have members."""
        return self._groups.names()

    async def broadcast(
        self,
        event: str,
        data: Any = None,
        *,
        group: str | None = None,
        exclude: Session | Iterable[Session] | None = None,
        policy: BroadcastPolicy | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Send an event to every session, or to those of a group; ``exclude`` names one or several that do not get it.

        It is encoded once, and never waits for a session. At one that is an event window or an outbox behind, ``policy``
        decides; by default that of :meth:`set_policy`, else ``"wait"``:

        * ``"wait"``: it waits for its turn. A session for which more than ``Limits.broadcast_backlog`` bytes wait is
          closed as a slow consumer, with the code RESOURCE_EXHAUSTED.
        * ``"drop_oldest"``: the newest ``Limits.broadcast_keep`` of that event wait, older ones are dropped.
        * ``"latest"``: only the newest of that event waits.
        * ``"disconnect"``: the session is closed as a slow consumer.

        Events of one name are handled in the order in which they were sent, broadcasts and ``emit`` together. Thousands of
        sessions are served in several turns of the loop; cancelled meanwhile, some have got the event and some have not.

        Returns the number of sessions that it was put on its way to, or waits for; not counted are those that are excluded,
        end or are closed for it, and those that drop it at once. That a peer got it, nobody knows.

        Raises SerializationError and InvalidArgument (names, metadata, an event that is too long for every session), both
        before anything is sent.
        """
        return await self._broadcasts.send(event, data, self.sessions(group), exclude, policy, metadata)

    def set_policy(self, event: str, policy: BroadcastPolicy) -> None:
        """Choose what happens to later broadcasts of ``event`` at sessions that are behind. Raises InvalidArgument."""
        self._broadcasts.set_policy(event, policy)

    def stats(self) -> Mapping[str, int | float]:
        """Return counters: sessions, groups, and of broadcasts how many there were and what became of them.

        ``broadcasts`` counts calls, ``disconnected`` sessions, the others one for each session: ``delivered`` (handed to its
        channel), ``dropped_wait dropped_drop_oldest dropped_latest dropped_disconnect`` (by policy), ``lost`` (waited when
        the session ended), ``too_large`` (more than its peer takes), ``waiting`` and ``waiting_bytes`` (now).
        """
        return {"sessions": len(self._sessions), "groups": len(self._groups), **self._broadcasts.stats()}


class ClientContext(Store):
    """A client's data."""

    session: Session | None = None
    """The session with the server; None before it is connected."""
    clock: Clock = SYSTEM_CLOCK
    """What stamps the streams of this node: the machine's own clock without a clock plugin."""

    def stats(self) -> Mapping[str, int | float]:
        """Return the session's counters."""
        return {} if self.session is None else self.session.stats()
