"""Whom a listener lets in: the check of a client's certificate, against authorities or pinned keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioquic import tls
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from echokernel.errors import ConfigError
from echokernel_quic.fingerprints import fingerprint, is_pinned

if TYPE_CHECKING:
    from echokernel_quic.config import QuicConfig

__all__ = ["ClientPolicy", "authorities_in", "client_policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPolicy:
    """What makes a client's certificate acceptable: a pinned key, or else an authority, dates and purpose."""

    pins: tuple[str, ...] = ()
    authorities: bytes | None = None
    """PEM; read once, so that a handshake neither waits for a disk nor meets half a file."""
    verify: bool = True
    """As in TrustPolicy; there is no way to ask for a certificate and not to look at it."""

    def objection(self, certificate: x509.Certificate, chain: list[x509.Certificate]) -> str | None:
        """Return why this client is not let in; None when it is. The text is sent to the client."""
        try:
            seen = fingerprint(certificate)
            if is_pinned(seen, self.pins):
                return None
            if self.authorities is None:
                return f"the key {seen} is not pinned here"
            tls.verify_certificate(certificate=certificate, chain=chain, cadata=self.authorities)
            return next((wrong for each in (certificate, *chain) if (wrong := _wrong_purpose(each))), None)
        except tls.Alert as error:
            return f"the certificate of {seen} is not trusted: {str(error) or type(error).__name__}"
        except Exception as error:  # whatever a stranger's certificate makes the parsers raise
            return f"the certificate cannot be checked: {type(error).__name__}"


def _wrong_purpose(certificate: x509.Certificate) -> str | None:
    """What the check of the chain does not look at. An authority, too, may be good for servers only."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    if ExtendedKeyUsageOID.CLIENT_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage:
        return None
    return "the certificate is not meant for clients: its extended key usage lacks clientAuth"


def client_policy(config: QuicConfig) -> ClientPolicy | None:
    """Return how a listener checks its clients; None: it does not ask. Raises ConfigError naming the file."""
    if not config.wants_client_certificates:
        return None
    authorities = None if config.client_ca is None else authorities_in(config.client_ca, "client_ca")
    return ClientPolicy(pins=config.client_pins, authorities=authorities)


def authorities_in(path: str, setting: str) -> bytes:
    """Return the PEM file of a setting. Raises ConfigError when it cannot be read, or holds no certificate."""
    try:
        data = Path(path).read_bytes()
        if not x509.load_pem_x509_certificates(data):
            raise ValueError
    except OSError as error:
        raise ConfigError(f"{setting} {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{setting} {path}: no PEM certificates in this file") from error
    return data
