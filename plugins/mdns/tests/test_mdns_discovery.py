"""Announcing and finding with real zeroconf on the loopback interface, from each event loop."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator

import anyio
import pytest

from echokernel import Address, InvalidArgument, ServiceEvent, ServiceInfo
from echokernel_mdns import Discovery, DiscoveryUnavailable, MdnsAdvertiser, MdnsDiscovery, names

pytestmark = pytest.mark.anyio
ONE = f"only {secrets.token_hex(3)}"
CAM = f"cam {secrets.token_hex(3)}"  # others may run this at the same time, on the same loopback interface


def local(name: str = CAM, port: int = 4433, **more: str) -> ServiceInfo:
    return ServiceInfo(name, instance=more.pop("instance", "")).with_addresses(Address("quic", "127.0.0.1", port))


async def following(events: AsyncGenerator[ServiceEvent], timeout: float = 5.0) -> ServiceEvent:
    """Return the next event that is ours: others may use this machine's loopback interface."""
    with anyio.fail_after(timeout):
        while (event := await anext(events)).service.name not in (CAM, "leaving"):
            pass
        return event


async def test_what_is_announced_is_found(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    service = local("Kamera é 👩‍🚀").with_property("room", "12").with_property("fp", "sha256:" + "A" * 43)
    async with here.advertise(service) as advertiser:
        seen = advertiser.service
        assert seen.instance.startswith("Kamera é 👩‍🚀-")
        began = time.monotonic()
        [found] = await there.discover("Kamera é 👩‍🚀", min_count=1)
        assert time.monotonic() - began < 1.0
        assert found == seen
        assert found.get_property("room") == "12"
        assert found.address == Address("quic", "127.0.0.1", 4433)
        assert [each.instance for each in await there.discover(seen.instance, min_count=1)] == [seen.instance]
        assert await there.discover("another", timeout=0.3) == []
    assert await there.discover("Kamera é 👩‍🚀", timeout=0.5) == []


async def test_events(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    events = there.discover_events(CAM)
    async with here.advertise(local(), fast=True) as first:
        appeared = await following(events)
        assert (appeared.kind, appeared.service) == ("appeared", first.service)
        await first.stop()
        began = time.monotonic()
        gone = await following(events)
        assert (gone.kind, gone.service.instance) == ("gone", first.service.instance)
        assert time.monotonic() - began < 0.5
    await events.aclose()


async def test_a_restart_after_a_crash_is_gone_and_appeared(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    events = there.discover_events(CAM)
    async with here.advertise(local(instance="cam-x").with_property("boot", "b1")):
        assert (await following(events)).kind == "appeared"
        other = MdnsDiscovery(
            interfaces=["127.*", "lo"]
        )  # the same name from another start: what a crash leaves behind
        from echokernel_mdns import registration

        again = registration.prepare(local(instance="cam-x").with_property("boot", "b2"), fast=False)
        restarted = registration.Registration(again, fast=True, ipv6=False)
        from echokernel_mdns.hub import lease

        held = lease(other._choice)
        await held.run(held.station.register(restarted))
        happened = [await following(events) for _ in range(2)]
        assert [(each.kind, each.service.get_property("boot")) for each in happened] == [
            ("gone", "b1"),
            ("appeared", "b2"),
        ]
        await held.run(held.station.withdraw(restarted))
        held.end()
    await events.aclose()


async def test_discover_stream_yields_services_as_they_appear(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    stream = there.discover_stream(CAM)
    async with here.advertise(local(port=1), fast=True), here.advertise(local(port=2), fast=True):
        with anyio.fail_after(5):
            found = {(await anext(stream)).port for _ in range(2)}
    assert found == {1, 2}
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_name_that_is_taken_is_changed_and_told(
    here: MdnsDiscovery, there: MdnsDiscovery, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        here.advertise(local(instance=ONE)) as first,
        there.advertise(local(port=2, instance=ONE)) as second,
    ):
        assert (first.service.instance, second.service.instance) == (ONE, f"{ONE}-2")
        assert f"the instance name {ONE!r} is taken; trying '{ONE}-2'" in caplog.text
        found = {each.instance: each.port for each in await here.discover(CAM, min_count=2)}
        assert found == {ONE: 4433, f"{ONE}-2": 2}


async def test_a_suspect_service_is_not_offered_until_it_is_heard_from(
    here: MdnsDiscovery, there: MdnsDiscovery
) -> None:
    events, watched = there.discover_events(CAM), there.watch()
    async with here.advertise(local(), fast=True):
        service = (await following(events)).service
        assert (await following(watched)).service == service
        there.suspect(service)
        assert (await following(events)).kind == "gone"
        marked = await following(watched)
        assert (marked.kind, marked.service.suspect) == ("changed", True)
        assert await there.discover(CAM, timeout=0.6) == []
        began = time.monotonic()
        assert (await following(events)).kind == "appeared", "it was asked once nothing held it, and answered"
        assert time.monotonic() - began < 4.0
    await events.aclose()
    await watched.aclose()


async def test_mistakes_show_before_anything_is_opened(here: MdnsDiscovery) -> None:
    for service, message in (
        (ServiceInfo("x"), r"wanted one port from 1 to 65535, saw none"),
        (local("é" * 40), r"service name 'é+': 80 bytes as UTF-8"),
        (local().with_property("a=b", "1"), r"property 'a=b'"),
        (local().with_property("svc", "1"), r"property 'svc' says how the record is written"),
        (local(instance="a.b"), r"instance 'a\.b': a dot would split the name"),
        (local().with_property("big", "x" * 300), r"304 bytes with its key"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            here.advertise(service)
    with pytest.raises(InvalidArgument, match="fast=True does not ask whether a name is taken"):
        here.advertise(local(instance="mine"), fast=True)
    with pytest.raises(InvalidArgument, match="timeout=-1"):
        await here.discover(CAM, timeout=-1)
    with pytest.raises(InvalidArgument, match="service name ''"):
        await here.discover("")
    with pytest.raises(InvalidArgument, match="there is no such interface that is up"):
        await MdnsDiscovery(interfaces=["nothing7"]).discover(CAM)
    with pytest.raises(InvalidArgument, match="wanted a list of names or addresses"):
        MdnsDiscovery(interfaces="lo")


async def test_without_a_second_user_the_sockets_and_the_thread_are_shared(here: MdnsDiscovery) -> None:
    from echokernel_mdns import hub

    async with (
        here.advertise(local(), fast=True) as advertiser,
        MdnsDiscovery(interfaces=["127.0.0.1"]).advertise(local(port=2)),
    ):
        [(station, users)] = hub._thread.stations.values()  # type: ignore[union-attr]
        assert users == 2
        assert list(station._networks) == ["loopback"]
        await advertiser.stop()
        await advertiser.stop()


async def test_given_up_while_its_name_is_asked_about(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    with anyio.move_on_after(0.3) as scope:
        await here.advertise(local())
    assert scope.cancelled_caught
    assert await there.discover(CAM, timeout=1.5) == []


async def test_discovery_never_blocks_the_loop(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    longest = []
    for _ in range(5):  # the machine of a test is busy, so the best of some; the figure is in the benchmark
        pauses = [0.0]

        async def measure(pauses: list[float] = pauses) -> None:
            before = time.perf_counter()
            while True:
                await anyio.sleep(0.001)
                now = time.perf_counter()
                pauses.append(now - before)
                before = now

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(measure)
            async with here.advertise(local(), fast=True):
                await there.discover(CAM, timeout=0.2)
            tasks.cancel_scope.cancel()
        longest.append(max(pauses))
    assert min(longest) < 0.04, longest


async def test_a_port_that_is_not_shared_is_named(here: MdnsDiscovery) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(("", 5353))
        except OSError:
            pytest.skip("another program has port 5353 on this machine")
        with pytest.raises(DiscoveryUnavailable, match=r"UDP port 5353 is taken by a program that does not share it"):
            await here.discover(CAM)
        with pytest.raises(DiscoveryUnavailable, match="disallow-other-stacks=no"):
            async with here.advertise(local()):
                raise AssertionError


LEAVING = """
import asyncio, sys
from echokernel import Address
from echokernel_mdns import MdnsDiscovery, ServiceInfo

async def main():
    service = ServiceInfo("leaving").with_addresses(Address("quic", "127.0.0.1", 7))
    await MdnsDiscovery(interfaces=["127.0.0.1"]).advertise(service, fast=True)
    sys.stdin.readline()

asyncio.run(main())
"""


async def test_a_program_that_ends_says_goodbye(here: MdnsDiscovery) -> None:
    events = here.discover_events("leaving")
    with subprocess.Popen([sys.executable, "-c", LEAVING], stdin=subprocess.PIPE) as program:  # noqa: ASYNC220
        assert (await following(events, 10)).kind == "appeared"
        assert program.stdin is not None
        program.stdin.close()
        assert (await following(events)).kind == "gone"
        await anyio.to_thread.run_sync(program.wait)
    await events.aclose()
    assert program.returncode == 0


def test_the_ready_instance_has_the_default_settings() -> None:
    assert isinstance(Discovery, MdnsDiscovery)
    assert repr(Discovery) == "<MdnsDiscovery on all interfaces>"
    assert names.SERVICE_TYPE == "_echokernel._udp.local."


async def test_advertisers_tell_what_others_see(here: MdnsDiscovery) -> None:
    advertiser = await here.advertise(local("dots.and spaces"))
    assert isinstance(advertiser, MdnsAdvertiser)
    assert advertiser.service.name == "dots.and spaces"
    assert advertiser.service.instance.startswith("dots-and spaces-")
    assert len(advertiser.service.get_property("boot") or "") == 16
    async with advertiser:
        pass


def test_a_loop_that_is_gone_is_nobody_to_tell(here: MdnsDiscovery) -> None:
    """A program that leaves without stopping: its loop is closed while the thread still has its bell."""

    async def leave() -> AsyncGenerator[ServiceEvent]:
        events = here.discover_events(CAM)
        with anyio.move_on_after(0.2):
            await anext(events)
        return events

    asyncio.run(leave())
