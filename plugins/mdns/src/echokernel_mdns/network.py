"""zeroconf on one scope: the machine's networks, or the loopback interface. Lives in the thread that speaks mDNS."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zeroconf import IPVersion, RecordUpdate, RecordUpdateListener, Zeroconf, current_time_millis
from zeroconf.asyncio import AsyncZeroconf

from echokernel_mdns.addresses import Interface, Scope
from echokernel_mdns.asker import Asker, check_port, confine_to_loopback
from echokernel_mdns.errors import DiscoveryUnavailable
from echokernel_mdns.names import SERVICE_TYPE
from echokernel_mdns.packets import PTR, questions, to_record, zeroconf_query
from echokernel_mdns.table import Record

__all__ = ["Network"]

logger = logging.getLogger("echokernel.mdns")

SEND_TRIES, SEND_PAUSE = 5, 0.02  # seconds; a firewall refuses all of them, a full buffer or a lossy filter some

Heard = Callable[[Scope, list[Record]], Callable[[Record], bool]]
"""Takes the records of a packet, and returns what tells whether one of them is of use."""


class Network(RecordUpdateListener):
    """An AsyncZeroconf and its sockets. ``heard`` gets the records of each packet that came."""

    def __init__(self, scope: Scope, heard: Heard) -> None:
        self.scope: Scope = scope
        self.aiozc: AsyncZeroconf | None = None
        self.broken = 0
        """Packets that could not be taken in."""
        self._heard = heard
        self._surplus: list[Any] = []
        self._hosts: tuple[str, ...] = ()
        self._askers: list[Asker] = []

    @property
    def zeroconf(self) -> Zeroconf:
        assert self.aiozc is not None
        return self.aiozc.zeroconf

    async def open(self, interfaces: Sequence[Interface], *, ipv6: bool) -> None:
        """Open the sockets, and ask who is there.

        Raises DiscoveryUnavailable: multicast cannot be sent, or port 5353 is taken.
        """
        hosts = _socket_hosts(interfaces, self.scope, ipv6=ipv6)
        askers, trouble = await self._open_askers(hosts)
        if not askers:
            raise DiscoveryUnavailable(_no_way(interfaces, self.scope, trouble))
        usable = [host for host, _ in askers]
        try:
            check_port()  # zeroconf would leave a socket behind
            self.aiozc = AsyncZeroconf(interfaces=usable, ip_version=_version(usable))
            await self.zeroconf.async_wait_for_start()
        except OSError as error:
            for _, asker in askers:
                asker.close()
            raise DiscoveryUnavailable(_taken(error)) from error
        self._hosts = tuple(hosts)
        self._askers = [asker for _, asker in askers]
        self._confine()
        if not self.zeroconf.engine.senders:
            await self.close()
            raise DiscoveryUnavailable(_no_way(interfaces, self.scope, None))
        self.zeroconf.async_add_listener(self, None)
        for _ in range(SEND_TRIES):
            self.ask_directly(questions(None))
            if not all(asker.trouble for asker in self._askers):
                break
            await asyncio.sleep(SEND_PAUSE)
        else:
            trouble = self._askers[0].trouble
            await self.close()
            raise DiscoveryUnavailable(_no_way(interfaces, self.scope, trouble))

    async def change(self, interfaces: Sequence[Interface], *, ipv6: bool) -> bool:
        """Follow the machine's interfaces; returns whether anything was done."""
        hosts = _socket_hosts(interfaces, self.scope, ipv6=ipv6)
        if tuple(hosts) == self._hosts or self.aiozc is None:
            return False
        askers, _ = await self._open_askers(hosts)
        self._hosts = tuple(hosts)
        for asker in self._askers:
            asker.close()
        self._askers = [asker for _, asker in askers]
        usable = [host for host, _ in askers]
        await self.aiozc.async_update_interfaces(usable, _version(usable))
        self._confine()
        return True

    async def close(self) -> None:
        """Withdraw what is still announced, and close the sockets."""
        for asker in self._askers:
            asker.close()
        aiozc, self.aiozc, self._askers = self.aiozc, None, []
        if aiozc is not None:
            await aiozc.async_close()

    def ask_directly(self, asked: Iterable[tuple[str, int]]) -> None:
        """Ask from ports of our own: answers come at once."""
        wanted = list(asked)
        for asker in self._askers:
            asker.ask(wanted)

    def ask_all(self, asked: Iterable[tuple[str, int]], *, with_known: bool) -> None:
        """Ask by multicast: everybody hears question and answer. ``with_known``: services that are known stay silent."""
        if self.aiozc is None:
            return
        zc, known = self.zeroconf, []
        if with_known:
            now = current_time_millis()
            known = [
                record
                for record in zc.cache.entries_with_name(SERVICE_TYPE)
                if record.type == PTR and not record.is_stale(now)
            ]
        zc.async_send(zeroconf_query(asked, known))

    def cached_addresses(self, host: str) -> list[Record]:
        """Return what zeroconf remembers of a host: its addresses may have come before the service that names it."""
        if self.aiozc is None:
            return []
        found = (to_record(record) for record in self.zeroconf.cache.entries_with_name(host))
        return [record for record in found if record is not None and record.kind == "address"]

    # --- what zeroconf calls ----------------------------------------------------------------------------------------

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Take the records of one packet, goodbyes (ttl 0) included; what zeroconf's cache drops is not news."""
        try:
            packet = [update.new for update in records if not (update.new.ttl and update.new.is_expired(now))]
            found = [(each, to_record(each)) for each in packet]
            taken = self._heard(self.scope, [record for _, record in found if record is not None])
            self._surplus = [each for each, record in found if record is not None and not taken(record)]
        except Exception:
            self.broken += 1
            level = logging.WARNING if self.broken == 1 else logging.DEBUG  # a flood of them is no flood of lines
            logger.log(level, "a packet could not be read", exc_info=True)

    def async_update_records_complete(self) -> None:
        """Take what found no room out of zeroconf's cache too: it drops goodbyes of what it does not remember, and a flood
        would push out those that count.
        """
        surplus, self._surplus = self._surplus, []
        cache = self.zeroconf.cache
        cache.async_remove_records([record for record in surplus if cache.get(record) is not None])

    # --- sockets ----------------------------------------------------------------------------------------------------

    async def _open_askers(self, hosts: dict[str, Interface]) -> tuple[list[tuple[str, Asker]], OSError | None]:
        askers, trouble = [], None
        for host, interface in hosts.items():
            try:
                askers.append((host, await Asker.open(host, interface, self.scope, self._answered)))
            except OSError as error:
                trouble = error
                logger.debug("%s (%s) takes no part: %s", interface.name, host, error)
        return askers, trouble

    def _answered(self, message: Any) -> None:
        if self.aiozc is not None:
            self.zeroconf.record_manager.async_updates_from_response(message)

    def _confine(self) -> None:
        if self.scope == "loopback":
            for reader in self.zeroconf.engine.readers:
                confine_to_loopback(reader.transport.get_extra_info("socket"))


def _socket_hosts(interfaces: Sequence[Interface], scope: Scope, *, ipv6: bool) -> dict[str, Interface]:
    """Return the addresses on which to open sockets: one of each interface and IP version."""
    if scope == "loopback":
        own = [each for each in interfaces if each.loopback and "127.0.0.1" in each.hosts(4)]
        return dict.fromkeys(["127.0.0.1"], own[0]) if own else {}
    outer = [each for each in interfaces if not each.loopback]
    found = {host: each for each in outer for host in each.hosts(4)[:1]}
    if ipv6 or not found:  # zeroconf's IPv6 needs explicit interfaces, and a network may have nothing else
        found |= {host: each for each in outer for host in each.hosts(6)[:1]}
    return found


def _version(hosts: Sequence[str]) -> IPVersion:
    six = {":" in host for host in hosts}
    return IPVersion.All if len(six) == 2 else IPVersion.V6Only if True in six else IPVersion.V4Only


def _no_way(interfaces: Sequence[Interface], scope: Scope, trouble: OSError | None) -> str:
    if scope == "loopback":
        return "mDNS cannot be used within this machine: the loopback interface is not up with 127.0.0.1; ip link set lo up"
    there = ", ".join(each.name for each in interfaces if not each.loopback)
    if not there:
        return "mDNS: no network interface is up that can multicast; connect this machine, or listen on 127.0.0.1"
    return (
        f"mDNS: multicast cannot be sent on {there} ({trouble or 'no socket could be opened'}); "
        f"ip route add 224.0.0.0/4 dev {there.partition(',')[0]} where there is no route for it, let UDP port 5353 "
        "through where a firewall is in the way, or name other interfaces in the setting `interfaces`"
    )


def _taken(error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"mDNS: no socket on UDP port 5353: {error}; `echokernel discover` and servers that advertise need one"
    return (
        "mDNS: UDP port 5353 is taken by a program that does not share it; `ss -lunp 'sport = :5353'` shows which. "
        "avahi shares it with disallow-other-stacks=no in avahi-daemon.conf"
    )
