"""The router: who is there, and who may say what. No IO, no clock of its own; listeners and bridges attach connections."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from echokernel_agora.agents import Agent, Outlet, Peer
from echokernel_agora.counters import Counters
from echokernel_agora.frames import (
    RELAYED,
    Ack,
    BadFrame,
    Listing,
    Ping,
    Register,
    Stop,
    Unwatch,
    Watch,
    decode,
    encode,
)
from echokernel_agora.limits import Limits
from echokernel_agora.listing import busiest, listing, shown, shown_stream, totals, waiting
from echokernel_agora.principal import LOCAL, Principal
from echokernel_agora.queues import Held, Log, Parcel
from echokernel_agora.relay import Relay
from echokernel_agora.streams import Stream

__all__ = ["FEATURES", "OnEvent", "Router"]

OnEvent = Callable[[str, Mapping[str, object]], None]

FEATURES = frozenset({"receipt", "credit", "resume", "presence"})
TAKEOVER_SECONDS = 10.0
BAD_SECONDS = 10.0


class Router:
    """Registers agents and carries what they send each other.

    ``monotonic`` returns seconds, ``utcnow`` the time of day; ``on_event(name, fields)`` hears of connections and
    registrations, never of payloads. Everything is called in one thread, and nothing waits.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        strict_seed: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        utcnow: Callable[[], datetime] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.limits = limits or Limits()
        """The bounds."""
        self.strict_seed = strict_seed
        """Whether clients get the seed's frames only, without errors and without fields that it has not."""
        self.counters = Counters()
        """What has happened since the start."""
        self.agents: dict[str, Agent] = {}
        """Who is registered, oldest registration first."""
        self.peers: set[Peer] = set()
        """The connections."""
        self.on_event = on_event
        """Hears of connections and registrations: one line of a log each."""
        self._monotonic, self._utcnow = monotonic, utcnow or _now
        self._started = monotonic()
        self._serial = 0
        self._takeovers: dict[str, deque[float]] = {}
        self._watchers: set[Peer] = set()
        self._relay = Relay(
            self.limits, self.counters, self.agents, strict_seed=strict_seed, monotonic=monotonic, utcnow=self._utcnow
        )
        self._handlers: dict[type, Callable[[Peer, Any], None]] = {
            Register: self._register,
            Listing: self._list,
            Ping: self._ping,
            Watch: self._watch,
            Unwatch: self._unwatch,
            Stop: self._stop,
        }

    # -- connections -------------------------------------------------------------------------------------------------

    def attach(self, outlet: Outlet, principal: Principal = LOCAL, *, transport: str = "ws", address: str = "") -> Peer:
        """Let a connection in; nobody is registered by that."""
        now = self._monotonic()
        peer = Peer(outlet, principal, transport, address, now)
        peer.frames_left, peer.bytes_left = self.limits.frame_burst, 2 * self.limits.byte_rate
        self.peers.add(peer)
        self._tell("connected", principal=principal.name, transport=transport, address=address)
        return peer

    def receive(self, peer: Peer, text: bytes) -> None:
        """Take one text frame, which is valid UTF-8. Whatever it is, there is an outcome, and never an exception."""
        self.counters.bytes_in += len(text)
        if peer not in self.peers:
            return  # what a connection sent that was detached meanwhile
        try:
            frame = decode(text)
        except BadFrame as problem:
            self._refuse_bad(peer, str(problem))
            return
        kind = type(frame)
        if kind in RELAYED:
            self._relay.relay(peer, frame, len(text))
        elif self.strict_seed and kind is not Register and kind is not Listing:
            self._refuse_bad(peer, "`type` is none of the seed's")
        elif kind is Ack:
            self._acknowledge(peer, frame, len(text))
        elif self._admit(peer, len(text)):
            self._handlers[kind](peer, frame)

    def drain(self, peer: Peer) -> None:
        """Write what waits for a connection: it has room again."""
        if peer in self.peers:
            self._relay.drain(peer)

    def settle(self, peer: Peer, parcel: Parcel) -> None:
        """Hear from an outlet with ``holds`` that a parcel has gone to the agent."""
        agent = peer.agent
        if agent is not None and isinstance(agent.queue, Held) and agent.queue.settle(parcel):
            self._relay.delivered(parcel, agent)

    def lose(self, peer: Peer, parcel: Parcel, code: str, message: str) -> None:
        """Hear from an outlet with ``holds`` that a parcel will not go to the agent; its sender is told."""
        agent = peer.agent
        if agent is not None and isinstance(agent.queue, Held) and agent.queue.settle(parcel):
            self._relay.lost(parcel, code, message)

    def stop(self, stream: Stream, code: str, message: str) -> None:
        """Hear from an outlet with ``holds`` that the agent wants no more of a stream; its sender is told, if it goes on."""
        if not stream.failed and self._relay.streams.get(stream.key) is stream:
            self._relay.fail(stream, code, message)

    def pause(self, peer: Peer) -> float:
        """Return in how many seconds a connection is within its rate with one more frame; 0: now."""
        return self._relay.rates.pause(peer)

    def detach(self, peer: Peer, *, resumable: bool = False, reason: str = "") -> None:
        """Forget a connection. ``resumable``: it was lost, and an agent with ``resume`` may come back."""
        if peer not in self.peers:
            return
        self.peers.discard(peer)
        self._watchers.discard(peer)
        agent, peer.control, peer.news = peer.agent, None, None
        self._tell(
            "disconnected",
            agent=agent.id if agent else "",
            principal=peer.principal.name,
            address=peer.address,
            reason=reason,
        )
        if agent is None or agent.peer is not peer:
            return
        agent.peer = None
        if resumable and agent.token is not None:
            agent.lost_at = self._monotonic()
            agent.describe(strict_seed=self.strict_seed)
            self._announce("offline", agent)
        else:
            self._remove(agent, "its connection is closed")

    def disconnect(self, agent_id: str, *, code: int = 1008, reason: str = "disconnected by an operator") -> bool:
        """Close an agent's connection and forget the agent. False where there is none of that id."""
        agent = self.agents.get(agent_id)
        if agent is None:
            return False
        peer = agent.peer
        self._remove(agent, "it was disconnected")
        if peer is not None:
            peer.agent = None
            peer.outlet.close(code, reason)
        return True

    # -- what clients say --------------------------------------------------------------------------------------------

    def _refuse_bad(self, peer: Peer, message: str) -> None:
        self.counters.bad += 1
        now = self._monotonic()
        self._relay.tell_error(peer, "bad_request", message)
        if peer.bad is None:
            peer.bad = deque(maxlen=self.limits.bad_frames)
        peer.bad.append(now)
        if len(peer.bad) >= self.limits.bad_frames and now - peer.bad[0] <= BAD_SECONDS:
            self._tell("refused", principal=peer.principal.name, address=peer.address, reason="bad frames")
            peer.outlet.close(1008, f"{len(peer.bad)} bad frames within {BAD_SECONDS:g} s: {message}"[:120])

    def _admit(self, peer: Peer, size: int, weight: float = 1.0) -> bool:
        limited = self._relay.rates.limited(peer, size, weight)
        if limited is not None:
            self._relay.tell_error(peer, limited.code, limited.message, retry_ms=limited.retry_ms)
        return limited is None

    def _register(self, peer: Peer, frame: Register) -> None:
        agent = peer.agent
        if agent is not None:
            if agent.id != frame.id:
                self._relay.tell_error(
                    peer, "already_registered", f"this connection is {agent.id!r}: one connection is one agent"
                )
                return
            if not self._too_much(peer, frame):
                self._describe(agent, frame)
                self._relay.answer(peer, self._registered(peer, agent, frame, resumed=None))
                self._announce("changed", agent)
                self._tell("updated", agent=agent.id)
            return
        if not peer.principal.may_be(frame.id):
            self._relay.tell_error(peer, "forbidden", f"this token does not allow the id {frame.id!r}")
            return
        if self._too_much(peer, frame):
            return
        old = self.agents.get(frame.id)
        known = old is not None and old.token is not None and _same(frame.resume, old.token)
        if old is not None and not known and not self._may_replace(peer, old):
            return
        if old is not None and old.peer is not None and not self._count_takeover(peer, old):
            return
        done: list[Parcel] | None = None
        if known and old is not None and isinstance(old.queue, Log) and "resume" in (frame.features or ()):
            done = old.queue.resume(frame.seq or 0)  # None: there would be a gap, so it begins anew
        resumes = done is not None
        agent = old if resumes else None
        if agent is None:
            self._serial += 1
            agent = Agent(frame.id, peer.principal, peer.transport, self._utcnow(), self._serial)
        self._take_place(peer, agent, old)
        self._describe(agent, frame)
        peer.features = FEATURES.intersection(frame.features or ()) if not self.strict_seed else frozenset()
        if "credit" in peer.features:
            peer.credit = {}
        if resumes:
            self.counters.resumed += 1
        elif peer.outlet.holds:
            agent.hold()
        elif "resume" in peer.features:
            agent.keep_log()
        self._relay.answer(peer, self._registered(peer, agent, frame, resumed=resumes))
        for parcel in done or ():
            self._relay.delivered(parcel, agent)
        self._announce("online", agent)
        self._tell(
            "registered", agent=agent.id, principal=peer.principal.name, transport=peer.transport, address=peer.address
        )
        if peer.blocked_since is None:
            self._relay.drain(peer)

    def _may_replace(self, peer: Peer, old: Agent) -> bool:
        proven = not peer.principal.anonymous and peer.principal.name == old.principal.name
        if proven or (old.peer is None and old.principal.name == peer.principal.name):
            return True
        if old.peer is not None:
            now = self._monotonic()
            if now - old.peer.probed_at > self.limits.ping_timeout:  # one at a time, whoever wants the id
                old.peer.probed_at = now
                old.peer.outlet.probe()  # where it is dead and nobody knows, the next attempt succeeds
        self._relay.tell_error(
            peer, "id_in_use", f"another connection is {old.id!r}; choose another id, or wait for its end"
        )
        return False

    def _count_takeover(self, peer: Peer, old: Agent) -> bool:
        now = self._monotonic()
        times = self._takeovers.setdefault(old.id, deque())
        while times and now - times[0] > TAKEOVER_SECONDS:
            times.popleft()
        if len(times) >= self.limits.takeovers:
            reason = f"{old.id!r} changed its connection {len(times)} times within {TAKEOVER_SECONDS:g} s: two clients want it"
            self._relay.tell_error(peer, "id_in_use", reason)
            peer.outlet.close(4409, reason[:120])
            return False
        times.append(now)
        return True

    def _take_place(self, peer: Peer, agent: Agent, old: Agent | None) -> None:
        if old is not None:
            before, old.peer = old.peer, None
            if before is not None:
                before.agent = None
                self.counters.replaced += 1
                self._tell("replaced", agent=old.id, address=before.address, by=peer.address)
                before.outlet.close(4409, "replaced by a newer connection of the same id: do not reconnect")
            if old is not agent:
                self._remove(old, "it was replaced by a newer connection")
        if old is not agent:
            self.agents[agent.id] = agent
            self.counters.registered += 1
        agent.peer, peer.agent = peer, agent
        agent.transport, agent.principal = peer.transport, peer.principal

    def _too_much(self, peer: Peer, frame: Register) -> bool:
        """Whether a frame says more of an agent than is kept; that is told."""
        limits = self.limits
        if len(frame.capabilities or ()) > limits.capabilities:
            said = f"{len(frame.capabilities or ())} capabilities; at most {limits.capabilities} are kept"
        elif len(frame.card) > limits.card_bytes:
            said = f"the card has {len(frame.card)} bytes; at most {limits.card_bytes} are kept"
        else:
            return False
        self._relay.tell_error(peer, "too_large", said)
        return True

    def _describe(self, agent: Agent, frame: Register) -> None:
        agent.name, agent.endpoint, agent.capabilities = frame.name, frame.endpoint, tuple(frame.capabilities or ())
        agent.card = frame.card.copy() if frame.card else frame.card  # a copy of its own, not of the whole frame
        agent.describe(strict_seed=self.strict_seed)

    def _registered(self, peer: Peer, agent: Agent, frame: Register, *, resumed: bool | None) -> bytes:
        fields: dict[str, Any] = {"type": "registered", "id": agent.id}
        if frame.features and not self.strict_seed:
            fields["features"] = sorted(peer.features)
            if "credit" in peer.features:
                fields["credit"] = self.limits.credit_window
            if agent.token is not None and resumed is not None:
                fields["resume"] = agent.token
                fields["window"] = self.limits.resume_window
                fields["resumed"] = resumed
                fields["received"] = agent.received
        return encode(fields)

    def _list(self, peer: Peer, frame: Listing) -> None:
        limits = self.limits
        if peer.control_bytes > limits.control_bytes // 2 or not self._admit(peer, 0, len(self.agents) / 100):
            if peer.control_bytes > limits.control_bytes // 2:
                self._relay.tell_error(
                    peer, "rate_limited", "read the answers that wait before you ask for more", id=frame.id
                )
            return
        if frame.cursor is not None and not (frame.cursor.isdecimal() and len(frame.cursor) <= 18):
            self._refuse_bad(peer, "`cursor` is none that an answer to `list` had")
            return
        visible = (agent for agent in self.agents.values() if peer.principal.may_reach(agent.id))
        page = len(self.agents) if self.strict_seed else limits.list_page  # the seed knows no pages
        self._relay.answer(peer, listing(frame, visible, page, strict_seed=self.strict_seed))

    def _ping(self, peer: Peer, frame: Ping) -> None:
        fields = {"type": "pong"} if frame.id is None else {"type": "pong", "id": frame.id}
        self._relay.answer(peer, encode(fields))

    def _watch(self, peer: Peer, frame: Watch) -> None:
        if "presence" in peer.features:
            self._watchers.add(peer)
        else:
            self._relay.tell_error(
                peer, "bad_request", "`watch` needs the feature presence: name it in `register.features`"
            )

    def _unwatch(self, peer: Peer, frame: Unwatch) -> None:
        self._watchers.discard(peer)

    def _acknowledge(self, peer: Peer, frame: Ack, size: int) -> None:
        agent = peer.agent
        done = agent.queue.acknowledge(frame.seq) if agent is not None and isinstance(agent.queue, Log) else None
        if not done and not self._admit(peer, size):  # what settles something is free: others chose how much there is
            return
        if agent is None or done is None:
            self._relay.tell_error(peer, "bad_request", "`ack` needs the feature resume: name it in `register.features`")
            return
        for parcel in done:
            self._relay.delivered(parcel, agent)

    def _stop(self, peer: Peer, frame: Stop) -> None:
        agent = peer.agent
        key = (frame.from_, agent.id if agent else "", bool(frame.reply), frame.stream_id)
        stream = self._relay.streams.get(key)
        if agent is None or stream is None:
            self._relay.tell_error(
                peer,
                "no_such_stream",
                "no stream of this id comes from it",
                from_=frame.from_,
                stream_id=frame.stream_id,
            )
        elif not stream.failed:
            self._relay.break_off(stream, "stream_stopped", "its receiver wants no more of it")

    # -- presence ----------------------------------------------------------------------------------------------------

    def _announce(self, event: str, agent: Agent) -> None:
        frame = b""
        for peer in list(self._watchers):
            if peer.principal.may_reach(agent.id):
                frame = frame or b'{"type":"presence","event":"%b","agent":%b}' % (event.encode(), agent.record)
                self._relay.announce(peer, agent.id, frame)

    def _remove(self, agent: Agent, why: str) -> None:
        """Forget an agent: whoever sent it something that did not arrive is told, and its own streams end."""
        if self.agents.get(agent.id) is agent:
            del self.agents[agent.id]
        agent.peer = None
        relay = self._relay
        for parcel in agent.queue.clear():
            relay.lost(parcel, "receiver_gone", why)
        for stream in list(agent.incoming or ()):
            if not stream.failed:
                relay.fail(stream, "receiver_gone", why)
        for stream in list(agent.outgoing or ()):
            relay.end(stream, "sender_gone", why)
        self._announce("gone", agent)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due; called about once a second."""
        now, limits = self._monotonic(), self.limits
        self._end_idle_streams(now)
        for peer in list(self.peers):
            if peer.blocked_since is not None and now - peer.blocked_since > limits.stuck_after:
                self._close_slow(peer, f"nothing was read for {limits.stuck_after:g} s")
            elif peer.agent is None and now - max(peer.attached_at, peer.refilled_at) > limits.idle_unregistered:
                peer.outlet.close(4408, f"nobody registered within {limits.idle_unregistered:g} s")
        for agent in list(self.agents.values()):
            queue = agent.queue
            if not isinstance(queue, Log):
                continue
            if agent.peer is not None:
                oldest, since = agent.unacknowledged
                if queue.unacknowledged != oldest:
                    agent.unacknowledged = (queue.unacknowledged, now)
                elif oldest and now - since > limits.stuck_after:
                    self._close_slow(agent.peer, f"nothing was acknowledged for {limits.stuck_after:g} s")
            elif now - agent.lost_at > limits.resume_window:
                self._remove(agent, f"it did not come back within {limits.resume_window:g} s")
            elif queue.frames - queue.relayed >= limits.queue_frames:
                self._remove(agent, "more waits for it than is kept")
        for agent_id in [
            key for key, times in self._takeovers.items() if not times or now - times[-1] > TAKEOVER_SECONDS
        ]:
            del self._takeovers[agent_id]

    def _end_idle_streams(self, now: float) -> None:
        limit = self.limits.stream_idle
        why = f"nothing came on it for {limit:g} s"
        for stream in [each for each in self._relay.streams.values() if now - each.last > limit]:
            if not stream.failed:
                self._relay.break_off(stream, "stream_idle", why)
            self._relay.forget_failed(stream)

    def _close_slow(self, peer: Peer, why: str) -> None:
        self.counters.slow += 1
        self._tell("slow", agent=peer.agent.id if peer.agent else "", address=peer.address)
        self.detach(peer, resumable=True, reason=why)
        peer.outlet.close(1013, why)

    # -- what is going on --------------------------------------------------------------------------------------------

    def waiting(self) -> tuple[int, int]:
        """Return how many relayed frames wait for agents that are connected (queued) and that are not (stored)."""
        return waiting(self.agents.values())

    def snapshot(self, most: int | None = None) -> dict[str, Any]:
        """Return what the console shows: of agents and streams, ``most`` each where there are more, and how many there are.

        Agents for which something waits come before others then; all are in the order in which they registered.
        """
        now, streams = self._monotonic(), [each for each in self._relay.streams.values() if not each.failed]
        return {
            "uptime": round(now - self._started, 3),
            "limits": {"queue_frames": self.limits.queue_frames, "queue_bytes": self.limits.queue_bytes},
            "counters": {**totals(self.counters, self.agents.values()), "connections": len(self.peers)},
            "agents": [shown(agent) for agent in busiest(self.agents.values(), most)],
            "agents_total": len(self.agents),
            "streams": [shown_stream(stream, now) for stream in streams[:most]],
            "streams_total": len(streams),
            "errors": list(self._relay.recent_errors),
        }

    def _tell(self, event: str, **fields: object) -> None:
        if self.on_event is not None:
            self.on_event(event, fields)


def _now() -> datetime:
    return datetime.now(UTC)


def _same(given: str | None, token: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), token.encode())
