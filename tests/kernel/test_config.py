"""Configurations: where values come from, and the exact message for every kind of mistake."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_plugins import EVERYTHING, SERIALIZER, FakeSite

from echokernel.config import Config, InvalidConfig, config_example, config_schema, load_config
from echokernel.errors import ConfigError

Load = Callable[..., Config]
GOOD = 'plugins = ["every"]\n[listen.main]\nurl = "fake://127.0.0.1:4433"\n'


@pytest.fixture
def load(bare_site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a configuration text as ``config.toml`` in the current directory, with the plugin ``every`` installed."""
    bare_site.plugin("every", EVERYTHING)
    monkeypatch.chdir(tmp_path)

    def load(
        text: str | bytes,
        overrides: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
    ) -> Config:
        Path("config.toml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config("config.toml", overrides=overrides, environ=environ or {}, without=without)

    return load


def mistakes(load: Load, text: str | bytes, *arguments: Any, **named: Any) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        load(text, *arguments, **named)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return str(caught.value).splitlines()


# --- what is right --------------------------------------------------------------------------------------------------


def test_a_small_configuration(load: Load) -> None:
    config = load(GOOD)
    assert config.loaded.start_line() == "plugins: every 0.1.0"
    assert str(config.listen["main"].address) == "fake://127.0.0.1:4433"
    assert config.listen["main"].settings.certificate == "self-signed"  # type: ignore[attr-defined]
    assert config.node.name == "echokernel"
    assert config.limits.default_timeout == 10.0


def test_a_large_configuration(load: Load) -> None:
    config = load(
        GOOD
        + """
        authenticators = ["staff", "token"]
        allow_anonymous = true
        [node]
        name = "large"
        handlers = ["a", "b:c"]
        serializers = ["plainer", "plain"]
        middleware = ["slow", "trace"]
        default_timeout = 2.5
        max_sessions = 7
        [connect.up]
        url = "fake://[::1]:1"
        credentials = "secret"
        reconnect = "never"
        fingerprint = "sha256:x"
        [middleware.slow]
        use = "limit"
        rate_hz = 3
        [authenticator.staff]
        use = "token"
        tokens = ["a", "b"]
        [service.ticker]
        [plugin.every]
        on_error = "skip"
        [log]
        level = "debug"
        format = "json"
        levels = { every = "error", session = "debug" }
        """
    )
    assert [(part.name, part.use) for part in config.middleware] == [("slow", "limit"), ("trace", "trace")]
    assert config.middleware[0].settings.rate_hz == 3.0  # type: ignore[union-attr]
    assert list(config.authenticators) == ["staff", "token"]
    assert config.services["ticker"].use == "ticker"
    assert (config.limits.default_timeout, config.limits.max_sessions) == (2.5, 7)
    assert config.connect["up"].reconnect == "never"
    assert config.connect["up"].settings.fingerprint == "sha256:x"  # type: ignore[attr-defined]
    assert config.log.levels == {"every": "error", "session": "debug"}


def test_a_byte_order_mark_and_windows_lines(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()).listen


# --- overrides and references ---------------------------------------------------------------------------------------


def test_set_wins_over_the_environment_which_wins_over_the_file(load: Load) -> None:
    text = GOOD + 'port = 1\nhost = "file"\ncertificate = "file"\n'
    environ = {"ECHOKERNEL__LISTEN__MAIN__HOST": "env", "ECHOKERNEL__LISTEN__MAIN__CERTIFICATE": "env"}
    config = load(text, ["listen.main.certificate=set"], environ)
    settings: Any = config.listen["main"].settings
    assert (settings.port, settings.host, settings.certificate) == (1, "env", "set")
    origins = {".".join(entry.path): entry.origin for entry in config.effective()}
    assert origins["listen.main.port"] == "config.toml:4"
    assert origins["listen.main.host"] == "ECHOKERNEL__LISTEN__MAIN__HOST"
    assert origins["listen.main.certificate"] == "--set listen.main.certificate"
    assert origins["listen.main.inner"] == "default"


def test_override_values_are_toml_or_text(load: Load) -> None:
    overrides = ["node.name=2024", 'node.serializers=["plain"]', "node.max_sessions = 5", "log.levels={every='debug'}"]
    config = load(GOOD, overrides)
    assert config.node.name == "2024"  # a number in TOML, and a name all the same
    assert config.node.serializers == ["plain"]
    assert config.limits.max_sessions == 5
    assert config.log.levels == {"every": "debug"}
    assert load(GOOD, ["node.name=a = 1\nb = 2"]).node.name == "a = 1\nb = 2"


def test_the_environment_finds_keys_with_dashes_and_capitals(load: Load) -> None:
    text = GOOD.replace("main", "My-Listener")
    config = load(text, environ={"ECHOKERNEL__LISTEN__MY_LISTENER__PORT": "5", "ECHOKERNEL__NODE__NAME": "n"})
    assert config.listen["My-Listener"].settings.port == 5  # type: ignore[attr-defined]


def test_references_are_values_anywhere(load: Load, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    text = GOOD + (
        'authenticators = ["token"]\ntoken = { file = "token" }\nport = { env = "PORT" }\n'
        '[authenticator.token]\ntokens = ["plain", { env = "T" }, { file = "token" }]\n'
    )
    config = load(text, environ={"PORT": "77", "T": "$PORT { env }"})
    settings: Any = config.listen["main"].settings
    assert (settings.port, settings.token.get_secret_value()) == (77, "from-file")
    tokens: Any = config.authenticators["token"].settings
    assert [token.get_secret_value() for token in tokens.tokens] == ["plain", "$PORT { env }", "from-file"]


def test_a_table_that_only_looks_like_a_reference(load: Load) -> None:
    assert mistakes(load, GOOD + '[log]\nfile = "x"\n') == [
        "config.toml:5:1: error[unknown-key]: log.file is not a setting of [log]; its settings: format, level, levels"
    ]


def test_secrets_are_never_shown(load: Load, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary-1")
    text = GOOD + (
        'token = "canary-2"\nhost = { env = "HOST" }\nauthenticators = ["token"]\n'
        '[connect.up]\nurl = "fake://h:1"\ncredentials = { file = "token" }\n'
        '[authenticator.token]\ntokens = ["canary-3"]\n'
    )
    config = load(text, environ={"HOST": "canary-4"})
    entries = {".".join(entry.path): (entry.value, entry.origin) for entry in config.effective()}
    assert entries["listen.main.token"] == ("***", "config.toml:4")
    assert entries["listen.main.host"] == ("***", "config.toml:5, env HOST")
    assert entries["connect.up.credentials"] == ("***", "config.toml:9, file token")
    assert entries["authenticator.token.tokens"] == (["***"], "config.toml:11")
    assert "canary" not in repr(config) + str(entries)
    assert "canary" not in "".join(
        mistakes(load, text + 'use = 3\n[x]\ny = "canary-5"', environ={"HOST": "bad-canary-6"})
    )


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_all_mistakes_at_once_in_the_order_of_the_file(load: Load) -> None:
    text = """\
plugins = ["every", "msgpakc"]
nodes = 1

[node]
nmae = "x"
max_requests = "many"
middleware = ["trace", "limit", "limt"]
serializers = ["plain", "plian", "plain"]

[listen.main]
url = "fake://127.0.0.1:4433"
hots = "x"
token = { env = "EK_TOKEN" }
host = { env = "HOST" }
authenticators = ["tokn"]
inner = { depht = 3 }

[log]
level = "inf"
levels = { evry = "debug" }
"""
    overrides = ["node.drain_timeout=-1", "log.formt=x"]
    environ = {"HOST": "bad", "ECHOKERNEL__LISTEN__MAIN__PORT": "70.5"}
    assert mistakes(load, text, overrides, environ) == [
        "config.toml:1:21: error[plugin]: no installed plugin is called 'msgpakc'; did you mean 'msgpack'? "
        "(installed: every)",
        "config.toml:2:1: error[unknown-key]: there is no section 'nodes'; did you mean 'node'?",
        "config.toml:5:1: error[unknown-key]: node.nmae is not a setting of [node]; did you mean 'name'?",
        "config.toml:6:1: error[type]: node.max_requests: Input should be a valid integer, unable to parse string as "
        "an integer",
        "config.toml:7:24: error[reference]: middleware 'limit' needs settings; write [middleware.limit]",
        "config.toml:7:33: error[reference]: node.middleware[2]: no plugin in use registers the middleware 'limt'; "
        "did you mean 'limit'?",
        "config.toml:8:25: error[reference]: node.serializers[1]: no plugin in use registers the serializer 'plian'; "
        "did you mean 'plain'?",
        "config.toml:8:34: error[value]: node.serializers: 'plain' is listed twice",
        "config.toml:12:1: error[unknown-key]: listen.main.hots is not a setting of transport 'fake'; "
        "did you mean 'host'?",
        "config.toml:13:1: error[env]: environment variable EK_TOKEN is not set (used in listen.main.token)",
        "config.toml:14:1: error[value]: listen.main.host: the host *** is no good",
        "config.toml:15:19: error[reference]: listen.main.authenticators[0]: no plugin in use registers the "
        "authenticator 'tokn'; did you mean 'token'?",
        "config.toml:16:11: error[unknown-key]: listen.main.inner.depht is not a setting of transport 'fake'; "
        "did you mean 'depth'?",
        "config.toml:19:1: error[value]: log.level: Input should be 'debug', 'info', 'warning' or 'error'; "
        "did you mean 'info'?",
        "config.toml:20:12: error[reference]: log.levels: 'evry' is neither a plugin in use nor a module of the "
        "kernel; did you mean 'every'?",
        "--set log.formt: error[unknown-key]: log.formt is not a setting of [log]; did you mean 'format'?",
        "--set node.drain_timeout: error[value]: node.drain_timeout is -1.0; wanted 0 or more seconds",
        "ECHOKERNEL__LISTEN__MAIN__PORT: error[type]: listen.main.port: Input should be a valid integer, got a number "
        "with a fractional part",
    ]


MISTAKES = {
    "no name below listen": (
        'plugins = ["every"]\n[listen]\nurl = "fake://127.0.0.1:1"\n',
        "config.toml:3:1: error[type]: listen.url: settings stand below a name, as in [listen.main]",
    ),
    "a section that is a value": (
        'plugins = ["every"]\nlisten = 3\n',
        "config.toml:2:1: error[type]: listen: wanted a table, [listen]",
    ),
    "plugins that is no list": (
        'plugins = "every"\n',
        'config.toml:1:1: error[type]: plugins: wanted a list of names, as in ["quic", "msgpack"]',
    ),
    "a plugin listed twice": (
        'plugins = ["every", "every"]\n',
        "config.toml:1:21: error[plugin]: plugin 'every': it is listed twice; remove one of the two",
    ),
    "no url": (
        'plugins = ["every"]\n[listen.main]\nport = 1\n',
        "config.toml:2:9: error[missing]: listen.main.url is missing",
    ),
    "a wrong url": (
        GOOD.replace(":4433", ""),
        "config.toml:3:1: error[value]: listen.main.url: address 'fake://127.0.0.1': wanted fake://HOST:PORT, as in "
        "quic://127.0.0.1:4433",
    ),
    "a misspelt scheme": (
        GOOD.replace("fake:", "fak:"),
        "config.toml:3:1: error[reference]: listen.main.url: no plugin in use registers the transport 'fak'; "
        "did you mean 'fake'?",
    ),
    "an official transport whose plugin is not named": (
        GOOD.replace("fake:", "quic:"),
        "config.toml:3:1: error[reference]: listen.main.url: no plugin in use registers the transport 'quic'; "
        'add "quic" to plugins',
    ),
    "one address twice": (
        GOOD + '[listen.other]\nurl = "fake://127.0.0.1:4433"\n',
        "config.toml:5:1: error[value]: fake://127.0.0.1:4433 is the address of [listen.main] already",
    ),
    "connecting to port 0": (
        GOOD + '[connect.up]\nurl = "fake://127.0.0.1:0"\n',
        "config.toml:5:1: error[value]: connect.up.url: nobody can be reached at port 0",
    ),
    "an unknown reconnect policy": (
        GOOD + '[connect.up]\nurl = "fake://127.0.0.1:1"\nreconnect = "nevr"\n',
        "config.toml:6:1: error[reference]: connect.up.reconnect: no plugin in use registers the reconnect policy "
        "'nevr'; did you mean 'never'?",
    ),
    "middleware that is defined and not used": (
        GOOD + '[middleware.slow]\nuse = "limit"\nrate_hz = 1.0\n',
        "config.toml:4:13: error[reference]: [middleware.slow] is not used; name it in node.middleware",
    ),
    "an authenticator that is defined and not used": (
        GOOD + "[authenticator.token]\n",
        "config.toml:4:16: error[reference]: [authenticator.token] is not used; name it in authenticators of a "
        "[listen.NAME]",
    ),
    "a service of nobody": (
        GOOD + '[service.clock]\nuse = "tickr"\n',
        "config.toml:5:1: error[reference]: service.clock.use: no plugin in use registers the service 'tickr'; "
        "did you mean 'ticker'?",
    ),
    "settings for what has none": (
        GOOD + "[service.ticker]\nspeed = 1\n",
        "config.toml:5:1: error[unknown-key]: service.ticker.speed is not a setting of service 'ticker'; "
        "its settings: use",
    ),
    "settings of a plugin that is not in use": (
        GOOD + '[plugin.evry]\non_error = "skip"\n',
        "config.toml:4:9: error[reference]: [plugin.evry]: 'evry' is not in plugins; did you mean 'every'?",
    ),
    "on_error": (
        GOOD + '[plugin.every]\non_error = "skipp"\n',
        "config.toml:5:1: error[value]: plugin.every.on_error: Input should be 'error' or 'skip'; did you mean 'skip'?",
    ),
    "limits that do not fit together": (
        GOOD + "[node]\nmax_message = 100_000\nmax_frame = 200_000\n",
        "config.toml:5:1: error[value]: node.max_message is 100,000 bytes, less than max_frame (200,000)",
    ),
    "a limit that is no number": (
        GOOD + "[node]\ndefault_timeout = nan\n",
        "config.toml:5:1: error[value]: node.default_timeout: Input should be a finite number",
    ),
    "a file reference that leads nowhere": (
        GOOD + 'token = { file = "nowhere" }\n',
        "config.toml:4:1: error[file]: file nowhere cannot be read: No such file or directory "
        "(used in listen.main.token)",
    ),
    "a TOML error": (
        'plugins = ["every"]\nurl = fake\n',
        "config.toml:2:7: error[toml]: Invalid value",
    ),
    "a TOML error at the end": (
        'plugins = ["every"',
        "config.toml:1:19: error[toml]: Unclosed array",
    ),
    "not UTF-8": (
        b'plugins = ["every"]\n# \xe4\n',
        "config.toml:2:3: error[encoding]: byte 0xe4 is not UTF-8; save the file as UTF-8",
    ),
    "nesting": (
        "a = " + "[" * 5000 + "]" * 5000,
        "config.toml:1:1: error[toml]: it is nested too deeply",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake(load: Load, name: str) -> None:
    text, message = MISTAKES[name]
    assert mistakes(load, text) == [message]


def test_no_serializer(load: Load, bare_site: FakeSite) -> None:
    bare_site.plugin("mute", EVERYTHING.replace("registry.serializer(", "print("))
    assert mistakes(load, GOOD.replace("every", "mute")) == [
        'config.toml:1:1: error[reference]: no plugin in use registers a serializer; add "msgpack" to plugins'
    ]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.toml", "there is no such file; make one with: echokernel config example > config.toml"),
        (".", "this is a directory; name the TOML file in it"),
    ],
)
def test_no_file(load: Load, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    assert str(caught.value) == f"{path}:1:1: error[file]: {message}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("node.name", "--set node.name: error[set]: wanted KEY=VALUE, as in node.name=quickstart; there is no '=' in "),
        ("node name=1", "--set node name: error[set]: 'node name' is not a key, as in node.name"),
        ("listen.main.url.x=1", "--set listen.main.url.x: error[set]: listen.main.url is a value, not a table"),
        (
            "node.nmae=x",
            "--set node.nmae: error[unknown-key]: node.nmae is not a setting of [node]; did you mean 'name'?",
        ),
        ("node.name={env='NO'}", "--set node.name: error[env]: environment variable NO is not set (used in node.name)"),
    ],
)
def test_wrong_overrides(load: Load, override: str, message: str) -> None:
    [line] = mistakes(load, GOOD, [override])
    assert line.startswith(message)


# --- plugins --------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_installed_by_one_command(load: Load) -> None:
    lines = mistakes(load, GOOD.replace('"every"', '"every", "quic", "msgpack"'))
    assert lines == [
        "config.toml:1:21: error[plugin]: no installed plugin is called 'quic'; "
        "install it: pip install 'echokernel[quic,msgpack]'",
        "config.toml:1:29: error[plugin]: no installed plugin is called 'msgpack'; "
        "install it: pip install 'echokernel[quic,msgpack]'",
    ]


def test_a_broken_plugin_is_one_mistake_and_not_ten(load: Load, bare_site: FakeSite) -> None:
    bare_site.plugin("broken", "import no_such_module")
    text = GOOD.replace('["every"]', '["every", "broken"]') + '[service.x]\nuse = "broken"\n'
    assert mistakes(load, text) == [
        "config.toml:1:21: error[plugin]: plugin 'broken' (echokernel-broken 0.1.0): it cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'; upgrade or remove it: pip install --upgrade "
        "echokernel-broken, pip uninstall echokernel-broken"
    ]


def test_after_a_skip_what_it_would_have_provided_is_missing(load: Load, bare_site: FakeSite) -> None:
    bare_site.plugin("broken", "import no_such_module")
    text = GOOD.replace('["every"]', '["every", "broken"]') + '[plugin.broken]\non_error = "skip"\n'
    assert load(text).loaded.start_line() == "plugins: every 0.1.0; skipped: broken (cannot be imported)"
    assert mistakes(load, text + '[service.x]\nuse = "broken"\n') == [
        "config.toml:7:1: error[reference]: service.x.use: no plugin in use registers the service 'broken'; plugin "
        "'broken' was skipped: it cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"
    ]


def test_a_plugin_that_is_switched_off(load: Load, bare_site: FakeSite) -> None:
    bare_site.plugin("json", SERIALIZER.format(name="json"))
    text = GOOD.replace('["every"]', '["every", "json"]')
    assert load(text, without=["json"]).loaded.start_line() == "plugins: every 0.1.0; skipped: json (switched off)"
    assert load(text, environ={"ECHOKERNEL_WITHOUT": "json"}).loaded.skipped
    assert mistakes(load, text + '[node]\nserializers = ["json"]\n', without=["json", "jsn"]) == [
        "config.toml:5:16: error[reference]: node.serializers[0]: no plugin in use registers the serializer 'json'; "
        "plugin 'json' was skipped: it is switched off by --without",
        "--without jsn: error[reference]: 'jsn' is not in plugins; did you mean 'json'?",
    ]


# --- schema and example ---------------------------------------------------------------------------------------------


def test_the_example_is_valid_also_with_every_default_written_out(load: Load) -> None:
    load(GOOD)  # makes the plugin importable
    text = config_example(["every"])
    config = load(text)
    assert config.loaded.start_line() == "plugins: every 0.1.0"
    head = text.partition("# [connect.")[0]
    settings = [line for line in head.splitlines() if not line.startswith("# ") or (" = " in line and "…" not in line)]
    written = "\n".join(line.removeprefix("# ") for line in settings if "Any value" not in line)
    assert tomllib.loads(written)["node"]["max_frame"] == 65_536
    assert load(written).limits == config.limits


def test_the_schema_knows_what_the_plugins_brought(load: Load) -> None:
    schema = config_schema(load(GOOD).registry)
    defs = schema["$defs"]
    assert set(schema["properties"]) >= {"plugins", "node", "listen", "connect", "middleware", "service", "log"}
    assert schema["additionalProperties"] is False
    listen = defs["ListenFake"]
    assert {"url", "allow_anonymous", "certificate", "token"} <= set(listen["properties"])
    assert listen["required"] == ["url"]
    assert listen["additionalProperties"] is False
    assert listen["properties"]["certificate"]["anyOf"][1] == {"$ref": "#/$defs/Reference"}
    assert defs["Node"]["properties"]["max_sessions"]["default"] == 10_000
    assert "description" in defs["Node"]["properties"]["max_sessions"]
    assert defs["MiddlewareLimit"]["required"] == ["rate_hz"]
    assert defs["ServiceTicker"]["properties"]["use"]["anyOf"][0]["const"] == "ticker"
    references = set(str(json.dumps(schema)).split('"$ref": "#/$defs/')[1:])
    assert {reference.partition('"')[0] for reference in references} <= set(defs)
