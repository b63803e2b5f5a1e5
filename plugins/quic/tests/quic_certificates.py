"""A certificate authority for tests."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def _builder(subject: str, issuer: str, key: Any, *, expired: bool = False) -> x509.CertificateBuilder:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=-0.5 if expired else 1))
    )


def authority(path: Path) -> tuple[x509.Certificate, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("test authority", "test authority", key)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def intermediate(
    ca: x509.Certificate, ca_key: Any, *, purpose: x509.ObjectIdentifier | None = None
) -> tuple[x509.Certificate, Any]:
    """Return an authority below the authority; ``purpose``: all that it may vouch for."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("test intermediate", "test authority", key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(ca_key, hashes.SHA256()), key


def issue(
    path: Path,
    ca: x509.Certificate,
    ca_key: Any,
    address: str,
    *,
    server: bool = True,
    expired: bool = False,
    names: tuple[x509.GeneralName, ...] = (),
    purpose: bool = True,
    send_issuer: bool = False,
) -> Path:
    """Write certificate and key into one file. Without ``purpose`` it says nothing about what it is for."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    alternatives = [x509.IPAddress(ipaddress.ip_address(address)), *names]
    builder = _builder(address, str(issuer), key, expired=expired).add_extension(
        x509.SubjectAlternativeName(alternatives), critical=False
    )
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256())
    if send_issuer:
        pem = certificate.public_bytes(serialization.Encoding.PEM) + ca.public_bytes(serialization.Encoding.PEM)
    else:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
    pem += key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(pem)
    return path
