"""Session tickets, which let the next connection send before its handshake is complete. Used once, and never shown.

A ticket is as good as the trust under which it was earned, because the certificate is not shown again. So a dialer keeps
it under everything that its trust rested on. An acceptor takes each one once: a flight that is sent again finds none, and
nothing in it can be read.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from aioquic import tls

from echokernel.transport import PeerIdentity
from echokernel_quic.trust import TrustPolicy

TICKET_SECONDS = 3_600.0  # that a ticket is good for, at either end
TRUST_SECONDS = 86_400.0  # after a certificate was seen; resuming for ever would never look at one again
MAX_ISSUED = 4_096  # tickets that an acceptor waits for, the newest: about 1 KB each
MAX_SERVERS = 256  # that a dialer keeps tickets of, those dialled last
MAX_PER_SERVER = 4  # connections that can be resumed at the same time
MAX_REMEMBERED = 8_192  # bytes that the kernel may keep with a ticket

__all__ = ["Issued", "Resumable", "TicketBook", "TrustKey"]


@dataclass(frozen=True, slots=True)
class TrustKey:
    """What a ticket is bound to: where it came from, and why the server there was believed."""

    target: tuple[Any, ...]
    """The address that was dialled, and the socket address that it stood for."""
    alpn: str
    policy: TrustPolicy
    """Pins, authority, name, or that nothing was checked."""
    authorities: bytes = b""
    """SHA-256 of the authorities' file: its name may stay when its content changes."""


@dataclass(slots=True)
class Resumable:
    """What a dialer needs to resume: a ticket, who the server was, and what the kernel keeps with it."""

    ticket: tls.SessionTicket = field(repr=False)
    checked: float
    """When the server's certificate was seen last, in seconds of the monotonic clock."""
    earned: float
    """When the ticket came."""
    identity: PeerIdentity | None = None
    remembered: bytes = field(default=b"", repr=False)

    def is_good(self, now: float) -> bool:
        return now - self.earned < TICKET_SECONDS and now - self.checked < TRUST_SECONDS and self.ticket.is_valid


class TicketBook:
    """A dialer's tickets, each taken out once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a process has one book, and may have several event loops
        self._tickets: OrderedDict[TrustKey, list[Resumable]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<TicketBook of {len(self._tickets)} servers>"

    def put(self, key: TrustKey, entry: Resumable) -> None:
        """Keep a ticket; the oldest goes where there are too many."""
        with self._lock:
            kept = self._tickets.setdefault(key, [])
            kept.append(entry)
            del kept[:-MAX_PER_SERVER]
            self._tickets.move_to_end(key)
            while len(self._tickets) > MAX_SERVERS:
                self._tickets.popitem(last=False)

    def take(self, key: TrustKey) -> Resumable | None:
        """Take the newest good ticket out; nobody gets it again."""
        now = time.monotonic()
        with self._lock:
            kept = self._tickets.get(key, [])
            while kept:
                entry = kept.pop()
                if entry.is_good(now):
                    return entry
            self._tickets.pop(key, None)
            return None


class Issued:
    """Tickets that an acceptor gave away and that have not come back."""

    def __init__(self) -> None:
        self._tickets: OrderedDict[bytes, tuple[float, str | None, tls.SessionTicket]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<{len(self._tickets)} tickets issued>"

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, ticket: tls.SessionTicket, alpn: str | None) -> None:
        """Wait for this ticket. The oldest is forgotten where there are too many; its owner will not be early."""
        self._tickets[ticket.ticket] = (time.monotonic(), alpn, ticket)
        while len(self._tickets) > MAX_ISSUED:
            self._tickets.popitem(last=False)

    def take(self, ticket: bytes, alpn: str | None) -> tls.SessionTicket | None:
        """Return what belongs to a ticket that came back, once: whatever becomes of it now, it is used up."""
        issued, wanted, entry = self._tickets.pop(ticket, (0.0, None, None))
        if entry is None or wanted != alpn or time.monotonic() - issued >= TICKET_SECONDS:
            return None
        return entry
