"""What a discovery backend has to be. Discovery suggests addresses; it never grants trust."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal

from echokernel.addresses import Address

__all__ = ["Advertiser", "Advertising", "Discovery", "ServiceEvent", "ServiceInfo"]


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A node as discovery knows it: ``ServiceInfo("camera").with_port(4433).with_property("room", "12")``."""

    name: str
    address: Address | None = None
    """Where to dial it, the first of ``addresses``; None until it is advertised."""
    port: int = 0
    properties: tuple[tuple[str, str], ...] = field(default=())
    addresses: tuple[Address, ...] = ()
    """All the ways to it, best first. An ``address`` that is not the first of them becomes it."""
    instance: str = ""
    """What tells it from others of its name: unique in its network, chosen by the backend where it is empty."""
    suspect: bool = False
    """Whether it could not be reached when it was last tried from here; a backend does not offer such a service."""

    def __post_init__(self) -> None:
        if self.address is None:
            if self.addresses:
                object.__setattr__(self, "address", self.addresses[0])
        elif self.addresses[:1] != (self.address,):
            others = (each for each in self.addresses if each != self.address)
            object.__setattr__(self, "addresses", (self.address, *others))

    def with_port(self, port: int) -> ServiceInfo:
        return replace(self, port=port)

    def with_addresses(self, *addresses: Address) -> ServiceInfo:
        """Return it with these addresses and no others, the best one first."""
        return replace(self, address=addresses[0] if addresses else None, addresses=addresses)

    def with_property(self, key: str, value: str) -> ServiceInfo:
        kept = tuple(item for item in self.properties if item[0] != key)
        return replace(self, properties=(*kept, (key, value)))

    def get_property(self, key: str) -> str | None:
        return dict(self.properties).get(key)


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """Something that happened to a service of the name that is watched."""

    kind: Literal["appeared", "changed", "gone"]
    service: ServiceInfo


class Advertiser(ABC):
    """Keeps one service visible until it is stopped; also ``async with``."""

    service: ServiceInfo
    """What others see: with the final instance name, port and addresses."""

    @abstractmethod
    async def stop(self) -> None:
        """Withdraw the service. A second call does nothing."""

    async def __aenter__(self) -> Advertiser:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


class Advertising:
    """What :meth:`Discovery.advertise` returns: nothing has happened yet.

    ``await`` it for an :class:`Advertiser` that runs until it is stopped, or enter it: ``async with
    discovery.advertise(service) as advertiser``. ``start`` makes the service visible; it is called once. Raises RuntimeError
    when it is used a second time.
    """

    __slots__ = ("_advertiser", "_start")

    def __init__(self, start: Callable[[], Awaitable[Advertiser]]) -> None:
        self._start: Callable[[], Awaitable[Advertiser]] | None = start
        self._advertiser: Advertiser | None = None

    def __await__(self) -> Generator[Any, Any, Advertiser]:
        return self._begin().__await__()

    async def __aenter__(self) -> Advertiser:
        self._advertiser = await self._begin()
        return self._advertiser

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._advertiser is not None:
            await self._advertiser.stop()

    async def _begin(self) -> Advertiser:
        start, self._start = self._start, None
        if start is None:
            raise RuntimeError("this advertising was used already: call advertise(service) again for another one")
        return await start()


class Discovery(ABC):
    """Makes services visible and finds them."""

    scheme: str = ""
    """Of URLs that name what it finds, ``mdns://echo-server``: a client whose builder got it connects to those."""

    @abstractmethod
    def advertise(self, service: ServiceInfo) -> Advertising:
        """Make ``service`` visible: ``await`` it for an Advertiser, or ``async with``; others can see it then."""

    @abstractmethod
    async def discover(self, name: str, timeout: float = 3.0) -> list[ServiceInfo]:
        """Return the services called ``name`` that were seen within ``timeout`` seconds."""

    @abstractmethod
    def discover_events(self, name: str) -> AsyncIterator[ServiceEvent]:
        """Yield what happens to services called ``name``, beginning with those that are there."""

    async def discover_stream(self, name: str) -> AsyncIterator[ServiceInfo]:
        """Yield services called ``name`` as they appear."""
        events = self.discover_events(name)
        try:
            async for event in events:
                if event.kind == "appeared":
                    yield event.service
        finally:
            if isinstance(events, AsyncGenerator):  # it is closed with this one, not when it is collected
                await events.aclose()

    def suspect(self, service: ServiceInfo) -> None:
        """``service`` could not be reached. A backend may keep it back until it hears from it again."""
