"""Whom a client believes, and the TLS context that checks certificates at either end."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicErrorCode
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from echokernel.transport import PeerIdentity
from echokernel_quic.fingerprints import fingerprint, is_pinned

if TYPE_CHECKING:
    from echokernel_quic.clients import ClientPolicy

MAX_CERTIFICATE_MESSAGE = 65_536  # bytes; a real chain is below 10 KB, and a stranger's is parsed in the receive loop

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
    except Exception:  # no such extension, or one that cannot be read: then there are no names
        names.clear()
    return PeerIdentity(
        fingerprint=fingerprint(certificate), subject=certificate.subject.rfc4514_string(), names=tuple(names)
    )


class CertificateRequired(tls.Alert):
    """The client was asked for a certificate and has sent none."""

    description = tls.AlertDescription.certificate_required


class SilentTicket(tls.SessionTicket):
    """A ticket of aioquic whose repr does not show its secrets."""

    def __repr__(self) -> str:
        return "<SessionTicket>"


class CheckedContext(tls.Context):
    """aioquic's TLS context; the policy, not ``verify_mode``, decides about the peer's certificate.

    With a policy a server asks each client for its certificate. aioquic could ask, too, but would take none or any.
    """

    policy: TrustPolicy | ClientPolicy | None = None
    objection: str | None = None
    """Why we refused the peer; for our own error, never sent."""

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self._peer_certificate

    def resume_with(self, made: tls.Context) -> None:
        """Use tickets as the context does that aioquic has made; where there are none, there is no early data either."""
        self.session_ticket = made.session_ticket
        fetch, keep = made.get_session_ticket_cb, made.new_session_ticket_cb
        self.get_session_ticket_cb, self.new_session_ticket_cb = fetch, keep
        if fetch is not None and keep is not None:
            self._max_early_data = made._max_early_data

    def _build_session_ticket(self, *arguments: Any) -> tls.SessionTicket:
        ticket = super()._build_session_ticket(*arguments)
        ticket.__class__ = SilentTicket
        return ticket

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

    def _server_handle_certificate(self, input_buf: Buffer) -> None:
        if input_buf.capacity > MAX_CERTIFICATE_MESSAGE:
            raise tls.AlertBadCertificate("the certificates are too long")
        super()._server_handle_certificate(input_buf)
        if self._peer_certificate is None:  # aioquic would go on without
            self.objection = "the client has shown no certificate"
            raise CertificateRequired("a client certificate is required")

    def _server_handle_certificate_verify(self, input_buf: Buffer) -> None:
        super()._server_handle_certificate_verify(input_buf)  # the signature: the peer has the certificate's key
        if self.policy is None or self._peer_certificate is None:
            raise tls.AlertInternalError("no trust policy")
        self.objection = self.policy.objection(self._peer_certificate, self._peer_certificate_chain)
        if self.objection is not None:
            raise tls.AlertBadCertificate(self.objection)

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


def install(
    engine: Any, policy: TrustPolicy | ClientPolicy | None, alpn: list[str], server_name: str | None
) -> CheckedContext:
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
    context._request_client_certificate = policy is not None and not engine._is_client
    for name in ("certificate", "certificate_chain", "certificate_private_key", "handshake_extensions"):
        setattr(context, name, getattr(made, name))
    for name in ("alpn_cb", "update_traffic_key_cb"):
        setattr(context, name, getattr(made, name))
    context.resume_with(made)
    engine.tls = context
    return context


def _printable(text: str) -> str:
    return text[:40].encode("ascii", "backslashreplace").decode()


# what servers answer to a client certificate that they do not like, as QUIC's error codes
CERTIFICATE_ALERTS = frozenset(
    QuicErrorCode.CRYPTO_ERROR + alert
    for alert in (
        tls.AlertDescription.bad_certificate,
        tls.AlertDescription.unsupported_certificate,
        tls.AlertDescription.certificate_revoked,
        tls.AlertDescription.certificate_expired,
        tls.AlertDescription.certificate_unknown,
        tls.AlertDescription.unknown_ca,
        tls.AlertDescription.access_denied,
        tls.AlertDescription.certificate_required,
    )
)


def refused_certificate(ours: x509.Certificate | None, said: str) -> str:
    """Return what to tell the user of a client whose certificate the server refused, saying ``said``."""
    answer = f" (it says: {said})" if said else ""
    if ours is None:
        return (
            f"it wants a client certificate, and this client has none{answer}; set certificate and key to files from "
            'an authority that it trusts, or certificate = "self-signed" and let its operator pin that key'
        )
    return (
        f"it does not accept our client certificate{answer}; its key is {fingerprint(ours)}: "
        "let the server's operator add it to pins, or use a certificate from its client_ca"
    )
