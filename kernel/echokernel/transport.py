"""What a transport has to be: four abstract classes, named as in the seed.

A transport carries bytes; it knows nothing of frames. Whatever ends a connection or a stream early is an exception
(:class:`~echokernel.errors.ConnectionClosed`, :class:`StreamReset`, :class:`StreamStopped`), never an end of data.

Every connection and listener lives in the :class:`~echokernel.tasks.TaskScope` that was passed when it was made: that
scope runs its tasks and timers, and is closed after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel.addresses import Address
    from echokernel.tasks import TaskScope

__all__ = ["Connection", "Listener", "PeerIdentity", "RecvStream", "SendStream", "Transport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """Who the transport proved the peer to be, by a certificate that it verified."""

    fingerprint: str
    """``sha256:…`` of the public key, as :attr:`Listener.fingerprint` writes it."""
    subject: str = ""
    """The certificate's subject, RFC 4514 text; empty for a bare key."""
    names: Sequence[str] = field(default_factory=tuple)
    """DNS names, addresses and URIs of the certificate."""


class SendStream(ABC):
    """The sending half of an ordered stream of bytes."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Queue ``data``; first wait while more than the transport's watermark is not acknowledged.

        Raises StreamStopped, ConnectionClosed. Cancelled while waiting, nothing was queued.
        """

    @abstractmethod
    def write_nowait(self, data: bytes) -> None:
        """Queue ``data`` without waiting, whatever is queued already. Raises StreamStopped, ConnectionClosed.

        All that is written within one turn of the event loop leaves together, at the latest when the turn ends.
        """

    @property
    @abstractmethod
    def room(self) -> int:
        """Bytes that may be queued before :meth:`write` would wait; 0 or less: it would wait now.

        What is queued and not acknowledged yet is missing from the room that the stream had when it was opened.
        """

    @abstractmethod
    async def wait_room(self, wanted: int = 1) -> None:
        """Wait until :attr:`room` is at least ``wanted`` (never more than at the opening), and :meth:`write` would not wait.

        Raises StreamStopped, ConnectionClosed.
        """

    @abstractmethod
    async def finish(self) -> None:
        """Mark the end of the data. Does not wait for the peer; a second call does nothing."""

    @abstractmethod
    def reset(self, code: int) -> None:
        """Give up: the peer sees StreamReset with this code, and queued data may be dropped. Never raises.

        It works after :meth:`finish` too, and does nothing where all has arrived already.
        """

    @abstractmethod
    def on_stop(self, function: Callable[[], object]) -> None:
        """Call ``function`` once when the peer stops reading; at once where it has. The loss of the connection is told
        elsewhere. A later call replaces the function.
        """

    def prioritize(self) -> None:
        """Serve this stream before all others of its connection. The kernel asks this for the channel."""


class RecvStream(ABC):
    """The receiving half. Reading grants the peer room to send more; what nobody reads stays with the peer."""

    @abstractmethod
    async def read(self, max_bytes: int = 262_144) -> bytes:
        """Return what has arrived, at least one byte and at most ``max_bytes``; ``b""`` only at the end of the data.

        Raises StreamReset, ConnectionClosed.
        """

    async def read_to_end(self, max_size: int) -> bytes:
        """Return all that is left. Raises InvalidArgument, and stops the stream, when it is more than ``max_size``."""
        from echokernel.errors import InvalidArgument
        from echokernel_protocol.codes import Code

        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > max_size:
                self.stop(Code.LIMIT_EXCEEDED)
                raise InvalidArgument(f"the stream is longer than the {max_size:,} bytes asked for")
            parts.append(data)
        return b"".join(parts)

    @abstractmethod
    def stop(self, code: int) -> None:
        """Ask the peer to stop sending: it sees StreamStopped with this code. Unread data is dropped. Never raises."""


class Connection(ABC):
    """One transport connection, after its handshake (see :attr:`early`). All methods raise ConnectionClosed once it is over."""

    @property
    @abstractmethod
    def peer_addr(self) -> tuple[str, int]:
        """Host and port of the peer as of now; it may change when the peer moves between networks."""

    @property
    def peer_identity(self) -> PeerIdentity | None:
        """The peer's verified identity; None where it proved none."""
        return None

    # Early data: a transport that can send before its handshake is complete overrides these four; the others need not.

    @property
    def early(self) -> bool:
        """Whether the handshake is not complete yet: what arrives now may be somebody's replay of an earlier flight.

        Until it is, a connection carries the first stream that the dialer opens and nothing else: further streams and
        datagrams of the dialer wait, at either end.
        """
        return False

    async def confirmed(self) -> None:
        """Wait until the handshake is complete. Raises ConnectionClosed."""

    @property
    def remembered(self) -> bytes | None:
        """What :meth:`remember` kept, on a dialled connection that is early; None on any other."""
        return None

    def remember(self, data: bytes) -> None:
        """Keep ``data`` for the next connection to this server, where the transport can resume one."""

    @property
    @abstractmethod
    def max_datagram(self) -> int:
        """Bytes that fit in one datagram as of now; 0: this connection has no datagrams."""

    @abstractmethod
    async def open_bi_stream(self) -> tuple[SendStream, RecvStream]:
        """Open a stream in both directions; waits while the peer's limit of open streams is reached."""

    @abstractmethod
    async def accept_bi_stream(self) -> tuple[SendStream, RecvStream]:
        """Wait for the next stream in both directions that the peer opened."""

    @abstractmethod
    async def open_uni_stream(self) -> SendStream:
        """Open a stream towards the peer; waits while the peer's limit of open streams is reached."""

    @abstractmethod
    async def accept_uni_stream(self) -> RecvStream:
        """Wait for the next stream from the peer."""

    @abstractmethod
    def send_datagram(self, data: bytes) -> None:
        """Send one datagram, which may be lost. Where too many wait already the oldest is dropped and counted.

        Raises InvalidArgument for data longer than :attr:`max_datagram`.
        """

    @abstractmethod
    async def recv_datagram(self) -> bytes:
        """Wait for the next datagram."""

    @abstractmethod
    async def ping(self) -> float:
        """Return the time that a round trip to the peer took just now, in seconds."""

    @abstractmethod
    def flush(self) -> None:
        """Send what was written in this turn of the event loop now, not at its end. Never raises."""

    def established(self) -> None:
        """The kernel's hello is done: lift the tight limits that hold for strangers."""

    @abstractmethod
    async def close(self, code: int = 0, reason: str = "", *, drain: float = 2.0) -> None:
        """Close with ``code`` and ``reason`` (cut at 256 bytes of UTF-8), after at most ``drain`` seconds for what is
        still on its way. Never raises; a second call waits for the first one.
        """

    @abstractmethod
    async def wait_closed(self) -> Exception:
        """Wait until the connection is over, and return why: what its methods raise from then on."""

    def stats(self) -> Mapping[str, int | float]:
        """Counters, for people: bytes and packets each way, round trip, datagrams dropped."""
        return {}


class Listener(ABC):
    """Accepts connections at one address."""

    @property
    @abstractmethod
    def address(self) -> Address:
        """Where it listens, with the real port."""

    @property
    def fingerprint(self) -> str | None:
        """``sha256:…`` of this node's public key, which clients may pin; None where the transport has no keys."""
        return None

    @abstractmethod
    async def accept(self) -> Connection:
        """Wait for the next connection that is complete, or :attr:`~Connection.early`.

        Raises ConnectionClosed after :meth:`close`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Accept no more connections. Those that were accepted live on until they, or the TaskScope, are closed."""


class Transport(ABC):
    """Makes connections for one URL scheme. Construction opens nothing."""

    takes_names = False
    """Whether addresses are names without a port, which it finds."""

    @property
    def authenticates_peers(self) -> bool:
        """Whether every peer it accepts has proved who it is (client certificates against a CA or pins)."""
        return False

    @abstractmethod
    async def listen(self, address: Address, tasks: TaskScope) -> Listener:
        """Listen at ``address`` (port 0: any free one). Raises TransportError, ConfigError."""

    @abstractmethod
    async def connect(self, address: Address, tasks: TaskScope) -> Connection:
        """Connect to ``address`` and complete the handshake, unless the connection is early. Raises TransportError."""
