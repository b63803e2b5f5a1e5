"""The router's figures in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from echokernel_agora.histogram import Histogram
from echokernel_agora.hub import OTHER_CODE

if TYPE_CHECKING:
    from echokernel_agora.hub import Hub
    from echokernel_agora.router import Router

__all__ = ["CONTENT_TYPE", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Rows = Iterable[tuple[Mapping[str, str], float]]


def render(router: Router, hub: Hub) -> str:
    """Return everything. Each figure is read once and at the same moment, so that accepted = the sum of the outcomes."""
    counters = router.counters
    queued, stored = router.waiting()
    agents: Counter[tuple[str, str]] = Counter()
    frames = size = 0
    for agent in router.agents.values():
        peer = agent.peer
        state = "offline" if peer is None else "slow" if peer.blocked_since is not None else "online"
        agents[state, agent.transport] += 1
        frames += agent.queue.frames
        size += agent.queue.size
    text = _Text()
    text.add("agents", "gauge", "Registered agents.", _by_two(agents, "state", "transport"))
    text.add("connections", "gauge", "Open connections of this port, of whatever kind.", [({}, len(hub.connections))])
    text.add("connections_unregistered", "gauge", "Of them, those that registered nobody.", [({}, hub.waiting.total())])
    text.add("registrations_total", "counter", "Agents that registered, without updates.", [({}, counters.registered)])
    text.add("replaced_total", "counter", "Connections that lost their id to a newer one.", [({}, counters.replaced)])
    text.add("resumed_total", "counter", "Sessions that went on after a loss.", [({}, counters.resumed)])
    text.add(
        "frames_accepted_total",
        "counter",
        "Frames for other agents that were taken, by type. Their sum is delivered + errored + queued + stored.",
        _by(counters.accepted_by_type, "type"),
    )
    outcomes = {"delivered": counters.delivered, "errored": counters.errored}
    text.add("frames_done_total", "counter", "Accepted frames by what became of them.", _by(outcomes, "outcome"))
    text.add(
        "frames_waiting",
        "gauge",
        "Accepted frames that wait, for agents that are connected (queued) or away (stored).",
        _by({"queued": queued, "stored": stored}, "outcome"),
    )
    text.add("queue_frames", "gauge", "Frames in the agents' queues, the router's own included.", [({}, frames)])
    text.add("queue_bytes", "gauge", "Bytes in the agents' queues.", [({}, size)])
    text.add("errors_total", "counter", "Error frames to clients, by code.", _by(counters.errors, "code"))
    text.add("frames_bad_total", "counter", "Texts that were no frames.", [({}, counters.bad)])
    text.add("frame_bytes_in_total", "counter", "Bytes of frames from clients.", [({}, counters.bytes_in)])
    text.add("frame_bytes_out_total", "counter", "Bytes of frames delivered.", [({}, counters.bytes_out)])
    text.add("network_bytes_in_total", "counter", "Bytes from WebSockets, headers included.", [({}, hub.total_in())])
    text.add("network_bytes_out_total", "counter", "Bytes to WebSockets, headers included.", [({}, hub.total_out())])
    text.add("slow_closes_total", "counter", "Connections closed because they read nothing.", [({}, counters.slow)])
    text.add(
        "websocket_closes_total",
        "counter",
        "WebSockets that ended, by the first close frame's code; 1006 where there was none; `other` for unknown ones.",
        [({"code": "other" if code == OTHER_CODE else str(code)}, count) for code, count in sorted(hub.closes.items())],
    )
    text.add("http_refusals_total", "counter", "Requests that were refused.", _by(hub.refusals, "reason"))
    failed = sum(count for why, count in hub.refusals.items() if why.startswith("token_"))
    text.add("auth_failures_total", "counter", "Of them, those for their token.", [({}, failed)])
    text.histogram(
        "relay_seconds", "From a batch of frames read to its answers written; one in 32 is timed.", hub.latency
    )
    return text.done()


class _Text:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, help: str, rows: Rows) -> None:
        name = f"agora_{name}"
        self._lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
        self._lines += [f"{name}{_labels(labels)} {value}" for labels, value in rows]

    def histogram(self, name: str, help: str, histogram: Histogram) -> None:
        self.add(name, "histogram", help, [])
        rows = histogram.cumulative()
        self._lines += [f'agora_{name}_bucket{{le="{bound}"}} {count}' for bound, count in rows]
        self._lines += [f"agora_{name}_sum {histogram.total:.6f}", f"agora_{name}_count {rows[-1][1]}"]

    def done(self) -> str:
        return "\n".join(self._lines) + "\n"


def _by(counts: Mapping[str, int], label: str) -> Rows:
    return [({label: key}, count) for key, count in sorted(counts.items())]


def _by_two(counts: Mapping[tuple[str, str], int], first: str, second: str) -> Rows:
    return [({first: one, second: two}, count) for (one, two), count in sorted(counts.items())]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
