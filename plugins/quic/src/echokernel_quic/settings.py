"""What a user may write under ``[listen.NAME]`` and ``[connect.NAME]`` for a ``quic://`` URL."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from echokernel.errors import ConfigError
from echokernel_quic.config import (
    MAX_DATAGRAM_SIZE,
    MIN_DATAGRAM_SIZE,
    SELF_SIGNED,
    CongestionControl,
    QuicConfig,
)

ALGORITHMS = {"cubic": CongestionControl.Cubic, "newreno": CongestionControl.NewReno, "bbr": CongestionControl.BBR}
FINGERPRINT = r"^sha256:[A-Za-z0-9_-]{43}$"

Fingerprint = Annotated[str, Field(pattern=FINGERPRINT)]

__all__ = ["ConnectSettings", "ListenSettings"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    congestion_control: Literal["cubic", "newreno", "bbr"] = Field(
        default="cubic",
        description="How fast a sender may go: cubic fills fast long paths better, newreno is the plainest, bbr keeps "
        "its rate on paths that lose packets and keeps queues short.",
    )
    max_datagram_size: int | None = Field(
        default=None,
        ge=MIN_DATAGRAM_SIZE,
        le=MAX_DATAGRAM_SIZE,
        description="UDP payload of our packets, in bytes. Without it 1200, and more on a loopback path that proved "
        "to carry it. 1452 suits Ethernet without tunnels; what is too large for the path is lost.",
    )
    zero_rtt: bool = Field(
        default=False,
        description="Let requests marked idempotent travel, and run, before the handshake is complete, on a connection to "
        "a server that was connected to before; both ends have to want it. Not with client certificates.",
    )
    max_streams: int = Field(
        default=128, ge=1, le=10_000, description="Streams of each kind that the peer may have open at a time."
    )
    keepalive: float = Field(
        default=4.5,
        ge=1,
        le=60,
        description="Silence after which the peer is dead, in seconds; it is probed from a fifth (dialer) or a third "
        "(acceptor) of this time on. Below 4.5 a network that is away for 3 s ends connections.",
    )
    handshake_timeout: float = Field(default=5.0, gt=0, le=60, description="Time for a handshake, in seconds.")


class ListenSettings(_Settings):
    """Settings of a listener."""

    certificate: str = Field(
        default=SELF_SIGNED,
        description='PEM file with the certificate and its chain, or "self-signed": a key of this user\'s own, made at '
        "the first use and kept; its fingerprint is printed at the start.",
    )
    key: str | None = Field(
        default=None,
        description="PEM file with the private key, mode 600; without it the key stands in the certificate's file.",
    )
    client_ca: str | None = Field(
        default=None,
        description="PEM file with the authorities that clients' certificates have to come from; clients without one "
        "are refused in the handshake.",
    )
    pins: list[Fingerprint] | None = Field(
        default=None,
        min_length=1,
        description="sha256:… of the public keys of clients to let in, whatever their certificates say. With client_ca "
        "as well, either is enough.",
    )
    max_connections: int = Field(default=10_000, ge=1, description="Connections at a time; further ones are refused.")
    max_half_open: int = Field(default=1_000, ge=1, description="Handshakes at a time that are not complete.")
    max_connections_per_ip: int = Field(
        default=256, ge=1, description="Connections at a time from one address; loopback is exempt."
    )
    retry: bool | None = Field(
        default=None,
        description="Whether each client has to prove its address first, which costs a round trip. Without it: on when "
        "not bound to loopback, and when more than 64 handshakes are incomplete.",
    )

    def to_config(self) -> QuicConfig:
        """Return what the transport takes. Raises ConfigError."""
        values = self.model_dump(exclude={"certificate", "congestion_control", "pins"})
        return QuicConfig(
            certificate=None if self.certificate == SELF_SIGNED else self.certificate,
            client_pins=tuple(self.pins or ()),
            congestion_control=ALGORITHMS[self.congestion_control],
            **values,
        ).checked()


class ConnectSettings(_Settings):
    """Settings of a connection to a server."""

    fingerprint: Fingerprint | list[Fingerprint] | None = Field(
        default=None,
        description="sha256:… of the server's public key, as the server prints it at its start; or a list of them. It "
        "replaces authorities and names.",
    )
    ca: str | None = Field(
        default=None, description="PEM file with the authorities that may vouch for the server; without it, certifi's."
    )
    certificate: str | None = Field(
        default=None,
        description='PEM file with a certificate and its chain, or "self-signed": who this client is, for servers that '
        "ask for a client certificate.",
    )
    key: str | None = Field(
        default=None,
        description="PEM file with the private key, mode 600; without it the key stands in the certificate's file.",
    )
    server_name: str | None = Field(
        default=None, description="Name that the server's certificate must carry; without it, the URL's host."
    )
    skip_cert_verification: bool = Field(
        default=False, description="Trust any server. Whoever stands in between can read and change everything; warns."
    )

    def to_config(self) -> QuicConfig:
        """Return what the transport takes. Raises ConfigError."""
        if self.zero_rtt and self.certificate is not None:
            raise ConfigError(
                "zero_rtt: a connection that is resumed shows no client certificate; leave out zero_rtt, or certificate"
            )
        values = self.model_dump(exclude={"fingerprint", "skip_cert_verification", "congestion_control"})
        pins = self.fingerprint
        return QuicConfig(
            fingerprints=() if pins is None else (pins,) if isinstance(pins, str) else tuple(pins),
            verify=not self.skip_cert_verification,
            congestion_control=ALGORITHMS[self.congestion_control],
            **values,
        ).checked()
