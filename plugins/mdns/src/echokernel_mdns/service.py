"""A node that announces itself: ``[service.lan] use = "mdns"``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from echokernel import Advertiser, InvalidArgument, ServiceInfo
from echokernel_mdns.discovery import MdnsDiscovery
from echokernel_protocol.hello import ALPN

if TYPE_CHECKING:
    from echokernel import ServerContext

__all__ = ["NodeAdvertiser"]

logger = logging.getLogger("echokernel.mdns")


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
        self._running = AsyncExitStack()
        self.advertisers: list[Advertiser] = []
        """One for each listener, while it runs."""
        for service in (self._service(name or "node", 1, {}),):
            self._discovery.advertise(service.with_port(1), fast=fast)  # a mistake in the settings shows here

    async def start(self, context: ServerContext) -> None:
        """Announce the server. Raises InvalidArgument for its name, DiscoveryUnavailable where there is no network."""
        listeners = [each for each in context.listeners if each.address.scheme == "quic"]
        if not listeners:
            raise InvalidArgument(
                "mdns: this server has no QUIC listener to announce; add a [listen.NAME] with quic://…"
            )
        try:
            for number, listener in enumerate(listeners, 1):
                facts = {"boot": context.boot, "alpn": ALPN, "fp": listener.fingerprint}
                service = self._service(self._name or context.name, number, facts).with_addresses(listener.address)
                advertising = self._discovery.advertise(service, fast=self._fast)
                self.advertisers.append(await self._running.enter_async_context(advertising))
        except BaseException:
            await self.stop()
            raise
        for advertiser in self.advertisers:
            seen = advertiser.service
            logger.info("mDNS: announced as %r at %s", seen.instance, ", ".join(map(str, seen.addresses)))

    async def stop(self) -> None:
        """Say goodbye."""
        await self._running.aclose()
        self.advertisers.clear()

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
