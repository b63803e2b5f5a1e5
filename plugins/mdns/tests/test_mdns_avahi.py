"""Between machines (network namespaces), with avahi as the independent other side, and with ourselves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mdns_lab as lab

pytestmark = pytest.mark.slow

ADVERTISE = """
import asyncio, json, signal, sys
from echokernel_mdns import MdnsDiscovery, ServiceInfo

async def main():
    name, instance, port, properties = json.loads(sys.argv[1])
    service = ServiceInfo(name, port=port, properties=tuple(properties.items()), instance=instance)
    async with MdnsDiscovery().advertise(service) as advertiser:
        print(json.dumps([advertiser.service.instance, *map(str, advertiser.service.addresses)]), flush=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        await stop.wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[lab.Machine]]:
    lab.require()
    directory = tmp_path_factory.mktemp("lab")
    with lab.network(3, directory) as machines, lab.avahi(machines[1], directory):
        yield machines


def advertise(machine: lab.Machine, name: str, port: int, instance: str = "", **properties: str) -> Any:
    return machine.running(sys.executable, "-c", ADVERTISE, json.dumps([name, instance, port, properties]))


def said(process: lab.Running) -> Any:
    return json.loads(process.line_with(lambda line: line.startswith("[")))


def next_event(process: lab.Running, name: str | None = None) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = json.loads(process.line_with(lambda line: line.startswith("{")))
        if name in (None, event["name"]):
            return event


def unescaped(text: str) -> str:
    """Undo what avahi-browse -p does: \\ddd for bytes that are no plain ASCII."""
    parts = text.encode("utf-8").split(b"\\")
    found = parts[0]
    for part in parts[1:]:
        found += bytes((int(part[:3]),)) + part[3:] if part[:3].isdigit() else part
    return found.decode("utf-8")


def test_avahi_sees_what_we_announce_and_that_it_is_gone(machines: list[lab.Machine]) -> None:
    ours, avahi, _ = machines
    browse = ("avahi-browse", "-rp", "_echokernel._udp")
    with avahi.running(*browse) as browser, advertise(ours, "Küche é", 4444, room="Bad Ünü", fp="sha256:x") as server:
        instance, address = said(server)
        assert address == f"quic://{ours.address}:4444"
        found = browser.line_with(lambda line: line.startswith("=")).split(";", 9)
        assert unescaped(found[3]) == instance
        assert instance.startswith("Küche é-")
        assert found[4:6] == ["_echokernel._udp", "local"]
        assert found[7:9] == [ours.address, "4444"]
        text = found[9]
        assert '"svc=K' in text
        assert '"txtvers=1"' in text
        assert "fp=sha256:x" in text
        assert "boot=" in text
    with avahi.running(*browse) as browser, advertise(ours, "second", 4445) as server:
        instance, _ = said(server)
        browser.line_with(lambda line: line.startswith("=") and instance in line)
        began = time.monotonic()
        server.end(signal.SIGINT)
        browser.line_with(lambda line: line.startswith("-") and instance in line)
        assert time.monotonic() - began < 4.0, "avahi waits for a second after a goodbye"


def test_we_see_what_avahi_announces_and_that_it_is_gone(machines: list[lab.Machine]) -> None:
    ours, avahi, _ = machines
    publish = ("avahi-publish", "-s", "Avahi Node é", "_echokernel._udp", "7000", "svc=kitchen", "room=Bad Ünü", "flag")
    with ours.running(*lab.COMMAND, "discover", "--json") as events:
        time.sleep(1.0)
        with avahi.running(*publish):
            began = time.monotonic()
            event = next_event(events, "kitchen")
            assert time.monotonic() - began < 3.0
        assert (event["event"], event["instance"]) == ("appeared", "Avahi Node é")
        assert event["addresses"] == [f"quic://{avahi.address}:7000"]
        assert event["properties"] == {"room": "Bad Ünü", "flag": ""}
        began = time.monotonic()
        gone = next_event(events, "kitchen")
        assert (gone["event"], gone["instance"]) == ("gone", "Avahi Node é")
        assert time.monotonic() - began < 2.0
    with avahi.running(*publish):
        time.sleep(2.0)
        found = json.loads(ours.run(*lab.COMMAND, "discover", "--once", "--timeout", "1", "--json", "kitchen"))
        assert [each["port"] for each in found] == [7000], "by its svc, in an existing announcement"


def test_beside_avahi_on_one_machine_answers_still_come_at_once(machines: list[lab.Machine]) -> None:
    ours, avahi, _ = machines
    with advertise(ours, "camera", 4433) as server:
        said(server)
        time.sleep(1.5)
        code = (
            "import asyncio, time\nfrom echokernel_mdns import Discovery\nasync def main():\n"
            "    for _ in range(5):\n        began = time.monotonic()\n"
            "        [found] = await Discovery.discover('camera', min_count=1)\n"
            "        print(time.monotonic() - began)\nasyncio.run(main())"
        )
        times = sorted(map(float, avahi.run(sys.executable, "-c", code).split()))
        assert times[2] < 0.3, times


def test_between_machines_of_ours(machines: list[lab.Machine]) -> None:
    """Two servers with one name, a crash, a restart, and a goodbye."""
    first, _, third = machines
    look = first.running(*lab.COMMAND, "discover", "--json", "camera")
    with look as events, advertise(first, "camera", 1, "the one") as one:
        assert said(one)[0] == "the one"
        assert next_event(events)["instance"] == "the one"
        with advertise(third, "camera", 2, "the one") as other:
            assert said(other)[0] == "the one-2"
            appeared = next_event(events)
            assert (appeared["instance"], appeared["addresses"]) == ("the one-2", [f"quic://{third.address}:2"])
            other.end(signal.SIGKILL)
        with advertise(third, "camera", 3, "the one-2") as again:
            assert said(again)[0] == "the one-2"
            kinds = [next_event(events) for _ in range(2)]
            assert [(event["event"], event["port"]) for event in kinds] == [("gone", 2), ("appeared", 3)]
            again.end(signal.SIGINT)
            assert next_event(events)["event"] == "gone"


def test_a_crashed_node_is_shown_as_suspect(machines: list[lab.Machine]) -> None:
    first, _, third = machines
    with first.running(*lab.COMMAND, "discover", "--json", "ghost") as events, advertise(third, "ghost", 9) as server:
        said(server)
        assert next_event(events)["event"] == "appeared"
        server.end(signal.SIGKILL)
        began = time.monotonic()
        changed = next_event(events)
        assert (changed["event"], changed["suspect"]) == ("changed", True)
        assert time.monotonic() - began < 15.0


def test_addresses_follow_the_interfaces(machines: list[lab.Machine]) -> None:
    first, _, third = machines
    with first.running(*lab.COMMAND, "discover", "--json", "mover") as events, advertise(third, "mover", 5) as server:
        said(server)
        assert next_event(events)["addresses"] == [f"quic://{third.address}:5"]
        third.run("ip", "addr", "add", "10.99.0.77/24", "dev", "eth0")
        try:
            changed = next_event(events)
            assert changed["event"] == "changed"
            assert set(changed["addresses"]) == {f"quic://{third.address}:5", "quic://10.99.0.77:5"}
        finally:
            third.run("ip", "addr", "del", "10.99.0.77/24", "dev", "eth0")
        assert next_event(events)["addresses"] == [f"quic://{third.address}:5"]


def test_a_server_on_loopback_is_not_announced_to_others(machines: list[lab.Machine]) -> None:
    first, _, third = machines
    code = ADVERTISE.replace(
        "instance=instance)", "instance=instance).with_addresses(Address('quic', '127.0.0.1', port))"
    )
    code = f"from echokernel import Address\n{code}"
    with third.running(sys.executable, "-c", code, json.dumps(["private", "", 6, {}])) as server:
        assert said(server)[1:] == ["quic://127.0.0.1:6"]
        look = (*lab.COMMAND, "discover", "--once", "--timeout", "1.5", "--json", "private")
        assert len(json.loads(third.run(*look))) == 1
        elsewhere = subprocess.run(first.command(*look), capture_output=True, text=True, check=False)
        assert (elsewhere.returncode, json.loads(elsewhere.stdout)) == (1, [])


def test_a_machine_in_two_networks_is_announced_in_both_with_all_its_addresses(machines: list[lab.Machine]) -> None:
    first, beside, third = machines
    lab.run(
        "ip",
        "-n",
        first.namespace,
        "link",
        "add",
        "eth1",
        "type",
        "veth",
        "peer",
        "name",
        "eth1",
        "netns",
        third.namespace,
    )
    for number, machine in ((1, first), (3, third)):
        machine.run("ip", "addr", "add", f"10.77.0.{number}/24", "dev", "eth1")
        machine.run("ip", "link", "set", "eth1", "up")
    time.sleep(1.0)  # until it runs
    try:
        with advertise(third, "two homes", 5) as server:
            assert set(said(server)[1:]) == {f"quic://{third.address}:5", "quic://10.77.0.3:5"}
            look = (*lab.COMMAND, "discover", "--once", "--timeout", "1.5", "--json")
            [found] = json.loads(beside.run(*look, "two homes"))
            assert found["addresses"] == [f"quic://{third.address}:5", "quic://10.77.0.3:5"], "its own network first"
            [found] = json.loads(first.run(*look, "--interface", "eth1", "two homes"))
            assert found["addresses"] == ["quic://10.77.0.3:5", f"quic://{third.address}:5"]
    finally:
        first.run("ip", "link", "del", "eth1")


def test_a_firewall_is_told_from_silence(tmp_path: Path) -> None:
    lab.require(avahi=False)
    if not shutil.which("nft"):
        pytest.skip("nftables is not installed")
    with lab.network(1, tmp_path) as [machine]:
        rules = "add table inet f; add chain inet f out { type filter hook output priority 0; }; "
        machine.run("nft", rules + "add rule inet f out udp dport 5353 drop")
        look = machine.command(*lab.COMMAND, "discover", "--once", "--timeout", "3")
        blocked = subprocess.run(look, capture_output=True, text=True, check=False)
        assert blocked.returncode == 1
        assert "multicast cannot be sent on eth0 ([Errno 1] Operation not permitted); ip route add" in blocked.stderr
        code = "from echokernel_mdns.probe import probe; print(probe())"
        assert "eth0 (10.99.0.1): multicast cannot be sent" in machine.run(sys.executable, "-c", code)


def test_over_ipv6(machines: list[lab.Machine]) -> None:
    first, _, third = machines
    for number, machine in ((1, first), (3, third)):
        machine.run("ip", "addr", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
    code = ADVERTISE.replace("MdnsDiscovery()", "MdnsDiscovery(ipv6=True)")
    with third.running(sys.executable, "-c", code, json.dumps(["six", "", 6, {}])) as server:
        assert set(said(server)[1:]) == {f"quic://{third.address}:6", "quic://[fd77::3]:6"}
        look = (
            *lab.COMMAND,
            "discover",
            "--once",
            "--timeout",
            "1.5",
            "--json",
            "--ipv6",
            "--interface",
            "fd77::1",
            "six",
        )
        [found] = json.loads(first.run(*look))
        assert set(found["addresses"]) == {f"quic://{third.address}:6", "quic://[fd77::3]:6"}


def test_without_a_network_it_says_so(tmp_path: Path) -> None:
    lab.require(avahi=False)
    with lab.network(1, tmp_path) as [machine]:
        look = (*lab.COMMAND, "discover", "--once", "--timeout", "0.2")
        machine.run("ip", "link", "set", "eth0", "down")
        alone = subprocess.run(machine.command(*look), capture_output=True, text=True, check=False)
        assert (alone.returncode, alone.stderr) == (1, "nothing announced itself within 0.2 s\n"), (
            "the machine itself is left"
        )
        machine.run("ip", "link", "set", "lo", "down")
        dead = subprocess.run(machine.command(*look), capture_output=True, text=True, check=False)
        assert dead.returncode == 1
        assert "the loopback interface is not up with 127.0.0.1; ip link set lo up" in dead.stderr
