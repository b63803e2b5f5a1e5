"""What a discovery backend has to be. Discovery suggests addresses; it never grants trust."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

from echokernel.addresses import Address

__all__ = ["Advertiser", "Discovery", "ServiceEvent", "ServiceInfo"]


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A node as discovery knows it: ``ServiceInfo("camera").with_port(4433).with_property("room", "12")``."""

    name: str
    address: Address | None = None
    """Where to dial it; None until it is advertised."""
    port: int = 0
    properties: tuple[tuple[str, str], ...] = field(default=())

    def with_port(self, port: int) -> ServiceInfo:
        return replace(self, port=port)

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

    @abstractmethod
    async def stop(self) -> None:
        """Withdraw the service. A second call does nothing."""

    async def __aenter__(self) -> Advertiser:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


class Discovery(ABC):
    """Makes services visible and finds them."""

    @abstractmethod
    async def advertise(self, service: ServiceInfo) -> Advertiser:
        """Make ``service`` visible; returns once others can see it."""

    @abstractmethod
    async def discover(self, name: str, timeout: float = 3.0) -> list[ServiceInfo]:
        """Return the services called ``name`` that were seen within ``timeout`` seconds."""

    @abstractmethod
    def discover_events(self, name: str) -> AsyncIterator[ServiceEvent]:
        """Yield what happens to services called ``name``, beginning with those that are there."""

    async def discover_stream(self, name: str) -> AsyncIterator[ServiceInfo]:
        """Yield services called ``name`` as they appear."""
        async for event in self.discover_events(name):
            if event.kind == "appeared":
                yield event.service
