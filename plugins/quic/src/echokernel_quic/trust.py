"""Whom a client believes: the TLS context that checks a server's certificate, and ALPN errors that name both sides."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from echokernel.transport import PeerIdentity
from echokernel_quic.fingerprints import fingerprint, is_pinned

__all__ = ["CheckedContext", "TrustPolicy", "identity_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """What makes a server's certificate acceptable."""

    pins: tuple[str, ...] = ()
    """Keys that are trusted, instead of any chain and name."""
    own: str | None = None
    """This user's own key, trusted on loopback beside the usual check."""
    ca: str | None = None
    """PEM file of authorities; None: certifi's."""
    name: str = ""
    """What the certificate has to be issued for."""
    verify: bool = True

    def objection(self, certificate: x509.Certificate, chain: list[x509.Certificate]) -> str | None:
        """Return why this certificate is not trusted, with the remedy; None when it is."""
        if not self.verify:
            return None
        try:
            seen = fingerprint(certificate)
        except Exception as error:
            return f"its certificate has a key that cannot be read: {error}"
        if self.pins:
            if is_pinned(seen, self.pins):
                return None
            wanted = " or ".join(self.pins)
            return (
                f"its key is {seen}, wanted was {wanted}; if the server's key was replaced, "
                f'ask its operator and set fingerprint="{seen}"'
            )
        if self.own is not None and is_pinned(seen, (self.own,)):
            return None
        problem = self._chain_problem(certificate, chain)
        if problem is None:
            return None
        return (
            f'{problem}; if this is the server you mean, trust its key with fingerprint="{seen}", '
            'or name its authority with ca="PATH"'
        )

    def _chain_problem(self, certificate: x509.Certificate, chain: list[x509.Certificate]) -> str | None:
        try:
            tls.verify_certificate(certificate=certificate, chain=chain, server_name=self.name, cafile=self.ca)
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return None
        except tls.Alert as error:
            return f"its certificate is not trusted ({str(error) or type(error).__name__})"
        except Exception as error:  # whatever the peer's certificate makes the parsers raise
            return f"its certificate cannot be checked ({type(error).__name__}: {error})"
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usage:
            return "its certificate is not meant for servers"  # aioquic does not look at the purpose
        return None


def identity_of(certificate: x509.Certificate) -> PeerIdentity:
    """Return what a verified certificate says about its owner."""
    names: list[str] = []
    try:
        for entry in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value:
            value = entry.value
            if isinstance(value, str | ipaddress.IPv4Address | ipaddress.IPv6Address):
                names.append(str(value))
    except (x509.ExtensionNotFound, ValueError):
        pass
    return PeerIdentity(
        fingerprint=fingerprint(certificate), subject=certificate.subject.rfc4514_string(), names=tuple(names)
    )


class CheckedContext(tls.Context):
    """aioquic's TLS context; the policy, not ``verify_mode``, decides about the peer's certificate."""

    policy: TrustPolicy | None = None
    objection: str | None = None
    """Why we refused the peer; for our own error, never sent."""

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self._peer_certificate

    def forget_handshake_keys(self) -> None:
        """Once traffic keys are made, these could only help somebody to decrypt what was recorded."""
        self._ec_private_keys.clear()
        self._x25519_private_key = None
        self._x448_private_key = None

    def _client_handle_certificate_verify(self, input_buf: Buffer) -> None:
        super()._client_handle_certificate_verify(input_buf)  # the signature: the peer has the certificate's key
        if self.policy is None or self._peer_certificate is None:
            raise tls.AlertInternalError("no trust policy")
        self.objection = self.policy.objection(self._peer_certificate, self._peer_certificate_chain)
        if self.objection is not None:
            raise tls.AlertBadCertificate("the client does not trust this certificate")

    def _server_handle_hello(self, input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer) -> None:
        hello = Buffer(data=input_buf.data_slice(0, input_buf.capacity))
        try:
            super()._server_handle_hello(input_buf, initial_buf, handshake_buf)
        except tls.AlertNoApplicationProtocol as error:
            offered = ", ".join(_printable(name) for name in tls.pull_client_hello(hello).alpn_protocols or [])
            ours = ", ".join(self._alpn_protocols or [])
            raise tls.AlertNoApplicationProtocol(
                f"the server speaks {ours}, the client {offered or 'no ALPN'}"
            ) from error


def install(engine: Any, policy: TrustPolicy | None, alpn: list[str], server_name: str | None) -> CheckedContext:
    """Put a checked context in place of the one that ``QuicConnection._initialize`` has just made."""
    made: tls.Context = engine.tls
    context = CheckedContext(
        is_client=engine._is_client,
        alpn_protocols=alpn,
        logger=None,
        max_early_data=None,
        server_name=server_name,
        verify_mode=0,  # ssl.CERT_NONE: the policy above takes its place
    )
    context.policy = policy
    for name in ("certificate", "certificate_chain", "certificate_private_key", "handshake_extensions"):
        setattr(context, name, getattr(made, name))
    for name in ("alpn_cb", "update_traffic_key_cb"):
        setattr(context, name, getattr(made, name))
    engine.tls = context
    return context


def _printable(text: str) -> str:
    return text[:40].encode("ascii", "backslashreplace").decode()
