"""The machine's network interfaces, and which of them take part."""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence

import ifaddr

from echokernel import InvalidArgument
from echokernel_mdns.addresses import Interface

__all__ = ["chosen", "present"]

INTERNAL = ("docker*", "br-*", "veth*", "virbr*", "cni*", "flannel*", "cali*", "lxc*", "lxd*", "vmnet*", "vboxnet*")
"""Bridges of containers and virtual machines: other hosts cannot reach what is behind them. Left out unless named."""

UP, LOOPBACK, POINT_TO_POINT, RUNNING, MULTICAST = 0x1, 0x8, 0x10, 0x40, 0x1000
_SIOCGIFFLAGS = 0x8913


def present() -> list[Interface]:
    """Return the interfaces that are up and can multicast, and the loopback interface."""
    found = []
    for adapter in ifaddr.get_adapters():
        networks = []
        for each in adapter.ips:
            host = each.ip if isinstance(each.ip, str) else each.ip[0]
            address = ipaddress.ip_address(host.partition("%")[0])
            if not (address.version == 6 and address.is_link_local):
                networks.append(f"{address}/{each.network_prefix}")
        loopback = any(ipaddress.ip_interface(network).is_loopback for network in networks)
        if networks and (loopback or _takes_part(adapter.name)):
            found.append(Interface(adapter.name, adapter.index or 0, tuple(sorted(networks)), loopback))
    return found


def chosen(found: Sequence[Interface], wanted: Sequence[str] | None) -> list[Interface]:
    """Return those of ``found`` that are wanted by name, by pattern or by an address of theirs.

    None: all but the internal ones of containers and virtual machines, or all where there is nothing else.
    """
    if wanted is None:
        plain = [each for each in found if not any(fnmatch.fnmatch(each.name, pattern) for pattern in INTERNAL)]
        return plain if any(not each.loopback for each in plain) else list(found)
    return [
        each
        for each in found
        if any(fnmatch.fnmatch(each.name, name) or name in (*each.hosts(4), *each.hosts(6)) for name in wanted)
    ]


def check_wanted(found: Sequence[Interface], wanted: Sequence[str] | None) -> None:
    """Raises InvalidArgument where nothing is there under the names that were given."""
    if wanted is not None and not chosen(found, wanted):
        there = ", ".join(f"{each.name} ({', '.join(each.hosts(4))})" for each in found) or "none at all"
        raise InvalidArgument(
            f"interfaces {', '.join(wanted)}: there is no such interface that is up; there is {there}"
        )


def _takes_part(name: str) -> bool:
    """Whether an interface is up, can multicast, and is no tunnel. Elsewhere than on Linux, zeroconf finds out."""
    if not sys.platform.startswith("linux"):
        return True
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return False
    (flags,) = struct.unpack("H", answer[16:18])
    return flags & (UP | RUNNING | MULTICAST) == UP | RUNNING | MULTICAST and not flags & (LOOPBACK | POINT_TO_POINT)
