"""Which addresses are announced: those that the server really serves, and never the loopback one to others."""

from __future__ import annotations

import pytest

from echokernel import Address, InvalidArgument, ServiceInfo
from echokernel_mdns.addresses import Interface, hosts_to_announce, port_of
from echokernel_mdns.interfaces import check_wanted, chosen, present

LO = Interface("lo", 1, ("127.0.0.1/8", "::1/128"), loopback=True)
ETH = Interface("eth0", 2, ("192.0.2.2/24", "fd00::2/64"))
WLAN = Interface("wlan0", 3, ("198.51.100.7/24",))
DOCKER = Interface("docker0", 4, ("172.17.0.1/16",))


def hosts(*bound: str, interfaces: tuple[Interface, ...] = (LO, ETH, WLAN)) -> dict[str, list[str]]:
    service = ServiceInfo("s").with_addresses(*(Address("quic", host, 1) for host in bound))
    return {**hosts_to_announce(service, interfaces, ipv6=False)}


def test_a_server_on_loopback_is_announced_within_the_machine() -> None:
    assert hosts("127.0.0.1") == hosts("localhost") == {"loopback": ["127.0.0.1"]}
    assert hosts("::1") == {"loopback": ["::1"]}


def test_a_server_on_all_addresses_is_announced_with_those_of_the_interfaces() -> None:
    assert hosts("0.0.0.0") == hosts() == {"network": ["192.0.2.2", "198.51.100.7"]}
    assert hosts("::") == {"network": ["192.0.2.2", "198.51.100.7", "fd00::2"]}


def test_a_machine_that_is_alone_finds_its_own_servers() -> None:
    assert hosts("0.0.0.0", interfaces=(LO,)) == {"loopback": ["127.0.0.1"]}


def test_one_address_is_announced_as_it_is() -> None:
    assert hosts("192.0.2.2") == {"network": ["192.0.2.2"]}
    assert hosts("192.0.2.2", "127.0.0.1") == {"network": ["192.0.2.2"], "loopback": ["127.0.0.1"]}
    assert hosts("fe80::1") == {}, "without an interface it means nothing to others"


def test_host_names_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"address 'node\.example' is a host name; give the IP address"):
        hosts("node.example")


def test_a_service_has_one_port() -> None:
    service = ServiceInfo("s")
    assert port_of(service.with_port(4433)) == 4433
    assert port_of(service.with_addresses(Address("quic", "10.0.0.1", 7))) == 7
    for wrong in (
        service,
        service.with_port(70_000),
        service.with_port(1).with_addresses(Address("quic", "10.0.0.1", 7)),
    ):
        with pytest.raises(InvalidArgument, match="wanted one port from 1 to 65535"):
            port_of(wrong)


def test_interfaces_are_chosen_by_name_pattern_or_address() -> None:
    found = [LO, ETH, WLAN, DOCKER]
    assert chosen(found, None) == [LO, ETH, WLAN]
    assert chosen(found, ["wl*", "192.0.2.2"]) == [ETH, WLAN]
    assert chosen(found, ["docker0"]) == [DOCKER]
    assert chosen([LO, DOCKER], None) == [LO, DOCKER], "where there is nothing else"
    with pytest.raises(
        InvalidArgument, match=r"interfaces eth7: there is no such interface that is up; there is lo \(127"
    ):
        check_wanted(found, ["eth7"])


def test_the_loopback_interface_of_this_machine_is_found() -> None:
    assert [each for each in present() if each.loopback and "127.0.0.1" in each.hosts(4)]
