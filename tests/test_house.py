"""The house rules that no linter knows: who may import whom, names, sizes, and what must not be in the tree."""

from __future__ import annotations

import ast
import configparser
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import echokernel

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PLUGIN_NAMES = [path.name for path in PLUGINS]
FOLDERS = ["kernel", "protocol", "plugins", "contrib", "tests", "docs", "changelog.d", ".ci"]
MAX_LINES = 500
LONG = {
    "kernel/echokernel/session.py": "the session engine: one subject, read from top to bottom",
    "protocol/echokernel_protocol/channel.py": "the channel's state machine: its rules stand side by side",
    "plugins/quic/src/echokernel_quic/connection.py": "one QUIC connection, streams and datagrams included",
    "plugins/quic/src/echokernel_quic/engine.py": "what aioquic's connection does otherwise here: one subclass",
}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level package) of everything that ``path`` imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


def wrong(paths: list[Path], *, allowed: set[str] | None = None, forbidden: set[str] | None = None) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in paths
        for line, name in imports(path)
        if (allowed is not None and name not in allowed) or (forbidden is not None and name in forbidden)
    ]


def package(plugin: str) -> str:
    return f"echokernel_{plugin}"


def test_the_protocol_needs_the_standard_library_only() -> None:
    paths = modules("protocol/echokernel_protocol")
    agora = [path for path in paths if "agora" in path.relative_to(ROOT / "protocol").as_posix()]
    plain = [path for path in paths if path not in agora]
    assert plain
    known = {*sys.stdlib_module_names, "echokernel_protocol"}
    assert not wrong(plain, allowed=known)
    assert not wrong(agora, allowed={*known, "pydantic"})


def test_the_protocol_does_no_io() -> None:
    forbidden = {"asyncio", "socket", "ssl", "select", "selectors", "threading", "subprocess", "time", "random"}
    assert not wrong(modules("protocol/echokernel_protocol"), forbidden=forbidden)


def test_the_kernel_imports_no_plugin() -> None:
    paths = modules("kernel/echokernel")
    assert paths
    assert not wrong(paths, forbidden={*map(package, PLUGIN_NAMES), "aioquic", "msgpack"})


@pytest.mark.parametrize("plugin", PLUGIN_NAMES)
def test_plugins_do_not_import_each_other(plugin: str) -> None:
    others = {package(name) for name in PLUGIN_NAMES if name != plugin}
    assert not wrong(modules(f"plugins/{plugin}"), forbidden=others)


def test_nothing_below_imports_contrib() -> None:
    contrib = {path.name for path in ROOT.glob("contrib/**/src/*") if path.is_dir()}
    assert not wrong(modules("kernel", "protocol", "plugins"), forbidden={*contrib, "contrib"})


def test_only_the_quic_plugin_imports_aioquic() -> None:
    paths = [path for path in modules(*FOLDERS) if not path.relative_to(ROOT).as_posix().startswith("plugins/quic/")]
    # where the raw engine is one of the peers, and a peer that has nothing of echokernel
    paths = [path for path in paths if not {"benchmarks", "interop"} & set(path.parts)]
    assert not wrong(paths, forbidden={"aioquic"})


def test_folders_are_never_imported() -> None:
    assert not wrong(modules(*FOLDERS), forbidden={"kernel", "plugins", "protocol"})


def test_modules_are_short() -> None:
    long = {
        path.relative_to(ROOT).as_posix()
        for path in modules("kernel", "protocol", "plugins/*/src")
        if len(path.read_text("utf-8").splitlines()) > MAX_LINES
    }
    assert not long - LONG.keys(), f"more than {MAX_LINES} lines: split it, or say in LONG why not"


@pytest.mark.parametrize("plugin", PLUGINS, ids=PLUGIN_NAMES)
def test_one_name_everywhere(plugin: Path) -> None:
    name = plugin.name
    root = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    table = tomllib.loads((plugin / "pyproject.toml").read_text("utf-8"))
    project = table["project"]
    assert project["name"] == f"echokernel-{name}"
    assert project["entry-points"]["echokernel.plugins.v1"] == {name: f"{package(name)}.plugin"}
    assert project["version"] == root["project"]["version"], "in lockstep until 1.0"
    assert project["requires-python"] == root["project"]["requires-python"]
    extras = root["project"]["optional-dependencies"]
    assert [entry.split(">")[0] for entry in extras[name]] == [f"echokernel-{name}"]
    assert name in extras["all"][0]
    for needed in (f"src/{package(name)}/plugin.py", f"src/{package(name)}/py.typed", "README.md", "tests"):
        assert (plugin / needed).exists(), needed
    assert root["tool"]["uv"]["sources"][f"echokernel-{name}"] == {"workspace": True}


@pytest.mark.parametrize("plugin", PLUGINS, ids=PLUGIN_NAMES)
def test_plugin_modules_hold_hook_implementations_only(plugin: Path) -> None:
    tree = ast.parse((plugin / "src" / package(plugin.name) / "plugin.py").read_text("utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert functions
    assert all(name.startswith(("echokernel_", "_")) for name in functions), functions
    assert not [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_the_matrix_installs_what_the_test_group_lists() -> None:
    group = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]["test"]
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", "utf-8")
    listed = tox["testenv"]["deps"].split("\n")
    assert sorted(group) == sorted(line for line in listed if line and ": " not in line and not line.startswith("-"))
    for name in PLUGIN_NAMES:
        assert f"{name},all,lowest: -e {{toxinidir}}/plugins/{name}" in listed


def documents() -> list[Path]:
    """Return every text file of the project, whether or not git knows it: it may have come as an archive."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name not in ("uv.lock",)]
    found += [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*") if path.is_file()]
    texts = {".py", ".md", ".toml", ".ini", ".cfg", ".txt", ".json", ".yml", ".yaml", ".sh", ".typed", ""}
    hidden = re.compile(r"/(\.(?!ci/)|__pycache__/)")
    return [path for path in found if path.suffix in texts and not hidden.search(f"/{path.relative_to(ROOT)}")]


HOSTS = ["py" + "pi.org", "python" + "hosted.org", "crates" + ".io", "proxy." + "golang.org", "npm" + "js.org"]
HOSTS += ["maven" + ".apache.org", "repo1." + "maven.org", "deb." + "debian.org"]
PLACES = ["/" + "work/", "/" + "root/"]


def test_no_path_of_a_machine_and_no_registry_host_is_in_the_tree() -> None:
    places = [rf"(?<![\w.}}]){place}" for place in PLACES]
    pattern = re.compile("|".join([*map(re.escape, HOSTS), *places]))
    found = []
    for path in documents():
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            match = pattern.search(line)
            if match:
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found


def test_every_public_name_has_a_docstring() -> None:
    bare = []
    for name in echokernel.__all__:
        value = getattr(echokernel, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        text = value.__doc__ or ""
        if not text.strip() or text.startswith(f"{name}("):  # what @dataclass writes says nothing
            bare.append(name)
    assert not bare


def test_public_names_are_there_once() -> None:  # ruff keeps them sorted
    assert len(echokernel.__all__) == len(set(echokernel.__all__))
    assert not [name for name in echokernel.__all__ if not hasattr(echokernel, name)]


def test_changelog_fragments_are_named_after_issue_and_type() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    types = "|".join(entry["directory"] for entry in table["tool"]["towncrier"]["type"])
    names = [path.name for path in (ROOT / "changelog.d").iterdir() if path.name not in ("README.md", ".gitkeep")]
    assert not [name for name in names if not re.fullmatch(rf"\d+\.({types})(\.\d+)?\.md", name)]
    assert table["tool"]["towncrier"]["start_string"] in (ROOT / "CHANGELOG.md").read_text("utf-8")
