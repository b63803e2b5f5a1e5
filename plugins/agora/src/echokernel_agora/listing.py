"""What others see of the agents: answers to ``list``, and what the console shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from echokernel_agora.agents import timestamp
from echokernel_agora.frames import encode

if TYPE_CHECKING:
    from echokernel_agora.agents import Agent
    from echokernel_agora.counters import Counters
    from echokernel_agora.frames import Listing
    from echokernel_agora.streams import Stream

LIST_BYTES = 512 * 1024  # of one answer; the rest is one cursor away


def listing(asked: Listing, agents: Iterable[Agent], page: int, *, strict_seed: bool) -> bytes:
    """Return the answer to ``list``: of ``agents``, oldest first, those that were asked for, at most ``page``."""
    after = int(asked.cursor or 0)
    most = page if asked.limit is None else min(max(asked.limit, 1), page)
    records: list[bytes] = []
    size, last, cursor = 0, 0, None
    for agent in agents:
        if agent.serial <= after or (asked.capability is not None and asked.capability not in agent.capabilities):
            continue
        if len(records) >= most or (size > LIST_BYTES and not strict_seed):
            cursor = str(last)
            break
        record = agent.record
        if asked.card and agent.card and not strict_seed:
            record = b'%b,"card":%b}' % (record[:-1], agent.card)
        records.append(record)
        size += len(record)
        last = agent.serial
    head = b'{"type":"agents"'
    if asked.id is not None and not strict_seed:
        head += b',"id":' + encode(asked.id)
    if cursor is not None and not strict_seed:
        head += b',"cursor":' + encode(cursor)
    return head + b',"agents":[' + b",".join(records) + b"]}"


def waiting(agents: Iterable[Agent]) -> tuple[int, int]:
    """Return how many relayed frames wait for agents that are connected (queued) and that are not (stored)."""
    queued = stored = 0
    for agent in agents:
        if agent.peer is None:
            stored += agent.queue.relayed
        else:
            queued += agent.queue.relayed
    return queued, stored


def totals(counters: Counters, agents: Iterable[Agent]) -> dict[str, int]:
    """Return the counters that add up, and some more."""
    queued, stored = waiting(agents)
    return {
        "accepted": counters.accepted,
        "delivered": counters.delivered,
        "stored": stored,
        "errored": counters.errored,
        "queued": queued,
        "bytes_in": counters.bytes_in,
        "bytes_out": counters.bytes_out,
        "bad": counters.bad,
        "slow": counters.slow,
    }


def busiest(agents: Iterable[Agent], most: int | None) -> list[Agent]:
    """Return ``most`` of them, first of all those for which something waits, in the order in which they come."""
    agents = list(agents)
    if most is None or len(agents) <= most:
        return agents
    chosen = sorted(range(len(agents)), key=lambda index: not agents[index].queue.frames)[:most]
    return [agents[index] for index in sorted(chosen)]


def shown(agent: Agent) -> dict[str, Any]:
    """Return what the console shows of an agent."""
    peer = agent.peer
    return {
        "id": agent.id,
        "name": agent.name,
        "transport": agent.transport,
        "state": "offline" if peer is None else "slow" if peer.blocked_since is not None else "online",
        "principal": agent.principal.name,
        "address": peer.address if peer is not None else "",
        "registered_at": timestamp(agent.registered_at),
        "capabilities": list(agent.capabilities),
        "queue_frames": agent.queue.frames,
        "queue_bytes": agent.queue.size,
        "received": agent.received,
        "sent": agent.sent,
        "errors": agent.errors,
    }


def shown_stream(stream: Stream, now: float) -> dict[str, Any]:
    """Return what the console shows of a stream."""
    return {
        "from": stream.key[0],
        "to": stream.key[1],
        "reply": stream.reply,
        "stream_id": stream.stream_id,
        "age": round(now - stream.opened, 3),
        "idle": round(now - stream.last, 3),
        "chunks": stream.chunks,
    }
