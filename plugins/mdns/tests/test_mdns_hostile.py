"""Real packets that nobody should send: on the loopback interface, where this test may be another machine's neighbour."""

from __future__ import annotations

import gc
import os
import random
import secrets
import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import zeroconf

from echokernel import Address, ServiceInfo
from echokernel_mdns import MdnsDiscovery, hub, names

pytestmark = pytest.mark.anyio
TYPE = names.SERVICE_TYPE
CAM = f"cam {secrets.token_hex(3)}"  # others may run this at the same time, on the same loopback interface


@pytest.fixture
def attacker() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        yield sock


def send(sock: socket.socket, packet: bytes) -> None:
    sock.sendto(packet, ("224.0.0.251", 5353))


def announcement(*services: zeroconf.ServiceInfo, ttl: int | None = None) -> list[bytes]:
    out: Any = zeroconf.DNSOutgoing(0x8400)  # type: ignore[attr-defined]
    for info in services:
        for record in (info.dns_pointer(ttl), info.dns_service(ttl), info.dns_text(ttl), *info.dns_addresses(ttl)):
            out.add_answer_at_time(record, 0)
    packets: list[bytes] = out.packets()
    return packets


def fake(label: str, text: bytes = b"\x07svc=cam", ip: str = "127.0.0.1") -> zeroconf.ServiceInfo:
    host = f"h{abs(hash(label))}.local."
    return zeroconf.ServiceInfo(TYPE, f"{label}.{TYPE}", port=9, properties=text, server=host, parsed_addresses=[ip])


@pytest.mark.slow  # it floods the loopback interface, which other runs share
async def test_thousands_of_names(here: MdnsDiscovery, there: MdnsDiscovery, attacker: socket.socket) -> None:
    events = here.discover_events(CAM)
    local = ServiceInfo(CAM).with_addresses(Address("quic", "127.0.0.1", 1))
    async with there.advertise(local, fast=True) as advertiser:
        with anyio.fail_after(5):
            assert (await anext(events)).service == advertiser.service
        [station] = {
            station for choice, (station, _) in hub._thread.stations.items() if "127.0.0.1" in (choice[0] or ())
        }  # type: ignore[union-attr]
        gc.collect()
        tracemalloc.start()
        for first in range(0, 6_000, 10):
            text = names.encode_txt([("svc", "flood"), ("boot", str(first))])
            for packet in announcement(*(fake(f"n{number}", text) for number in range(first, first + 10))):
                send(attacker, packet)
            await anyio.sleep(0.001)  # the socket's buffer is finite too
        before: dict[str, int] = {}
        with anyio.fail_after(30):
            while before != (before := station.counts()):  # noqa: ASYNC110 - until the flood is worked off
                await anyio.sleep(0.5)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(station.table) == 1_024
        assert station.counts()["services"] > 0
        assert station.counts()["broken"] == 0
        assert size < 32_000_000, "what was not taken in is not in zeroconf's cache either"
        cached = sum(map(len, station._networks["loopback"].zeroconf.cache.cache.values()))
        assert cached < 5 * 1_024
        await advertiser.stop()
        with anyio.fail_after(15):
            assert (await anext(events)).kind == "gone", "whoever was there is still followed"
    await events.aclose()


async def test_garbage_reaches_nobody(
    here: MdnsDiscovery, attacker: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    events = here.discover_events(CAM)
    chance = random.Random(7)
    good = announcement(fake("evilXXXX", b"\x0bsvc=a\x1b[31mx\xff"), fake("long", b"\x01" * 8_000))
    good = [packet.replace(b"evilXXXX", b"evil\x1b[2J") for packet in good]
    async with anyio.create_task_group() as tasks:

        async def read() -> None:
            async for _ in events:
                pass

        tasks.start_soon(read)
        await anyio.sleep(0.3)
        for _ in range(2_000):
            packet = bytearray(chance.choice(good))
            for _ in range(chance.randrange(1, 8)):
                packet[chance.randrange(len(packet))] = chance.randrange(256)
            send(attacker, bytes(packet[: chance.randrange(12, len(packet))] if chance.random() < 0.3 else packet))
            send(attacker, os.urandom(chance.randrange(1, 200)))
            await anyio.lowlevel.checkpoint()
        for packet in announcement(fake("real")):
            send(attacker, packet)
        await anyio.sleep(0.3)
        tasks.cancel_scope.cancel()
    await events.aclose()
    assert "could not be read" not in caplog.text


async def test_spoofed_addresses_are_not_offered(here: MdnsDiscovery, attacker: socket.socket) -> None:
    """On the loopback interface nothing but loopback counts; for the network it is the other way round (the table's tests)."""
    watched = here.watch()
    async with anyio.create_task_group() as tasks:
        found = []

        async def read() -> None:
            async for event in watched:
                if event.service.instance.startswith("spoof"):  # others may use this machine's loopback interface
                    found.append((event.service.instance, [address.host for address in event.service.addresses]))

        tasks.start_soon(read)
        await anyio.sleep(0.3)
        for number, ip in enumerate(("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.66", "127.0.0.1")):
            for packet in announcement(fake(f"spoof{number}", ip=ip)):
                send(attacker, packet)
        await anyio.sleep(0.3)
        tasks.cancel_scope.cancel()
    await watched.aclose()
    assert found == [("spoof4", ["127.0.0.1"])]
