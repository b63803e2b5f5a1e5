"""The router's listener: ``async with AgoraServer(listen="127.0.0.1:8765") as server``."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

from echokernel import ConfigError, InvalidArgument, TransportError
from echokernel.addresses import Address, parse_address
from echokernel.tasks import current_backend
from echokernel_agora import metrics
from echokernel_agora.access import Access, Token
from echokernel_agora.agents import Peer
from echokernel_agora.console_feed import ConsoleFeed
from echokernel_agora.door import Door, House
from echokernel_agora.events import log_event, logger
from echokernel_agora.http import Answer, Resources
from echokernel_agora.hub import TICK, Hub
from echokernel_agora.limits import Limits
from echokernel_agora.principal import Principal
from echokernel_agora.queues import Log
from echokernel_agora.router import Router
from echokernel_agora.websocket import Sink, WebSocket

__all__ = ["AgoraServer", "check_exposure", "parse_listen"]

BACKLOG = 1024  # connections that the kernel keeps: hundreds of agents come back at once after a restart
ACCEPT_AT_ONCE = 32  # of them taken in one turn of the loop, so that who is connected need not wait for all of them
SEND_BUFFER = (
    256 * 1024
)  # bytes that the kernel keeps for one receiver; without it some MiB hide there, and a ping behind them
DRAIN_SECONDS, GOODBYE_SECONDS = 3.5, 1.0  # together less than the 5 s that a service has to stop
GOING_AWAY = 1012
REMEDIES = {
    errno.EADDRINUSE: "another program uses that port; stop it, or choose another one (port 0: any that is free)",
    errno.EACCES: "ports below 1024 need a privilege; choose a higher one",
    errno.EADDRNOTAVAIL: "that is no address of this machine; 127.0.0.1 and 0.0.0.0 always are",
}


class AgoraServer:
    """A router of agents at ``ws://HOST:PORT/ws``, with ``/healthz``, ``/readyz``, ``/metrics`` and the console at ``/``.

    ``router``: one to serve, otherwise one is made from ``limits`` and ``strict_seed``. ``listen``: ``HOST:PORT``; port 0 is
    any that is free. ``tokens``, ``origins``, ``hosts``, ``insecure``: see :class:`Access`. ``certificate`` and ``key``: PEM
    files, for TLS. Runs on asyncio and uvloop. Raises ConfigError for what contradicts itself, as an address that others
    can reach without tokens.
    """

    def __init__(
        self,
        router: Router | None = None,
        *,
        listen: str = "127.0.0.1:8765",
        tokens: Iterable[Token] = (),
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        insecure: bool = False,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        limits: Limits | None = None,
        strict_seed: bool = False,
    ) -> None:
        if router is not None and (limits is not None or strict_seed):
            raise ConfigError("limits and strict_seed belong to the router; give them to the one that is handed over")
        self._address = parse_listen(listen)
        tokens = tuple(tokens)
        check_exposure(self._address, has_tokens=bool(tokens), insecure=insecure)
        self._access = Access(tokens, origins=origins, hosts=[*hosts, self._address.host], insecure=insecure)
        self._tls = _tls(certificate, key)
        self._plaintext_tokens = bool(tokens) and self._tls is None and not self._address.is_loopback
        if router is None:
            router = Router(limits or Limits(), strict_seed=strict_seed, on_event=log_event)
        if router.on_event is None:
            router.on_event = log_event
        self.router = router
        self.resources = Resources()
        """What the port serves over HTTP beside its own: ``server.resources.add(path, function)``."""
        self._hub: Hub | None = None
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._stopped: asyncio.Event | None = None
        self._bound = self._address

    async def __aenter__(self) -> AgoraServer:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop(drain=DRAIN_SECONDS if exc is None else 0.0)

    @property
    def address(self) -> Address:
        """Where it listens, with the port that was found."""
        return self._bound

    @property
    def url(self) -> str:
        """What agents connect to: ``ws://127.0.0.1:8765/ws``."""
        return f"{self._bound}/ws"

    @property
    def http_url(self) -> str:
        """Where the console is, and beside it ``/healthz``, ``/readyz`` and ``/metrics``: ``http://127.0.0.1:8765/``."""
        return f"http{str(self._bound)[2:]}/"

    async def start(self) -> None:
        """Listen. Raises ConfigError on trio, TransportError where the address cannot be had."""
        if current_backend() != "asyncio":
            raise ConfigError(
                "the router of agents runs on asyncio or uvloop, and this program runs on trio; run it with asyncio.run, "
                "or anyio.run(…, backend='asyncio')"
            )
        if self._hub is not None:
            raise ConfigError("this server of agents has been started already; make another one")
        loop = asyncio.get_running_loop()
        limits = self.router.limits
        nearest = min(limits.handshake_timeout, limits.ping_interval, limits.ping_timeout, limits.close_timeout)
        hub = Hub(limits, loop, on_event=log_event, tick=max(0.005, min(TICK, nearest / 20)))
        house = self._furnish(hub, loop)
        self._sockets = await _bind(self._address)
        try:
            for listening in self._sockets:
                server = await loop.create_server(
                    lambda: Door(house),
                    sock=listening,
                    backlog=ACCEPT_AT_ONCE,
                    ssl=self._tls,
                    ssl_handshake_timeout=limits.handshake_timeout if self._tls else None,
                )
                self._servers.append(server)
                listening.listen(BACKLOG)  # the loop takes its own figure for both, and they are two things
        except BaseException:
            self._close_sockets(hub)
            raise
        self._hub = hub
        hub.start()
        scheme, port = "wss" if self._tls else "ws", self._sockets[0].getsockname()[1]
        self._bound = Address(scheme, self._address.host, port)
        self._ticker = loop.call_later(1.0, self._tick, loop)
        logger.info("the router of agents listens on %s, its console is at %s", self.url, self.http_url)
        if self._plaintext_tokens:
            logger.warning("tokens travel in clear text to %s; set certificate and key, or put TLS before it", self.url)
        elif not self._access.has_tokens and not self._address.is_loopback:
            logger.warning("%s is open to everybody who can reach it, with no token (insecure = true)", self.url)

    async def stop(self, *, drain: float = DRAIN_SECONDS) -> None:
        """Let nobody new in, give waiting frames ``drain`` seconds to go out, and close all connections with 1012.

        Returns when that is done, whoever began it.
        """
        hub = self._hub
        if hub is None:
            return
        if self._stopped is not None:
            await self._stopped.wait()
            return
        self._stopped = asyncio.Event()
        try:
            await self._say_goodbye(hub, drain)
        finally:
            self._close_sockets(hub)
            hub.abort_all(hub.connections, "the router stops")
            if self._ticker is not None:
                self._ticker.cancel()
            hub.stop()
            self._stopped.set()
        await asyncio.sleep(0)  # the loop tells the connections that they are lost
        logger.info("the router of agents has stopped")

    async def _say_goodbye(self, hub: Hub, drain: float) -> None:
        hub.draining = True
        sockets = [each for each in hub.connections if isinstance(each, WebSocket)]
        for websocket in sockets:
            websocket.pause_reading()  # what is not read was not accepted: its sender sees the close instead
        loop = asyncio.get_running_loop()
        end = loop.time() + drain
        while loop.time() < end and self._has_queued(hub):  # noqa: ASYNC110  # spread over all connections
            await asyncio.sleep(0.02)
        self._close_sockets(hub)
        for each in list(hub.connections):
            if isinstance(each, WebSocket):
                each.close(GOING_AWAY, "the router restarts")
                each.resume_reading()  # for the answer
        await hub.wait_empty(GOODBYE_SECONDS)

    def _furnish(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> House:
        house, router = House(hub, self._access, self.resources), self.router
        feed = ConsoleFeed(router, loop, log_event)

        def agent(websocket: WebSocket, principal: Principal) -> tuple[Sink, Any]:
            return router, router.attach(websocket, principal, transport="ws", address=websocket.address)

        def ready() -> Answer:
            status = HTTPStatus.SERVICE_UNAVAILABLE if hub.draining else HTTPStatus.OK
            return Answer.of_json({"status": "draining" if hub.draining else "ready"}, status)

        house.gates = {"/ws": (agent, False), "/console": (feed.open, True)}
        house.guarded["/metrics"] = lambda: Answer(metrics.render(router, hub).encode(), metrics.CONTENT_TYPE)
        self.resources.add_files("echokernel_agora", "console")
        self.resources.add("/healthz", lambda: Answer.of_json({"status": "ok"}))
        self.resources.add("/readyz", ready)
        return house

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticker = loop.call_later(1.0, self._tick, loop)
        assert self._hub is not None
        self._hub.begin()
        try:
            self.router.tick()
        finally:
            self._hub.end(0.0)

    def _has_queued(self, hub: Hub) -> bool:
        """Whether something is still on its way out. What a receiver with ``resume`` has not acknowledged is not."""
        if any(isinstance(each, WebSocket) and each.has_unwritten for each in hub.connections):
            return True
        return any(_waits(peer) for peer in self.router.peers)

    def _close_sockets(self, hub: Hub) -> None:
        hub.shut = True
        for server in self._servers:
            server.close()
        for listening in self._sockets:
            listening.close()


def _waits(peer: Peer) -> bool:
    """Whether something for a connection was not yet handed to it."""
    agent = peer.agent
    if peer.control:
        return True
    if agent is None or agent.peer is not peer:
        return False
    queue = agent.queue
    return queue.unwritten if isinstance(queue, Log) else queue.frames > 0


def parse_listen(text: str) -> Address:
    """Return the address of ``HOST:PORT`` or ``ws://HOST:PORT``. Raises ConfigError naming what was wanted."""
    try:
        address = parse_address(text if "://" in text else f"ws://{text}")
    except InvalidArgument:
        raise ConfigError(f"listen is {text!r}, wanted is HOST:PORT, as in 127.0.0.1:8765 or [::1]:8765") from None
    if address.scheme not in ("ws", "wss"):
        raise ConfigError(
            f"listen is {text!r}, wanted is HOST:PORT; the router speaks WebSocket there and nothing else"
        )
    return address


def check_exposure(address: Address, *, has_tokens: bool, insecure: bool) -> None:
    """Raise ConfigError for an address that other machines can reach while nothing says who may connect."""
    if not (address.is_loopback or has_tokens or insecure):
        raise ConfigError(
            f"other machines can reach {address.host}:{address.port}, and there are no tokens that say who may connect; add "
            "tokens, listen on 127.0.0.1, or set insecure = true to let everybody in"
        )


def _tls(certificate: str | Path | None, key: str | Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("TLS needs both, certificate and key: two PEM files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"certificate {str(certificate)!r} and key {str(key)!r} cannot be loaded: {what}") from error
    return context


async def _bind(address: Address) -> list[socket.socket]:
    """Return listening sockets, one for each address of a name. Raises TransportError."""
    loop = asyncio.get_running_loop()
    problem, port = "", address.port
    sockets: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((where[0], port, *where[2:]))
            port = listening.getsockname()[1]  # a name with two addresses gets the same port on both
            listening.listen(BACKLOG)
    except OSError as error:
        if sockets and error.errno == errno.EADDRNOTAVAIL and len(sockets) > 1:
            sockets.pop().close()  # localhost is in the hosts file for IPv6, too, where there is none
            return sockets
        problem = REMEDIES.get(error.errno or 0) or f"{error.strerror or error}; wanted is HOST:PORT of this machine"
    if problem:  # outside of the handler: the cause has been told, and whoever prints this one need not guess at it
        for listening in sockets:
            listening.close()
        raise TransportError(f"agents cannot be awaited on {address.host}:{address.port}: {problem}", retryable=False)
    return sockets
