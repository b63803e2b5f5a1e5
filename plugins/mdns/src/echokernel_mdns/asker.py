"""Questions from a port of their own: the answer comes straight back, whoever else has a socket on port 5353.

An answer to a question from port 5353 goes to one of the sockets that share that port on this machine: with avahi, or a
second program of ours, often to the wrong one, and the next chance is a second away. RFC 6762 section 6.7 has the way out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from echokernel_mdns.addresses import Interface, Scope, is_loopback
from echokernel_mdns.packets import query, read_answer

__all__ = ["Asker", "check_port", "confine_to_loopback", "open_socket"]

GROUP, GROUP6, PORT = "224.0.0.251", "ff02::fb", 5353
REMEMBERED = 8  # numbers of the last questions: answers to older ones are nobody's

logger = logging.getLogger("echokernel.mdns")


class Asker(asyncio.DatagramProtocol):
    """One socket on one interface. ``heard`` gets each answer to a question of ours, as zeroconf reads it."""

    def __init__(self, address: tuple[Any, ...], scope: Scope, heard: Callable[[Any], None]) -> None:
        self._address = address
        self._scope = scope
        self._heard = heard
        self._numbers: deque[int] = deque(maxlen=REMEMBERED)
        self._transport: asyncio.DatagramTransport | None = None
        self.trouble: OSError | None = None
        """Why the last question did not go out."""

    @classmethod
    async def open(cls, host: str, interface: Interface, scope: Scope, heard: Callable[[Any], None]) -> Asker:
        """Open a socket on ``host`` of ``interface``. Raises OSError where nothing can be sent to the group from there."""
        sock, address = open_socket(host, interface.index, scope)
        try:
            loop = asyncio.get_running_loop()
            _, asker = await loop.create_datagram_endpoint(lambda: cls(address, scope, heard), sock=sock)
        except BaseException:
            sock.close()
            raise
        return asker

    def ask(self, asked: Iterable[tuple[str, int]]) -> None:
        """Send questions: (name, kind of record)."""
        if self._transport is None:
            return
        self.trouble = None
        number, packets = query(asked)
        self._numbers.append(number)
        for packet in packets:
            self._transport.sendto(packet, self._address)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if len(data) < 12 or int.from_bytes(data[:2], "big") not in self._numbers:
            return
        if is_loopback(addr[0]) != (self._scope == "loopback"):
            return
        message = read_answer(data, addr[:2], addr[3] if len(addr) > 3 else None)
        if message is not None:
            self._heard(message)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self.trouble = exc
        logger.debug("a question from %s did not go out: %s", self._address[0], exc)


def open_socket(host: str, index: int, scope: Scope) -> tuple[socket.socket, tuple[Any, ...]]:
    """Return a socket that reaches the group from ``host``, and the group's address.

    Raises OSError: there is no such address, or no route for multicast from there.
    """
    group: tuple[Any, ...] = (GROUP6, PORT, 0, index) if ":" in host else (GROUP, PORT)
    with _bound(host, index) as probe:
        probe.connect(group)  # looks for a route and sends nothing
    sock = _bound(host, index)
    if scope == "loopback":
        confine_to_loopback(sock)
    return sock, group


def _bound(host: str, index: int) -> socket.socket:
    version6 = ":" in host
    sock = socket.socket(socket.AF_INET6 if version6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if version6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            sock.bind((host, 0, 0, 0))
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("B", 255))
            sock.bind((host, 0))
    except BaseException:
        sock.close()
        raise
    return sock


def check_port() -> None:
    """Raises OSError where port 5353 cannot be shared: another program has it and does not share it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind(("", PORT))


def confine_to_loopback(sock: Any) -> bool:
    """Let a socket hear the loopback interface alone; False where the system has no way to.

    A socket on port 5353 hears every interface on which any program joined the group, other machines included; nobody
    else can say what is within this one.
    """
    try:
        if sys.platform.startswith("linux"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        elif sys.platform == "darwin":
            sock.setsockopt(socket.IPPROTO_IP, 25, socket.if_nametoindex("lo0"))  # IP_BOUND_IF
        else:
            return False
    except OSError as error:
        logger.debug("a socket cannot be confined to the loopback interface: %s", error)
        return False
    return True
