"""The examples of docs/wire.md, byte for byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from echokernel_protocol.channel import HANDSHAKE, Phase
from echokernel_protocol.clock import ClockAnswer, ClockProbe
from echokernel_protocol.codes import Code
from echokernel_protocol.describe import (
    DescribeRequest,
    Description,
    Health,
    MethodDescription,
    MethodKind,
    PluginDescription,
)
from echokernel_protocol.errors import ErrorInfo
from echokernel_protocol.frames import LEGAL, Flags, Frame, Header, MessageType, encode_frame_on_stream
from echokernel_protocol.link import Ack
from echokernel_protocol.maps import encode_map
from echokernel_protocol.streams import Prelude, StreamKind
from echokernel_protocol.timestamped import encode_data_frame, encode_timestamped

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```wire (\w+)\n(.*?)```", PAGE, re.DOTALL))

ADD = Frame(Header(MessageType.REQUEST, 1, "math.add", 0x10), b"\x92\x0a\x14")
EXAMPLES: dict[str, list[bytes]] = {
    "request": [ADD.encode()],
    "response": [Frame(Header(MessageType.RESPONSE, 1, "", 0x10), b"\x1e").encode()],
    "error": [
        Frame(
            Header(MessageType.RESPONSE, 1, "", Flags.ERROR),
            ErrorInfo(Code.UNIMPLEMENTED, "no method 'math.add' here").encode(),
        ).encode()
    ],
    "event": [
        Frame(
            Header(MessageType.EVENT, 0, "log", Flags.METADATA | 0x10), encode_map({"user": "7"}) + b"\xa2hi"
        ).encode()
    ],
    "framed": [encode_frame_on_stream(ADD)],
    "clock": [
        Frame(Header(MessageType.EVENT, 0, "$clock"), payload).encode()
        for payload in (
            ClockProbe(5).encode(),
            ClockAnswer(5, 10**9, 10**9 + 50_000, 1_700_000_000 * 10**9, 0, 7, 9).encode(),
        )
    ],
    "preludes": [
        Prelude(StreamKind.CHANNEL).encode(),
        Prelude(StreamKind.BODY, (7,)).encode(),
        Prelude(StreamKind.FLOW, (3, 0)).encode(),
    ],
    "hello": [
        Frame(
            Header(MessageType.REQUEST, 0, "$hello", Flags.METADATA),
            encode_map({"node": "cli", "serializers": "msgpack"}) + b"abc",
        ).encode()
    ],
    "body": [Frame(Header(MessageType.REQUEST, 3, "load", Flags.BODY | 0x10), b"\x80\x80\x80\x01").encode()],
    "call": [
        Frame(Header(MessageType.REQUEST, 5, "count", 0x10), b"\x02").encode(),
        Frame(Header(MessageType.REQUEST, 5, "", Flags.END), b"").encode(),
        Frame(Header(MessageType.RESPONSE, 5, "", 0x10), b"\x00").encode(),
        Frame(Header(MessageType.RESPONSE, 5, "", 0x10), b"\x01").encode(),
        Frame(Header(MessageType.RESPONSE, 5, "", Flags.END), b"").encode(),
    ],
    "flow": [
        Frame(Header(MessageType.STREAM, 3, "audio", 0), b"").encode(),
        Frame(Header(MessageType.STREAM, 3, "", 0), encode_timestamped(1_700_000_000_000_000, 0, b"\x01\x02")).encode(),
        Frame(Header(MessageType.STREAM, 3, "", Flags.END), b"\x01").encode(),
    ],
    "per_frame": [
        Frame(
            Header(MessageType.STREAM, 5, "video", Flags.METADATA),
            encode_map({"$delivery": "per_frame", "$max_age": "250"}),
        ).encode(),
        Prelude(StreamKind.FLOW, (5, 1)).encode()
        + encode_frame_on_stream(
            Frame(Header(MessageType.STREAM, 5, "", 0), encode_timestamped(1_700_000_000_020_000, 1, b"\x07"))
        ),
        Frame(Header(MessageType.EVENT, 0, "$ack", 0), Ack(12, 8_388_608, positions=((5, 1),)).encode()).encode(),
    ],
    "datagrams": [
        Frame(Header(MessageType.EVENT, 0, "pos", 0x10), b"\x07").encode(),
        Frame(Header(MessageType.STREAM, 7, "", 0), encode_timestamped(1, 2, b"\xff")).encode(),
        encode_data_frame(7, 1, 2, b"\xff", synced=False)[4:],
    ],
    "ack": [Frame(Header(MessageType.EVENT, 0, "$ack", 0), Ack(12, 8_388_608).encode()).encode()],
    "ping": [Frame(Header(MessageType.REQUEST, 0, "$ping", 0), b"\x05").encode()],
    "describe": [DescribeRequest(("math.add",)).encode()],
    "description": [
        Description(
            node="quick",
            version="0.1.0",
            runtime="Python 3.11.7",
            serializers=("msgpack",),
            plugins=(PluginDescription("quic", "echokernel-quic", "0.1.0"),),
            methods=(
                MethodDescription(
                    kind=MethodKind.RPC,
                    name="math.add",
                    signature="(a: int) -> int",
                    doc="Add.",
                    shape="i64\n\ni64",
                    parameters='{"type":"integer"}',
                    result='{"type":"integer"}',
                ),
            ),
        ).encode()
    ],
    "health": [Health(uptime_ms=90_061, sessions=3, open_requests=1).encode()],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_code_writes(name: str) -> None:
    lines = [bytes.fromhex(line) for line in BLOCKS[name].strip().splitlines()]
    assert [line.hex(" ") for line in lines] == [example.hex(" ") for example in EXAMPLES[name]]


def test_every_example_of_the_page_is_checked() -> None:
    assert set(BLOCKS) == set(EXAMPLES)


def test_the_page_has_every_code_by_its_name() -> None:
    table = PAGE[PAGE.index("## 10.") :]
    for code in Code:
        assert re.search(rf"\| {int(code)} \| {code.name.lower()}\b", table), code


def test_the_page_draws_every_move_of_the_handshake() -> None:
    drawing = PAGE[PAGE.index("```text\n            dialer") : PAGE.index("A dialer called")]
    for (phase, event), after in HANDSHAKE.items():
        assert phase.name in drawing and after.name in drawing and event in drawing
    assert {phase.name for phase in Phase} <= set(re.findall(r"[A-Z]{4,}", drawing))


def test_the_page_lists_exactly_the_legal_frames() -> None:
    table = PAGE[PAGE.index("| | plain |") :].split("\n\n")[0].splitlines()[2:]
    columns = [0, int(Flags.END), int(Flags.CANCEL), int(Flags.ERROR)]
    written = set()
    for row in table:
        name, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        for flags, cell in zip(columns, cells, strict=True):
            if cell != "-":
                written.add((MessageType[name.upper()], flags))
    assert written == {(kind, int(flags)) for kind, flags in LEGAL}
