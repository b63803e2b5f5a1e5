"""``describe`` writes contracts of a running node, and ``diff`` compares two."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running_node import RunningNode

from echokernel.cli import main

pytest.importorskip("echokernel_quic", reason="a node needs a transport")
pytest.importorskip("echokernel_msgpack", reason="a node needs a serializer")

HANDLERS = """
from dataclasses import dataclass
from echokernel import StreamReceiver, event, rpc, stream

@dataclass
class Item:
    name: str
    price: float

@rpc("order.place")
async def place(items: list[Item]) -> int:
    '''Place an order.'''
    return 1

@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b

@event
async def log(message: str) -> None: ...

@stream
async def audio(frames: StreamReceiver) -> None: ...
"""


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the key that a node makes for itself away from the one of whoever runs the tests."""
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))
        running = RunningNode(tmp_path_factory.mktemp("node"), HANDLERS)
        running.wait_starts(1)
    yield running
    running.end(signal.SIGTERM)


@pytest.fixture
def written(node: RunningNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The node's description, in a file."""
    assert main(["describe", node.url, "--json"]) == 0
    file = tmp_path / "node.json"
    file.write_text(capsys.readouterr().out, "utf-8")
    return file


# --- describe ---------------------------------------------------------------------------------------------------------


def test_json_schema(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", node.url, "--json-schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["$schema"].endswith("2020-12/schema")
    assert list(found["$defs"]) == ["Item"]
    assert list(found["properties"]["requests"]["properties"]) == ["math.add", "order.place"]


def test_asyncapi(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", node.url, "--asyncapi"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["asyncapi"], found["info"]["title"]) == ("3.0.0", "test")
    assert list(found["operations"]) == ["rpc.math.add", "rpc.order.place", "event.log", "stream.audio"]


def test_typescript_of_one_method(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", node.url, "order.place", "--typescript"]) == 0
    _, rest = capsys.readouterr().out.split("\n", 1)
    assert rest == (
        "\nexport interface Item {\n  name: string;\n  price: number;\n}\n\n"
        "/** Requests: what they take, and what they answer. */\nexport interface Methods {\n  /** Place an order. */\n"
        '  "order.place": { params: [items: Item[]]; result: number };\n}\n'
    )


def test_one_form_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "127.0.0.1:1", "--json", "--typescript"]) == 2
    assert "not allowed with argument --json" in capsys.readouterr().err


# --- diff -------------------------------------------------------------------------------------------------------------


def changed(file: Path, name: str, /, **fields: Any) -> Path:
    """Write another description, in which a method has other fields."""
    value = json.loads(file.read_text("utf-8"))
    for method in value["methods"]:
        if method["name"] == name:
            method.update(fields)
    other = file.with_name("changed.json")
    other.write_text(json.dumps(value), "utf-8")
    return other


def test_a_node_and_what_was_written_of_it(
    node: RunningNode, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(written), node.url]) == 0
    assert capsys.readouterr().out == "no changes\n"
    assert main(["diff", node.url.removeprefix("quic://"), str(written), "--fingerprint", fingerprint(node)]) == 0
    assert capsys.readouterr() == ("no changes\n", "")


def fingerprint(node: RunningNode) -> str:
    return node.out.rpartition("fingerprint ")[2].strip()


def test_breaking_changes(node: RunningNode, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = "seq(struct:Line{name:str,price:i64})\n\ni64"
    old = changed(written, "order.place", shape=shape, doc="Order\x1b[31m.")
    assert main(["diff", str(old), node.url]) == 1
    assert capsys.readouterr() == (
        "breaking:\n"
        "  order.place: parameters[].price: i64 -> f64\n"
        "compatible:\n"
        "  order.place: parameters[]: class Line is called Item\n"
        "  order.place: doc changed\n"
        "1 breaking change, 2 compatible\n",
        "",
    )


def test_for_programs(
    node: RunningNode, written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = changed(written, "math.add", name="math.sum")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(old.read_bytes())))
    assert main(["diff", "-", node.url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "breaking": 1,
        "changes": [
            {"kind": "rpc", "method": "math.add", "path": "", "change": "rpc added", "breaking": False, "breaks": []},
            {
                "kind": "rpc",
                "method": "math.sum",
                "path": "",
                "change": "rpc gone",
                "breaking": True,
                "breaks": ["typed calls", "postcard", "msgpack"],
            },
        ],
    }


def test_only_compatible_changes(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(written), str(changed(written, "log", doc="other"))]) == 0
    assert capsys.readouterr().out == "compatible:\n  log: doc changed\n0 breaking changes, 1 compatible\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-", "-"], "error: both are -, and there is one stdin\n"),
        (
            ["gone.json", "gone.json"],
            "gone.json: No such file or directory; a file of `describe --json`, a URL or - is wanted",
        ),
        (["{text}", "-"], "text.json: no JSON, but what `echokernel describe --json` prints is wanted: "),
        (["{latin}", "-"], "latin.json: no UTF-8: "),
        (["{list}", "-"], "list.json: list, where an object of `echokernel describe --json` is wanted"),
        (["{folder}", "-"], "Is a directory"),
        (["quic://127.0.0.1", "-"], "error: "),
        (["a\0b", "-"], "embedded null byte"),
    ],
)
def test_what_cannot_be_compared(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in {"text": b"quic", "latin": b'"\xe4"', "list": b"[]"}.items():
        (tmp_path / f"{name}.json").write_bytes(content)
    files = {name: str(tmp_path / f"{name}.json") for name in ("text", "latin", "list")}
    assert main(["diff", *(argument.format(folder=tmp_path, **files) for argument in arguments)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_node_that_does_not_answer(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(written), "quic://127.0.0.1:1", "--set", "handshake_timeout=0.3"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
