"""The dialling end: one socket for one connection, from the first packet to the last goodbye."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from echokernel.errors import ConnectionClosed, TransportError
from echokernel_quic.config import ALPN
from echokernel_quic.connection import QuicConnection
from echokernel_quic.factory import make_engine
from echokernel_quic.path import PathSize
from echokernel_quic.stateless import connection_id_of
from echokernel_quic.udp import Datagram, SendResult, receive_batch, send_all
from echokernel_quic.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.tls import SessionTicket

    from echokernel.addresses import Address
    from echokernel.tasks import TaskScope
    from echokernel_quic.config import QuicConfig
    from echokernel_quic.identity import Identity
    from echokernel_quic.tickets import Resumable
    from echokernel_quic.trust import TrustPolicy

TLS_NO_ALPN = 0x100 + 120  # QUIC's code for TLS alerts is 0x100 plus the alert
CONNECTION_REFUSED = 0x2
REFUSED_LIMIT = 1.0  # seconds of "nobody listens there", on loopback, after which waiting is of no use
REFUSED_NEXT = 0.05  # the same, when the host has further addresses
PATIENCE_NEXT = 1.5  # seconds for one of several addresses

__all__ = ["Dialer"]


class Dialer:
    """The endpoint of one outgoing connection."""

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        target: Any,
        config: QuicConfig,
        policy: TrustPolicy,
        tasks: TaskScope,
        *,
        identity: Identity | None = None,
        last: bool = True,
        resumable: Resumable | None = None,
        keep: Callable[[Resumable], None] | None = None,
    ) -> None:
        """``identity``: shown to a server that asks who we are. ``last``: the host has no further address, so that this
        one deserves all of our patience. ``resumable``: what to resume with; ``keep``: takes what the next one can.
        """
        self._address = address
        self._patience = config.handshake_timeout if last else min(PATIENCE_NEXT, config.handshake_timeout)
        self._refused_limit = REFUSED_LIMIT if last else REFUSED_NEXT
        self._socket = sock
        self._target = target
        self._tasks = tasks
        self._began = tasks.now()
        self._refused = False
        self._loopback = Dialer._is_loopback(target[0])
        self._waiters = Waiters(tasks)
        engine = make_engine(
            config,
            policy=policy,
            identity=identity,
            server_name=policy.name or None,
            reset_key=os.urandom(32),  # nobody can come back on this socket: it dies with us
            loopback=self._loopback,
            resumable=resumable,
            keep_ticket=None if keep is None else self._on_ticket,
        )
        self.connection = QuicConnection(
            engine,
            self,
            tasks,
            dialer=True,
            keepalive=config.keepalive,
            handshake_deadline=self._began + self._patience,
        )
        self.connection.resumable = resumable
        self.connection.on_ticket = keep
        if self._loopback and config.max_datagram_size is None:
            self.connection.watch_path(PathSize(base=engine.datagram_size))
        self._watch = tasks.watch_readable(sock, self._on_readable)
        self._last_call = tasks.at_end(self._socket.close)

    @staticmethod
    def _is_loopback(host: str) -> bool:
        from echokernel_quic.listener import is_loopback

        return is_loopback(host)

    async def handshake(self) -> QuicConnection:
        """Complete the handshake, or only begin it where the connection can be used early.

        Raises TransportError that says what is wrong and what helps.
        """
        connection = self.connection
        connection.engine.connect(self._target, now=self._tasks.now())
        connection.start()
        if connection.early:
            connection.explain = self._explain_early
            self._tasks.call_at(self._began + self._refused_limit, self._give_up_if_refused)
            return connection
        hopeless = self._tasks.call_at(self._began + self._refused_limit, self._give_up_if_refused)
        try:
            while not connection.ready and connection.error is None:
                await self._waiters.wait()
        except BaseException:
            connection.lost(ConnectionClosed("connecting was cancelled"))
            self.forget(connection)
            raise
        finally:
            hopeless.cancel()
        if connection.error is not None:
            error = self._explain(connection.error)
            if not connection.engine.is_over:
                self.forget(connection)
            raise error from connection.error
        return connection

    def _explain(self, closed: ConnectionClosed) -> TransportError:
        engine, address = self.connection.engine, self._address
        context = getattr(engine, "tls", None)
        if context is not None and context.objection is not None:
            return TransportError(f"the server at {address} is not trusted: {context.objection}", retryable=False)
        why = engine.termination
        if why is not None and why.error_code == TLS_NO_ALPN:
            said = closed.reason or "no reason given"
            return TransportError(
                f"the server at {address} does not speak our protocol: we offered ALPN {ALPN!r}; it answered: {said}",
                retryable=False,
            )
        if why is not None and why.error_code == CONNECTION_REFUSED and why.frame_type is not None:
            return TransportError(f"the server at {address} takes no more connections now; try again later")
        if why is not None:
            return TransportError(f"no connection to {address}: {closed.message}", retryable=False)
        if self._refused:
            return TransportError(
                f"nobody answers at {address}: the port is closed; is the server running, and is the port right?"
            )
        limit = self._patience
        return TransportError(
            f"nobody answers at {address} within {limit:g} s; is the server running, "
            "is the address right, and does a firewall let UDP through?"
        )

    def _give_up_if_refused(self) -> None:
        if self._refused and self._loopback and not self.connection.ready:
            self.connection.lost(ConnectionClosed("the port is closed"))
            if self.connection.was_early:
                self.forget(self.connection)

    def _explain_early(self, closed: ConnectionClosed) -> ConnectionClosed:
        """The program has the connection already: it hears from there what :meth:`handshake` would have raised."""
        error = self._explain(closed)
        return ConnectionClosed(
            error.message, code=closed.code, reason=closed.reason, by_peer=closed.by_peer, retryable=error.retryable
        )

    def _on_ticket(self, ticket: SessionTicket) -> None:
        self.connection.new_ticket(ticket)

    # --- Endpoint ---------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        batch, refused = receive_batch(self._socket)
        now = self._tasks.now()
        connection = self.connection
        if refused:
            self._refused = True
            connection.refused(now)
        if not batch:
            return
        own = connection.engine.host_cids
        for data, _ in batch:
            if data and not data[0] & 0x80 and connection_id_of(data) not in own:
                if connection.error is None and connection.engine.is_reset(data):
                    connection.reset_by_peer()
                    return
                continue
            connection.feed(data, self._target, now)
        self._refused = False
        connection.batch_done(now)

    def send(self, datagrams: list[Datagram]) -> SendResult | None:
        result = send_all(self._socket, datagrams, connected=True)
        if result is not None and result.refused:
            self._refused = True
        return result

    def add_route(self, connection_id: bytes, connection: QuicConnection) -> None:
        pass

    def drop_route(self, connection_id: bytes) -> None:
        pass

    def early_data_arrived(self, connection: QuicConnection) -> None:
        pass

    def handshake_completed(self, connection: QuicConnection) -> None:
        self._waiters.wake_all()

    def connection_lost(self, connection: QuicConnection) -> None:
        self._waiters.wake_all()

    def forget(self, connection: QuicConnection) -> None:
        self._watch.cancel()
        self._last_call.cancel()
        # on trio the watch ends a moment later, and must not find another file under this number
        self._tasks.call_soon(self._socket.close)
