"""URLs of nodes: ``quic://127.0.0.1:4433``. ``host:port`` alone means ``quic://``; ``mdns://echo-server`` is a name."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from echokernel.errors import InvalidArgument

DEFAULT_SCHEME = "quic"
NO_PORT = -1
"""Of a name that discovery knows."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens or is dialled. ``port`` 0 asks a listener for any free one.

    ``host`` is the name of a service, and ``port`` -1, where ``scheme`` is that of a way to find services.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port != NO_PORT else "")

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can reach it; names other than ``localhost`` count as foreign."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str | Address | tuple[str, int], *, named: bool = False) -> Address:
    """Return the address of ``quic://host:port``, ``host:port``, ``[::1]:port`` or ``(host, port)``.

    ``named``: ``mdns://echo-server`` is one too, with any scheme that is not ``quic``.
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
    if named and not colon and port and separator and scheme.isidentifier() and scheme.lower() != DEFAULT_SCHEME:
        return Address(scheme.lower(), port, NO_PORT)
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
