"""What the router tells about itself: /metrics, the console's feed, and its log."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from listening import CLOSE, TEXT, Raw, agent, close, fetch, frame, request, text, until, watched, websocket

from echokernel.logs import JsonFormatter
from echokernel_agora import AgoraServer
from echokernel_agora.console_feed import ConsoleFeed
from echokernel_agora.events import log_event
from echokernel_agora.histogram import Histogram

SAMPLE = re.compile(r'(agora_[a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (\d+(?:\.\d+)?)')


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def scrape(server: AgoraServer) -> dict[str, float]:
    """Return every sample, and see that the format is Prometheus'."""
    status, headers, body = await fetch(server, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert body.endswith(b"\n")
    samples: dict[str, float] = {}
    described: dict[str, str] = {}
    for line in body.decode().splitlines():
        if line.startswith("# HELP "):
            assert len(line.split(" ", 3)) == 4
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in described, "once"
            described[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            base = re.sub(r"_(bucket|sum|count)$", "", found[1]) if "relay_seconds" in found[1] else found[1]
            assert (described[base] == "counter") == base.endswith("_total"), line
            key = found[1] + (f"{{{found[2]}}}" if found[2] else "")
            assert key not in samples, key
            samples[key] = float(found[3])
    return samples


def adds_up(samples: dict[str, float]) -> bool:
    accepted = sum(value for key, value in samples.items() if key.startswith("agora_frames_accepted_total"))
    done = sum(value for key, value in samples.items() if key.startswith(("agora_frames_done", "agora_frames_waiting")))
    return accepted == done


@pytest.mark.anyio
async def test_the_metrics_tell_what_happened_and_add_up() -> None:
    async with watched() as (server, _), await agent(server, "sender") as sender, await agent(server, "stuck") as stuck:
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(40):
            sender.send(text({"type": "send", "to": "stuck", "payload": "x" * 50_000}))
        sender.send(text({"type": "send", "to": "nobody"}), text({"type": "nonsense"}))
        sender.send(text({"type": "send", "to": "pair-2x", "stream_id": "s", "stream": True}))
        while (await sender.json()).get("to") != "pair-2x":
            pass
        samples = await scrape(server)
        assert adds_up(samples)
        assert samples['agora_frames_accepted_total{type="send"}'] >= 43
        assert samples['agora_frames_done_total{outcome="errored"}'] >= 2
        assert samples['agora_errors_total{code="no_such_agent"}'] == 2
        assert samples['agora_errors_total{code="bad_request"}'] == samples["agora_frames_bad_total"] == 1
        assert samples["agora_queue_frames"] == samples['agora_frames_waiting{outcome="queued"}'] > 0
        assert samples["agora_queue_bytes"] > 50_000
        assert samples['agora_agents{state="slow",transport="ws"}'] == 1
        assert samples['agora_agents{state="online",transport="ws"}'] == 3
        assert samples["agora_connections"] == 5  # the one that asks among them
        assert samples["agora_connections_unregistered"] == 1
        assert samples["agora_registrations_total"] == 4
        assert samples["agora_network_bytes_in_total"] > samples["agora_frame_bytes_in_total"] > 0
        assert samples["agora_slow_closes_total"] == 0


@pytest.mark.anyio
async def test_closes_refusals_and_latency_are_counted() -> None:
    async with watched() as (server, pair):
        async with await websocket(server) as raw:
            raw.send(frame(2, b"binary"))
            assert await raw.closed() == 1003
        for code in (4000, 3999, 1001):
            async with await websocket(server) as raw:
                raw.send(close(code))
                assert await raw.closed() == code
        assert (await fetch(server, "/ws?token=abc"))[0] == 400
        assert (await fetch(server, "/metrics", {"Origin": "https://evil.example"}))[0] == 403
        for _ in range(40):
            await pair.exchange(2)
        samples = await scrape(server)
        assert samples['agora_websocket_closes_total{code="1003"}'] == 1
        codes = {key: value for key, value in samples.items() if key.startswith("agora_websocket_closes")}
        assert len(codes) == 3, "a client that makes codes up makes no more of them"
        assert (
            codes['agora_websocket_closes_total{code="other"}'],
            codes['agora_websocket_closes_total{code="1001"}'],
        ) == (2, 1)
        assert samples['agora_http_refusals_total{reason="handshake"}'] == 1
        assert samples['agora_http_refusals_total{reason="origin"}'] == 1
        assert samples["agora_auth_failures_total"] == 0
        count = samples["agora_relay_seconds_count"]
        assert count >= 1
        assert samples['agora_relay_seconds_bucket{le="+Inf"}'] == count
        buckets = [value for key, value in samples.items() if key.startswith("agora_relay_seconds_bucket")]
        assert buckets == sorted(buckets)
        assert 0 < samples["agora_relay_seconds_sum"] < 5


def test_a_histogram_counts_what_lies_at_its_bounds_below() -> None:
    histogram = Histogram((0.001, 0.1))
    for seconds in (0.001, 0.0011, 0.1, 5.0):
        histogram.observe(seconds)
    assert histogram.cumulative() == [("0.001", 1), ("0.1", 3), ("+Inf", 4)]
    assert (histogram.count, histogram.total) == (4, pytest.approx(5.1021))


# --- the console's feed ----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_console_gets_snapshots_and_may_disconnect() -> None:
    async with (
        watched() as (server, _),
        await agent(server, "unwanted") as unwanted,
        await websocket(server, "/console") as console,
        await websocket(server, "/console") as second,
    ):
        seen = await console.json()
        assert seen["type"] == "snapshot"
        assert [shown["id"] for shown in seen["agents"]] == ["pair-1", "pair-2", "unwanted"]
        assert seen["counters"]["delivered"] == 3
        assert (await second.json())["type"] == "snapshot"
        for wrong in (b"{", b"[]", b'{"type":"disconnect"}', b'{"type":"disconnect","id":3}', b'{"type":"x","id":"y"}'):
            console.send(frame(TEXT, wrong))
            while (answer := await console.json())["type"] == "snapshot":
                pass
            assert answer["code"] == "bad_request"
        console.send(text({"type": "disconnect", "id": "nobody"}), text({"type": "disconnect", "id": "unwanted"}))
        while (answer := await console.json())["type"] == "snapshot":
            pass
        assert answer == {"type": "error", "code": "no_such_agent", "message": "there is no agent 'nobody'"}
        opcode, payload = await unwanted.frame()
        assert (opcode, payload) == (CLOSE, (1008).to_bytes(2, "big") + b"disconnected by an operator")
        await until(lambda: "unwanted" not in server.router.agents)
        while len((await console.json())["agents"]) > 2:
            pass  # once a second


@pytest.mark.anyio
async def test_a_console_that_does_not_read_gets_the_next_snapshot_when_it_does() -> None:
    async with watched() as (server, _), await websocket(server, "/console") as console:
        await console.json()
        feed, watcher = None, None
        for each in server._hub.connections:  # type: ignore[union-attr]
            sink = getattr(each, "sink", None)
            if type(sink).__name__ == "ConsoleFeed":
                feed, watcher = sink, each.peer  # type: ignore[attr-defined]
        assert feed is not None
        watcher.outlet.pause_writing()
        feed._tell()
        assert not watcher.ready
        watcher.outlet.resume_writing()
        assert watcher.ready
        feed._tell()
        assert (await console.json())["type"] == "snapshot"


@pytest.mark.anyio
async def test_a_console_of_many_agents_gets_a_part_and_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echokernel_agora.console_feed.MOST", 2)
    async with watched() as (server, _), await agent(server, "third") as third, await agent(server, "stuck"):
        for number in range(3):
            third.send(text({"type": "send", "to": "pair-1", "stream_id": f"s{number}", "stream": True}))
        stuck = server.router.agents["stuck"]
        assert stuck.peer is not None
        stuck.peer.outlet.pause_writing()  # type: ignore[attr-defined]
        third.send(text({"type": "send", "to": "stuck", "payload": "waits"}))
        await until(lambda: stuck.queue.frames == 1)
        async with await websocket(server, "/console") as console:
            seen = await console.json()
        assert [shown["id"] for shown in seen["agents"]] == ["pair-1", "stuck"], "where something waits comes first"
        assert (len(seen["streams"]), seen["agents_total"], seen["streams_total"]) == (2, 4, 3)
        assert seen["counters"]["queued"] == 1, "the totals are of all"
        stuck.peer.outlet.resume_writing()  # type: ignore[attr-defined]
        for number in range(3):
            third.send(text({"type": "send_end", "to": "pair-1", "stream_id": f"s{number}"}))


@pytest.mark.anyio
async def test_no_snapshot_is_made_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched() as (server, _), await websocket(server, "/console") as console:
        await console.json()
        [watching] = [each for each in server._hub.connections if type(getattr(each, "sink", None)) is ConsoleFeed]  # type: ignore[union-attr]
        feed, watcher, made = watching.sink, watching.peer, 0  # type: ignore[attr-defined]
        snapshot = server.router.snapshot

        def counting(most: int | None = None) -> dict[str, Any]:
            nonlocal made
            made += 1
            return snapshot(most)

        monkeypatch.setattr(server.router, "snapshot", counting)
        watcher.ready = False
        feed._tell()
        assert made == 0
        watcher.ready = True
        feed._tell()
        assert made == 1


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_line_for_each_event_of_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "echokernel.agora")
    async with AgoraServer(listen="127.0.0.1:0") as server:
        async with await agent(server, "one") as raw:
            raw.send(text({"type": "send", "to": "one", "payload": 1}))
            await raw.json()
        await until(lambda: not server.router.peers)
        async with await Raw.dial(server) as late:
            late.send(request(headers={"Origin": "https://evil.example"}))
            assert (await late.response())[0] == 403
    events = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [event["message"] for event in events[1:-1]] == ["connected", "registered", "disconnected", "refused"]
    assert events[2]["agent"] == events[3]["agent"] == "one"
    assert events[4] | {"status": 403, "why": "origin", "address": "127.0.0.1"} == events[4]


def test_what_a_client_chose_stays_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "echokernel.agora")
    log_event("registered", {"name": "evil\nERROR all is lost", "message": "\x1b[31m", "count": 3, "long": "x" * 999})
    [record] = caplog.records
    assert vars(record)["agent_name"] == r"evil\nERROR all is lost"
    assert vars(record)["agent_message"] == r"\x1b[31m"
    assert (vars(record)["count"], len(vars(record)["long"])) == (3, 256)
