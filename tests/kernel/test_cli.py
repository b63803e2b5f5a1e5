"""The command line without a running node: words, exit codes, what is printed where, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_plugins import EVERYTHING, FakeSite
from test_hooks import COMMANDS_AND_CHECKS

from echokernel.cli import COMMANDS, main

GOOD = 'plugins = ["every"]\n[listen.main]\nurl = "fake://127.0.0.1:4433"\n'
Config = Callable[[str], str]


@pytest.fixture
def config(bare_site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Write ``config.toml`` in the current directory, with the plugin ``every`` installed; return its name."""
    bare_site.plugin("every", EVERYTHING.replace("registry.handler(", "print('') if 1 else registry.handler("))
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path("config.toml").write_text(text)
        return "config.toml"

    return write


# --- words and usage ------------------------------------------------------------------------------------------------


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {word} " in text for word in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_has_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--help"]) == 0
    assert f"usage: echokernel {word}" in capsys.readouterr().out


def test_a_misspelt_command(bare_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu", "config.toml"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'rnu'; did you mean 'run'?\n"
    assert main(["frobnicate"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'frobnicate'; see: echokernel --help\n"


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert main(["check", "x.toml", "--frobnicate"]) == 2
    assert "unrecognized arguments: --frobnicate" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith("echokernel ")
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"].startswith("3.")


def test_a_plugin_adds_a_command(bare_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    bare_site.plugin("every", EVERYTHING + COMMANDS_AND_CHECKS)
    bare_site.plugin("bomb", "raise RuntimeError")
    assert main(["greet", "world"]) == 0
    assert capsys.readouterr().out == "hello world\n"
    assert main(["greet", "--help"]) == 0


# --- plugins --------------------------------------------------------------------------------------------------------


def test_plugins_lists_broken_ones_and_imports_none(bare_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    assert "no plugins are installed" in capsys.readouterr().out
    bomb = bare_site.plugin("bomb", "raise RuntimeError")
    assert main(["plugins"]) == 0
    assert capsys.readouterr().out.split() == [
        *("NAME", "VERSION", "DISTRIBUTION", "API", "SOURCE", "STATE"),
        *("bomb", "0.1.0", "echokernel-bomb", "v1", "installed", "ok"),
    ]
    bare_site.distribution("echokernel-new", entries={"new": "x"}, group="echokernel.plugins.v2")
    assert main(["plugins", "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    assert [entry["problem"] is None for entry in listed] == [True, False]
    assert bomb not in sys.modules


TROUBLED = """
from echokernel import hookimpl


class Check:
    def __init__(self, name, answer):
        self.name, self.answer = name, answer

    async def run(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@hookimpl
def echokernel_checks(registry):
    registry.check(Check("fuel", "7 % left; find a pump"))
    registry.check(Check("broken", ValueError("no such file")))
"""


def test_doctor_tells_what_is_wrong_however_broken_a_plugin_is(
    bare_site: FakeSite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 1
    assert "none is installed; a good start" in capsys.readouterr().out
    bare_site.plugin("every", EVERYTHING + COMMANDS_AND_CHECKS)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["plugin every 0.1.0  ok", "check battery       ok"]
    bare_site.plugin("troubled", TROUBLED)
    bare_site.plugin("bomb", "raise RuntimeError('boom')")
    assert main(["doctor", "--json"]) == 1
    found = {entry["subject"]: entry["trouble"] for entry in json.loads(capsys.readouterr().out)}
    assert found["plugin troubled 0.1.0"] is None
    assert "RuntimeError: boom" in found["plugin bomb 0.1.0"]
    assert found["check fuel"] == "7 % left; find a pump"
    assert found["check broken"] == "the check itself failed: ValueError: no such file"


def test_plugins_info(bare_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    bare_site.plugin("every", EVERYTHING)
    assert main(["plugins", "info", "every"]) == 0
    text = capsys.readouterr().out
    assert "  serializers: plain, plainer\n" in text
    assert '  certificate (str, default "self-signed")\n      A file, or ``self-signed``.\n' in text
    assert "  rate_hz (float, required)\n      Messages per second.\n" in text
    assert main(["plugins", "info", "every", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provides"]["transports"] == ["fake"]


def test_plugins_info_of_what_does_not_work(bare_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    bare_site.plugin("bomb", "raise RuntimeError('boom')")
    assert main(["plugins", "info", "bomb"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("bomb 0.1.0  (echokernel-bomb, API 1, installed)\n")
    assert err.startswith("error: plugin 'bomb' (echokernel-bomb 0.1.0): it cannot be imported: RuntimeError: boom")
    assert main(["plugins", "info", "bmob"]) == 1
    assert "did you mean 'bomb'?" in capsys.readouterr().err
    assert main(["plugins", "info"]) == 2


# --- check and config -----------------------------------------------------------------------------------------------


def test_check_of_a_right_file(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", config(GOOD)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "config.toml is right; node 'echokernel' at fake://127.0.0.1:4433; plugins: every 0.1.0"
    )


def test_check_of_a_wrong_file(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", config(GOOD + "hots = 1\n[nod]\n"), "--set", "node.nmae=x"]) == 78
    assert capsys.readouterr().err.splitlines() == [
        "config.toml:4:1: error[unknown-key]: listen.main.hots is not a setting of transport 'fake'; "
        "did you mean 'host'?",
        "config.toml:5:2: error[unknown-key]: there is no section 'nod'; did you mean 'node'?",
        "--set node.nmae: error[unknown-key]: node.nmae is not a setting of [node]; did you mean 'name'?",
        "3 mistakes in config.toml",
    ]
    assert main(["check", config(GOOD + "hots = 1\n"), "--json"]) == 78
    [problem] = json.loads(capsys.readouterr().out.strip())
    assert (problem["line"], problem["column"], problem["kind"], problem["path"]) == (
        4,
        1,
        "unknown-key",
        ["listen", "main", "hots"],
    )


def test_check_finds_mistakes_of_both_steps_at_once(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_handlers.py").write_text("x = 1\n")
    Path("broken_handlers.py").write_text("\n1 / 0\n")
    text = """\
plugins = ["every"]
[node]
handlers = ["my_handlers", "my_handler", "my_handlers:y", "broken_handlers", "my_handlers:x", "a b"]
max_requests = "many"
[listen.public]
url = "fake://0.0.0.0:4433"
"""
    assert main(["check", config(text)]) == 78
    here = Path.cwd()
    assert capsys.readouterr().err.splitlines()[:-1] == [
        f"config.toml:3:13: error[handler]: module 'my_handlers' ({here / 'my_handlers.py'}) has no handlers; mark "
        "them with @rpc, @event or @stream",
        "config.toml:3:28: error[handler]: there is no module 'my_handler'; did you mean 'my_handlers'?",
        "config.toml:3:42: error[handler]: module 'my_handlers' has no 'y'",
        "config.toml:3:59: error[handler]: module 'broken_handlers' cannot be imported: ZeroDivisionError: division by "
        f"zero ({here / 'broken_handlers.py'}:2)",
        "config.toml:3:78: error[handler]: 'my_handlers:x' is no handler: it needs a name and a method handle, or one "
        "of the decorators",
        "config.toml:3:95: error[handler]: 'a b' is neither a module nor module:object",
        "config.toml:4:1: error[type]: node.max_requests: Input should be a valid integer, unable to parse string as "
        "an integer",
        "config.toml:6:1: error[security]: fake://0.0.0.0:4433 can be reached from other machines, and nothing says "
        "who may connect; set authenticators, client_ca or pins in [listen.public], listen on 127.0.0.1, or let "
        "everybody in: allow_anonymous = true",
    ]


@pytest.mark.parametrize(
    "line", ["allow_anonymous = true", 'client_ca = "ca.pem"', 'authenticators = ["token"]\n[authenticator.token]']
)
def test_a_public_address_with_an_answer_to_who_may_connect(config: Config, line: str) -> None:
    assert main(["check", config(GOOD.replace("127.0.0.1", "0.0.0.0") + line)]) == 0


def test_nothing_to_run(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", config('plugins = ["every"]\n')]) == 78
    assert capsys.readouterr().err == (
        "config.toml:1:1: error[missing]: nothing to run: there is no [listen.NAME]; add [listen.main] with "
        'url = "quic://127.0.0.1:4433"\n'
    )


@pytest.mark.parametrize("command", ["run", "check"])
def test_no_file(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    assert main([command, str(missing)]) == 78
    assert f"{missing}:1:1: error[file]: there is no such file" in capsys.readouterr().err


def test_config_show(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    file = config(GOOD + 'token = "canary"\n')
    assert main(["config", "show", file, "--set", "node.name=n"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["node"]["name"] == "n"
    assert shown["listen"]["main"]["token"] == "***"
    assert shown["listen"]["main"]["certificate"] == "self-signed"
    assert main(["config", "show", file, "--origin", "--set", "node.name=n"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines if "name =" in line or "url =" in line] == [
        'name = "n" # --set node.name',
        'url = "fake://127.0.0.1:4433" # config.toml:3',
    ]
    assert main(["config", "show", file, "--json"]) == 0
    assert {"key": ["listen", "main", "token"], "value": "***", "origin": "config.toml:4"} in json.loads(
        capsys.readouterr().out
    )


def test_config_example_and_schema(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "example"]) == 0
    example = capsys.readouterr().out
    assert main(["check", config(example)]) == 0
    capsys.readouterr()
    assert main(["config", "example", "evry"]) == 3
    assert "did you mean 'every'?" in capsys.readouterr().err
    assert main(["config", "schema"]) == 0
    assert "ListenFake" in json.loads(capsys.readouterr().out)["$defs"]
    assert main(["config"]) == 2


def test_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks"]) == 0
    assert "echokernel_transports(registry)" in capsys.readouterr().out
    assert main(["hooks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["registers"] == "registry.transport"


# --- client commands, before anything is dialled --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["call", "fake://h", "m"], "error: address 'fake://h': wanted fake://HOST:PORT, as in quic://127.0.0.1:4433"),
        (["ping", "h:99999"], "error: address 'h:99999': wanted quic://HOST:PORT, as in quic://127.0.0.1:4433"),
        (["call", "fake://h:1", "m", "[1"], "error: the payload is not JSON: "),
        (["emit", "fake://h:1", "m", "hello"], """; a text stands in double quotes: '"hello"'"""),
        (["call", "fake://h:1", "m", "--timeout", "-1"], "error: --timeout: -1 is not a number of seconds"),
        (["call", "fake://h:1", "m", "--serializer", "plan"], "there is no serializer 'plan'; did you mean 'plain'?"),
        (["call", "fake://h:1", "m", "--set", "x"], "error: --set: wanted KEY=VALUE"),
        (["call", "fake://h:1", "m", "--set", "fingerprnt=x"], "did you mean 'fingerprint'?"),
    ],
)
def test_wrong_arguments_of_clients(
    bare_site: FakeSite, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bare_site.plugin("fake", EVERYTHING + "\n\n@hookimpl\ndef echokernel_checks(registry): ...\n")
    bare_site.plugin(
        "msgpack", "from echokernel.hookspecs import hookimpl\n@hookimpl\ndef echokernel_checks(registry): ..."
    )
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_client_without_its_transport(bare_site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "quic://127.0.0.1:1", "m"]) == 3
    assert "install it: pip install 'echokernel[quic]'" in capsys.readouterr().err


# --- what is not imported -------------------------------------------------------------------------------------------


def modules_of(*arguments: str) -> set[str]:
    code = "import sys\nfrom echokernel.cli import main\nmain(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("word", ["--help", "plugins", "version"])
def test_little_is_imported(word: str) -> None:
    modules = modules_of(word)
    heavy = {"pydantic", "aioquic", "msgpack", "cryptography", "rich", "uvloop", "anyio", "asyncio", "pluggy"}
    assert not modules & heavy
    assert not {
        name for name in modules if name.startswith("echokernel_") and name.split(".")[0] != "echokernel_protocol"
    }


def test_a_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m echokernel hooks --markdown | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "# Hooks\n"
    assert done.stderr == ""


def test_the_page_has_a_section_for_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    sections = [line for line in page.splitlines() if line.startswith("## ")]
    assert [word for word in COMMANDS if not any(f"`{word}`" in section for section in sections)] == []
