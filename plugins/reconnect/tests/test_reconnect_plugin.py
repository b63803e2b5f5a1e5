"""The plugin as the kernel sees it: the hook, the entry point, the settings, and the object for builders."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pydantic import ValidationError

from echokernel import ClientPlugin, EchoClient, InvalidArgument, ReconnectPolicy
from echokernel.registry import Registry
from echokernel_reconnect import Backoff, ReconnectPlugin, plugin
from echokernel_reconnect.settings import BackoffSettings


def test_the_hook_registers_one_policy() -> None:
    registry = Registry()
    registry.enter("reconnect")
    plugin.echokernel_reconnect(registry)
    assert list(registry.reconnects) == ["backoff"]
    registered = registry.reconnects["backoff"]
    assert (registered.plugin, registered.value.settings) == ("reconnect", BackoffSettings)
    first, second = (registered.value.create(BackoffSettings(max_tries=1)) for _ in range(2))
    assert first is not second, "one for each client"
    assert isinstance(first, Backoff)
    assert isinstance(first, ReconnectPolicy)


def test_the_defaults_of_settings_and_policy_are_the_same() -> None:
    made, plain = vars(BackoffSettings().to_policy()), vars(Backoff())
    same = {name for name in made if name != "_chance"}
    assert {name: made[name] for name in same} == {name: plain[name] for name in same}


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"cap": 0}, {"max_tries": 0}, {"factor": 0.9}, {"capp": 3}):
        with pytest.raises(ValidationError):
            BackoffSettings(**wrong)  # type: ignore[arg-type]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    rows = [line.split("|")[1:3] for line in readme.splitlines() if line.startswith("| `")]
    shown = {name.strip(" `"): value.strip() for name, value in rows}
    defaults = {
        name: "none" if field.default is None else f"{field.default:g}"
        for name, field in BackoffSettings.model_fields.items()
    }
    assert shown == defaults


def test_the_entry_point_is_the_plugin_module() -> None:
    found = [entry for entry in entry_points(group="echokernel.plugins.v1") if entry.name == "reconnect"]
    if not found:
        pytest.skip("echokernel-reconnect is on the path without being installed")
    assert [entry.load() for entry in found] == [plugin]


def test_the_object_for_builders_is_a_client_plugin() -> None:
    builder = EchoClient.builder()
    reconnecting: ClientPlugin = ReconnectPlugin()
    assert reconnecting.name == "reconnect"
    assert builder.plugin(reconnecting) is builder
    policies = [builder.plugin(reconnecting)._reconnecting.policy for _ in range(2)]
    assert all(isinstance(policy, Backoff) for policy in policies)
    assert policies[0] is not policies[1]
    policy = Backoff(cap=1)
    assert builder.plugin(ReconnectPlugin(policy, retry_first=True))._reconnecting.policy is policy
    assert builder._reconnecting.first


def test_wrong_settings_show_where_they_are_written() -> None:
    with pytest.raises(InvalidArgument, match="max_tries=0"):
        ReconnectPlugin(max_tries=0)
    with pytest.raises(InvalidArgument, match="cap: settings are the policy's"):
        ReconnectPlugin(Backoff(), cap=3)
    with pytest.raises(TypeError, match="tries"):
        ReconnectPlugin(tries=3)


def test_importing_the_plugin_does_not_import_pydantic() -> None:
    code = (
        "import sys, echokernel; before = set(sys.modules)\n"
        "import echokernel_reconnect.plugin; print(sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'pydantic'" not in result.stdout
