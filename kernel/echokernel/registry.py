"""What plugins register objects with. Filled once while a node is built; messages never pass through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from echokernel.errors import PluginError

if TYPE_CHECKING:
    import argparse

    from pydantic import BaseModel

    from echokernel.context import ServerContext
    from echokernel.discovery import Discovery
    from echokernel.handlers import EventHandler, RpcHandler, StreamHandler
    from echokernel.middleware import Middleware
    from echokernel.reconnect import ReconnectPolicy
    from echokernel.serializer import Serializer
    from echokernel.transport import PeerIdentity, Transport
    from echokernel_protocol.describe import PluginDescription

T = TypeVar("T")

__all__ = ["Authenticator", "Check", "Command", "Factory", "Registered", "Registry", "Service", "TransportFactory"]


class Authenticator(Protocol):
    """Asked while a hello is accepted."""

    async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
        """Return the peer's principal, None to leave the decision to the next authenticator.

        Raises Unauthenticated to refuse the peer for good.
        """


class Service(Protocol):
    """Something that runs beside a server: a router, an advertiser, a clock.

    One that is also a :class:`~echokernel.clock.Clock` becomes the server's clock. One with an attribute ``stops_first`` that
    is true is stopped as soon as the server accepts nobody any more: an advertiser. One with an attribute ``serves`` that is
    true is worth running where the node has no listener: a router with one of its own.
    """

    async def start(self, context: ServerContext) -> None:
        """Begin; the server listens, and accepts nobody yet. An exception keeps it from starting."""

    async def stop(self) -> None:
        """End, within 5 s. The sessions are closed already, but for one that stops first."""


class Command(Protocol):
    """An extra word of the command line."""

    name: str
    help: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


class Check(Protocol):
    """A named check of ``echokernel doctor``."""

    name: str

    async def run(self) -> str | None:
        """Return None when all is well, otherwise what is wrong and what helps."""


@dataclass(frozen=True, slots=True)
class TransportFactory:
    """How one URL scheme is served.

    ``create`` gets an instance of one of the two settings models (``listen_settings`` for ``[listen.NAME]``,
    ``connect_settings`` for ``[connect.NAME]`` and clients) and returns a transport without opening anything.
    """

    create: Callable[[Any], Transport]
    listen_settings: type[BaseModel]
    connect_settings: type[BaseModel]


@dataclass(frozen=True, slots=True)
class Factory(Generic[T]):
    """A named thing that is made from its settings: ``create(settings)``, or ``create()`` when ``settings`` is None."""

    create: Callable[..., T]
    settings: type[BaseModel] | None = None

    def default(self) -> T:
        """Return one with the defaults of its settings."""
        return self.create() if self.settings is None else self.create(self.settings())


@dataclass(frozen=True, slots=True)
class Registered(Generic[T]):
    """A registered object and the plugin that it came from."""

    value: T
    plugin: str


class Registry:
    """Passed to every hook. Each method registers one object; a name that is taken is a PluginError naming both sides."""

    def __init__(self) -> None:
        self._plugin = "(none)"
        self._transports: dict[str, Registered[TransportFactory]] = {}
        self._serializers: dict[str, Registered[Serializer]] = {}
        self._middleware: dict[str, Registered[Factory[Middleware]]] = {}
        self._handlers: list[Registered[RpcHandler | EventHandler | StreamHandler]] = []
        self._discovery: dict[str, Registered[Factory[Discovery]]] = {}
        self._reconnect: dict[str, Registered[Factory[ReconnectPolicy]]] = {}
        self._authenticators: dict[str, Registered[Factory[Authenticator]]] = {}
        self._services: dict[str, Registered[Factory[Service]]] = {}
        self._commands: dict[str, Registered[Command]] = {}
        self._checks: dict[str, Registered[Check]] = {}
        self.plugins: tuple[PluginDescription, ...] = ()
        """The plugins that were loaded, in order."""

    def transport(
        self,
        scheme: str,
        create: Callable[[Any], Transport],
        *,
        listen_settings: type[BaseModel],
        connect_settings: type[BaseModel],
    ) -> None:
        """Register a transport for URLs ``scheme://…``."""
        self._add(self._transports, "transport", scheme, TransportFactory(create, listen_settings, connect_settings))

    def serializer(self, serializer: Serializer) -> None:
        """Register a serializer under its own name."""
        self._add(self._serializers, "serializer", serializer.name, serializer)

    def middleware(
        self, name: str, create: Callable[..., Middleware], *, settings: type[BaseModel] | None = None
    ) -> None:
        """Register middleware; where it stands in the onion is the configuration's list."""
        self._add(self._middleware, "middleware", name, Factory(create, settings))

    def handler(self, handler: RpcHandler | EventHandler | StreamHandler) -> None:
        """Register a handler: what ``@rpc``, ``@event`` or ``@stream`` made, or an object with ``name`` and ``handle``."""
        self._handlers.append(Registered(handler, self._plugin))

    def discovery(
        self, name: str, create: Callable[..., Discovery], *, settings: type[BaseModel] | None = None
    ) -> None:
        """Register a way to find nodes."""
        self._add(self._discovery, "discovery", name, Factory(create, settings))

    def reconnect(
        self, name: str, create: Callable[..., ReconnectPolicy], *, settings: type[BaseModel] | None = None
    ) -> None:
        """Register a policy that says when a lost connection is tried again."""
        self._add(self._reconnect, "reconnect policy", name, Factory(create, settings))

    def authenticator(
        self, name: str, create: Callable[..., Authenticator], *, settings: type[BaseModel] | None = None
    ) -> None:
        """Register an authenticator for ``[authenticator.NAME]``."""
        self._add(self._authenticators, "authenticator", name, Factory(create, settings))

    def service(self, name: str, create: Callable[..., Service], *, settings: type[BaseModel] | None = None) -> None:
        """Register a background service for ``[service.NAME]``."""
        self._add(self._services, "service", name, Factory(create, settings))

    def command(self, command: Command) -> None:
        """Register an extra command of the command line."""
        self._add(self._commands, "command", command.name, command)

    def check(self, check: Check) -> None:
        """Register a check for ``doctor``."""
        self._add(self._checks, "check", check.name, check)

    # What the kernel reads; views, so that a plugin cannot change what another one registered.

    @property
    def transports(self) -> Mapping[str, Registered[TransportFactory]]:
        return dict(self._transports)

    @property
    def serializers(self) -> Mapping[str, Registered[Serializer]]:
        return dict(self._serializers)

    @property
    def middlewares(self) -> Mapping[str, Registered[Factory[Middleware]]]:
        return dict(self._middleware)

    @property
    def handlers(self) -> tuple[Registered[RpcHandler | EventHandler | StreamHandler], ...]:
        return tuple(self._handlers)

    @property
    def discoveries(self) -> Mapping[str, Registered[Factory[Discovery]]]:
        return dict(self._discovery)

    @property
    def reconnects(self) -> Mapping[str, Registered[Factory[ReconnectPolicy]]]:
        return dict(self._reconnect)

    @property
    def authenticators(self) -> Mapping[str, Registered[Factory[Authenticator]]]:
        return dict(self._authenticators)

    @property
    def services(self) -> Mapping[str, Registered[Factory[Service]]]:
        return dict(self._services)

    @property
    def commands(self) -> Mapping[str, Registered[Command]]:
        return dict(self._commands)

    @property
    def checks(self) -> Mapping[str, Registered[Check]]:
        return dict(self._checks)

    # What the loader does.

    def enter(self, plugin: str) -> None:
        """Everything registered from now on comes from ``plugin``."""
        self._plugin = plugin

    def remove(self, plugin: str) -> None:
        """Forget everything that ``plugin`` registered; a failed plugin leaves nothing behind."""
        for table in (
            self._transports,
            self._serializers,
            self._middleware,
            self._discovery,
            self._reconnect,
            self._authenticators,
            self._services,
            self._commands,
            self._checks,
        ):
            for name in [name for name, entry in table.items() if entry.plugin == plugin]:
                del table[name]
        self._handlers = [entry for entry in self._handlers if entry.plugin != plugin]

    def _add(self, table: dict[str, Registered[T]], kind: str, name: str, value: T) -> None:
        taken = table.get(name)
        if taken is not None:
            raise PluginError(
                f"{kind} {name!r} is registered by plugin {taken.plugin!r} already; {self._plugin!r} cannot take it"
            )
        table[name] = Registered(value, self._plugin)
