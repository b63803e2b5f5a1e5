"""What is known of the services around: records and times in, services out. No socket, no clock, no task.

Everything in it comes from strangers: it is bounded, what does not fit is counted, and nothing raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from echokernel import ServiceEvent, ServiceInfo
from echokernel_mdns.addresses import Interface, Scope, believable, best_first, to_addresses
from echokernel_mdns.names import MAX_TXT, SERVICE_TYPE, decode_txt, harmless
from echokernel_mdns.suspects import Key, Suspects

__all__ = ["Record", "Seen", "Table", "differences"]

MAX_SERVICES = 1_024  # a site has tens; a flood of names ends here
MAX_ADDRESSES = 16  # of one host: more interfaces than any machine that is meant
MAX_OWNERS = 64  # services of one host that follow its addresses; a node per core is more than anybody has
MAX_TTL = 4_500.0  # seconds, RFC 6762's longest; nobody plants a record for years
MAX_READ_TXT = 4 * MAX_TXT  # bytes; what others announce may be larger than what we do
STILL_GONE = (
    1.0  # seconds after a goodbye: answers that were on their way come late, a new start asks for its name first
)
REFRESH_AT = 0.8  # of its life a record is asked for again, RFC 6762 section 5.2

_TAIL = "." + SERVICE_TYPE


class Record(NamedTuple):
    """A record as it came. ``ttl`` in seconds, 0 is a goodbye; ``unique``: it replaces older ones of its name and kind."""

    kind: Literal["ptr", "srv", "txt", "address"]
    name: str
    ttl: float
    value: str | bytes | tuple[str, int]
    """Of ptr the instance's full name, of srv (host, port), of txt bytes, of address an IP address."""
    unique: bool = False


class Seen(NamedTuple):
    """A service as it is offered, and since when (monotonic seconds) it has been there."""

    service: ServiceInfo
    since: float


@dataclass(slots=True)
class _Entry:
    label: str
    until: float
    """When it is gone, unless it is heard again: with its SRV record, else with its PTR record."""
    since: float
    life: float = 0.0
    host: str = ""
    port: int = 0
    heard: float = float("-inf")
    """When its SRV record came last."""
    text: bytes | None = None
    properties: tuple[tuple[str, str], ...] = ()
    boot: str = ""
    asked: int = 0
    """How often what is missing was asked for."""
    hosts: dict[str, float] = field(default_factory=dict)
    """Addresses, and when they came."""


class Table:
    """The services of one browse. Times are monotonic seconds; names are compared without case, as the DNS does."""

    def __init__(self, suspects: Suspects | None = None) -> None:
        self._entries: dict[tuple[Scope, str], _Entry] = {}
        self._owners: dict[tuple[Scope, str], set[str]] = {}
        """By host, in lower case: the services that name it."""
        self._withdrawn: dict[tuple[Scope, str], tuple[float, str]] = {}
        """Services that said goodbye: until when nothing of that start is believed, and its boot."""
        self._suspects = Suspects() if suspects is None else suspects
        self.counts: Counter[str] = Counter()
        """What was not taken: records of ``services`` beyond the table, ``addresses`` beyond 16 of a host, ``refused``
        addresses that nobody can have there, ``malformed`` TXT records, ``oversize`` ones."""

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, scope: Scope, records: Iterable[Record], *, now: float) -> set[str]:
        """Take the records of one packet that was heard in ``scope``; returns the hosts whose addresses are still missing."""
        named: set[str] = set()
        records = self._without_the_late(scope, list(records), now) if self._withdrawn else records
        hosts: list[Record] = []
        for record in records:
            if record.kind == "address":
                hosts.append(record)
            elif record.kind == "ptr":
                self._take_pointer(scope, record, now)
            else:
                self._take_details(scope, record, now)
                if isinstance(record.value, tuple):
                    named.add(record.value[0].casefold())
        for record in hosts:  # after the SRV records that name them
            self._take_address(scope, record, now)
        return {
            host
            for host in named
            if any(not self._entries[scope, name].hosts for name in self._owners.get((scope, host), ()))
        }

    def has_room_for(self, scope: Scope, record: Record) -> bool:
        """Whether a record is of use, now or later: not when it is about a service that was not taken in."""
        if record.kind == "address":
            return len(self._entries) < MAX_SERVICES or (scope, record.name.casefold()) in self._owners
        name = record.value if record.kind == "ptr" and isinstance(record.value, str) else record.name
        folded = name.casefold()
        return not folded.endswith(_TAIL) or (scope, folded[: -len(_TAIL)]) in self._entries

    def expire(self, now: float) -> None:
        """Forget what was not heard for its time."""
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            self._drop(key)

    def next_due(self) -> float:
        """Return when to look again: something is to be refreshed or expires; infinity where there is nothing."""
        return min((self._refresh_time(entry) for entry in self._entries.values()), default=float("inf"))

    def to_ask(self, scope: Scope, now: float) -> list[str]:
        """Return the labels whose records have to be asked for now: some are missing, or soon too old. At most 32.

        What is missing is asked for three times; a refresh is asked for at 80, 90 and 95 % of a record's life.
        """
        labels: list[str] = []
        for (where, _), entry in self._entries.items():
            if where == scope and self._refresh_time(entry) <= now and len(labels) < 32:
                entry.asked += 1
                labels.append(entry.label)
        return labels

    def labels(self, scope: Scope) -> list[str]:
        """Return the labels of all services that are known there."""
        return [entry.label for (where, _), entry in self._entries.items() if where == scope]

    def silent(self, scope: Scope, since: float) -> list[Key]:
        """Return the services there that were not heard since."""
        return [
            (key, entry.boot) for (where, key), entry in self._entries.items() if where == scope and entry.heard < since
        ]

    def services(self, interfaces: Sequence[Interface] = ()) -> dict[Key, Seen]:
        """Return what is offered: services with port, TXT record and believable addresses, suspect ones marked."""
        found: dict[Key, Seen] = {}
        heard: dict[Key, float] = {}
        for (_, name), entry in self._entries.items():
            if not entry.port or entry.text is None or not entry.hosts:
                continue
            key = name, entry.boot
            hosts = dict.fromkeys(entry.hosts)
            since = entry.since
            if key in found:  # the same one, on the networks and within the machine
                hosts |= dict.fromkeys(address.host for address in found[key].service.addresses)
                since = min(since, found[key].since)
            heard[key] = max(entry.heard, heard.get(key, entry.heard))
            service = ServiceInfo(
                dict(entry.properties).get("svc") or harmless(entry.label),
                port=entry.port,
                properties=tuple(pair for pair in entry.properties if pair[0] not in ("txtvers", "svc")),
                addresses=to_addresses(best_first(hosts, interfaces), entry.port),
                instance=harmless(entry.label),
            )
            found[key] = Seen(service, since)
        for key, (service, since) in found.items():
            if self._suspects.has(key, signature(service), heard=heard[key]):
                found[key] = Seen(replace(service, suspect=True), since)
        return found

    # --- records ---------------------------------------------------------------------------------------------------

    def _entry(self, scope: Scope, name: str, now: float, life: float) -> _Entry | None:
        """Return the entry of an instance's full name, a new one where it is unknown; None: not ours, or no room."""
        if not name.casefold().endswith(_TAIL):
            return None
        label = name[: -len(_TAIL)]
        key = scope, label.casefold()
        entry = self._entries.get(key)
        if entry is None and label:
            if len(self._entries) >= MAX_SERVICES and not self._drop_a_half_known():
                self.counts["services"] += 1
                return None
            entry = self._entries[key] = _Entry(label, now + life, now, life)
        return entry

    def _drop_a_half_known(self) -> bool:
        """Make room where something never said where it is. What is complete stays, whoever comes later."""
        for key, entry in self._entries.items():
            if not entry.port or entry.text is None:
                self._drop(key)
                self.counts["services"] += 1
                return True
        return False

    def _withdraw(self, key: tuple[Scope, str], now: float) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            while len(self._withdrawn) >= MAX_SERVICES:
                del self._withdrawn[next(iter(self._withdrawn))]
            self._withdrawn[key] = now + STILL_GONE, entry.boot
            self._drop(key)

    def _without_the_late(self, scope: Scope, records: list[Record], now: float) -> list[Record]:
        """Return records without those of services that have just said goodbye, unless they are of a new start."""
        for key in [key for key, (until, _) in self._withdrawn.items() if until <= now]:
            del self._withdrawn[key]
        for record in records:
            if isinstance(record.value, bytes) and (key := (scope, _folded_label(record))) in self._withdrawn:
                properties, _ = decode_txt(record.value[:MAX_READ_TXT])
                if dict(properties).get("boot", "") != self._withdrawn[key][1]:
                    del self._withdrawn[key]
        return [each for each in records if each.ttl <= 0 or (scope, _folded_label(each)) not in self._withdrawn]

    def _drop(self, key: tuple[Scope, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.host:
            self._disown(key, entry.host)

    def _disown(self, key: tuple[Scope, str], host: str) -> None:
        owners = self._owners[key[0], host]
        owners.discard(key[1])
        if not owners:
            del self._owners[key[0], host]

    def _take_pointer(self, scope: Scope, record: Record, now: float) -> None:
        if record.name.casefold() != SERVICE_TYPE or not isinstance(record.value, str):
            return
        if record.ttl <= 0:
            self._withdraw((scope, record.value.casefold().removesuffix(_TAIL)), now)
            return
        self._entry(scope, record.value, now, min(record.ttl, MAX_TTL))

    def _take_details(self, scope: Scope, record: Record, now: float) -> None:
        if record.ttl <= 0:
            if record.kind == "srv":
                self._withdraw((scope, record.name.casefold().removesuffix(_TAIL)), now)
            return
        if isinstance(record.value, tuple) and not record.value[0].strip("."):
            self.counts["malformed"] += 1  # RFC 2782: such a host says that the service is not there
            return
        life = min(record.ttl, MAX_TTL)
        entry = self._entry(scope, record.name, now, life)
        if entry is None:
            return
        if isinstance(record.value, tuple):
            host, port = record.value
            host = host.casefold()
            if host != entry.host:
                key = scope, entry.label.casefold()
                if entry.host:
                    self._disown(key, entry.host)
                self._owners.setdefault((scope, host), set()).add(key[1])
                entry.host, entry.hosts = host, {}
            entry.port = port
            entry.until, entry.life, entry.heard, entry.asked = now + life, life, now, 0
        elif isinstance(record.value, bytes) and record.value != entry.text:
            if len(record.value) > MAX_READ_TXT:
                self.counts["oversize"] += 1
                return
            properties, good = decode_txt(record.value)
            self.counts["malformed"] += not good
            boot = dict(properties).get("boot", "")
            if entry.text is not None and boot != entry.boot:
                entry.since = now  # it was started again
            entry.text, entry.properties, entry.boot = record.value, properties, boot
            entry.asked = 0

    def _take_address(self, scope: Scope, record: Record, now: float) -> None:
        assert isinstance(record.value, str)
        name, host = record.name.casefold(), record.value
        owners = self._owners.get((scope, name))
        if not owners:
            return
        if not believable(host, scope):
            self.counts["refused"] += 1
            return
        for owner in list(owners)[:MAX_OWNERS]:
            entry = self._entries[scope, owner]
            if record.ttl <= 0:
                entry.hosts.pop(host, None)
                continue
            if record.unique:  # RFC 6762 section 10.2: those that came more than a second ago are no more
                stale = [each for each, at in entry.hosts.items() if now - at > 1.0 and (":" in each) == (":" in host)]
                for each in stale:
                    del entry.hosts[each]
            if host not in entry.hosts and len(entry.hosts) >= MAX_ADDRESSES:
                self.counts["addresses"] += 1
                continue
            if not entry.hosts:
                entry.asked = 0  # complete from here on: what is counted now are refreshes
            entry.hosts[host] = now

    def _refresh_time(self, entry: _Entry) -> float:
        if not entry.port or entry.text is None or not entry.hosts:
            return entry.since + (0.3, 1.0, 3.0)[entry.asked] if entry.asked < 3 else entry.until
        if entry.asked < 3:
            return entry.until - entry.life * (1.0 - REFRESH_AT) * (1.0, 0.5, 0.25)[entry.asked]
        return entry.until


def _folded_label(record: Record) -> str:
    """Return the instance that a record is about, in lower case."""
    name = record.value if record.kind == "ptr" and isinstance(record.value, str) else record.name
    return name.casefold().removesuffix(_TAIL)


def signature(service: ServiceInfo) -> object:
    """Return what has to change for a service to be another one."""
    return service.port, frozenset(service.addresses), service.properties


def differences(before: Mapping[Key, Seen], after: Mapping[Key, Seen]) -> list[ServiceEvent]:
    """Return what happened between two states: what is gone comes first, so that a new boot replaces the old one."""
    events = [ServiceEvent("gone", seen.service) for key, seen in before.items() if key not in after]
    for key, (service, _) in after.items():
        known = before.get(key)
        if known is None:
            events.append(ServiceEvent("appeared", service))
        elif known.service != service:
            events.append(ServiceEvent("changed", service))
    return events
