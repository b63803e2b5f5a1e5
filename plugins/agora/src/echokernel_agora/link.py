"""One WebSocket connection of a client: text frames in both directions over a byte stream, on asyncio and trio."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI, parse_uri

from echokernel import InvalidArgument, PermissionDenied, TransportError, Unauthenticated

if TYPE_CHECKING:
    from echokernel.tasks import TaskScope

__all__ = ["Link", "LinkClosed", "parse_url"]

READ = 64 * 1024
MOST_FRAME = 8 * 1024 * 1024  # of the router: a list of agents with their cards is the largest


class LinkClosed(Exception):
    """The connection is over. ``code`` and ``reason`` are those of the close frame; 1006 where there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})" if reason else f"closed with {code}")
        self.code, self.reason = code, reason


def parse_url(url: str) -> WebSocketURI:
    """Return the parts of a ``ws://`` or ``wss://`` URL. Raises InvalidArgument."""
    try:
        found = parse_uri(url)
    except (InvalidURI, ValueError) as error:
        raise InvalidArgument(f"{url!r} is no address of a router: {error}; wanted ws://HOST:PORT/ws or wss://…") from error
    if found.username is not None:
        raise InvalidArgument("the address has a user or a password in it; pass the token as token=…")
    return found


class Link:
    """Frames of one connection. ``write`` never waits, one task at a time calls ``receive``."""

    def __init__(self, stream: ByteStream, protocol: ClientProtocol, tasks: TaskScope) -> None:
        self._stream, self._protocol, self._tasks = stream, protocol, tasks
        self._out: list[bytes] = []
        self._parts: list[bytes] = []  # of a fragmented message
        self._wake = anyio.Event()
        self._writer = tasks.start(self._write_all, name="agora: writer")
        self.backlog = 0
        """Bytes that were written and that the socket has not taken."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when the socket has taken what was written."""
        self.heard_at = tasks.now()
        """When the last bytes came."""

    @classmethod
    async def open(
        cls, uri: WebSocketURI, tasks: TaskScope, *, token: str | None, context: ssl.SSLContext | None
    ) -> Link:
        """Connect and shake hands. Raises TransportError, Unauthenticated, PermissionDenied."""
        try:
            stream = await _connect(uri, context)
        except (OSError, ssl.SSLError) as error:
            raise TransportError(f"cannot connect to {uri.host}:{uri.port}: {error}") from error
        try:
            protocol = ClientProtocol(uri, max_size=MOST_FRAME)
            request = protocol.connect()
            if token is not None:
                request.headers["Authorization"] = f"Bearer {token}"
            protocol.send_request(request)
            await stream.send(b"".join(protocol.data_to_send()))
            while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
                await _feed(stream, protocol)
            if protocol.handshake_exc is not None:
                raise _refusal(protocol.handshake_exc, uri) from protocol.handshake_exc
            return cls(stream, protocol, tasks)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            await anyio.aclose_forcefully(stream)
            raise TransportError(f"{uri.host}:{uri.port} closed the connection during the handshake") from error
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    def write(self, text: bytes) -> None:
        """Send a text frame, behind all that was written before."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(text)
            self._flush()

    def ping(self) -> None:
        """Ask whether anybody is there; whatever comes is the answer."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")
            self._flush()

    async def receive(self) -> list[bytes]:
        """Return the text frames that came next. Raises LinkClosed."""
        protocol = self._protocol
        while True:
            texts = [text for event in protocol.events_received() if (text := self._text(event)) is not None]
            if texts:
                return texts
            if protocol.state is State.CLOSED or protocol.close_expected():
                close = protocol.close_rcvd  # what the other side said, also where this side said something before
                raise LinkClosed(1006, "no goodbye") if close is None else LinkClosed(int(close.code), close.reason)
            try:
                await _feed(self._stream, protocol)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise LinkClosed(1006, "the connection broke") from error
            self.heard_at = self._tasks.now()
            self._flush()

    def say_goodbye(self, code: int = 1000, reason: str = "") -> None:
        """Close behind what was written; ``receive`` raises when the other side has answered."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self._flush()

    async def release(self) -> None:
        """Release the socket at once; whoever receives gets LinkClosed. Never raises."""
        self._tasks.stop(self._writer)
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)

    def _text(self, event: Any) -> bytes | None:
        if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.CONT):
            return None
        if event.fin and not self._parts:
            return bytes(event.data)
        self._parts.append(bytes(event.data))
        if not event.fin:
            return None
        whole = b"".join(self._parts)
        self._parts.clear()
        return whole

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._out.append(data)
                self.backlog += len(data)
        if self._out:
            self._wake.set()

    async def _write_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            data = b"".join(self._out)
            self._out.clear()
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # whoever receives learns of it, too
            self.backlog -= len(data)
            self.on_room()


async def _connect(uri: WebSocketURI, context: ssl.SSLContext | None) -> ByteStream:
    if not uri.secure:
        return await anyio.connect_tcp(uri.host, uri.port)
    context = context or ssl.create_default_context()
    return await anyio.connect_tcp(
        uri.host, uri.port, tls=True, ssl_context=context, tls_standard_compatible=False, tls_hostname=uri.host
    )


async def _feed(stream: ByteStream, protocol: ClientProtocol) -> None:
    try:
        data = await stream.receive(READ)
    except anyio.EndOfStream:
        protocol.receive_eof()
    else:
        protocol.receive_data(data)


def _refusal(error: Exception, uri: WebSocketURI) -> Exception:
    """Return what a failed handshake means."""
    where = f"{uri.host}:{uri.port}{uri.resource_name}"
    if not isinstance(error, InvalidStatus):
        return TransportError(f"{where} does not speak WebSocket: {error}")
    response: Response = error.response
    said = bytes(response.body or b"")[:200].decode("utf-8", "replace").strip()
    text = f"{where} answered {response.status_code} {response.reason_phrase}{': ' + said if said else ''}"
    if response.status_code == 401:
        return Unauthenticated(f"{text}; pass the router's token")
    if response.status_code == 403:
        return PermissionDenied(text)
    return TransportError(text, retryable=response.status_code >= 500)
