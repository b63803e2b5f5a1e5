"""Load for a router of agents: WebSocket clients that cost next to nothing, so that the router is what is measured.

Frames are made beforehand, with the mask 0 (a client may choose any), and what arrives is cut at the lengths of its headers.
One thread, one ``selectors`` loop. They are far too trusting to judge a WebSocket implementation: the tests do that.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator

PAYLOAD_AT = b'"payload":"'


def frame(text: bytes) -> bytes:
    """Return a text message as a client sends it."""
    size = len(text)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 65_536:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + size.to_bytes(8, "big")
    return head + b"\x00\x00\x00\x00" + text


def message(to: str, number: int, size: int) -> bytes:
    """Return a ``send`` whose text has ``size`` bytes and carries ``number`` (12 digits)."""
    head = b'{"type":"send","to":"%b","payload":"%012d' % (to.encode(), number)
    return frame(head + b"x" * (size - len(head) - 2) + b'"}')


class Client:
    """One connection. ``on_text(client, text)`` hears of every message."""

    def __init__(self, port: int, id: str, on_text: Callable[[Client, bytes], None] | None = None) -> None:
        self.id, self.on_text = id, on_text
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.waiting = b""  # to be written
        self.rest = b""  # of what arrived
        self.heard = 0
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def register(self, **fields: object) -> None:
        """Send the registration; the answers are read later."""
        self.socket.sendall(frame(json.dumps({"type": "register", "id": self.id, "name": self.id, **fields}).encode()))

    def finish(self) -> None:
        """Read the answers to handshake and registration; raises OSError or AssertionError."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._some()
        head, _, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        while len(data) < 2 or len(data) < 2 + data[1]:
            data += self._some()
        assert b'"registered"' in data, data
        self.rest = data[2 + data[1] :]
        self.socket.setblocking(False)

    def _some(self) -> bytes:
        data = self.socket.recv(65_536)
        assert data, "the router closed the connection"
        return data

    def send(self, data: bytes) -> None:
        """Write frames, or keep what the system does not take."""
        if self.waiting:
            self.waiting += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.waiting = data[sent:]

    def flush(self) -> None:
        if self.waiting:
            data, self.waiting = self.waiting, b""
            self.send(data)

    def read(self) -> None:
        """Hear what has arrived."""
        try:
            data = self.socket.recv(262_144)
        except BlockingIOError:
            return
        assert data, f"the router closed the connection of {self.id}"
        for text in self.cut(data):
            self.heard += 1
            if self.on_text is not None:
                self.on_text(self, text)

    def cut(self, data: bytes) -> Iterator[bytes]:
        if self.rest:
            data = self.rest + data
        at, end = 0, len(data)
        while end - at >= 2:
            size, head = data[at + 1], 2
            if size == 126:
                if end - at < 4:
                    break
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif size == 127:
                if end - at < 10:
                    break
                size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if end - at < head + size:
                break
            if data[at] == 0x89:  # a ping: answer it with an empty pong; the router's pings are empty
                self.send(b"\x8a\x80\x00\x00\x00\x00")
            else:
                yield data[at + head : at + head + size]
            at += head + size
        self.rest = data[at:]

    def close(self) -> None:
        self.socket.close()


def join(port: int, ids: list[str], on_text: Callable[[Client, bytes], None] | None = None) -> list[Client]:
    """Connect and register agents, 50 at a time."""
    clients: list[Client] = []
    for begin in range(0, len(ids), 50):
        batch = [Client(port, id, on_text) for id in ids[begin : begin + 50]]
        for client in batch:
            client.register()
        for client in batch:
            client.finish()
        clients += batch
    return clients


class Loop:
    """Reads and writes for clients until told otherwise."""

    def __init__(self, clients: list[Client]) -> None:
        self.selector = selectors.DefaultSelector()
        self.clients = clients
        for client in clients:
            self.selector.register(client.socket, selectors.EVENT_READ, client)

    def forget(self, client: Client) -> None:
        self.selector.unregister(client.socket)

    def turn(self, timeout: float) -> None:
        for key, _ in self.selector.select(timeout):
            key.data.read()
        for client in self.clients:
            if client.waiting:
                client.flush()

    def run(self, done: Callable[[], bool], *, seconds: float) -> None:
        """Turn until ``done()`` says so; raises TimeoutError after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done within {seconds:g} s")
            self.turn(0.05)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.selector.close()
