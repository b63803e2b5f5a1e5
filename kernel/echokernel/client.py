"""The dialling end: :class:`EchoClient` and its builder."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from echokernel.addresses import DEFAULT_SCHEME, NO_PORT, Address, parse_address
from echokernel.calling import CallOptions, TypedCalls
from echokernel.context import ClientContext
from echokernel.engine.flow_options import BUFFER_FRAMES
from echokernel.engine.hello import dial_session
from echokernel.engine.node import Callback, Node
from echokernel.errors import InvalidArgument
from echokernel.limits import Limits
from echokernel.methods import HandlerOwner, MethodTable
from echokernel.reconnect import Reconnecting
from echokernel.tasks import current_backend, open_tasks
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from types import TracebackType

    from echokernel.clock import Clock
    from echokernel.discovery import Discovery
    from echokernel.flows import Delivery, OnFull, StreamSender
    from echokernel.middleware import Middleware
    from echokernel.reconnect import Notice, ReconnectPolicy
    from echokernel.serializer import Serializer
    from echokernel.session import Session
    from echokernel.streaming import Items, StreamingCall
    from echokernel.tasks import TaskScope
    from echokernel.transport import Transport
    from echokernel_protocol.describe import Description, Health

logger = logging.getLogger("echokernel.client")

CLOSE_SECONDS = 3.0

Credentials = bytes | str | Callable[[], Awaitable[bytes | str]]

__all__ = ["ClientBuilder", "ClientPlugin", "EchoClient"]


class ClientPlugin(Protocol):
    """Extends a client in code: ``EchoClient.builder().plugin(MyPlugin())``."""

    name: str

    def install(self, builder: ClientBuilder, /) -> ClientBuilder | None:
        """Change the builder; returns it, another one, or None for the same."""


class ClientBuilder(HandlerOwner):
    """Collects what a client is made of. Every method returns the builder; :meth:`connect` ends it."""

    def __init__(self) -> None:
        self._node = Node(context=ClientContext())
        self._transport: Transport | None = None
        self._settings: dict[str, Any] = {}
        self._serializers: list[Serializer] = []
        self._middleware: list[Middleware] = []
        self._plugins: list[object] = []
        self._credentials: Credentials = b""
        self._on_connect: list[Callback] = []
        self._on_disconnect: list[Callback] = []
        self._reconnecting = Reconnecting()
        self.discoveries: list[Discovery] = []

    @property
    def _methods(self) -> MethodTable:
        return self._node.methods

    def name(self, name: str) -> ClientBuilder:
        """The node's name, which the peer sees."""
        self._node.name = name
        return self

    def describe(self, allowed: bool) -> ClientBuilder:
        """Whether the server may ask for this node's methods, plugins and versions; by default it may."""
        self._node.about.describes = allowed
        return self

    def transport(self, transport: Transport) -> ClientBuilder:
        """The transport; by default that of the URL's scheme."""
        self._transport = transport
        return self

    def settings(self, **settings: Any) -> ClientBuilder:
        """Settings for the transport of the URL's scheme, as in ``[connect.NAME]``: ``fingerprint="sha256:…"``."""
        self._settings.update(settings)
        return self

    def serializer(self, serializer: Serializer) -> ClientBuilder:
        """Add a serializer; the server's order decides. By default the installed ones of postcard and msgpack."""
        self._serializers.append(serializer)
        return self

    def discovery(self, discovery: Discovery) -> ClientBuilder:
        """Find servers this way where the address has its scheme; else it is only kept in ``discoveries``."""
        self.discoveries.append(discovery)
        return self

    def middleware(self, middleware: Middleware) -> ClientBuilder:
        """Add middleware for what the server asks of this client; the first one is the outermost."""
        self._middleware.append(middleware)
        return self

    def tracebacks(self) -> ClientBuilder:
        """Send the tracebacks of handlers that fail to the server, in the error's details; for development."""
        self._node.tracebacks = True
        return self

    def credentials(self, credentials: Credentials) -> ClientBuilder:
        """What an authenticator of the server gets: bytes, a text, or an async callable that is asked at each connect."""
        self._credentials = credentials
        return self

    def limits(self, limits: Limits) -> ClientBuilder:
        """Other bounds than the defaults."""
        self._node.limits = limits
        return self

    def clock(self, clock: Clock) -> ClientBuilder:
        """The clock that stamps this node's streams; it may follow the server's."""
        self._node.context.clock = clock
        return self

    def plugin(self, plugin: ClientPlugin | object) -> ClientBuilder:
        """Use a plugin: an object with ``install(builder)``, or one (or a module) with hook functions."""
        install = getattr(plugin, "install", None)
        if install is None:
            self._plugins.append(plugin)
            return self
        return install(self) or self

    def on_connect(self, callback: Callback) -> ClientBuilder:
        """Call ``callback(context)`` once the session is open. An exception closes it."""
        self._on_connect.append(callback)
        return self

    def on_disconnect(self, callback: Callback) -> ClientBuilder:
        """Call ``callback(context)`` when the session is over."""
        self._on_disconnect.append(callback)
        return self

    def reconnect(self, policy: ReconnectPolicy | None, *, first: bool = False) -> ClientBuilder:
        """Connect again when the connection is lost, as often and as late as ``policy`` says; None: not, as without this call.

        ``first``: also when there is no connection to begin with; else :meth:`connect` raises at once.
        """
        self._reconnecting.policy, self._reconnecting.first = policy, first
        return self

    def on_reconnecting(self, callback: Notice) -> ClientBuilder:
        """Call ``callback(context, attempt, delay)`` before each pause: in ``delay`` seconds comes try ``attempt``, from 1."""
        self._reconnecting.on_reconnecting.append(callback)
        return self

    def on_reconnected(self, callback: Notice) -> ClientBuilder:
        """Call ``callback(context, gap)`` when a new session is open and ``on_connect`` has returned.

        ``gap``: seconds for which there was no session.
        """
        self._reconnecting.on_reconnected.append(callback)
        return self

    def on_gave_up(self, callback: Notice) -> ClientBuilder:
        """Call ``callback(context, error)`` when a lost connection is not tried any more; ``error`` says why."""
        self._reconnecting.on_gave_up.append(callback)
        return self

    def connect(self, address: str | Address | tuple[str, int], **settings: Any) -> Connecting:
        """Connect: ``async with builder.connect(url) as client``, or ``client = await builder.connect(url)`` on asyncio.

        Raises InvalidArgument for what is no address, PluginError without a plugin for its scheme; when awaited or entered
        TransportError, Unauthenticated, ProtocolError, RequestTimeout.
        """
        where = parse_address(address, named=True)
        transport = self._transport
        self._settings.update(settings)
        node = self._node
        registry = None
        finder = next((each for each in self.discoveries if each.scheme == where.scheme), None)
        dials = "" if transport is not None else DEFAULT_SCHEME
        if transport is None or not self._serializers or self._plugins:
            from echokernel.loader import load_for_library, make_transport

            scheme = where.scheme if transport is None else None
            if finder is not None and scheme is not None:
                scheme = DEFAULT_SCHEME
            registry = load_for_library(scheme, self._plugins, need_serializer=not self._serializers)
            node.about.plugins = registry.plugins
            for entry in registry.handlers:
                self.add_handler(entry.value)
            if not self._serializers:
                self._serializers = [entry.value for entry in registry.serializers.values()]
            if transport is None:
                assert scheme is not None
                transport = make_transport(registry, scheme, listening=False, settings=self._settings)
        elif self._settings:
            raise InvalidArgument(
                "settings are for the transport of the URL's scheme; this client was given a transport"
            )
        if finder is not None:
            from echokernel.engine.finding import FindingTransport, pins_in

            transport = FindingTransport(finder, transport, dials, pins_in(self._settings))
        if where.port == NO_PORT and not transport.takes_names:
            parse_address(str(where))  # says what was wanted
        if where.port != NO_PORT and transport.takes_names:
            raise InvalidArgument(
                f"address {str(where)!r}: a name that is found has no port; {where.scheme}://{where.host}"
            )
        node.serializers = tuple(self._serializers)
        node.middleware = tuple(self._middleware)
        node.on_connect = tuple(self._on_connect)
        node.on_disconnect = tuple(self._on_disconnect)
        node.methods.check(node.serializers)
        if self._reconnecting.policy is None:
            return Connecting(EchoClient(node, where, transport, self._credentials))
        from echokernel.engine.redialling import ReconnectingClient

        return Connecting(ReconnectingClient(node, where, transport, self._credentials, self._reconnecting.copy()))


class Connecting:
    """A connection that is to be made: await it, or enter it with ``async with``."""

    def __init__(self, client: EchoClient) -> None:
        self._client = client

    @property
    def client(self) -> EchoClient:
        """The client, which is not connected before this is entered."""
        return self._client

    def __await__(self) -> Generator[Any, Any, EchoClient]:
        if current_backend() != "asyncio":
            raise RuntimeError("on trio a client has to be entered: async with EchoClient.connect(address) as client")
        return self._client._open().__await__()

    async def __aenter__(self) -> EchoClient:
        return await self._client._open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client._leave()


class EchoClient(TypedCalls, HandlerOwner):
    """A node that dialled. It is closed by leaving its ``async with``, or by :meth:`close`."""

    def __init__(self, node: Node, address: Address, transport: Transport, credentials: Credentials) -> None:
        self._node = node
        self._address = address
        self._transport = transport
        self._credentials = credentials
        self._tasks: TaskScope | None = None
        self._session: Session | None = None
        self._over = anyio.Event()
        self._opened_by = 0

    @staticmethod
    def builder() -> ClientBuilder:
        """Return an empty builder."""
        return ClientBuilder()

    @property
    def _methods(self) -> MethodTable:
        return self._node.methods

    @staticmethod
    def connect(
        address: str | Address | tuple[str, int], *, credentials: Credentials = b"", **settings: Any
    ) -> Connecting:
        """Connect with the defaults; ``settings`` are the transport's, as in ``[connect.NAME]``: ``fingerprint=``, ``ca=``.

        ``async with EchoClient.connect("127.0.0.1:5000") as client``, or on asyncio
        ``client = await EchoClient.connect("127.0.0.1:5000")`` and later ``await client.close()``.
        """
        return ClientBuilder().credentials(credentials).connect(address, **settings)

    # --- what a session does -----------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session with the server; the last one while there is none. Raises InvalidArgument before the first."""
        if self._session is None:
            raise InvalidArgument("this client is not connected")
        return self._session

    @property
    def is_connected(self) -> bool:
        """Whether there is a session now, as far as is known here."""
        return self._session is not None and self._session.closed is None

    @property
    def keeps_trying(self) -> bool:
        """Whether a first connection that fails is tried again."""
        return False

    def reconnect_now(self) -> None:
        """End the pause before the next try to connect again: the network is back. Else nothing happens."""

    def _call(self, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions) -> Any:
        return self.session._call(handler, args, kwargs, options)

    # These two return the session's coroutine instead of awaiting it: once per message, that is worth it.

    def request(
        self,
        method: str,
        value: Any = None,
        *,
        timeout: float | None = None,
        returns: Any = Any,
        idempotent: bool = False,
        metadata: Mapping[str, str] | None = None,
        isolated: bool = False,
    ) -> Coroutine[Any, Any, Any]:
        """Call a method of the server; see :meth:`Session.request`."""
        return self.session.request(
            method,
            value,
            timeout=timeout,
            returns=returns,
            idempotent=idempotent,
            metadata=metadata,
            isolated=isolated,
        )

    def request_stream(
        self,
        method: str,
        value: Any = None,
        *,
        items: Items | None = None,
        sends: bool = False,
        timeout: float | None = None,
        returns: Any = Any,
        metadata: Mapping[str, str] | None = None,
    ) -> StreamingCall:
        """Call a method of the server that takes or answers with many values; see :meth:`Session.request_stream`."""
        return self.session.request_stream(
            method, value, items=items, sends=sends, timeout=timeout, returns=returns, metadata=metadata
        )

    def emit(
        self,
        event: str,
        value: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        reliable: bool = True,
        fallback: bool = False,
    ) -> Coroutine[Any, Any, None]:
        """Send an event to the server; see :meth:`Session.emit`."""
        return self.session.emit(event, value, metadata=metadata, reliable=reliable, fallback=fallback)

    @property
    def max_datagram(self) -> int:
        """Bytes that fit in one datagram as of now; 0: this connection has none. See :meth:`Session.max_datagram`."""
        return self.session.max_datagram

    def datagram_size(self, event: str, value: Any = None) -> int:
        """Return the bytes that an event takes as a datagram; see :meth:`Session.datagram_size`."""
        return self.session.datagram_size(event, value)

    async def create_stream(
        self,
        name: str,
        *,
        delivery: Delivery = "reliable",
        max_age: float | None = None,
        on_full: OnFull = "wait",
        buffer: int = BUFFER_FRAMES,
        metadata: Mapping[str, str] | None = None,
    ) -> StreamSender:
        """Open a stream to the server; see :meth:`Session.create_stream`."""
        return await self.session.create_stream(
            name, delivery=delivery, max_age=max_age, on_full=on_full, buffer=buffer, metadata=metadata
        )

    async def describe(self, *methods: str, schemas: bool = True, timeout: float | None = None) -> Description:
        """Ask the server what it can do; see :meth:`Session.describe`."""
        return await self.session.describe(*methods, schemas=schemas, timeout=timeout)

    async def health(self, timeout: float | None = None) -> Health:
        """Ask the server how it is; see :meth:`Session.health`."""
        return await self.session.health(timeout)

    async def ping(self, timeout: float = 10.0) -> float:
        """Return the time of a round trip, in seconds."""
        return await self.session.ping(timeout)

    def context(self) -> ClientContext:
        """Return the client's context."""
        context: ClientContext = self._node.context
        return context

    async def close(self) -> None:
        """Send what waits, and close. Once is enough. A handler of this client may do it, too."""
        if self._opened_by == anyio.get_current_task().id:
            await self._leave()
        elif self._session is not None:
            await self._session.close(Code.OK, "")  # the scope is closed by the task that entered it

    # --- life --------------------------------------------------------------------------------------------------

    async def _open(self) -> EchoClient:
        if self._tasks is not None:
            raise InvalidArgument("this client was connected already; make another one")
        self._opened_by = anyio.get_current_task().id
        tasks = self._tasks = open_tasks()
        await tasks.__aenter__()
        try:
            credentials = await _ask(self._credentials)
            connection = await self._transport.connect(self._address, tasks)
            session = self._session = await dial_session(connection, self._node, credentials)
            self.context().session = session
            opened = tasks.future()
            tasks.start(self._run, session, opened, name="session")
            await opened
        except BaseException:
            await tasks.__aexit__(None, None, None)  # shielded and bounded by itself
            raise
        return self

    async def _run(self, session: Session, opened: Any) -> None:
        await session.run(opened)
        await session._tell_disconnected()
        self._over.set()

    async def _leave(self) -> None:
        """Close the session, and then the scope: whatever happens, and even while we are cancelled."""
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        try:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self.session.close(Code.OK, "")
                await self._over.wait()
        finally:
            await tasks.__aexit__(None, None, None)  # shielded and bounded by itself


async def _ask(credentials: Credentials) -> bytes:
    value: Any = credentials() if callable(credentials) else credentials
    if inspect.isawaitable(value):
        value = await value
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise InvalidArgument(f"credentials: wanted bytes or a text, got a {type(value).__name__}")
    return value
