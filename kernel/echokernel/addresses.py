"""URLs of nodes: ``quic://127.0.0.1:4433``. ``host:port`` alone means ``quic://``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from echokernel.errors import InvalidArgument

DEFAULT_SCHEME = "quic"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens or is dialled. ``port`` 0 asks a listener for any free one."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can reach it; names other than ``localhost`` count as foreign."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str | Address | tuple[str, int]) -> Address:
    """Return the address of ``quic://host:port``, ``host:port``, ``[::1]:port`` or ``(host, port)``.

    Raises InvalidArgument naming what was seen and what was wanted.
    """
    if isinstance(text, Address):
        return text
    if isinstance(text, tuple):
        return Address(DEFAULT_SCHEME, *text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = DEFAULT_SCHEME, text
    host, colon, port = rest.rstrip("/").rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidArgument(f"address {text!r}: an IPv6 address stands in brackets, as in {scheme}://[::1]:4433")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidArgument(
            f"address {text!r}: wanted {scheme or DEFAULT_SCHEME}://HOST:PORT, as in quic://127.0.0.1:4433"
        )
    if not scheme.isidentifier():
        raise InvalidArgument(f"address {text!r}: {scheme!r} is not a URL scheme")
    return Address(scheme.lower(), host, int(port))
