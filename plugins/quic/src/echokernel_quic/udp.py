"""The raw, non-blocking UDP socket: opened, drained in batches, written until it is full."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable
from typing import Any

from echokernel.addresses import Address
from echokernel.errors import TransportError

BUFFER_SIZE = 1024 * 1024  # bytes each way: more lets Reno build queues of 100 ms, less drops bursts
BATCH = 64  # datagrams that are taken in one turn of the event loop
RECEIVE_SIZE = 65_535

__all__ = ["BATCH", "QuietSocket", "open_connected", "open_listening", "receive_batch", "send_all"]

Datagram = tuple[bytes, Any]


class QuietSocket(socket.socket):
    """A socket that closes itself without a ResourceWarning: the last goodbyes may outlive the event loop."""

    def __del__(self) -> None:
        self.close()


def open_listening(address: Address, host: str, family: int) -> QuietSocket:
    """Return a socket bound to ``host``, an address that ``address`` resolved to. Raises TransportError."""
    sock = _open(family)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, address.port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise TransportError(
                f"cannot listen at {address}: the port is in use by another program; stop that one, "
                "or choose another port",
                retryable=False,
            ) from error
        remedy = ""
        if error.errno == errno.EADDRNOTAVAIL:
            remedy = "; this machine has no such address"
        elif error.errno == errno.EACCES:
            remedy = "; ports below 1024 need privileges, choose a higher one"
        raise TransportError(f"cannot listen at {address}: {error.strerror}{remedy}", retryable=False) from error
    return sock


def open_connected(address: Address, target: tuple[Any, ...], family: int) -> QuietSocket:
    """Return a socket that talks to ``target`` only; the network's errors then reach us. Raises TransportError."""
    sock = _open(family)
    try:
        sock.connect(target)
    except OSError as error:
        sock.close()
        raise TransportError(f"cannot reach {address}: {error.strerror}") from error
    return sock


def _open(family: int) -> QuietSocket:
    sock = QuietSocket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):  # a system's upper bound: less will do
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_SIZE)
    return sock


def receive_batch(sock: socket.socket) -> tuple[list[Datagram], bool]:
    """Return the datagrams that wait, at most 64, and whether the network said that nobody listens over there."""
    batch: list[Datagram] = []
    refused = False
    receive = sock.recvfrom
    for _ in range(BATCH):
        try:
            batch.append(receive(RECEIVE_SIZE))
        except (BlockingIOError, InterruptedError):
            break
        except ConnectionRefusedError:
            refused = True
        except OSError as error:
            if error.errno == errno.EBADF:
                break
    return batch, refused


class SendResult:
    """How a pass ended: what could not be sent yet, what never can, and whether the network refused it."""

    __slots__ = ("left", "refused", "too_long")

    def __init__(self) -> None:
        self.left: list[Datagram] = []
        self.too_long = 0
        self.refused = False


def send_all(sock: socket.socket, datagrams: Iterable[Datagram], *, connected: bool) -> SendResult | None:
    """Send in order. Return None when everything left; only a full buffer stops the pass, loss is QUIC's to repair."""
    result: SendResult | None = None
    waiting = iter(datagrams)
    for datagram in waiting:
        try:
            if connected:
                sock.send(datagram[0])
            else:
                sock.sendto(*datagram)
        except (BlockingIOError, InterruptedError):
            result = result or SendResult()
            result.left = [datagram, *waiting]
            break
        except ConnectionRefusedError:
            # reported for an earlier datagram; this one was not sent
            result = result or SendResult()
            result.refused = True
            with contextlib.suppress(OSError):
                sock.send(datagram[0])
        except OSError as error:
            result = result or SendResult()
            if error.errno == errno.ENOBUFS:
                result.left = [datagram, *waiting]
                break
            if error.errno == errno.EMSGSIZE:
                result.too_long += 1
    return result
