"""The hooks of this plugin: discovery backend, service and check ``mdns``, and the command ``discover``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel import hookimpl

if TYPE_CHECKING:
    from echokernel import Registry
    from echokernel_mdns.discovery import MdnsDiscovery
    from echokernel_mdns.service import NodeAdvertiser
    from echokernel_mdns.settings import AdvertiserSettings, MdnsSettings


@hookimpl
def echokernel_discovery(registry: Registry) -> None:
    from echokernel_mdns.settings import MdnsSettings

    registry.discovery("mdns", _discovery, settings=MdnsSettings)


@hookimpl
def echokernel_services(registry: Registry) -> None:
    from echokernel_mdns.settings import AdvertiserSettings

    registry.service("mdns", _service, settings=AdvertiserSettings)


@hookimpl
def echokernel_commands(registry: Registry) -> None:
    from echokernel_mdns.command import DiscoverCommand

    registry.command(DiscoverCommand())


@hookimpl
def echokernel_checks(registry: Registry) -> None:
    from echokernel_mdns.check import MdnsCheck

    registry.check(MdnsCheck())


def _discovery(settings: MdnsSettings) -> MdnsDiscovery:
    from echokernel_mdns.discovery import MdnsDiscovery

    return MdnsDiscovery(interfaces=settings.interfaces, ipv6=settings.ipv6)


def _service(settings: AdvertiserSettings) -> NodeAdvertiser:
    from echokernel_mdns.service import NodeAdvertiser

    return NodeAdvertiser(
        _discovery(settings),
        name=settings.name,
        instance=settings.instance,
        properties=settings.properties,
        fast=settings.fast,
    )
