"""zeroconf's records and queries, from and into what the table knows. The one place that touches its lesser known names."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable
from typing import Any

import zeroconf as _zeroconf

from echokernel_mdns.names import SERVICE_TYPE
from echokernel_mdns.table import Record

__all__ = ["ANY", "PTR", "query", "read_answer", "to_record", "zeroconf_query"]

# zeroconf imports these at its top level for programs like this one, and does not list them in its __all__
_DNSIncoming: Any = _zeroconf.DNSIncoming  # type: ignore[attr-defined]
_DNSOutgoing: Any = _zeroconf.DNSOutgoing  # type: ignore[attr-defined]
_DNSQuestion: Any = _zeroconf.DNSQuestion  # type: ignore[attr-defined]

A, PTR, TXT, AAAA, SRV, ANY = 1, 12, 16, 28, 33, 255
IN = 1
QUERY = 0
MAX_QUESTIONS = 32  # in one packet


def to_record(record: Any, *, address_scope: int | None = None) -> Record | None:
    """Return what a record of zeroconf's says; None for kinds that do not matter here."""
    kind = record.type
    if kind == PTR:
        return Record("ptr", record.name, record.ttl, record.alias)
    if kind == SRV:
        return Record("srv", record.name, record.ttl, (record.server, record.port), record.unique)
    if kind == TXT:
        return Record("txt", record.name, record.ttl, record.text, record.unique)
    if kind in (A, AAAA):
        host = str(ipaddress.ip_address(record.address))
        if record.scope_id and host.startswith("fe80:"):
            host = f"{host}%{record.scope_id}"
        return Record("address", record.name, record.ttl, host, record.unique)
    return None


def questions(labels: Iterable[str] | None) -> list[tuple[str, int]]:
    """Return what to ask: for all services (None), or for everything about some of them."""
    if labels is None:
        return [(SERVICE_TYPE, PTR)]
    return [(f"{label}.{SERVICE_TYPE}", ANY) for label in labels][:MAX_QUESTIONS]


def zeroconf_query(asked: Iterable[tuple[str, int]], known: Iterable[Any] = ()) -> Any:
    """Return a multicast query as ``Zeroconf.async_send`` takes it; ``known``: records that nobody needs to repeat."""
    out = _DNSOutgoing(QUERY)
    for name, kind in asked:
        out.add_question(_DNSQuestion(name, kind, IN))
    now = _zeroconf.current_time_millis()
    for record in known:
        out.add_answer_at_time(record, now)
    return out


def query(asked: Iterable[tuple[str, int]]) -> tuple[int, list[bytes]]:
    """Return a query for a port of its own (RFC 6762 section 6.7): its number, which answers repeat, and its packets."""
    number = random.SystemRandom().randrange(1, 65_536)
    out = _DNSOutgoing(QUERY, multicast=False, id_=number)
    for name, kind in asked:
        out.add_question(_DNSQuestion(name, kind, IN))
    return number, out.packets()


def read_answer(data: bytes, source: tuple[str, int], scope_id: int | None) -> Any | None:
    """Return an answer as zeroconf reads it; None for a query, and for what is no DNS message."""
    message = _DNSIncoming(data, source, scope_id)
    return message if message.valid and message.is_response() else None
