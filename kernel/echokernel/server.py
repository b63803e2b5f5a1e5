"""The serving end: :class:`EchoServer` and its builder."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from echokernel.addresses import Address, parse_address
from echokernel.clock import Clock
from echokernel.context import ServerContext
from echokernel.engine.hello import accept_session
from echokernel.engine.node import Callback, Node
from echokernel.engine.upstreams import Upstreams
from echokernel.errors import ConfigError, ConnectionClosed, InvalidArgument, TransportError
from echokernel.limits import Limits
from echokernel.methods import HandlerOwner, MethodTable
from echokernel.tasks import open_tasks
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from types import TracebackType

    from echokernel.client import Connecting
    from echokernel.discovery import Discovery
    from echokernel.engine.broadcast import BroadcastPolicy
    from echokernel.middleware import Middleware
    from echokernel.registry import Authenticator, Service
    from echokernel.serializer import Serializer
    from echokernel.tasks import TaskScope
    from echokernel.transport import Connection, Listener, Transport

logger = logging.getLogger("echokernel.server")
SERVICE_SECONDS = 5.0  # that a service has to stop

__all__ = ["EchoServer", "ServerBuilder", "ServerPlugin"]


class ServerPlugin(Protocol):
    """Extends a server in code: ``EchoServer.builder().plugin(MyPlugin())``."""

    name: str

    def install(self, builder: ServerBuilder, /) -> ServerBuilder | None:
        """Change the builder; returns it, another one, or None for the same."""


@dataclass(frozen=True, slots=True)
class _Binding:
    address: Address
    transport: Transport | None
    authenticators: Sequence[Authenticator]
    allow_anonymous: bool


class ServerBuilder(HandlerOwner):
    """Collects what a server is made of. Every method returns the builder; nothing is opened before the server runs."""

    def __init__(self) -> None:
        self._node = Node(context=ServerContext())
        self._bindings: list[_Binding] = []
        self._transport: Transport | None = None
        self._serializers: list[Serializer] = []
        self._middleware: list[Middleware] = []
        self._authenticators: list[Authenticator] = []
        self._services: list[Service] = []
        self._upstreams: dict[str, Connecting] = {}
        self._plugins: list[object] = []
        self._hooks: dict[str, list[Callback]] = {"start": [], "stop": [], "connect": [], "disconnect": []}
        self._allow_anonymous = False
        self.discoveries: list[Discovery] = []

    @property
    def _methods(self) -> MethodTable:
        return self._node.methods

    def name(self, name: str) -> ServerBuilder:
        """The node's name, which peers see."""
        self._node.name = name
        return self

    def describe(self, allowed: bool) -> ServerBuilder:
        """Whether peers may ask for this node's methods, plugins and versions; by default they may."""
        self._node.about.describes = allowed
        return self

    def bind(self, address: str | Address | tuple[str, int]) -> ServerBuilder:
        """Listen at ``quic://host:port`` or ``host:port``; port 0 takes any free one. May be called several times."""
        return self.listen(address)

    def listen(
        self,
        address: str | Address | tuple[str, int],
        transport: Transport | None = None,
        *,
        authenticators: Sequence[Authenticator] = (),
        allow_anonymous: bool = False,
    ) -> ServerBuilder:
        """Listen at an address with a transport and authenticators of its own."""
        self._bindings.append(_Binding(parse_address(address), transport, tuple(authenticators), allow_anonymous))
        return self

    def transport(self, transport: Transport) -> ServerBuilder:
        """The transport of every address that has none of its own; by default that of the URL's scheme."""
        self._transport = transport
        return self

    def serializer(self, serializer: Serializer) -> ServerBuilder:
        """Add a serializer; the first one is preferred. By default the installed ones of postcard and msgpack."""
        self._serializers.append(serializer)
        return self

    def discovery(self, discovery: Discovery) -> ServerBuilder:
        """Keep a way to be found in ``discoveries``; nothing is advertised by itself."""
        self.discoveries.append(discovery)
        return self

    def middleware(self, middleware: Middleware) -> ServerBuilder:
        """Add middleware; the first one is the outermost."""
        self._middleware.append(middleware)
        return self

    def authenticator(self, authenticator: Authenticator) -> ServerBuilder:
        """Ask this authenticator at every address."""
        self._authenticators.append(authenticator)
        return self

    def allow_anonymous(self) -> ServerBuilder:
        """Listen beyond this machine although peers need not say who they are. Warned about at every start."""
        self._allow_anonymous = True
        return self

    def tracebacks(self) -> ServerBuilder:
        """Send the tracebacks of handlers that fail to their callers, in the error's details; for development."""
        self._node.tracebacks = True
        return self

    def service(self, service: Service) -> ServerBuilder:
        """Run a service beside the server; one that is a :class:`~echokernel.clock.Clock` becomes its clock."""
        self._services.append(service)
        if isinstance(service, Clock):
            self.clock(service)
        return self

    def upstream(self, name: str, connecting: Connecting) -> ServerBuilder:
        """Connect to another node as long as the server runs: ``upstream("up", EchoClient.builder()….connect(url))``.

        Handlers reach it with ``context.client("up")``. Raises InvalidArgument for a name that is taken.
        """
        if name in self._upstreams:
            raise InvalidArgument(f"upstream: there is a connection {name!r} already")
        self._upstreams[name] = connecting
        self._node.context._clients[name] = connecting.client
        return self

    def clock(self, clock: Clock) -> ServerBuilder:
        """The clock that stamps this node's streams, and that others may ask."""
        self._node.context.clock = clock
        return self

    def limits(self, limits: Limits) -> ServerBuilder:
        """Other bounds than the defaults."""
        self._node.limits = limits
        return self

    def broadcast_policy(self, event: str, policy: BroadcastPolicy) -> ServerBuilder:
        """What becomes of broadcasts of ``event`` at sessions that are behind: see ``ServerContext.broadcast``."""
        self._node.context.set_policy(event, policy)
        return self

    def plugin(self, plugin: ServerPlugin | object) -> ServerBuilder:
        """Use a plugin: an object with ``install(builder)``, or one (or a module) with hook functions."""
        install = getattr(plugin, "install", None)
        if install is None:
            self._plugins.append(plugin)
            return self
        return install(self) or self

    def on_start(self, callback: Callback) -> ServerBuilder:
        """Call ``callback(context)`` once the server listens."""
        self._hooks["start"].append(callback)
        return self

    def on_stop(self, callback: Callback) -> ServerBuilder:
        """Call ``callback(context)`` when the server has stopped listening and drained."""
        self._hooks["stop"].append(callback)
        return self

    def on_connect(self, callback: Callback) -> ServerBuilder:
        """Call ``callback(session)`` for every new session, before anything of it is handled. An exception closes it."""
        self._hooks["connect"].append(callback)
        return self

    def on_disconnect(self, callback: Callback) -> ServerBuilder:
        """Call ``callback(session)`` when a session is over; ``session.closed`` says why."""
        self._hooks["disconnect"].append(callback)
        return self

    def build(self) -> EchoServer:
        """Return the server. Raises InvalidArgument, ConfigError, PluginError for what cannot work; opens nothing."""
        if not self._bindings and not any(getattr(each, "serves", False) for each in self._services):
            raise InvalidArgument("the server has no address; call bind('127.0.0.1:4433')")
        node = self._node
        missing = [
            binding.address.scheme
            for binding in self._bindings
            if binding.transport is None and self._transport is None
        ]
        registry = None
        need_serializer = not self._serializers and bool(self._bindings)  # a service that serves alone needs none
        if missing or need_serializer or self._plugins:
            from echokernel.loader import load_for_library

            registry = load_for_library(
                missing[0] if missing else None, self._plugins, need_serializer=need_serializer
            )
            node.about.plugins = registry.plugins
            for entry in registry.handlers:
                self.add_handler(entry.value)
        if registry is not None and not self._serializers:
            self._serializers = [entry.value for entry in registry.serializers.values()]
        node.serializers = tuple(self._serializers)
        node.middleware = tuple(self._middleware)
        node.authenticators = tuple(self._authenticators)
        node.on_connect = tuple(self._hooks["connect"])
        node.on_disconnect = tuple(self._hooks["disconnect"])
        node.methods.check(node.serializers)
        bindings = []
        for binding in self._bindings:
            transport = binding.transport or self._transport
            if transport is None:
                from echokernel.loader import make_transport

                assert registry is not None
                transport = make_transport(registry, binding.address.scheme, listening=True)
            authenticators = (*binding.authenticators, *self._authenticators)
            allow = binding.allow_anonymous or self._allow_anonymous
            _check_public(binding.address, transport, authenticators, allow)
            bindings.append(_Binding(binding.address, transport, authenticators, allow))
        upstreams = Upstreams(self._upstreams)
        return EchoServer(node, bindings, self._services, upstreams, self._hooks["start"], self._hooks["stop"])


def _check_public(address: Address, transport: Transport, authenticators: Sequence[Authenticator], allow: bool) -> None:
    if address.is_loopback or authenticators or transport.authenticates_peers or address.scheme == "memory":
        return
    if not allow:
        raise ConfigError(
            f"{address} can be reached from other machines, and nobody would have to say who they are; "
            "add an authenticator, have the transport ask for client certificates (client_ca, or pins), "
            "listen on 127.0.0.1, or let everybody in with allow_anonymous"
        )


class EchoServer(HandlerOwner):
    """A node that listens. ``await server.run()``, or ``async with server:`` around what it should run beside."""

    def __init__(
        self,
        node: Node,
        bindings: Sequence[_Binding],
        services: Sequence[Service],
        upstreams: Upstreams,
        on_start: Sequence[Callback],
        on_stop: Sequence[Callback],
    ) -> None:
        self._node = node
        self._bindings = bindings
        self._services = services
        self._upstreams = upstreams
        self._on_start = on_start
        self._on_stop = on_stop
        self._listeners: list[Listener] = []
        self._tasks: TaskScope | None = None
        self._stopped = anyio.Event()
        self._stop_called = False
        self._unauthenticated = 0
        self._next_id = 1
        self._started_services: list[Service] = []

    @staticmethod
    def builder() -> ServerBuilder:
        """Return an empty builder."""
        return ServerBuilder()

    @property
    def _methods(self) -> MethodTable:
        return self._node.methods

    def context(self) -> ServerContext:
        """Return the server's context."""
        context: ServerContext = self._node.context
        return context

    @property
    def addresses(self) -> list[Address]:
        """Where the server listens, with the real ports; empty while it does not run."""
        return [listener.address for listener in self._listeners]

    @property
    def listeners(self) -> list[Listener]:
        """The open listeners."""
        return list(self._listeners)

    def stats(self) -> Mapping[str, int | float]:
        """Return counters."""
        return {**self.context().stats(), "unauthenticated": self._unauthenticated}

    async def run(self) -> None:
        """Listen and serve until :meth:`stop`, or until cancelled. Raises TransportError, ConfigError."""
        async with self:
            await self._stopped.wait()

    async def __aenter__(self) -> EchoServer:
        if self._tasks is not None:
            raise InvalidArgument("this server has run already; build another one")
        tasks = self._tasks = open_tasks()
        await tasks.__aenter__()
        try:
            await self._start(tasks)
        except BaseException:
            try:
                with anyio.CancelScope(shield=True):
                    await self._clean_up()
            finally:
                await tasks.__aexit__(None, None, None)  # shielded and bounded by itself
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        try:
            with anyio.CancelScope(shield=True):  # draining, and every stop, is bounded by itself
                try:
                    await self.stop(drain=None if exc is None else 0.0)
                finally:
                    await self._clean_up()
        finally:
            await self._tasks.__aexit__(None, None, None)  # shielded and bounded by itself

    async def _start(self, tasks: TaskScope) -> None:
        self._node.about.started = time.monotonic()
        for binding in self._bindings:
            assert binding.transport is not None
            asked = binding.authenticators or binding.transport.authenticates_peers
            if binding.allow_anonymous and not asked and not binding.address.is_loopback:
                logger.warning("%s accepts peers from other machines without asking who they are", binding.address)
            listener = await binding.transport.listen(binding.address, tasks)
            self._listeners.append(listener)
            logger.debug("listening on %s", listener.address)
        context = self.context()
        context.name, context.boot = self._node.name, self._node.boot
        context.listeners = tuple(self._listeners)
        await self._upstreams.start(tasks)
        for service in self._services:
            await service.start(context)
            self._started_services.append(service)
        for callback in self._on_start:
            await _call(callback, self.context())
        for listener, binding in zip(self._listeners, self._bindings, strict=True):
            tasks.start(self._accept, listener, binding, name=f"accept {listener.address}")

    async def _accept(self, listener: Listener, binding: _Binding) -> None:
        assert self._tasks is not None
        while True:
            try:
                connection = await listener.accept()
            except ConnectionClosed:
                return
            except TransportError as error:
                logger.warning("%s: %s", listener.address, error)
                continue
            if self._unauthenticated >= self._node.limits.max_unauthenticated:
                self._tasks.start(connection.close, Code.RESOURCE_EXHAUSTED, "too many hellos at a time", name="refuse")
                continue
            self._unauthenticated += 1
            self._tasks.start(self._serve, connection, binding.authenticators, name="session")

    async def _serve(self, connection: Connection, authenticators: Sequence[Authenticator]) -> None:
        assert self._tasks is not None
        sessions = self.context()._sessions
        id = self._next_id
        self._next_id += 1
        try:
            full = len(sessions) >= self._node.limits.max_sessions
            session = await accept_session(id, connection, self._node, authenticators, full=full)
        finally:
            self._unauthenticated -= 1
        if session is None:
            return
        sessions[id] = session
        logger.debug("session %s opened by %s:%s", id, *session.peer_addr)
        try:
            await session.run(self._tasks.future())
        finally:
            del sessions[id]
            logger.debug("session %s ended: %s", id, session.closed)
            with anyio.move_on_after(2, shield=True):  # a peer's disappearance is told even while the server stops
                await session._tell_disconnected()
            session._groups = None

    async def stop(self, drain: float | None = None) -> None:
        """Accept nothing new, give what is open ``drain`` seconds (None: the limit's) to finish, and close."""
        if self._stop_called:
            await self._stopped.wait()
            return
        self._stop_called = self._node.about.draining = True
        try:
            for listener in self._listeners:
                await listener.close()
            await self._stop_services(first=True)
            await self._drain_sessions(self._node.limits.drain_timeout if drain is None else drain)
            await self._clean_up()
            for callback in self._on_stop:
                try:
                    await _call(callback, self.context())
                except Exception as error:
                    logger.error("on_stop failed: %s", type(error).__name__, exc_info=error)
        finally:
            self._stopped.set()

    async def _drain_sessions(self, limit: float) -> None:
        sessions = self.context().sessions()
        if limit > 0:
            with anyio.move_on_after(limit):
                async with anyio.create_task_group() as tasks:
                    for session in sessions:
                        tasks.start_soon(session.drain, "the server stops")
        rest = self.context().sessions()
        if rest:
            async with anyio.create_task_group() as tasks:
                for session in rest:
                    tasks.start_soon(session.close, Code.GOING_AWAY, "the server stops")

    async def _clean_up(self) -> None:
        for listener in self._listeners:
            await listener.close()
        await self._stop_services()
        await self._upstreams.stop()
        self._listeners = []
        self.context().listeners = ()

    async def _stop_services(self, *, first: bool = False) -> None:
        """Stop what was started, the last one first; ``first``: only what stops before the sessions."""
        stopping = [each for each in self._started_services if not first or getattr(each, "stops_first", False)]
        for service in reversed(stopping):
            self._started_services.remove(service)
            try:
                with anyio.fail_after(SERVICE_SECONDS):
                    await service.stop()
            except Exception as error:
                logger.error("a service failed to stop: %s", type(error).__name__, exc_info=error)


async def _call(callback: Callback, argument: Any) -> None:
    result = callback(argument)
    if inspect.isawaitable(result):
        await result
