"""``sha256:…``: how the public key of a node is written down, compared and pinned."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_FINGERPRINT = re.compile(r"sha256:[A-Za-z0-9_-]{43}")


def fingerprint(certificate: Certificate) -> str:
    """Return ``sha256:`` and the unpadded base64url of the SHA-256 of the key's SubjectPublicKeyInfo (DER)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + base64.urlsafe_b64encode(hashlib.sha256(spki).digest()).rstrip(b"=").decode()


def is_fingerprint(text: str) -> bool:
    return _FINGERPRINT.fullmatch(text) is not None


def is_pinned(seen: str, pins: Iterable[str]) -> bool:
    """Compare with every pin, in constant time."""
    return any([hmac.compare_digest(seen, pin) for pin in pins])  # noqa: C419  # no early end
