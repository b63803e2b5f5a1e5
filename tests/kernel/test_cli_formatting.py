"""How the command line words numbers, times and progress, and what it makes of a peer's texts."""

from __future__ import annotations

import io

import pytest

from echokernel.cli._describe import as_dict, method_text
from echokernel.cli._output import count, duration, harmless, size
from echokernel.cli._ping import summary, summary_text
from echokernel.cli._progress import Progress, progress_line
from echokernel_protocol.describe import Description, MethodDescription, MethodKind


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86_399, "23 h 59 min"),
        (882_000, "10 d 5 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (5e12, "5.0 TB")],
)
def test_sizes(value: float, text: str) -> None:
    assert size(value) == text


def test_counts() -> None:
    assert [count(number, "session") for number in (0, 1, 1000)] == ["0 sessions", "1 session", "1,000 sessions"]


def test_a_peer_does_not_drive_the_terminal() -> None:
    assert harmless("a\x1b[31m\x9bb\n\tc\x7f\r") == "a\ufffd[31m\ufffdb\n\tc\ufffd\ufffd"


def test_progress_lines() -> None:
    assert progress_line(1_200_000, 4_000_000, 2.0) == (
        "  1.2 MB of 4.0 MB  [#######-----------------]   30%  600.0 kB/s  4.7 s left"
    )
    assert progress_line(5, 5, 1.0).endswith("[########################]  100%  5 B/s  0.0 s left")
    assert progress_line(0, 5, 0.0).endswith("? left")
    assert progress_line(9, 5, 1.0).endswith("100%  9 B/s  ? left")  # the file grew
    assert progress_line(0, 0, 1.0).endswith("100%  0 B/s  ? left")
    assert progress_line(1_200_000, None, 2.0) == "  1.2 MB  600.0 kB/s  2.0 s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("echokernel.cli._progress.time.monotonic", lambda: clock[0])
    monkeypatch.delenv("TERM", raising=False)
    terminal, pipe = Terminal(), io.StringIO()
    bars = [Progress(1000, terminal), Progress(1000, pipe)]
    for _ in range(4):
        clock[0] += 0.06
        for bar in bars:
            bar.add(100)
    for bar in bars:
        bar.clear()
        bar.clear()
        assert (bar.done, bar.frames) == (400, 4)
    assert pipe.getvalue() == ""
    drawn = terminal.getvalue().split("\r")
    assert [line.split("]")[1].split()[0] for line in drawn[1:3]] == ["20%", "40%"]  # not each frame
    assert drawn[3].strip() == drawn[4] == ""


def test_the_statistics_of_pings() -> None:
    found = summary(25, [n / 1000 for n in range(20, 0, -1)])
    assert found == {
        "sent": 25,
        "received": 20,
        "loss": 0.2,
        "min": 0.001,
        "avg": 0.0105,
        "median": 0.0105,
        "p95": 0.019,
        "max": 0.02,
        "stddev": 0.005766281,
    }
    assert summary_text("quic://h:1", found).splitlines() == [
        "--- quic://h:1 ping statistics ---",
        "25 sent, 20 received, 20% lost",
        "rtt min/avg/median/p95/max/stddev = 1.000/10.500/10.500/19.000/20.000/5.766 ms",
    ]
    assert "33.333% lost" in summary_text("u", summary(3, [1, 2]))
    nothing = summary(3, [])
    assert nothing["avg"] is None
    assert summary_text("u", nothing).splitlines()[1:] == ["3 sent, 0 received, 100% lost"]
    assert summary(1, [0.5])["p95"] == 0.5


def test_a_method_as_text_and_as_json() -> None:
    method = MethodDescription(
        kind=MethodKind.RPC,
        name="total",
        signature="(numbers: AsyncIterator[int]) -> int",
        doc="Add them up.\n\nAll of them.",
        items='{"type":"integer"}',
        result="no JSON",
        parameters="[" * 100_000,
        streaming_request=True,
    )
    text = method_text(method)
    assert text.startswith(
        "rpc total(numbers: AsyncIterator[int]) -> int  (streaming request)\n\n    Add them up.\n\n    All of them.\n\n"
    )
    assert 'items:\n{\n  "type": "integer"\n}' in text
    assert text.endswith('result:\n"no JSON"')
    [shown] = as_dict(Description(methods=(method,)))["methods"]
    assert (shown["items"], shown["result"]) == ({"type": "integer"}, "no JSON")
    assert (
        as_dict(Description(methods=(MethodDescription(kind=MethodKind.EVENT, name="e"),)))["methods"][0]["result"]
        is None
    )
