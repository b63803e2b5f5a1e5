"""What a QUIC transport is told: one frozen value, and the builder of the seed's API that makes it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from echokernel.errors import ConfigError

ALPN = "echostream/1"
"""What both ends have to speak; the number is the wire's major version."""

MIN_DATAGRAM_SIZE = 1200  # RFC 9000, section 14: every path that carries QUIC carries this
MAX_DATAGRAM_SIZE = 16_384

SELF_SIGNED = "self-signed"
"""In place of a file's name: this user's own key and certificate."""

logger = logging.getLogger("echokernel.quic")

__all__ = ["ALPN", "SELF_SIGNED", "CongestionControl", "QuicConfig", "QuicConfigBuilder"]


class CongestionControl(Enum):
    """How fast a sender may go. Each connection has a state of its own.

    Cubic keeps fast long paths fuller; NewReno is the plainest; BBR keeps its rate on lossy paths and queues short.
    """

    Cubic = "cubic"
    NewReno = "reno"
    BBR = "bbr"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicConfig:
    """Settings of one transport, for either end. Paths are read when a listener or connection is made, not before."""

    certificate: str | None = None
    """PEM file with the certificate and its chain, or ``"self-signed"``: the node's own identity. None: a listener has the
    self-signed one, a dialer shows none. A dialer shows its certificate only to a server that asks for one."""
    key: str | None = None
    """PEM file with the private key of ``certificate``; None: it stands in the same file."""
    ca: str | None = None
    """PEM file with the authorities that a server's certificate must come from; None: those that certifi knows."""
    fingerprints: tuple[str, ...] = ()
    """``sha256:…`` of server keys to trust, instead of any authority or name."""
    server_name: str | None = None
    """Name that the server's certificate must carry; None: the host that is dialled."""
    verify: bool = True
    """Whether the server has to prove who it is."""
    client_ca: str | None = None
    """PEM file with the authorities that a client's certificate has to come from; a listener lets nobody else in."""
    client_pins: tuple[str, ...] = ()
    """``sha256:…`` of client keys to let in, whatever their certificates say. With ``client_ca`` too, either is enough."""
    zero_rtt: bool = False
    """Whether a dialer that was here before sends its hello, and requests marked idempotent, with its first packets, and
    whether a listener runs these before the handshake is complete. Both ends have to want it."""
    congestion_control: CongestionControl = CongestionControl.Cubic
    max_datagram_size: int | None = None
    """UDP payload, in bytes. None: 1200, and more on a loopback path that has proved to carry it."""
    max_streams: int = 128
    """Streams of each kind that the peer may have open at a time."""
    keepalive: float = 4.5
    """Silence after which a peer is dead, in seconds. Probes start at a fifth (dialer) or a third (acceptor) of it."""
    handshake_timeout: float = 5.0
    """Time for a handshake, in seconds, at either end."""
    max_connections: int = 10_000
    """Connections that a listener holds at a time."""
    max_half_open: int = 1_000
    """Of these, handshakes that are not complete."""
    max_connections_per_ip: int = 256
    """Of these, from one address; loopback is exempt."""
    retry: bool | None = None
    """Whether every client has to prove its address first; None: on when not bound to loopback, or under load."""

    @property
    def wants_client_certificates(self) -> bool:
        """Whether a listener lets in only those who prove who they are."""
        return self.client_ca is not None or bool(self.client_pins)

    @staticmethod
    def builder() -> QuicConfigBuilder:
        """Return a builder with the names of the seed's API."""
        return QuicConfigBuilder()

    def checked(self) -> QuicConfig:
        """Return itself. Raises ConfigError with a line for each mistake."""
        mistakes = []
        size = self.max_datagram_size
        if size is not None and not MIN_DATAGRAM_SIZE <= size <= MAX_DATAGRAM_SIZE:
            mistakes.append(
                f"max_datagram_size: {size} is not between {MIN_DATAGRAM_SIZE} and {MAX_DATAGRAM_SIZE:,} bytes"
            )
        if not 1 <= self.max_streams <= 10_000:
            mistakes.append(f"max_streams: {self.max_streams} is not between 1 and 10,000")
        if not 1 <= self.keepalive <= 60:
            mistakes.append(f"keepalive: {self.keepalive} is not between 1 and 60 seconds")
        if self.zero_rtt and self.wants_client_certificates:
            mistakes.append(
                "zero_rtt: a connection that is resumed shows no client certificate; leave out zero_rtt, or client_ca and pins"
            )
        if self.key is not None and self.certificate in (None, SELF_SIGNED):
            mistakes.append(
                "key: a key without its certificate; add certificate = PATH, or leave both out for self-signed"
            )
        for name, pins in (("fingerprint", self.fingerprints), ("pins", self.client_pins)):
            mistakes += [f"{name}: {pin!r} is not 'sha256:' and 43 characters of base64url" for pin in _bad_pins(pins)]
        if mistakes:
            raise ConfigError("\n".join(mistakes))
        return self


def _bad_pins(pins: tuple[str, ...]) -> list[str]:
    from echokernel_quic.fingerprints import is_fingerprint

    return [pin for pin in pins if not is_fingerprint(pin)]


@dataclass(slots=True)
class QuicConfigBuilder:
    """Fluent: every method returns the builder, :meth:`build` checks everything at once."""

    _config: QuicConfig = field(default_factory=QuicConfig)
    _mistakes: list[str] = field(default_factory=list)

    def with_self_signed_cert(self) -> QuicConfigBuilder:
        """Use the node's own key, which is made at the first use and kept.

        That is the default of a listener. A dialer shows it to servers that ask for a client certificate.
        """
        return self._set(certificate=SELF_SIGNED, key=None)

    def with_cert_chain(self, cert: str | Path, key: str | Path | None = None) -> QuicConfigBuilder:
        """Use these PEM files; without ``key``, the private key stands in the certificate's file.

        A dialer shows them to servers that ask for a client certificate.
        """
        return self._set(certificate=str(cert), key=None if key is None else str(key))

    def with_ca(self, path: str | Path) -> QuicConfigBuilder:
        """Trust servers whose certificate comes from an authority in this PEM file."""
        return self._set(ca=str(path))

    def with_fingerprint(self, fingerprint: str) -> QuicConfigBuilder:
        """Trust the server that has this key, whatever its certificate says. May be called for several keys."""
        return self._set(fingerprints=(*self._config.fingerprints, fingerprint))

    def with_client_ca(self, path: str | Path) -> QuicConfigBuilder:
        """Let in only clients whose certificate comes from an authority in this PEM file."""
        return self._set(client_ca=str(path))

    def with_client_pins(self, *fingerprints: str) -> QuicConfigBuilder:
        """Let in only clients that have one of these keys (``sha256:…``). May be called several times."""
        if not fingerprints:
            self._mistakes.append("pins: none given; to let everybody in, do not call with_client_pins()")
        return self._set(client_pins=(*self._config.client_pins, *fingerprints))

    def skip_cert_verification(self) -> QuicConfigBuilder:
        """Trust any server. Whoever stands in between can read and change everything."""
        return self._set(verify=False)

    def congestion_control(self, algorithm: CongestionControl) -> QuicConfigBuilder:
        return self._set(congestion_control=algorithm)

    def max_concurrent_streams(self, count: int) -> QuicConfigBuilder:
        """Let the peer have ``count`` streams of each kind open at a time."""
        return self._set(max_streams=count)

    def enable_0rtt(self) -> QuicConfigBuilder:
        """Resume connections, and let requests marked idempotent travel before the handshake is complete."""
        return self._set(zero_rtt=True)

    def build(self) -> QuicConfig:
        """Return the configuration. Raises ConfigError with a line for each mistake."""
        try:
            config = self._config.checked()
        except ConfigError as error:
            raise ConfigError("\n".join([*self._mistakes, error.message])) from None
        if self._mistakes:
            raise ConfigError("\n".join(self._mistakes))
        return config

    def _set(self, **changes: object) -> QuicConfigBuilder:
        self._config = replace(self._config, **changes)  # type: ignore[arg-type]
        return self
