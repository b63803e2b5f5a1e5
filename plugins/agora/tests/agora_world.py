"""A router without sockets: agents that write down what they get, and a clock that the test turns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from echokernel_agora import Limits, Peer, Principal, Router

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Agent:
    """One connection of a :class:`World`: what it got is in ``got``, and ``full`` lets it take nothing more."""

    holds = False

    def __init__(self, world: World, principal: Principal | None) -> None:
        self.world = world
        self.texts: list[bytes] = []
        self.got: list[dict[str, Any]] = []
        self.full = False
        self.closed: tuple[int, str] | None = None
        self.probed = 0
        options = {} if principal is None else {"principal": principal}
        self.peer: Peer = world.router.attach(self, **options)  # type: ignore[arg-type]

    # what the router calls

    def write(self, frame: bytes) -> bool:
        if self.full or self.closed is not None:
            return False
        self.texts.append(frame)
        self.got.append(json.loads(frame))
        return True

    def taken(self) -> None:
        raise AssertionError("it holds nothing")

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)

    def probe(self) -> None:
        self.probed += 1

    # what a test calls

    def say(self, type: str, **fields: Any) -> Agent:
        if "from_" in fields:
            fields["from"] = fields.pop("from_")
        return self.say_text(json.dumps({"type": type, **fields}))

    def say_text(self, text: str | bytes) -> Agent:
        self.world.router.receive(self.peer, text.encode() if isinstance(text, str) else text)
        return self

    def register(self, id: str, **fields: Any) -> Agent:
        self.say("register", id=id, name=fields.pop("name", id.upper()), **fields)
        return self

    def stop_reading(self) -> None:
        self.full = True

    def read_on(self) -> None:
        self.full = False
        self.world.router.drain(self.peer)

    def leave(self, *, resumable: bool = False) -> None:
        self.closed = self.closed or (1000, "")
        self.world.router.detach(self.peer, resumable=resumable)

    def take(self) -> list[dict[str, Any]]:
        """Return what came since the last time."""
        got, self.got = self.got, []
        return got

    def one(self) -> dict[str, Any]:
        got = self.take()
        assert len(got) == 1, got
        return got[0]


class World:
    """A router and the agents of one test."""

    def __init__(self, *, strict_seed: bool = False, **limits: Any) -> None:
        self.now = 1000.0
        self.events: list[tuple[str, dict[str, object]]] = []
        self.router = Router(
            Limits(**limits),
            strict_seed=strict_seed,
            monotonic=lambda: self.now,
            utcnow=lambda: START + timedelta(seconds=self.now - 1000),
            on_event=lambda name, fields: self.events.append((name, dict(fields))),
        )

    def connect(self, principal: Principal | None = None) -> Agent:
        return Agent(self, principal)

    def agent(self, id: str, principal: Principal | None = None, **fields: Any) -> Agent:
        """Return an agent that is registered, with nothing in ``got``."""
        agent = self.connect(principal).register(id, **fields)
        assert agent.one()["type"] == "registered"
        return agent

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps of a second, as a listener does."""
        while seconds > 0:
            step = min(seconds, 1.0)
            self.now += step
            seconds -= step
            self.router.tick()

    def check(self) -> None:
        """Every accepted frame has exactly one outcome."""
        counters = self.router.counters
        queued, stored = self.router.waiting()
        assert counters.accepted == counters.delivered + stored + counters.errored + queued
        assert sum(counters.accepted_by_type.values()) == counters.accepted
