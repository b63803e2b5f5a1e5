"""The accepting end: one socket, many connections, and as little as possible for strangers."""

from __future__ import annotations

import ipaddress
import os
from collections import Counter, deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from echokernel.addresses import Address
from echokernel.errors import ConnectionClosed
from echokernel.transport import Listener
from echokernel_protocol.codes import Code
from echokernel_quic.connection import QuicConnection
from echokernel_quic.engine import CID_LENGTH
from echokernel_quic.factory import make_engine
from echokernel_quic.path import PathSize
from echokernel_quic.stateless import VERSIONS, Budget, connection_id_of, refusal, stateless_reset
from echokernel_quic.tickets import Issued
from echokernel_quic.udp import Datagram, SendResult, receive_batch, send_all
from echokernel_quic.waiters import Waiters

if TYPE_CHECKING:
    import socket

    from echokernel.tasks import TaskScope
    from echokernel_quic.clients import ClientPolicy
    from echokernel_quic.config import QuicConfig
    from echokernel_quic.identity import Identity

HALF_OPEN_WITHOUT_RETRY = 64  # from so many incomplete handshakes on, clients have to prove their address
STRANGERS_PER_SECOND = 5_000.0  # datagrams of unknown connections that are looked at: about a third of a core
RESETS_PER_SECOND = 1_000.0
MIN_INITIAL = 1_200  # bytes; smaller ones are not answered (RFC 9000, section 14.1)
ACCEPT_QUEUE = 1_024  # complete handshakes that nobody accepted yet

__all__ = ["QuicListener"]


@lru_cache(maxsize=4096)
def is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class QuicListener(Listener):
    """Listens on one socket."""

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        config: QuicConfig,
        identity: Identity,
        tasks: TaskScope,
        *,
        clients: ClientPolicy | None = None,
    ) -> None:
        """``clients``: whom to let in, by their certificates; None: anybody, and nobody is asked for one."""
        self._address = Address(address.scheme, address.host, sock.getsockname()[1])
        self._socket = sock
        self._config = config
        self._identity = identity
        self._clients = clients
        self._tasks = tasks
        # The port belongs to the key: another listener of this user must not give away resets for our connections
        # (RFC 9000, section 21.11).
        self._reset_key = identity.derive(b"echokernel stateless reset %d" % self._address.port)
        self._retry = QuicRetryTokenHandler()
        self._always_retry = config.retry if config.retry is not None else not is_loopback(sock.getsockname()[0])
        self._routes: dict[bytes, QuicConnection] = {}
        self._ways: dict[QuicConnection, set[bytes]] = {}
        self._origins: dict[QuicConnection, str] = {}
        self._per_ip: Counter[str] = Counter()
        self._half_open: set[QuicConnection] = set()
        self._queue: deque[QuicConnection] = deque()
        self._waiters = Waiters(tasks)
        self._closed = False
        self._strangers = Budget(STRANGERS_PER_SECOND)
        self._resets = Budget(RESETS_PER_SECOND)
        self._issued = Issued() if config.zero_rtt else None
        self.ignored = 0
        """Datagrams that led to nothing, for whatever reason."""
        self._watch = tasks.watch_readable(sock, self._on_readable)
        self._last_call = tasks.at_end(sock.close)  # whoever was not told goodbye by then: the port has to be free

    # --- Listener ---------------------------------------------------------------------------------------------------

    @property
    def address(self) -> Address:
        return self._address

    @property
    def fingerprint(self) -> str:
        return self._identity.fingerprint

    async def accept(self) -> QuicConnection:
        while not self._queue:
            if self._closed:
                raise ConnectionClosed(
                    f"the listener at {self._address} is closed", code=Code.GOING_AWAY, retryable=False
                )
            await self._waiters.wait()
        return self._queue.popleft()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._queue:
            self._tasks.start(self._queue.popleft().close, Code.GOING_AWAY, "the server is closing", name="refuse")
        self._waiters.wake_all()
        self._release_socket()

    # --- packets ----------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        batch, _ = receive_batch(self._socket)
        now = self._tasks.now()
        routes = self._routes
        touched: dict[QuicConnection, None] = {}
        for data, source in batch:
            connection_id = connection_id_of(data)
            if connection_id is None:
                self.ignored += 1
                continue
            connection = routes.get(connection_id) or self._stranger(data, source, now)
            if connection is not None:
                connection.feed(data, source, now)
                touched[connection] = None
        for connection in touched:
            connection.batch_done(now)

    def send(self, datagrams: list[Datagram]) -> SendResult | None:
        return send_all(self._socket, datagrams, connected=False)

    def _stranger(self, data: bytes, source: Any, now: float) -> QuicConnection | None:
        """Answer, if at all, a datagram of no known connection. Return the new connection if it begins one."""
        if not self._strangers.take(now):
            self.ignored += 1
            return None
        if not data[0] & 0x80:
            if self._resets.take(now) and (answer := stateless_reset(self._reset_key, data)):
                self.send([(answer, source)])
            return None
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CID_LENGTH)
        except (ValueError, BufferReadError):
            self.ignored += 1
            return None
        if len(data) < MIN_INITIAL or header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            self.ignored += 1
            return None
        if header.version not in VERSIONS:
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid, destination_cid=header.source_cid, supported_versions=list(VERSIONS)
            )
            self.send([(answer, source)])
            return None
        if header.packet_type is not QuicPacketType.INITIAL:
            self.ignored += 1
            return None
        return self._begin(header, source, now)

    def _begin(self, header: QuicHeader, source: Any, now: float) -> QuicConnection | None:
        original, retried = header.destination_cid, None
        if header.token:
            try:
                original = self._retry.validate_token(
                    address=source, destination_cid=header.destination_cid, token=header.token, now=now
                )
                retried = header.destination_cid
            except (ValueError, BufferReadError):
                original = header.destination_cid
        if retried is None and (self._always_retry or len(self._half_open) >= HALF_OPEN_WITHOUT_RETRY):
            if header.token:  # it was asked already, and shows something else
                self._refuse(header, source, QuicErrorCode.INVALID_TOKEN)
            else:
                self._ask_again(header, source, now)
            return None
        if not self._admits(source[0]):
            self._refuse(header, source, QuicErrorCode.CONNECTION_REFUSED)
            return None
        loopback = is_loopback(source[0])
        engine = make_engine(
            self._config,
            identity=self._identity,
            clients=self._clients,
            reset_key=self._reset_key,
            loopback=loopback,
            issued=self._issued,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )
        connection = QuicConnection(
            engine,
            self,
            self._tasks,
            dialer=False,
            keepalive=self._config.keepalive,
            handshake_deadline=now + self._config.handshake_timeout,
        )
        if loopback and self._config.max_datagram_size is None:
            connection.watch_path(PathSize(base=engine.datagram_size))
        self._ways[connection] = set()
        self._origins[connection] = source[0]
        self._per_ip[source[0]] += 1
        self._half_open.add(connection)
        self.add_route(header.destination_cid, connection)
        self.add_route(engine.host_cid, connection)
        return connection

    def _admits(self, host: str) -> bool:
        config = self._config
        return (
            not self._closed
            and len(self._ways) < config.max_connections
            and len(self._half_open) < config.max_half_open
            and len(self._queue) < ACCEPT_QUEUE
            and (self._per_ip[host] < config.max_connections_per_ip or is_loopback(host))
        )

    def _ask_again(self, header: QuicHeader, source: Any, now: float) -> None:
        source_cid = os.urandom(CID_LENGTH)
        token = self._retry.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_cid,
            now=now,
        )
        answer = encode_quic_retry(
            version=header.version or 1,
            source_cid=source_cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self.send([(answer, source)])

    def _refuse(self, header: QuicHeader, source: Any, error_code: QuicErrorCode) -> None:
        self.ignored += 1
        self.send([(refusal(header.version or 1, header.destination_cid, header.source_cid, error_code), source)])

    # --- what connections do ----------------------------------------------------------------------------------------

    def add_route(self, connection_id: bytes, connection: QuicConnection) -> None:
        self._routes[connection_id] = connection
        self._ways[connection].add(connection_id)

    def drop_route(self, connection_id: bytes) -> None:
        connection = self._routes.pop(connection_id, None)
        if connection is not None:
            self._ways[connection].discard(connection_id)

    def early_data_arrived(self, connection: QuicConnection) -> None:
        self._queue.append(connection)
        self._waiters.wake_one()

    def handshake_completed(self, connection: QuicConnection) -> None:
        self._half_open.discard(connection)
        if not connection.was_early:  # else it was handed over then
            self.early_data_arrived(connection)

    def connection_lost(self, connection: QuicConnection) -> None:
        self._half_open.discard(connection)
        if connection in self._queue:
            self._queue.remove(connection)

    def forget(self, connection: QuicConnection) -> None:
        for connection_id in self._ways.pop(connection, ()):
            self._routes.pop(connection_id, None)
        host = self._origins.pop(connection, None)
        if host is not None:
            self._per_ip[host] -= 1
            if self._per_ip[host] <= 0:
                del self._per_ip[host]
        self._release_socket()

    def _release_socket(self) -> None:
        if self._closed and not self._ways:
            self._watch.cancel()
            self._last_call.cancel()
            # on trio the watch ends a moment later, and must not find another file under this number
            self._tasks.call_soon(self._socket.close)
