"""``[node.broadcast]``: policies by event, with their mistakes located."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_plugins import EVERYTHING, FakeSite

from echokernel.assembly import build_server
from echokernel.config import Config, InvalidConfig, config_schema, load_config

LISTEN = 'plugins = ["every"]\n[listen.main]\nurl = "fake://127.0.0.1:4433"\n'


@pytest.fixture
def here(bare_site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_site.plugin("every", EVERYTHING)
    monkeypatch.chdir(tmp_path)


def load(text: str, *overrides: str) -> Config:
    Path("config.toml").write_text(LISTEN + text, "utf-8")
    return load_config("config.toml", overrides=overrides, environ={})


@pytest.mark.usefixtures("here")
def test_policies_reach_the_server() -> None:
    config = load(
        '[node.broadcast]\nticks = "latest"\n"chat.line" = "drop_oldest"\n', "node.broadcast.alarm=disconnect"
    )
    context = build_server(config).context()
    chosen = [context._broadcasts.policy(event) for event in ("ticks", "chat.line", "alarm", "other")]
    assert chosen == ["latest", "drop_oldest", "disconnect", "wait"]
    shown = {entry.path: entry.value for entry in config.effective()}
    assert shown["node", "broadcast"] == {"ticks": "latest", "chat.line": "drop_oldest", "alarm": "disconnect"}


@pytest.mark.usefixtures("here")
def test_mistakes_are_located() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load('[node.broadcast]\nticks = "lastest"\n"a b" = "wait"\n"$ack" = "wait"\nold = 5\n')
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "config.toml:5:1",
        "config.toml:6:1",
        "config.toml:7:1",
        "config.toml:8:1",
    ]
    assert lines[0].startswith("config.toml:5:1: error[value]: node.broadcast.ticks: Input should be 'wait'")
    assert lines[0].endswith("did you mean 'latest'?")
    assert "node.broadcast: method name 'a b'" in lines[1]
    assert "names that begin with $ are the kernel's" in lines[2]
    assert "error[value]: node.broadcast.old: Input should be 'wait'" in lines[3]


@pytest.mark.usefixtures("here")
def test_the_schema_knows_the_policies() -> None:
    schema = config_schema(load("").registry)
    text = str(schema["$defs"]["Node"]["properties"]["broadcast"])
    assert all(policy in text for policy in ("wait", "drop_oldest", "latest", "disconnect"))
