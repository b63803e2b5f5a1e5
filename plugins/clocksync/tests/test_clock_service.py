"""The clock of a server from a configuration: it dials its reference itself, and again."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from echokernel import Clock, ClockUnavailable, EchoClient, EchoServer
from echokernel.registry import Registry
from echokernel.testing import JsonSerializer, MemoryTransport
from echokernel_clocksync import ClockSync, plugin
from echokernel_clocksync.command import ClockCommand
from echokernel_clocksync.service import ClockService, create
from echokernel_clocksync.settings import ClockSettings


def now_ns() -> int:
    return round(anyio.current_time() * 1e9)


def server(transport: MemoryTransport, port: int, clock: ClockSync | None) -> EchoServer:
    builder = EchoServer.builder().transport(transport).serializer(JsonSerializer()).bind(f"memory://node:{port}")
    if isinstance(clock, ClockService):
        builder.service(clock)
    elif clock is not None:
        builder.plugin(clock)
    return builder.build()


def service(transport: MemoryTransport) -> ClockService:
    clock = ClockService(
        lambda builder: builder.transport(transport).serializer(JsonSerializer()).connect("memory://node:1")
    )
    clock.with_clock(now_ns)
    return clock


def reference() -> ClockSync:
    return ClockSync().with_clock(lambda: now_ns() + 7 * 10**9, wall_ns=lambda: 1_800_000_000 * 10**9)


@pytest.mark.anyio
async def test_it_follows_its_reference_and_finds_it_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "echokernel.clocksync")
    network = MemoryTransport()
    clock, theirs = service(network), reference()
    async with server(network, 2, clock) as node:
        assert node.context().clock is clock
        with pytest.raises(ClockUnavailable, match="not within 3 s: the clock follows nobody"):
            await clock.wait_synced(3)
        async with server(network, 1, theirs):
            await clock.wait_synced(60)
            assert abs(clock.now_us() - theirs.now_us()) < 500
            downstream = ClockSync().with_clock(lambda: now_ns() + 10**12)
            builder = EchoClient.builder().transport(network).serializer(JsonSerializer()).plugin(downstream)
            async with builder.connect("memory://node:2"):
                await downstream.wait_synced()
                assert abs(downstream.now_us() - theirs.now_us()) < 500
                assert downstream.stats()["epoch"] == theirs.stats()["epoch"]
        await anyio.sleep(10)
        assert (clock.status, clock.is_synced) == ("holdover", True)
        async with server(network, 1, theirs):
            await anyio.sleep(60)
            assert clock.status == "synced"
            assert clock.stats()["restarts"] == 0
    assert clock.status == "holdover"
    log = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("the reference cannot be reached: nobody answers") for line in log)
    assert any(line.startswith("synchronised, within") for line in log)
    assert any("the clock holds over, and tries again" in line for line in log)
    assert len(log) < 12, "not a line for each try"


@pytest.mark.anyio
async def test_waiting_survives_a_connection_that_is_lost_on_the_way() -> None:
    network = MemoryTransport()
    clock, theirs = service(network).with_burst(64, 0.1), reference()
    async with server(network, 2, clock), anyio.create_task_group() as tasks:
        tasks.start_soon(clock.wait_synced, 60)
        async with server(network, 1, theirs):
            await anyio.sleep(2)
            assert clock.status == "syncing"
        async with server(network, 1, theirs):
            await clock.wait_synced(60)
            assert clock.is_synced


@pytest.mark.anyio
async def test_without_a_reference_it_is_one() -> None:
    clock = create(ClockSettings())
    async with server(MemoryTransport(), 1, clock):
        assert (clock.status, clock.bound_us, clock.age_s, clock.rtt_min_us, clock.error_us) == ("synced", 0, 0, 0, 0)
        await clock.wait_synced(0.0)
        interval = clock.interval()
        assert interval.latest_us - interval.earliest_us <= 1
        assert repr(clock) == "<ClockSync, reference, synced>"


def test_the_hooks_register_a_service_and_a_command() -> None:
    registry = Registry()
    registry.enter("clocksync")
    plugin.echokernel_services(registry)
    plugin.echokernel_commands(registry)
    factory = registry.services["clocksync"].value
    assert factory.settings is ClockSettings
    made: Any = factory.create(ClockSettings(reference="quic://127.0.0.1:5", interval=2.0, credentials="open sesame"))
    assert isinstance(made, Clock)
    assert (made.redials, made._probes.interval) == (True, 2 * 10**9)
    assert isinstance(registry.commands["clock"].value, ClockCommand)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"referense": "x"}, "referense"),
        ({"reference": "quic://"}, "reference"),
        ({"burst": 2}, "burst"),
        ({"interval": 0}, "interval"),
        ({"max_slew_ppm": 0}, "max_slew_ppm"),
        ({"ca": "ca.pem"}, 'ca: for the reference, and there is none; add reference = "quic://host:port"'),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ClockSettings(**wrong)


def test_settings_do_not_show_secrets() -> None:
    assert "sesame" not in repr(ClockSettings(reference="quic://127.0.0.1:5", credentials="open sesame"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda clock: clock.with_burst(2), "with_burst"),
        (lambda clock: clock.with_burst(16, 0), "with_burst"),
        (lambda clock: clock.with_interval(0.001), "with_interval"),
        (lambda clock: clock.with_max_slew_ppm(0), "with_max_slew_ppm"),
        (lambda clock: clock.with_clock(lambda: -5), "the clock shows -5"),
    ],
)
def test_wrong_settings_show_where_they_are_written(make: Any, says: str) -> None:
    from echokernel import InvalidArgument

    with pytest.raises(InvalidArgument, match=says):
        make(ClockSync())


def test_the_table_of_settings_is_that_of_the_code() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    rows = [line.split("|")[1:3] for line in readme.splitlines() if line.startswith("| `")]
    shown = {name.strip(" `"): value.strip() for name, value in rows}
    defaults = {name: field.default for name, field in ClockSettings.model_fields.items()}
    assert shown == {
        name: "none" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)
        for name, value in defaults.items()
    }


def test_importing_the_plugin_does_not_import_pydantic() -> None:
    code = (
        "import sys, echokernel; before = set(sys.modules)\n"
        "import echokernel_clocksync.plugin, echokernel_clocksync; print(sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'pydantic'" not in result.stdout
    assert "'matplotlib'" not in result.stdout
