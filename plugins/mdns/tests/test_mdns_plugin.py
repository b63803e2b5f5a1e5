"""The plugin as the kernel and the command line see it, and that it works without a node."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType

import anyio
import pytest
from pydantic import ValidationError

from echokernel import Address, InvalidArgument, Listener, ServerContext, ServiceInfo
from echokernel.registry import Registry
from echokernel_mdns import MdnsDiscovery, plugin, probe, showing
from echokernel_mdns.check import MdnsCheck
from echokernel_mdns.command import DiscoverCommand
from echokernel_mdns.service import NodeAdvertiser, stable_id
from echokernel_mdns.settings import AdvertiserSettings, MdnsSettings

ALONE = """
import asyncio, sys
from echokernel import Address
from echokernel_mdns import MdnsDiscovery, ServiceInfo

async def main():
    discovery = MdnsDiscovery(interfaces=["127.0.0.1"])
    service = ServiceInfo("alone").with_addresses(Address("quic", "127.0.0.1", 4433))
    async with discovery.advertise(service, fast=True) as advertiser:
        [found] = await discovery.discover("alone", min_count=1)
        assert found == advertiser.service

asyncio.run(main())
wrong = [name for name in sys.modules if name.startswith(("echokernel.engine", "aioquic", "echokernel_quic", "pydantic"))]
wrong += {"echokernel.session", "echokernel.server", "echokernel.client"} & sys.modules.keys()
print(wrong)
"""


def test_it_works_without_a_node() -> None:
    result = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False, timeout=30)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_the_hooks_register_backend_service_command_and_check() -> None:
    registry = Registry()
    registry.enter("mdns")
    for name in ("discovery", "services", "commands", "checks"):
        getattr(plugin, f"echokernel_{name}")(registry)
    discovery, service = registry.discoveries["mdns"].value, registry.services["mdns"].value
    assert discovery.settings is MdnsSettings
    assert repr(discovery.create(MdnsSettings(interfaces=["eth0"], ipv6=True))) == "<MdnsDiscovery on eth0, IPv6 too>"
    assert service.settings is AdvertiserSettings
    assert isinstance(service.create(AdvertiserSettings(properties={"room": "12"})), NodeAdvertiser)
    assert isinstance(registry.commands["discover"].value, DiscoverCommand)
    assert isinstance(registry.checks["mdns"].value, MdnsCheck)


def test_the_entry_point_is_the_plugin_module() -> None:
    found = [entry for entry in entry_points(group="echokernel.plugins.v1") if entry.name == "mdns"]
    if not found:
        pytest.skip("echokernel-mdns is on the path without being installed")
    assert [entry.load() for entry in found] == [plugin]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    rows = [line.split("|")[1].strip(" `") for line in readme.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row in AdvertiserSettings.model_fields] == list(AdvertiserSettings.model_fields)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"interfaces": []}, {"ipv6": "perhaps"}, {"interface": ["eth0"]}):
        with pytest.raises(ValidationError):
            MdnsSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="a dot would split the name"):
        plugin._service(AdvertiserSettings(instance="a.b"))
    with pytest.raises(InvalidArgument, match="property 'a=b'"):
        plugin._service(AdvertiserSettings(properties={"a=b": "1"}))


class Open(Listener):
    """A listener as far as an advertiser looks at one."""

    def __init__(self, port: int, scheme: str = "quic") -> None:
        self._address = Address(scheme, "127.0.0.1", port)

    @property
    def address(self) -> Address:
        return self._address

    @property
    def fingerprint(self) -> str:
        return "sha256:" + "A" * 43

    async def accept(self):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def context(listeners: Sequence[Listener]) -> ServerContext:
    made = ServerContext()
    made.name, made.boot, made.listeners = "quickstart", "b" * 16, listeners
    return made


@pytest.mark.anyio
async def test_a_node_announces_each_of_its_listeners(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    node = NodeAdvertiser(here, instance="the node", properties={"room": "12"})
    with anyio.fail_after(1.0):  # names are asked about meanwhile
        await node.start(context([Open(1), Open(2), Open(3, "memory")]))
    found = await there.discover("quickstart", timeout=5, min_count=2)
    assert {each.instance: each.port for each in found} == {"the node": 1, "the node-2": 2}
    facts = dict(found[0].properties)
    assert facts.pop("v")
    assert facts.pop("id") == stable_id("quickstart", Open(1).fingerprint) != stable_id("another", Open(1).fingerprint)
    assert facts == {"boot": "b" * 16, "alpn": "echostream/1", "fp": "sha256:" + "A" * 43, "room": "12"}
    await node.stop()
    assert await there.discover("quickstart", timeout=0.5) == []
    with pytest.raises(InvalidArgument, match="no QUIC listener to announce"):
        await node.start(context([Open(3, "memory")]))
    with pytest.raises(InvalidArgument, match="property 'fp' is the node's own"):
        NodeAdvertiser(here, properties={"fp": "x"})


@pytest.mark.anyio
async def test_a_node_that_stops_while_its_name_is_asked_about(here: MdnsDiscovery, there: MdnsDiscovery) -> None:
    node = NodeAdvertiser(here)
    await node.start(context([Open(1)]))
    await node.stop()
    assert await there.discover("quickstart", timeout=1.5) == []


def test_the_command_refuses_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--timeout", "3"], "--timeout goes with --once"),
        (["--once", "--timeout", "-1"], "-1.0 is no time to wait"),
        (["--once", "--interface", "nothing7"], "interfaces nothing7: there is no such interface that is up"),
    ):
        parser = argparse.ArgumentParser()
        DiscoverCommand().configure(parser)
        assert DiscoverCommand().run(parser.parse_args(words)) in (1, 2)
        assert message in capsys.readouterr().err


@pytest.mark.anyio
async def test_once_prints_a_table_or_an_array(
    here: MdnsDiscovery, there: MdnsDiscovery, capsys: pytest.CaptureFixture[str]
) -> None:
    service = ServiceInfo("cam", instance="cam 1").with_addresses(Address("quic", "127.0.0.1", 4433))
    service = service.with_property("fp", "sha256:" + "A" * 43).with_property("v", "0.1.0")
    async with there.advertise(service):
        assert await showing.show_once(here, "cam", 0.5, as_json=False) == 1
        header, row = capsys.readouterr().out.splitlines()
        assert header.split() == ["NAME", "INSTANCE", "ADDRESS", "FINGERPRINT", "VERSION", "SEEN", "FOR"]
        assert row.split() == ["cam", "cam", "1", "quic://127.0.0.1:4433", "sha256:AAAAAAAAAAAA…", "0.1.0", "0", "s"]
        assert await showing.show_once(here, None, 0.5, as_json=True) >= 1
        [plain] = [each for each in json.loads(capsys.readouterr().out) if each["name"] == "cam"]
        assert (plain["instance"], plain["addresses"], plain["suspect"]) == ("cam 1", ["quic://127.0.0.1:4433"], False)
    assert await showing.show_once(here, "cam", 0.2, as_json=False) == 0
    assert capsys.readouterr() == ("", "nothing called 'cam' announced itself within 0.2 s\n")


def test_what_is_shown_is_harmless() -> None:
    evil = ServiceInfo("a\x1b[2J\u202e", port=1, instance="i" * 60, properties=(("fp", "\x9b31m"),), suspect=True)
    [cells] = showing.rows([(evil, 0.0)])
    assert cells[0] == "a\ufffd[2J\ufffd"
    assert len(cells[1]) == 40
    assert cells[3] == "\ufffd31m"
    assert cells[6] == "suspect: it does not answer"
    assert [showing.age(seconds) for seconds in (8.9, 61, 7_300, 800_000)] == ["8 s", "1 min", "2 h", "9 d"]


@pytest.mark.anyio
async def test_the_check_says_what_is_in_the_way() -> None:
    found = await MdnsCheck().run()
    assert found is None or "interface" in found or "5353" in found
    assert isinstance(probe.holders(), list)
