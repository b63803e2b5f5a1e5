"""Discovery on the local network: mDNS and DNS-SD.

``Discovery`` is a ready backend with the default settings, so that a program needs nothing else::

    async with Discovery.advertise(ServiceInfo("echo-server").with_port(5000)):
        ...
    for service in await Discovery.discover("echo-server"):
        print(service.name, service.address)
"""

from echokernel import Advertiser, ServiceEvent, ServiceInfo
from echokernel_mdns.discovery import MdnsAdvertiser, MdnsDiscovery
from echokernel_mdns.errors import DiscoveryUnavailable

__all__ = [
    "Advertiser",
    "Discovery",
    "DiscoveryUnavailable",
    "MdnsAdvertiser",
    "MdnsDiscovery",
    "ServiceEvent",
    "ServiceInfo",
]

Discovery = MdnsDiscovery()
"""A backend with the default settings: the seed's ``Discovery``. An instance opens nothing before it is used."""
