"""Logging of the command line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from echokernel.logs import configure_logging


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    root = logging.getLogger()
    names = ["echokernel", "echokernel.quic", "myapp"]
    before = root.level, list(root.handlers), [logging.getLogger(name).level for name in names]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in zip(names, before[2], strict=True):
        logging.getLogger(name).setLevel(level)


def test_text() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, environ={})
    logging.getLogger("echokernel.quic").warning("port %d", 4433, extra={"session": 7})
    assert stream.getvalue()[12:] == " warning quic: port 4433 session=7\n"


def test_json_is_one_object_per_line() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream, environ={})
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("echokernel.quic").exception("failed\nbadly", extra={"session": 7})
    [line] = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["exception"].endswith("ValueError: no")
    assert entry["time"].endswith("Z")
    assert {key: entry[key] for key in ("level", "logger", "message", "session")} == {
        "level": "error",
        "logger": "echokernel.quic",
        "message": "failed\nbadly",
        "session": 7,
    }


def test_auto_is_json_where_nobody_looks() -> None:
    stream = io.StringIO()
    configure_logging("info", "auto", stream=stream, environ={})
    logging.getLogger("echokernel").info("x")
    assert json.loads(stream.getvalue())["message"] == "x"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal_unless_it_is_unwanted(environ: dict[str, str], coloured: bool) -> None:
    stream = Terminal()
    configure_logging("info", "auto", stream=stream, environ=environ)
    logging.getLogger("echokernel").warning("x")
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_levels() -> None:
    stream = io.StringIO()
    configure_logging("info", "text", {"quic": "debug"}, also=["myapp"], stream=stream, environ={})
    for name in ("echokernel.quic", "echokernel.session", "myapp", "somebody.else"):
        logging.getLogger(name).debug("%s debug", name)
        logging.getLogger(name).info("%s info", name)
    texts = [line.split(": ", 1)[1] for line in stream.getvalue().splitlines()]
    assert texts == ["echokernel.quic debug", "echokernel.quic info", "echokernel.session info", "myapp info"]


def test_configuring_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first, environ={})
    configure_logging(stream=second, environ={})
    logging.getLogger("echokernel").info("x")
    assert first.getvalue() == ""
    assert second.getvalue()
