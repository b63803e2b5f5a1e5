"""The backend: what programs use."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future

import anyio

from echokernel import Advertiser, Advertising, Discovery, InvalidArgument, ServiceEvent, ServiceInfo
from echokernel_mdns.bridge import Bell
from echokernel_mdns.hub import Lease, lease, suspect
from echokernel_mdns.names import check_label
from echokernel_mdns.registration import Registration, prepare
from echokernel_mdns.table import Seen, differences, signature

__all__ = ["MdnsAdvertiser", "MdnsDiscovery"]


class MdnsDiscovery(Discovery):
    """Discovery on mDNS and DNS-SD, in the network at hand and within the machine.

    ``interfaces``: names (``eth0``, ``wl*``) or addresses of the network interfaces that take part; None: all that can
    multicast but those of containers and virtual machines. ``ipv6``: whether IPv6 multicast is used too; a network without
    IPv4 uses it anyway. Sockets belong to a thread of the process, shared by all that choose alike, and there while one needs
    them: making an instance opens nothing.
    """

    scheme = "mdns"

    def __init__(self, *, interfaces: Sequence[str] | None = None, ipv6: bool = False) -> None:
        if isinstance(interfaces, str) or (interfaces is not None and not interfaces):
            raise InvalidArgument(f"interfaces={interfaces!r}: wanted a list of names or addresses, or None for all")
        self._choice = (None if interfaces is None else tuple(interfaces), ipv6)

    def __repr__(self) -> str:
        interfaces, ipv6 = self._choice
        return f"<MdnsDiscovery on {', '.join(interfaces or ('all interfaces',))}{', IPv6 too' if ipv6 else ''}>"

    def advertise(self, service: ServiceInfo, *, fast: bool = False) -> Advertising:
        """Make ``service`` visible: ``await`` it for an advertiser, or ``async with``; others can see it then.

        It takes 1.2 s, in which other machines may object to the name; ``fast=True`` takes a random one and does not ask.
        Without an ``instance`` the name gets a short random suffix. A name that is taken is changed: the advertiser's
        ``service`` has the final one. Without addresses, those of the machine are announced, and followed as they change.
        Raises InvalidArgument, at once, for what cannot be announced; when awaited, DiscoveryUnavailable.
        """

        prepared = prepare(service, fast=fast)
        return Advertising(lambda: self._advertise(prepared, fast))

    async def discover(self, name: str, timeout: float = 3.0, *, min_count: int | None = None) -> list[ServiceInfo]:
        """Return the services called ``name`` that are there after ``timeout`` seconds, or as soon as there are ``min_count``.

        Raises DiscoveryUnavailable, and InvalidArgument for a name that nothing can have.
        """
        if not 0 <= timeout < float("inf"):
            raise InvalidArgument(f"timeout={timeout}: wanted 0 or more seconds")
        found: dict[tuple[str, str | None], ServiceInfo] = {}
        with anyio.move_on_after(timeout):
            events = self.discover_events(name)
            try:
                async for event in events:
                    key = event.service.instance, event.service.get_property("boot")
                    if event.kind == "gone":
                        found.pop(key, None)
                    else:
                        found[key] = event.service
                    if min_count is not None and len(found) >= min_count:
                        break
            finally:
                await events.aclose()
        return list(found.values())

    def discover_events(self, name: str) -> AsyncGenerator[ServiceEvent]:
        """Yield what happens to services called ``name``: by their names, or by the names of their instances.

        A service that was started again is gone and appears, with another ``boot``. One that is suspect is gone, and appears
        again when something is heard from it. Who reads slowly misses steps in between, never the last state. Raises
        DiscoveryUnavailable, and InvalidArgument for a name that nothing can have.
        """
        name = check_label(name, "service name")

        def wanted(service: ServiceInfo) -> bool:
            return not service.suspect and name in (service.name, service.instance)

        return self._events(wanted)

    def watch(self, *, confirm: float | None = None) -> AsyncGenerator[ServiceEvent]:
        """Yield what happens to all services, suspect ones included. ``confirm``: seconds between two questions to each
        whether it is still there; one that stays silent becomes suspect. Raises DiscoveryUnavailable.
        """
        return self._events(lambda service: True, confirm)

    def suspect(self, service: ServiceInfo) -> None:
        """``service`` could not be reached: this process does not offer it until it is heard from again, or changes."""

        suspect((service.instance.casefold(), service.get_property("boot") or ""), signature(service))

    async def announce_soon(self, service: ServiceInfo, *, fast: bool = False) -> MdnsAdvertiser:
        """Begin to make ``service`` visible and return as soon as the sockets are open; its name is asked about meanwhile.

        What becomes of that is logged. Raises InvalidArgument and DiscoveryUnavailable, as :meth:`advertise` does.
        """
        registration = Registration(prepare(service, fast=fast), fast=fast, ipv6=self._choice[1])
        held = lease(self._choice)
        try:
            await held.run(held.station.prepare(registration))
            return MdnsAdvertiser(held, registration, held.start(held.station.register_and_log(registration)))
        except BaseException:
            held.end()
            raise

    async def _advertise(self, service: ServiceInfo, fast: bool) -> MdnsAdvertiser:
        registration = Registration(service, fast=fast, ipv6=self._choice[1])
        held = lease(self._choice)
        try:
            await held.run(held.station.register(registration))
        except BaseException:
            held.start(held.station.withdraw(registration))  # it may have been cancelled at the very end
            held.end()
            raise
        return MdnsAdvertiser(held, registration)

    async def _events(
        self, wanted: Callable[[ServiceInfo], bool], confirm: float | None = None
    ) -> AsyncGenerator[ServiceEvent]:

        held, bell, who = lease(self._choice), Bell(), object()
        station = held.station
        known: Mapping[tuple[str, str], Seen] = {}
        try:
            await held.run(station.browse(who, bell.ring, confirm=confirm))
            while True:
                there = {key: seen for key, seen in station.seen.items() if wanted(seen.service)}
                for event in differences(known, there):
                    yield event
                known = there
                await bell.heard()
        finally:
            held.soon(station.leave, who)
            held.end()


class MdnsAdvertiser(Advertiser):
    """Keeps one service visible until it is stopped; what others see is ``service``."""

    def __init__(self, held: Lease, registration: Registration, begun: Future[None] | None = None) -> None:
        self._held = held
        self._begun = begun
        self._registration = registration
        self._stopped = False

    @property
    def service(self) -> ServiceInfo:  # type: ignore[override]
        """With the final instance name, and the addresses of now."""
        return self._registration.service

    async def stop(self) -> None:
        """Say goodbye: returns when all of it is out, about a quarter of a second later. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        try:
            if self._begun is not None:
                self._begun.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(2.0):
                await self._held.run(self._held.station.withdraw(self._registration))
        finally:
            self._held.end()
