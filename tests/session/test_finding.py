"""Connecting to a name: candidates that discovery suggests are dialled in parallel; none of them is trusted for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from echokernel import (
    Address,
    Discovery,
    EchoClient,
    EchoServer,
    InvalidArgument,
    PeerIdentity,
    ServiceInfo,
    TransportError,
    rpc,
)
from echokernel.addresses import parse_address
from echokernel.discovery import Advertising, ServiceEvent
from echokernel.testing import JsonSerializer, MemoryTransport

pytestmark = pytest.mark.anyio
KEY, OTHER = "sha256:" + "a" * 43, "sha256:" + "b" * 43


@rpc("who")
async def who() -> str:
    return "me"


class Slow(MemoryTransport):
    """Takes ``delays`` seconds to connect, by port."""

    def __init__(self, **delays: float) -> None:
        super().__init__()
        self.delays = {int(port[1:]): delay for port, delay in delays.items()}
        self.dialled: list[int] = []
        self.server_identity: PeerIdentity | None = None

    async def connect(self, address: Address, tasks: Any) -> Any:
        self.dialled.append(address.port)
        await anyio.sleep(self.delays.get(address.port, 0))
        connection: Any = await super().connect(address, tasks)
        connection.identity = self.server_identity
        return connection


class Found(Discovery):
    """Suggests these services, each after its delay."""

    scheme = "found"

    def __init__(
        self, *services: tuple[float, ServiceInfo], error: Exception | None = None, ends: bool = False
    ) -> None:
        self.services, self.error, self.ends = services, error, ends
        self.suspected: list[str] = []
        self.open = 0

    def advertise(self, service: ServiceInfo) -> Advertising:
        raise NotImplementedError

    async def discover(self, name: str, timeout: float = 3.0) -> list[ServiceInfo]:
        raise NotImplementedError

    async def discover_events(self, name: str) -> AsyncIterator[ServiceEvent]:
        self.open += 1
        try:
            for delay, service in self.services:
                await anyio.sleep(delay)
                if service.name == name:
                    yield ServiceEvent("appeared", service)
            if self.error is not None:
                raise self.error
            if not self.ends:
                await anyio.sleep_forever()
        finally:
            self.open -= 1

    def suspect(self, service: ServiceInfo) -> None:
        self.suspected.append(service.instance)


def service(instance: str, *ports: int, fingerprint: str = "", scheme: str = "memory") -> ServiceInfo:
    info = ServiceInfo("echo", addresses=tuple(Address(scheme, "node", port) for port in ports), instance=instance)
    return info.with_property("fp", fingerprint) if fingerprint else info


def client(transport: MemoryTransport, discovery: Found) -> Any:
    return (
        EchoClient.builder()
        .transport(transport)
        .serializer(JsonSerializer())
        .discovery(discovery)
        .connect("found://echo")
    )


def server(transport: MemoryTransport, port: int) -> EchoServer:
    builder = EchoServer.builder().name(f"server {port}").transport(transport).serializer(JsonSerializer())
    return builder.bind(f"memory://node:{port}").add_rpc(who).build()


async def test_the_first_that_answers_is_taken_and_the_others_are_closed() -> None:
    transport = Slow(p1=0.5, p2=0.1, p3=0.3)
    discovery = Found((0, service("a", 1)), (0, service("b", 2, 3)))
    async with (
        server(transport, 1) as first,
        server(transport, 2) as second,
        server(transport, 3) as third,
        client(transport, discovery) as found,
    ):
        assert await found.request("who") == "me"
        assert found.session.peer.node == "server 2"
        await anyio.sleep(2)
        assert [len(each.context().sessions()) for each in (first, second, third)] == [0, 1, 0]
        assert await found.request("who") == "me"
    assert discovery.open == 0
    assert discovery.suspected == []


async def test_one_that_does_not_answer_is_suspect_and_a_later_one_is_taken() -> None:
    transport = Slow()
    discovery = Found((0, service("dead", 7, 8)), (0.3, service("alive", 1)))
    async with server(transport, 1), client(transport, discovery) as found:
        assert await found.request("who") == "me"
    assert discovery.suspected == ["dead"]  # once, when all its ways had failed


async def test_nothing_found_is_said_after_three_seconds() -> None:
    began = anyio.current_time()
    with pytest.raises(TransportError, match=r"found://echo: no 'echo' was found within 3 s; .*echokernel discover"):
        async with client(Slow(), Found()):
            pass
    assert 2.99 <= anyio.current_time() - began < 3.2


async def test_one_failure_is_told_as_it_is_and_several_together() -> None:
    began = anyio.current_time()
    with pytest.raises(TransportError, match=r"found://echo: .*memory://node:7") as caught:
        async with client(Slow(), Found((0, service("dead", 7)))):
            pass
    assert caught.value.retryable
    assert anyio.current_time() - began < 2  # nobody else came
    several = r"found://echo: 9 found, none could be used:(\n  memory://node:\d+: .*){5}\n  and 4 more"
    with pytest.raises(TransportError, match=several):
        async with client(Slow(), Found((0, service("dead", *range(11, 20))))):
            pass


async def test_a_flood_of_candidates_is_dialled_a_few_at_a_time_and_not_for_ever() -> None:
    transport = Slow(**{f"p{port}": 100.0 for port in range(1_000, 3_000)})
    flood = [(0, service(f"false {port}", port)) for port in range(1_000, 3_000)]
    began = anyio.current_time()
    with pytest.raises(TransportError, match=r"\d+ found, none could be used"):
        async with client(transport, Found(*flood)):
            pass
    assert 14.9 < anyio.current_time() - began < 16
    assert 32 <= len(transport.dialled) <= 64


async def test_no_more_than_a_number_of_candidates_is_dialled() -> None:
    transport = Slow()
    with pytest.raises(TransportError, match="256 found"):
        async with client(transport, Found(*((0, service(f"false {port}", port)) for port in range(1_000, 3_000)))):
            pass
    assert len(transport.dialled) == 256


async def test_a_key_in_the_announcement_only_rules_out() -> None:
    transport = Slow()
    transport.server_identity = PeerIdentity(fingerprint=KEY)
    async with server(transport, 1), server(transport, 2):
        with pytest.raises(TransportError, match=f"its key is {KEY}, announced was {OTHER}") as caught:
            async with client(transport, Found((0, service("spoofed", 1, fingerprint=OTHER)))):
                pass
        assert not caught.value.retryable
        both = Found((0, service("spoofed", 1, fingerprint=OTHER)), (0.1, service("right", 2, fingerprint=KEY)))
        async with client(transport, both) as found:
            assert found.session.peer.node == "server 2"


async def test_discovery_that_fails_is_an_error_of_its_own() -> None:
    with pytest.raises(TransportError, match="no multicast"):
        async with client(Slow(), Found(error=TransportError("no multicast"))):
            pass
    with pytest.raises(TransportError, match=r"discovery failed: ValueError: oops"):
        async with client(Slow(), Found(error=ValueError("oops"))):
            pass
    began = anyio.current_time()
    with pytest.raises(TransportError, match="was found"):
        async with client(Slow(), Found(ends=True)):
            pass
    assert anyio.current_time() - began < 0.1


async def test_cancelled_meanwhile_nothing_is_left() -> None:
    transport, discovery = Slow(p1=100), Found((0, service("slow", 1)))
    with anyio.move_on_after(1):
        async with client(transport, discovery):
            pass
    assert discovery.open == 0
    assert transport.connections == []


class Odd(TransportError):
    """An error of a transport, with a constructor of its own."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"odd {one} {two}")


@pytest.mark.parametrize("fault", [ValueError("oops"), OSError("no"), Odd(1, 2)])
async def test_whatever_a_transport_raises_ends_the_search(fault: Exception) -> None:
    class Broken(Slow):
        async def connect(self, address: Address, tasks: Any) -> Any:
            self.dialled.append(address.port)
            await anyio.sleep(4)
            raise fault

    transport = Broken()
    with anyio.fail_after(16), pytest.raises(TransportError, match="20 found, none could be used"):
        async with client(transport, Found(*((0, service(f"a{port}", port)) for port in range(20)))):
            pass
    assert len(transport.dialled) == 20


async def test_a_false_announcement_of_an_address_does_not_hide_the_true_one() -> None:
    transport = Slow()
    transport.server_identity = PeerIdentity(fingerprint=KEY)
    both = Found((0, service("false", 1, fingerprint=OTHER)), (0.2, service("true", 1, fingerprint=KEY)))
    async with server(transport, 1), client(transport, both) as found:
        assert await found.request("who") == "me"


async def test_a_quick_failure_leaves_time_for_the_second_question() -> None:
    transport = Slow()
    discovery = Found((0, service("stale", 7)), (1.2, service("alive", 1)))
    async with server(transport, 1), client(transport, discovery) as found:
        assert await found.request("who") == "me"


async def test_discovery_that_fails_does_not_end_a_dial() -> None:
    transport = Slow(p1=0.5)
    discovery = Found((0, service("alive", 1)), error=TransportError("the network is gone"))
    async with server(transport, 1), client(transport, discovery) as found:
        assert await found.request("who") == "me"


async def test_a_builder_may_connect_twice_and_elsewhere() -> None:
    transport = Slow()
    builder = EchoClient.builder().transport(transport).serializer(JsonSerializer())
    builder.discovery(Found((0, service("alive", 1))))
    async with server(transport, 1), server(transport, 2):
        for address, node in (
            ("found://echo", "server 1"),
            ("memory://node:2", "server 2"),
            ("found://echo", "server 1"),
        ):
            async with builder.connect(address) as found:
                assert found.session.peer.node == node
        with pytest.raises(InvalidArgument, match="a name that is found has no port; found://echo"):
            builder.connect("found://echo:5")


def test_names_are_addresses_without_a_port() -> None:
    address = parse_address("mdns://Küche Echo", named=True)
    assert (address.scheme, address.host, address.port, str(address)) == ("mdns", "Küche Echo", -1, "mdns://Küche Echo")
    assert not address.is_loopback
    for wrong in ("quic://echo-server", "echo-server", "mdns://", "://echo"):
        with pytest.raises(InvalidArgument, match="wanted"):
            parse_address(wrong, named=True)
