"""The transport: listens and connects, and nothing before that."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from echokernel.addresses import Address
from echokernel.errors import TransportError
from echokernel.tasks import TaskScope
from echokernel.transport import Connection, Listener, Transport
from echokernel_quic.config import ALPN, QuicConfig

if TYPE_CHECKING:
    from echokernel_quic.tickets import TicketBook
    from echokernel_quic.trust import TrustPolicy

logger = logging.getLogger("echokernel.quic")

__all__ = ["QuicTransport"]


class QuicTransport(Transport):
    """QUIC with the settings of a :class:`QuicConfig`; without one, a self-signed identity and verified servers."""

    def __init__(self, config: QuicConfig | None = None) -> None:
        self._config = (config or QuicConfig()).checked()
        self._warned = False

    def __repr__(self) -> str:
        return "QuicTransport()"

    @property
    def authenticates_peers(self) -> bool:
        return self._config.wants_client_certificates

    async def listen(self, address: Address, tasks: TaskScope) -> Listener:
        from echokernel_quic.clients import client_policy
        from echokernel_quic.identity import load_identity
        from echokernel_quic.listener import QuicListener
        from echokernel_quic.udp import open_listening

        identity = load_identity(self._config.certificate, self._config.key)
        clients = client_policy(self._config)
        family, target = (await _resolve(address))[0]
        sock = open_listening(address, target[0], family)
        return QuicListener(address, sock, self._config, identity, tasks, clients=clients)

    async def connect(self, address: Address, tasks: TaskScope) -> Connection:
        from echokernel_quic.dialer import Dialer
        from echokernel_quic.identity import load_identity
        from echokernel_quic.udp import open_connected

        if address.port == 0:
            raise TransportError(f"cannot connect to {address}: port 0 names no server", retryable=False)
        config, policy = self._config, self._policy(address)
        identity = None if config.certificate is None else load_identity(config.certificate, config.key)
        tickets = self._tickets(address, policy)
        problem: TransportError | None = None
        ways = await _resolve(address)
        for family, target in ways:
            last = (family, target) == ways[-1]
            try:
                sock = open_connected(address, target, family)
                dialer = Dialer(
                    address,
                    sock,
                    target,
                    config,
                    policy,
                    tasks,
                    identity=identity,
                    last=last,
                    **tickets((family, *target)),
                )
                return await dialer.handshake()
            except TransportError as error:
                problem = error
                if not error.retryable:  # somebody answered
                    break
        assert problem is not None
        raise problem

    def _tickets(self, address: Address, policy: TrustPolicy) -> Callable[[tuple[Any, ...]], dict[str, Any]]:
        """Return what takes a ticket for a socket address out of the book, and puts the next ones in."""
        from echokernel_quic.tickets import TrustKey

        if not self._config.zero_rtt:
            return lambda target: {}
        book = _book()
        authorities = b"" if self._config.ca is None else hashlib.sha256(Path(self._config.ca).read_bytes()).digest()

        def found(target: tuple[Any, ...]) -> dict[str, Any]:
            key = TrustKey((address, *target), ALPN, policy, authorities)
            return {"resumable": book.take(key), "keep": lambda entry: book.put(key, entry)}

        return found

    def _policy(self, address: Address) -> Any:
        from echokernel_quic.clients import authorities_in
        from echokernel_quic.identity import own_fingerprint
        from echokernel_quic.trust import TrustPolicy

        config = self._config
        if not config.verify and not self._warned:
            self._warned = True
            logger.warning(
                "certificate verification is off: whoever stands between us and %s can read and change everything; "
                "pin the server's key with fingerprint= instead",
                address,
            )
        if config.ca is not None:
            authorities_in(config.ca, "ca")
        alone = config.verify and not config.fingerprints and config.ca is None
        return TrustPolicy(
            pins=config.fingerprints,
            own=own_fingerprint() if alone and address.is_loopback else None,
            ca=config.ca,
            name=config.server_name or address.host,
            verify=config.verify,
        )


@functools.cache
def _book() -> TicketBook:
    """Return the tickets of this process: a client is made for each connection, and its trust is in the key."""
    from echokernel_quic.tickets import TicketBook

    return TicketBook()


async def _resolve(address: Address) -> list[tuple[int, tuple[Any, ...]]]:
    """Return family and socket address of every way to reach a host; IPv4 first for ``localhost``."""
    try:
        number = ipaddress.ip_address(address.host)
    except ValueError:
        pass
    else:
        if number.version == 4:
            return [(socket.AF_INET, (address.host, address.port))]
        if "%" not in address.host:
            return [(socket.AF_INET6, (address.host, address.port, 0, 0))]
    if address.host == "localhost":  # whatever the resolver says, RFC 6761
        return [(socket.AF_INET, ("127.0.0.1", address.port)), (socket.AF_INET6, ("::1", address.port, 0, 0))]
    try:
        found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise TransportError(f"no address is known for the host of {address}: {error.strerror or error}") from error
    ways = [(int(family), tuple(target)) for family, _, _, _, target in found]
    return list(dict.fromkeys(ways))
