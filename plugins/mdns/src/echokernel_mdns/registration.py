"""One service that we announce. Lives in the thread that speaks mDNS."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

import zeroconf as _zeroconf
from zeroconf import NonUniqueNameException, ServiceNameAlreadyRegistered

from echokernel import ServiceInfo
from echokernel_mdns.addresses import Interface, Scope, best_first, hosts_to_announce, port_of, to_addresses
from echokernel_mdns.errors import DiscoveryUnavailable
from echokernel_mdns.names import SERVICE_TYPE, TXT_VERSION, check_label, encode_txt, label_with
from echokernel_mdns.network import Network

__all__ = ["Registration", "prepare"]

TRIES = 8  # names: the ones that are taken have numbers
TTL_HOST, TTL_OTHER = 120, 4_500  # seconds, RFC 6762 section 10
KERNELS = ("txtvers", "svc")

logger = logging.getLogger("echokernel.mdns")


def prepare(service: ServiceInfo, *, fast: bool) -> ServiceInfo:
    """Return the service with instance, boot and port filled in, all of it checked.

    Raises InvalidArgument for what cannot be announced: see :mod:`echokernel_mdns.names`, ports and addresses.
    """
    from echokernel import InvalidArgument

    name = check_label(service.name, "service name")
    for key in KERNELS:
        if service.get_property(key) is not None:
            raise InvalidArgument(f"property {key!r} says how the record is written; choose another key")
    boot = service.get_property("boot") or secrets.token_hex(8)
    service = replace(service, name=name, port=port_of(service)).with_property("boot", boot)
    if service.instance:
        if fast:
            raise InvalidArgument(
                f"instance {service.instance!r}: fast=True does not ask whether a name is taken, so it chooses a random one; "
                "leave one of the two out"
            )
        if "." in service.instance:
            raise InvalidArgument(f"instance {service.instance!r}: a dot would split the name; write something else")
        service = replace(service, instance=check_label(service.instance, "instance"))
    else:
        suffix = secrets.token_hex(8) if fast else secrets.token_hex(3)
        service = replace(service, instance=label_with(name, f"-{suffix}"))
    text_of(service)  # a mistake shows here, before anything is opened
    hosts_to_announce(service, (), ipv6=False)
    return service


def text_of(service: ServiceInfo) -> bytes:
    """Return the TXT record of a service. Raises InvalidArgument."""
    return encode_txt((("txtvers", TXT_VERSION), ("svc", service.name), *service.properties))


class Registration:
    """A service and its records in zeroconf, on each scope where it can be reached."""

    def __init__(self, service: ServiceInfo, *, fast: bool, ipv6: bool) -> None:
        self.wanted = service
        """As :func:`prepare` returned it."""
        self.service = service
        """As others see it."""
        self._fast = fast
        self._ipv6 = ipv6
        self._host = f"echokernel-{secrets.token_hex(5)}.local."  # of its own: avahi has records for the machine's name
        self._infos: dict[Scope, _zeroconf.ServiceInfo] = {}
        self._announcing: set[asyncio.Task[object]] = set()

    async def start(self, networks: Callable[[Scope], Network], interfaces: Sequence[Interface]) -> None:
        """Make it visible: returns when the name is ours and the first announcement is out.

        Raises DiscoveryUnavailable: there is no network for it, or too many names are taken.
        """
        targets = self._targets(interfaces)
        for attempt in range(TRIES):
            try:
                for scope, hosts in targets.items():
                    await self._register(networks(scope), hosts)
                break
            except (NonUniqueNameException, ServiceNameAlreadyRegistered):
                await self._withdraw(networks)
                taken = self.service.instance
                self.service = replace(self.service, instance=label_with(self.wanted.instance, f"-{attempt + 2}"))
                logger.warning("the instance name %r is taken; trying %r", taken, self.service.instance)
        else:
            raise DiscoveryUnavailable(
                f"mDNS: {self.wanted.instance!r} and {TRIES - 1} names after it are taken; choose another `instance`"
            )
        self._show(targets, interfaces)
        await asyncio.sleep(0)  # the task of the announcement starts: its first packet leaves now

    async def follow(self, networks: Callable[[Scope], Network], interfaces: Sequence[Interface]) -> None:
        """Announce the addresses of now, where they are others than before."""
        targets = self._targets(interfaces)
        for scope in [scope for scope in self._infos if scope not in targets]:
            await self._unregister(networks(scope), self._infos.pop(scope))
        for scope, hosts in targets.items():
            info = self._infos.get(scope)
            if info is None:
                await self._register(networks(scope), hosts)
            elif sorted(info.parsed_addresses()) != sorted(hosts):
                info.addresses = [_packed(host) for host in hosts]
                info.async_clear_cache()
                self._keep(await networks(scope).zeroconf.async_update_service(info))
        self._show(targets, interfaces)

    async def stop(self, networks: Callable[[Scope], Network]) -> None:
        """Say goodbye: returns when all of it is out, after about a quarter of a second."""
        await self._withdraw(networks)

    def scopes(self, interfaces: Sequence[Interface]) -> set[Scope]:
        """Return where it is to be announced."""
        return set(self._targets(interfaces))

    def _targets(self, interfaces: Sequence[Interface]) -> dict[Scope, list[str]]:
        return hosts_to_announce(self.wanted, interfaces, ipv6=self._ipv6)

    def _show(self, targets: dict[Scope, list[str]], interfaces: Sequence[Interface]) -> None:
        hosts = best_first({host for each in targets.values() for host in each}, interfaces)
        self.service = self.service.with_addresses(*to_addresses(hosts, self.wanted.port))

    async def _register(self, network: Network, hosts: list[str]) -> None:
        info = _zeroconf.ServiceInfo(
            SERVICE_TYPE,
            f"{self.service.instance}.{SERVICE_TYPE}",
            port=self.wanted.port,
            properties=text_of(self.wanted),
            server=self._host,
            host_ttl=TTL_HOST,
            other_ttl=TTL_OTHER,
            addresses=[_packed(host) for host in hosts],
        )
        announced = await network.zeroconf.async_register_service(info, cooperating_responders=self._fast)
        self._infos[network.scope] = info
        self._keep(announced)

    async def _unregister(self, network: Network, info: _zeroconf.ServiceInfo) -> None:
        for task in self._announcing:
            task.cancel()  # or an announcement comes after the goodbye
        if network.aiozc is not None:
            await (await network.zeroconf.async_unregister_service(info))

    async def _withdraw(self, networks: Callable[[Scope], Network]) -> None:
        infos, self._infos = self._infos, {}
        await asyncio.gather(*(self._unregister(networks(scope), info) for scope, info in infos.items()))

    def _keep(self, announced: object) -> None:
        assert isinstance(announced, asyncio.Task)
        self._announcing.add(announced)
        announced.add_done_callback(self._announcing.discard)


def _packed(host: str) -> bytes:
    import ipaddress

    return ipaddress.ip_address(host.partition("%")[0]).packed
