"""Whatever agents do, each frame has one outcome, what arrives arrives in order and once, and streams end on both sides."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import hypothesis.strategies as st
from agora_world import Agent, World
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

IDS = ["a", "b", "c"]
FEATURES = {"a": [], "b": ["receipt", "credit"], "c": ["receipt", "resume"]}
ids = st.sampled_from(IDS)
streams = st.sampled_from(["s", "t"])


class Client:
    """What a client knows: numbers that it has sent and seen, and what it has been told."""

    def __init__(self, world: World, id: str) -> None:
        self.world, self.id = world, id
        self.agent: Agent | None = None
        self.token: str | None = None
        self.seq = 0
        self.seen: defaultdict[str, list[int]] = defaultdict(list)
        self.open: dict[tuple[str, str, str], list[str]] = {}  # streams that it receives
        self.outcomes: defaultdict[str, list[str]] = defaultdict(list)
        self.resumed = 0

    def connect(self) -> None:
        if self.token is None:
            self.open.clear()  # of a connection that the router closed
        resume = {"resume": self.token, "seq": self.seq} if self.token else {}
        self.agent = self.world.connect().register(self.id, features=FEATURES[self.id], **resume)

    def read(self) -> None:
        assert self.agent is not None
        for frame in self.agent.take():
            self.hear(frame)

    def hear(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "registered":
            self.token = frame.get("resume", self.token)
            if "resumed" in frame and not frame["resumed"]:
                self.seq = 0
                self.open.clear()
            self.resumed += bool(frame.get("resumed"))
        elif "seq" in frame:
            assert frame["seq"] == self.seq + 1, "a gap or a frame twice"
            self.seq = frame["seq"]
        if kind in ("receipt", "error") and frame.get("status") != "stored" and "id" in frame:
            self.outcomes[frame["id"]].append(frame.get("code", "delivered"))
        if kind == "message" and "payload" in frame:
            self.seen[frame["from"]].append(frame["payload"])
        if kind in ("message", "reply") and frame.get("stream"):
            self.open[kind, frame["from"], frame["stream_id"]] = []
        elif kind.endswith("_chunk"):
            key = (kind.removesuffix("_chunk"), frame["from"], frame["stream_id"])
            assert key in self.open, f"a chunk of no stream: {frame}"
            self.open[key].append(frame["chunk"])
            assert self.open[key] == [str(number) for number in range(len(self.open[key]))]
        elif kind.endswith("_end"):
            key = (kind.removesuffix("_end"), frame["from"], frame["stream_id"])
            assert key in self.open, f"an end of no stream: {frame}"
            del self.open[key]


class Talk(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World(
            queue_frames=4, credit_window=400, frame_burst=1e9, byte_rate=1e12, stream_idle=20.0, self_per_minute=0
        )
        self.clients = {id: Client(self.world, id) for id in IDS}
        self.sent = 0
        self.written: defaultdict[tuple[str, str, bool, str], int] = defaultdict(int)
        self.with_id: list[tuple[Client, str]] = []
        for client in self.clients.values():
            client.connect()
            client.read()

    def there(self, id: str) -> Client | None:
        client = self.clients[id]
        return client if client.agent is not None and client.agent.closed is None else None

    @rule(sender=ids, to=ids)
    def send(self, sender: str, to: str) -> None:
        client = self.there(sender)
        if client is None or client.agent is None:
            return
        self.sent += 1
        client.agent.say("send", to=to, payload=self.sent, id=str(self.sent))
        if "receipt" in FEATURES[sender]:
            self.with_id.append((client, str(self.sent)))

    @rule(sender=ids, to=ids, reply=st.booleans(), stream=streams)
    def start(self, sender: str, to: str, reply: bool, stream: str) -> None:
        client = self.there(sender)
        if client is not None and client.agent is not None:
            is_open = [s for s in self.world.router.snapshot()["streams"] if self._is(s, sender, to, reply, stream)]
            client.agent.say("reply" if reply else "send", to=to, stream=True, stream_id=stream)
            if not is_open:
                self.written[sender, to, reply, stream] = 0

    @staticmethod
    def _is(shown: dict[str, Any], sender: str, to: str, reply: bool, stream: str) -> bool:
        return (shown["from"], shown["to"], shown["reply"], shown["stream_id"]) == (sender, to, reply, stream)

    @rule(sender=ids, to=ids, reply=st.booleans(), stream=streams, count=st.integers(1, 4))
    def chunk(self, sender: str, to: str, reply: bool, stream: str, count: int) -> None:
        for _ in range(count):
            client = self.there(sender)
            if client is not None and client.agent is not None:
                number = self.written[sender, to, reply, stream]
                self.written[sender, to, reply, stream] += 1
                client.agent.say(f"{'reply' if reply else 'send'}_chunk", to=to, stream_id=stream, chunk=str(number))

    @rule(sender=ids, to=ids, reply=st.booleans(), stream=streams)
    def end(self, sender: str, to: str, reply: bool, stream: str) -> None:
        client = self.there(sender)
        if client is not None and client.agent is not None:
            client.agent.say(f"{'reply' if reply else 'send'}_end", to=to, stream_id=stream)

    @rule(id=ids, sender=ids, stream=streams)
    def stop(self, id: str, sender: str, stream: str) -> None:
        client = self.there(id)
        if client is not None and client.agent is not None:
            client.agent.say("stop", from_=sender, stream_id=stream)

    @rule(id=ids)
    def stop_reading(self, id: str) -> None:
        if (client := self.there(id)) is not None and client.agent is not None:
            client.agent.stop_reading()

    @rule(id=ids)
    def read_on(self, id: str) -> None:
        if (client := self.there(id)) is not None and client.agent is not None:
            client.agent.read_on()

    @rule()
    def acknowledge(self) -> None:
        if (client := self.there("c")) is not None and client.agent is not None:
            client.read()
            client.agent.say("ack", seq=client.seq)

    @rule(id=ids, lost=st.booleans())
    def leave(self, id: str, lost: bool) -> None:
        client = self.there(id)
        if client is not None and client.agent is not None:
            client.read()
            client.agent.leave(resumable=lost)
            if not lost:
                client.token = None

    @rule(id=ids)
    def come_back(self, id: str) -> None:
        if self.there(id) is None:
            self.clients[id].connect()

    @precondition(lambda self: self.sent > 3)
    @rule(seconds=st.sampled_from([1, 5, 25, 40]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.check()
        for client in self.clients.values():
            if client.agent is not None and client.agent.got:
                client.read()
            for numbers in client.seen.values():
                assert numbers == sorted(set(numbers)), "out of order, or twice"

    def teardown(self) -> None:
        """Let everybody read: then nothing waits, and every frame with an id has had one outcome that its sender knows."""
        if not hasattr(self, "world"):
            return
        for id, client in self.clients.items():
            if self.there(id) is not None and client.agent is not None:
                client.agent.read_on()
        self.acknowledge()
        self.world.pass_time(60)
        self.all_is_well()
        self.acknowledge()
        router = self.world.router
        assert router.waiting() == (0, 0)
        assert not router.snapshot()["streams"]
        for client, id in self.with_id:
            assert len(client.outcomes[id]) <= 1, f"{id}: {client.outcomes[id]}"
        for id, client in self.clients.items():
            if self.there(id) is not None:
                assert not client.open, "its sender has left or said nothing: there must have been an end"


TestTalk = Talk.TestCase
TestTalk.settings = settings(stateful_step_count=50)
