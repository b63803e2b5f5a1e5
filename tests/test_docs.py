"""The documentation is true: its examples run and print what stands below them, its configurations are valid, its tables
are those of the code, and its links lead somewhere. ``docs/README.md`` says how a page is written.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import importlib.util
import inspect
import io
import re
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import echokernel
from echokernel import ConnectionClosed, EchoError, Limits, OutcomeUnknown, StreamReset, StreamStopped, cli
from echokernel.loader._hooking import HOOK_NAMES
from echokernel.testing import VirtualTimeLoop
from echokernel_protocol.codes import Code

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

import readme_commands

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GUIDE = sorted(DOCS.glob("guide/*.md"))
PAGES = sorted([ROOT / "README.md", *DOCS.glob("**/*.md")])

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]+?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```$)?",
    re.M | re.S,
)
QUICKSTART = ROOT / "contrib" / "examples" / "quickstart"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: what stands above it as a comment, its code, and what it prints."""

    language: str
    mark: str
    code: str
    output: str
    line: int

    @property
    def needs(self) -> list[str]:
        return self.mark.removeprefix("needs:").split() if self.mark.startswith("needs:") else []


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(
            found["language"],
            found["mark"] or "",
            found["code"],
            found["output"] or "",
            text.count("\n", 0, found.start("code")) + 1,
        )
        for found in BLOCK.finditer(text)
        if found["language"] == language
    ]


def page_needs(page: Path) -> list[str]:
    """What the whole page needs: ``<!-- needs: … -->`` is its first line."""
    found = re.match(r"<!-- needs: (.+?) -->\n", page.read_text("utf-8"))
    return found[1].split() if found else []


def needs_real_time(page: Path) -> bool:
    """Whether something on a page goes on while the clock jumps: sockets, or threads (one of its first lines says so)."""
    return "quic" in page_needs(page) or "<!-- clock: real -->" in page.read_text("utf-8").splitlines()[:2]


def is_there(distribution: str) -> bool:
    return importlib.util.find_spec(f"echokernel_{distribution}") is not None or (
        importlib.util.find_spec(distribution) is not None
    )


def slug(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


# --- examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", GUIDE, ids=slug)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [name for name in page_needs(page) if not is_there(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"docs_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    loop_factory = asyncio.new_event_loop if needs_real_time(page) else VirtualTimeLoop
    wrong = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        for block in blocks(page, "python"):
            if block.mark.startswith("not run") or not all(map(is_there, block.needs)):
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                run(block, page, vars(module), runner)
            if not matches(block.output, printed.getvalue()):
                wrong.append(f"{page.name}:{block.line} printed:\n{printed.getvalue()}")
    assert not wrong, "\n".join(wrong)


def run(block: Block, page: Path, names: dict[str, Any], runner: asyncio.Runner) -> None:
    """Run a block as ``python -m asyncio`` would: ``await`` may stand outside of functions."""
    source = "\n" * (block.line - 1) + block.code  # tracebacks name the page's own lines
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(types.FunctionType(code, names)())
    else:
        exec(code, names)


def matches(wanted: str, printed: str) -> bool:
    """Whether a page shows what was printed; ``…`` stands for anything within a line."""
    pattern = "\n".join(re.escape(line.rstrip()).replace("…", ".*") for line in wanted.strip().splitlines())
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.strip().splitlines())) is not None


@pytest.mark.parametrize("page", GUIDE, ids=slug)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    marks = [block.mark for block in blocks(page, "python") if block.mark]
    assert all(re.match(r"not run: \w.{10,}|needs: [\w ]+$", mark) for mark in marks), marks


@pytest.mark.parametrize("page", GUIDE, ids=slug)
def test_every_page_has_an_example(page: Path) -> None:
    assert [block for block in blocks(page, "python") if not block.mark.startswith("not run")]


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the quickstart, as a user would have it."""
    for name in ("quic", "msgpack"):
        if not is_there(name):
            pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    folder = tmp_path / "quickstart"
    shutil.copytree(QUICKSTART, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize(
    "page", [page for page in GUIDE if any(b.mark == "config" for b in blocks(page, "toml"))], ids=slug
)
def test_the_configurations_of_a_page_are_valid(page: Path, quickstart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from echokernel.config import load_config

    monkeypatch.syspath_prepend(str(quickstart))
    for block in blocks(page, "toml"):
        if block.mark == "config":
            file = quickstart / f"from-line-{block.line}.toml"
            file.write_text(block.code, "utf-8")
            load_config(file, environ={"CHAT_TOKEN": "s3cret", "AGORA_TOKEN": "s3cret-of-team-a"})


@pytest.mark.slow  # and the pages name a port, so that two cannot run at a time
@pytest.mark.parametrize("page", [page for page in GUIDE if "<!-- run" in page.read_text("utf-8")], ids=slug)
def test_the_commands_of_a_page_do_what_it_says(page: Path, quickstart: Path) -> None:
    found = readme_commands.commands(page.read_text("utf-8"))
    assert found
    servers = []
    try:
        for command in found:
            if command.background:
                servers.append(readme_commands.start(command, quickstart))
            else:
                problem = readme_commands.run(command, quickstart)
                assert problem is None, f"$ {' '.join(command.words)}\n{problem}"
    finally:
        for server in servers:
            readme_commands.stop(server)


# --- completeness --------------------------------------------------------------------------------------------------


def headings(page: Path) -> set[str]:
    """The anchors of a page, as they are made on code forges."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=slug)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in headings(file), f"{page.name}: {target}"


def test_every_page_is_listed() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    assert not [page.name for page in GUIDE if f"(guide/{page.name})" not in index]
    assert not [page.name for page in DOCS.glob("*.md") if f"({page.name})" not in index and page.name != "README.md"]


def test_decisions_are_numbered_one_by_one() -> None:
    pages = sorted(DOCS.glob("decisions/0*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for number, page in enumerate(pages, 1):
        assert page.read_text("utf-8").startswith(f"# {number}. "), page.name


@pytest.mark.parametrize("name", echokernel.__all__)
def test_every_public_name_is_in_the_guide(name: str) -> None:
    pages = [*GUIDE, DOCS / "hooks.md"]
    assert [page.name for page in pages if re.search(rf"\b{name}\b", page.read_text("utf-8"))]


def table(page: str, first: str) -> Iterator[list[str]]:
    """Yield the rows of the table whose first column is called ``first``."""
    text = (DOCS / page).read_text("utf-8")
    _, found, rest = text.partition(f"| {first} |")
    assert found, f"{page} has no table of {first}"
    for line in rest.split("\n")[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_table_of_errors_is_that_of_the_code() -> None:
    special: dict[str, Any] = {
        "OutcomeUnknown": lambda: OutcomeUnknown("add", ConnectionClosed()),
        "StreamReset": lambda: StreamReset(Code.CANCELLED),
        "StreamStopped": lambda: StreamStopped(Code.CANCELLED),
    }
    rows = {row[0]: row[1:3] for row in table("guide/errors.md", "Error")}
    kinds = [value for value in map(echokernel.__getattr__, echokernel.__all__) if is_error(value)]
    assert set(rows) == {kind.__name__ for kind in kinds}
    for kind in kinds:
        error = special.get(kind.__name__, lambda kind=kind: kind("why"))()
        code, retryable = rows[kind.__name__]
        assert code in ("the peer's", str(int(error.code))), kind
        assert (retryable == "yes") == error.retryable, kind


def is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, EchoError)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    rows = {row[0]: float(row[1].replace(",", "")) for row in table("guide/limits.md", "Limit")}
    assert rows == {field.name: field.default for field in dataclasses.fields(Limits)}


def test_the_table_of_hooks_is_that_of_the_code() -> None:
    assert [row[0] for row in table("guide/plugins.md", "Hook")] == list(HOOK_NAMES)


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    codes = {cli.DONE, cli.FAILED, cli.USAGE, cli.NOT_STARTED, cli.WRONG_CONFIG, cli.INTERRUPTED}
    assert {int(row[0]) for row in table("guide/deployment.md", "Code")} == codes
