"""Nodes that find each other: ``[service.lan] use = "mdns"`` on one side, ``mdns://`` on the other. Real QUIC on loopback."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

pytest.importorskip("echokernel_quic")
pytest.importorskip("echokernel_postcard")
mdns = pytest.importorskip("echokernel_mdns")

from echokernel import Address, EchoClient, EchoServer, ServerBuilder, ServiceInfo, TransportError, rpc  # noqa: E402


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


pytestmark = pytest.mark.anyio


@rpc("whoami")
def whoami() -> str:
    return "found"


def node(name: str, discovery: Any) -> ServerBuilder:
    from echokernel_mdns.service import NodeAdvertiser

    return (
        EchoServer.builder()
        .name(name)
        .bind("quic://127.0.0.1:0")
        .add_rpc(whoami)
        .service(NodeAdvertiser(discovery, fast=True))
    )


async def test_a_node_is_found_and_dialled_by_its_name() -> None:
    discovery = mdns.MdnsDiscovery(interfaces=["lo"])
    async with node("echo-e2e", discovery).build():
        began = time.monotonic()
        async with EchoClient.builder().discovery(discovery).connect("mdns://echo-e2e") as client:
            assert await client.request("whoami", returns=str) == "found"
        assert time.monotonic() - began < 2.0


async def test_a_dead_candidate_beside_a_live_one_costs_nothing_and_is_suspect() -> None:
    discovery = mdns.MdnsDiscovery(interfaces=["lo"])
    dead = ServiceInfo("echo-two").with_addresses(Address("quic", "127.0.0.1", 9))
    connecting = EchoClient.builder().discovery(discovery).connect("mdns://echo-two")
    async with discovery.advertise(dead, fast=True), node("echo-two", discovery).build(), connecting as client:
        assert await client.request("whoami", returns=str) == "found"


async def test_nobody_of_that_name() -> None:
    discovery = mdns.MdnsDiscovery(interfaces=["lo"])
    with pytest.raises(TransportError, match="no 'nobody-here' was found within 3 s"):
        async with EchoClient.builder().discovery(discovery).connect("mdns://nobody-here"):
            pass


async def test_one_that_does_not_answer_is_named_and_kept_back() -> None:
    discovery = mdns.MdnsDiscovery(interfaces=["lo"])
    dead = ServiceInfo("echo-dead").with_addresses(Address("quic", "127.0.0.1", 9))
    async with discovery.advertise(dead, fast=True):
        with anyio.fail_after(20), pytest.raises(TransportError, match=r"quic://127\.0\.0\.1:9"):
            async with EchoClient.builder().discovery(discovery).connect("mdns://echo-dead"):
                pass
        assert await discovery.discover("echo-dead", timeout=0.4) == []
