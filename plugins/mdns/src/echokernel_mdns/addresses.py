"""Which addresses are announced, and which announced ones are believed. No network in here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from echokernel import Address, InvalidArgument, ServiceInfo

__all__ = ["Interface", "Scope", "believable", "best_first", "hosts_to_announce", "is_loopback"]

Scope = Literal["network", "loopback"]
"""Where something is announced or was heard: on the machine's networks, or within the machine."""

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that is up. ``networks``: its addresses as ``192.0.2.2/24``, without IPv6 link-local ones."""

    name: str
    index: int
    networks: tuple[str, ...]
    loopback: bool = False

    def hosts(self, version: int) -> list[str]:
        """Return its addresses of IP version 4 or 6."""
        found = (ipaddress.ip_interface(network) for network in self.networks)
        return [str(each.ip) for each in found if each.version == version]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone; ``localhost`` is."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def believable(host: str, scope: Scope) -> bool:
    """Whether an announced address is offered.

    Loopback addresses count on the loopback interface alone, where no other machine can announce them, and nothing else
    counts there. Never: unspecified, multicast, broadcast and reserved ones, and IPv6 link-local ones without an interface.
    """
    plain, _, zone = host.partition("%")
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return False
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        return False
    if address.is_reserved and not address.is_loopback:
        return False
    if address.version == 6 and address.is_link_local and not zone:
        return False
    return address.is_loopback == (scope == "loopback")


def best_first(hosts: Iterable[str], interfaces: Sequence[Interface]) -> list[str]:
    """Return hosts in the order in which to try them: this machine, our own networks, others; IPv4 first in each."""
    near = [ipaddress.ip_network(network, strict=False) for each in interfaces for network in each.networks]

    def rank(host: str) -> tuple[int, int, str]:
        address = ipaddress.ip_address(host.partition("%")[0])
        place = 0 if address.is_loopback else 1 if any(address in network for network in near) else 2
        return place, address.version, host

    return sorted(hosts, key=rank)


def hosts_to_announce(service: ServiceInfo, interfaces: Sequence[Interface], *, ipv6: bool) -> dict[Scope, list[str]]:
    """Return the hosts under which ``service`` can be reached, by where they are announced.

    An address of its own is announced as it is, a loopback one on the loopback interface. ``0.0.0.0``, ``::`` or no address
    mean those of ``interfaces``; where there are none, the machine is alone, and ``127.0.0.1`` is announced within it.
    ``ipv6``: whether no address at all means IPv6 too. Raises InvalidArgument for host names.
    """
    given = [address.host for address in service.addresses] or ["::" if ipv6 else "0.0.0.0"]
    found: dict[Scope, list[str]] = {"network": [], "loopback": []}
    for host in given:
        if host == "localhost":
            host = LOOPBACK
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            raise InvalidArgument(
                f"service {service.name!r}: address {host!r} is a host name; give the IP address that the server listens on"
            ) from None
        if not address.is_unspecified:
            if not address.is_link_local or address.version == 4:
                found["loopback" if address.is_loopback else "network"].append(str(address))
            continue
        reached = [host for each in interfaces if not each.loopback for host in each.hosts(4)]
        if address.version == 6:  # a server on [::] takes both
            reached += [host for each in interfaces if not each.loopback for host in each.hosts(6)]
        if reached:
            found["network"] += reached
        else:
            found["loopback"].append(LOOPBACK)
    return {scope: list(dict.fromkeys(hosts)) for scope, hosts in found.items() if hosts}


def port_of(service: ServiceInfo) -> int:
    """Return the one port of a service. Raises InvalidArgument where there is none, or more than one."""
    ports = {address.port for address in service.addresses} | ({service.port} if service.port else set())
    if len(ports) != 1 or not 0 < min(ports) < 65_536:
        seen = ", ".join(map(str, sorted(ports))) or "none"
        raise InvalidArgument(
            f"service {service.name!r}: wanted one port from 1 to 65535, saw {seen}; ServiceInfo(…).with_port(4433), "
            "with the port that the server really has"
        )
    return ports.pop()


def to_addresses(hosts: Iterable[str], port: int) -> tuple[Address, ...]:
    """Return where to dial: the service type says that it is QUIC."""
    return tuple(Address("quic", host, port) for host in hosts)
