"""A node that announces itself: ``[service.lan] use = "mdns"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from echokernel import InvalidArgument, ServiceInfo
from echokernel_mdns.discovery import MdnsAdvertiser, MdnsDiscovery
from echokernel_protocol.hello import ALPN

if TYPE_CHECKING:
    from echokernel import ServerContext

__all__ = ["NodeAdvertiser"]


class NodeAdvertiser:
    """Announces each listener of a server while it runs: address, port, fingerprint, boot, name.

    ``name``: under which it is found, by default the node's; ``instance``: with several listeners, the second one gets
    ``-2``. Only addresses that a listener serves are announced: see :func:`~echokernel_mdns.addresses.hosts_to_announce`.
    """

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
                facts = {"boot": context.boot, "alpn": ALPN, "fp": listener.fingerprint}
                service = self._service(self._name or context.name, number, facts).with_addresses(listener.address)
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
                if key in facts and key in self._properties:
                    raise InvalidArgument(f"property {key!r} is the node's own; choose another key")
                service = service.with_property(key, value)
        return service
