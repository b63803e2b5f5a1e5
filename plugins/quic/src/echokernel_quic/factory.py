"""aioquic's configuration, made from ours: what is off stays off here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic.quic.configuration import QuicConfiguration

from echokernel_quic.config import ALPN, MIN_DATAGRAM_SIZE, QuicConfig
from echokernel_quic.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.tls import SessionTicket

    from echokernel_quic.clients import ClientPolicy
    from echokernel_quic.identity import Identity
    from echokernel_quic.tickets import Issued, Resumable
    from echokernel_quic.trust import TrustPolicy

MAX_DATAGRAM_FRAME = 16_384  # bytes; what we take, larger than any packet of ours
IDLE_TIMEOUTS = 10 / 4.5  # QUIC's own idle timeout, in keepalive limits: it only catches what the keepalive cannot see

__all__ = ["make_engine"]


def make_engine(
    config: QuicConfig,
    *,
    reset_key: bytes,
    loopback: bool,
    identity: Identity | None = None,
    policy: TrustPolicy | None = None,
    clients: ClientPolicy | None = None,
    server_name: str | None = None,
    alpn: str = ALPN,
    resumable: Resumable | None = None,
    keep_ticket: Callable[[SessionTicket], None] | None = None,
    issued: Issued | None = None,
    original_destination_connection_id: bytes | None = None,
    retry_source_connection_id: bytes | None = None,
) -> Engine:
    """Return the engine of a dialer (with a policy; ``identity`` is its client certificate) or else of an acceptor.

    ``resumable`` and ``keep_ticket``: a dialer's ticket, and what takes new ones. ``issued``: an acceptor's tickets.
    """
    configuration = QuicConfiguration(
        alpn_protocols=[alpn],
        congestion_control_algorithm=config.congestion_control.value,
        idle_timeout=config.keepalive * IDLE_TIMEOUTS,
        is_client=policy is not None,
        max_datagram_size=config.max_datagram_size or MIN_DATAGRAM_SIZE,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME,
        server_name=server_name,
    )
    if identity is not None:
        configuration.certificate = identity.certificate
        configuration.certificate_chain = list(identity.chain)
        configuration.private_key = identity.key
    if resumable is not None:
        configuration.session_ticket = resumable.ticket
    return Engine(
        configuration=configuration,
        reset_key=reset_key,
        policy=policy or clients,
        max_streams=config.max_streams,
        loopback=loopback,
        keep_ticket=keep_ticket,
        issued=issued,
        original_destination_connection_id=original_destination_connection_id,
        retry_source_connection_id=retry_source_connection_id,
    )
