"""The key and certificate that a node shows: PEM files, or an identity of its own that is made once and kept."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import ipaddress
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from echokernel.errors import ConfigError
from echokernel_quic.config import SELF_SIGNED
from echokernel_quic.fingerprints import fingerprint

CERTIFICATE_DAYS = 825
RENEW_DAYS = 30  # a certificate with less than this left is replaced at the next start
KEY_FILE = "quic-identity.key"
CERTIFICATE_FILE = "quic-identity.crt"

__all__ = ["Identity", "load_identity", "own_fingerprint", "self_signed_identity", "state_directory"]


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A private key with the certificates that belong to it."""

    key: Any
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    def derive(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes that are the same whenever this key is loaded again."""
        der = self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return hmac.digest(der, purpose, hashlib.sha256)

    def __repr__(self) -> str:
        return f"Identity({self.fingerprint})"


def state_directory() -> Path:
    """Return where this user's nodes keep their state: the first of the three that is set, or ``~/.local/state``."""
    if directory := os.environ.get("ECHOKERNEL_STATE_DIR"):
        return Path(directory)
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "echokernel"
    return Path.home() / ".local" / "state" / "echokernel"


def own_fingerprint() -> str | None:
    """Return the fingerprint of this user's self-signed identity, None where there is none. Creates nothing."""
    try:
        data = (state_directory() / CERTIFICATE_FILE).read_bytes()
        return fingerprint(x509.load_pem_x509_certificate(data))
    except (OSError, ValueError, RuntimeError):
        return None


def self_signed_identity() -> Identity:
    """Return this user's identity; the first call ever makes it. Raises ConfigError naming the file and the remedy."""
    directory = state_directory()
    key_path, certificate_path = directory / KEY_FILE, directory / CERTIFICATE_FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key_path.exists():
            _create_once(key_path, _new_key())
        key = _load_key(key_path)
        certificate = _valid_certificate(certificate_path, key)
        if certificate is None:
            certificate = _self_sign(key)
            _replace(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise ConfigError(
            f"cannot keep the self-signed identity in {directory}: {error.strerror or error}; "
            "make the directory writable, or set ECHOKERNEL_STATE_DIR"
        ) from error
    return Identity(key, certificate)


def load_identity(certificate: str | None, key: str | None = None) -> Identity:
    """Return the identity of the PEM files, this user's own for None or "self-signed". Raises ConfigError naming the file."""
    if certificate in (None, SELF_SIGNED):
        return self_signed_identity()
    path = Path(str(certificate))
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"certificate {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"certificate {path}: not a PEM certificate: {error}") from error
    loaded = _load_key(Path(key) if key else path)
    if loaded.public_key() != chain[0].public_key():
        raise ConfigError(f"key {key or path} does not belong to the first certificate in {path}")
    return Identity(loaded, chain[0], tuple(chain[1:]))


def _load_key(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            if os.name == "posix":
                mode = os.fstat(file.fileno()).st_mode
                if mode & 0o077:
                    raise ConfigError(
                        f"key {path} is open to other users (mode {mode & 0o777:o}); run: chmod 600 {path}"
                    )
            data = file.read()
    except OSError as error:
        raise ConfigError(f"key {path}: {error.strerror or error}") from error
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"key {path}: not an unencrypted PEM private key") from error


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _valid_certificate(path: Path, key: Any) -> x509.Certificate | None:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    limit = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEW_DAYS)
    if certificate.public_key() != key.public_key() or certificate.not_valid_after_utc < limit:
        return None
    return certificate


def _self_sign(key: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "echokernel self-signed")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )


def _write_beside(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _create_once(path: Path, data: bytes) -> None:
    """Two processes may race: a link, unlike a rename, fails when the other one was quicker, and its key stands."""
    temporary = _write_beside(path, data)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _replace(path: Path, data: bytes) -> None:
    os.replace(_write_beside(path, data), path)
