"""A node that announces itself: ``[service.lan] use = "mdns"``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from echokernel import InvalidArgument, ServiceInfo
from echokernel_mdns.discovery import MdnsAdvertiser, MdnsDiscovery
from echokernel_protocol.hello import ALPN

if TYPE_CHECKING:
    from echokernel import ServerContext

__all__ = ["NodeAdvertiser", "stable_id"]

OWN = ("id", "boot", "alpn", "fp", "v")


class NodeAdvertiser:
    """Announces each listener of a server while it runs: address, port, fingerprint, boot, name.

    ``name``: under which it is found, by default the node's; ``instance``: with several listeners, the second one gets
    ``-2``. Only addresses that a listener serves are announced: see :func:`~echokernel_mdns.addresses.hosts_to_announce`.
    """

    stops_first = True
    """Whoever looks for a server must not find one that drains."""

    def __init__(
        self,
        discovery: MdnsDiscovery | None = None,
        *,
        name: str | None = None,
        instance: str | None = None,
        properties: Mapping[str, str] | None = None,
        fast: bool = False,
    ) -> None:
        self._discovery = discovery or MdnsDiscovery()
        self._name = name
        self._instance = instance
        self._properties = dict(properties or {})
        self._fast = fast
        for key in self._properties:
            if key.casefold() in OWN:
                raise InvalidArgument(f"property {key!r} is the node's own; choose another key than {', '.join(OWN)}")
        self.advertisers: list[MdnsAdvertiser] = []
        """One for each listener, while it runs."""
        for service in (self._service(name or "node", 1, {}),):
            self._discovery.advertise(service.with_port(1), fast=fast)  # a mistake in the settings shows here

    async def start(self, context: ServerContext) -> None:
        """Announce the server: its name is asked about for 1.2 s, which it does not wait for.

        Raises InvalidArgument for what cannot be announced, DiscoveryUnavailable where there is no network.
        """
        listeners = [each for each in context.listeners if each.address.scheme == "quic"]
        if not listeners:
            raise InvalidArgument(
                "mdns: this server has no QUIC listener to announce; add a [listen.NAME] with quic://…"
            )
        try:
            for number, listener in enumerate(listeners, 1):
                name = self._name or context.name
                facts = {"boot": context.boot, "alpn": ALPN, "fp": listener.fingerprint}
                facts["id"] = stable_id(name, listener.fingerprint)
                service = self._service(name, number, facts).with_addresses(listener.address)
                self.advertisers.append(await self._discovery.announce_soon(service, fast=self._fast))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Say goodbye: about a quarter of a second."""
        stopping, self.advertisers = self.advertisers, []
        async with anyio.create_task_group() as tasks:
            for advertiser in stopping:
                tasks.start_soon(advertiser.stop)

    def _service(self, name: str, number: int, facts: Mapping[str, Any]) -> ServiceInfo:
        from echokernel import __version__

        service = ServiceInfo(name)
        if self._instance and not self._fast:
            service = ServiceInfo(name, instance=self._instance if number == 1 else f"{self._instance}-{number}")
        for key, value in {**facts, "v": __version__, **self._properties}.items():
            if value is not None:
                service = service.with_property(key, value)
        return service


def stable_id(name: str, fingerprint: str | None) -> str | None:
    """Return 16 hex digits that are the same at every start of a node with this name and key; None without a key."""
    return None if fingerprint is None else hashlib.sha256(f"{name}\0{fingerprint}".encode()).hexdigest()[:16]
