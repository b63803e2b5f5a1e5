"""What becomes of a frame for another agent: delivered, kept, or one error to its sender."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from echokernel_agora.agents import Agent, timestamp
from echokernel_agora.frames import (
    End,
    Reply,
    ReplyEnd,
    Send,
    SendEnd,
    encode,
    error,
    request_id_in,
    request_id_of,
)
from echokernel_agora.queues import Account, AccountKey, Held, Lanes, Log, Parcel
from echokernel_agora.rates import Rates, Refused
from echokernel_agora.streams import Key, Stream
from echokernel_agora.texts import KINDS, NAMES, REPLIES, Texts, starts

if TYPE_CHECKING:
    from echokernel_agora.agents import Peer
    from echokernel_agora.counters import Counters
    from echokernel_agora.limits import Limits

__all__ = ["Relay"]

KEPT_ERRORS = 100  # the console shows them
MOST_TOLD = 256  # streams of one connection that are not open and of which it was told; then the oldest is forgotten
OTHERS = 8  # one that has less than this part of a full queue is still let in, up to twice the bound
MOST_ACCOUNTS = 1024  # receivers with whom a sender with credit has an open account


class Relay:
    """Carries frames between agents. Part of a :class:`~echokernel_agora.Router`, which says who is there."""

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        agents: dict[str, Agent],
        *,
        strict_seed: bool,
        monotonic: Callable[[], float],
        utcnow: Callable[[], datetime],
    ) -> None:
        self._limits, self._counters, self._agents = limits, counters, agents
        self._strict_seed, self._monotonic, self._utcnow = strict_seed, monotonic, utcnow
        self._texts = Texts(strict_seed=strict_seed)
        self.rates = Rates(limits, monotonic)
        self.streams: dict[Key, Stream] = {}
        self.recent_errors: deque[dict[str, str]] = deque(maxlen=KEPT_ERRORS)

    # -- to one connection -------------------------------------------------------------------------------------------

    def answer(self, peer: Peer, frame: bytes) -> None:
        """Write a frame that is no relayed one: before those that wait, or as soon as there is room."""
        if peer.blocked_since is None:
            if peer.outlet.write(frame):
                return
            peer.blocked_since = self._monotonic()
        if peer.control is None:
            peer.control = deque()
        if peer.control and peer.control_bytes + len(frame) > self._limits.control_bytes:
            self._give_up(peer)
            return
        peer.control.append(frame)
        peer.control_bytes += len(frame)

    def _give_up(self, peer: Peer) -> None:
        self._counters.slow += 1
        peer.outlet.close(1013, "too many answers wait: read what is sent to you")

    def announce(self, peer: Peer, agent_id: str, frame: bytes) -> None:
        """Tell a watcher of another agent; of what it does not read in time, the last of each agent waits."""
        if peer.blocked_since is None and not peer.news:
            self.answer(peer, frame)
            return
        if peer.news is None:
            peer.news = {}
        peer.news.pop(agent_id, None)  # it goes behind the others
        peer.news[agent_id] = frame

    def tell(self, agent: Agent, frame: bytes) -> None:
        """Let an agent know something; one whose connection is lost learns it when it resumes."""
        if isinstance(agent.queue, Log):
            if agent.queue.frames - agent.queue.relayed >= self._limits.queue_frames:
                if agent.peer is not None:
                    self._give_up(agent.peer)
                return  # it does not read even errors; without a connection it is forgotten at the next tick
            agent.queue.push(Parcel(frame, "error", agent.id))
            if agent.peer is not None:
                self._write_waiting(agent, agent.peer)
        elif agent.peer is not None:
            self.answer(agent.peer, frame)

    def tell_error(self, whom: Agent | Peer, code: str, message: str, /, **about: Any) -> None:
        """Count an error, keep it for the console, and tell it to an agent, or to a connection that asked."""
        self._counters.errors[code] += 1
        agent = whom if isinstance(whom, Agent) else whom.agent
        self.recent_errors.append(
            {
                "at": timestamp(self._utcnow()),
                "code": code,
                "agent": agent.id if agent is not None else "",
                "to": str(about.get("to", "")),
                "message": message,
            }
        )
        if agent is not None:
            agent.errors += 1
        if self._strict_seed:
            return
        frame = error(code, message, **about)
        if isinstance(whom, Agent):
            self.tell(whom, frame)
        else:
            self.answer(whom, frame)

    def drain(self, peer: Peer) -> None:
        """Write what waits for a connection that has room again."""
        peer.blocked_since = None
        while peer.control:
            if not peer.outlet.write(peer.control[0]):
                peer.blocked_since = self._monotonic()
                return
            peer.control_bytes -= len(peer.control.popleft())
        while peer.news:
            agent_id = next(iter(peer.news))
            if not peer.outlet.write(peer.news[agent_id]):
                peer.blocked_since = self._monotonic()
                return
            del peer.news[agent_id]
        if peer.agent is not None and peer.agent.peer is peer:
            self._write_waiting(peer.agent, peer)

    def _write_waiting(self, agent: Agent, peer: Peer) -> None:
        queue = agent.queue
        if isinstance(queue, Held):
            peer.outlet.taken()
            return
        if peer.blocked_since is not None:
            return
        for parcel in queue.drain(peer.outlet.write):
            self.delivered(parcel, agent)
        if queue.unwritten if isinstance(queue, Log) else queue.frames:
            peer.blocked_since = self._monotonic()

    # -- what becomes of frames --------------------------------------------------------------------------------------

    def delivered(self, parcel: Parcel, agent: Agent) -> None:
        """Count a frame that has gone to its receiver, and tell its sender if that wants to know."""
        sender = parcel.sender
        if sender is None:
            return
        self._count_delivered(agent, len(parcel.data))
        if sender.peer is not None and sender.peer.features:
            self._tell_outcome(sender.peer, parcel.to, parcel.id, "delivered")
        if parcel.account is not None:
            self._pay_back(sender.peer, parcel.account, parcel.cost)

    def _count_delivered(self, agent: Agent, size: int) -> None:
        self._counters.delivered += 1
        self._counters.bytes_out += size
        agent.sent += 1

    def _tell_outcome(self, peer: Peer, to: str, id: str | None, status: str) -> None:
        if id is not None and "receipt" in peer.features:
            self.answer(peer, encode({"type": "receipt", "id": id, "to": to, "status": status}))

    def lost(self, parcel: Parcel, code: str, message: str) -> None:
        """Count a frame that will never arrive, and tell its sender, once for each message and each stream."""
        sender, stream = parcel.sender, parcel.stream
        if sender is None:
            return
        self._counters.errored += 1
        if parcel.account is not None:
            self._pay_back(sender.peer, parcel.account, parcel.cost)
        if stream is None:
            self.tell_error(sender, code, message, to=parcel.to, id=parcel.id, request_id=request_id_in(parcel.data))
        elif not stream.failed:
            self.fail(stream, code, message)

    def fail(self, stream: Stream, code: str, message: str) -> None:
        """Tell a stream's sender that it has failed; what is still sent on it goes nowhere."""
        stream.failed = True
        to, stream_id = stream.key[1], stream.stream_id
        self.tell_error(stream.sender, code, message, to=to, stream_id=stream_id)

    def break_off(self, stream: Stream, code: str, message: str) -> None:
        """Tell both sides of a stream that it has failed."""
        self.fail(stream, code, message)
        self._end_at_receiver(stream, code, message)

    def end(self, stream: Stream, code: str, message: str) -> None:
        """Tell a stream's receiver that there comes nothing more, and why, and forget the stream."""
        self.forget(stream)
        if not stream.failed:
            self._end_at_receiver(stream, code, message)

    def _end_at_receiver(self, stream: Stream, code: str, message: str) -> None:
        receiver, sender = stream.receiver, stream.sender
        if self._agents.get(receiver.id) is not receiver:
            return
        kind = "reply_end" if stream.reply else "message_end"
        data = self._texts.broken(kind, sender, receiver.id, stream.stream_id, code, message)
        parcel = Parcel(data, kind, receiver.id, stream=stream)
        parcel.sender_id = sender.id  # behind what that has sent
        receiver.queue.push(parcel)
        if receiver.peer is not None:
            self._write_waiting(receiver, receiver.peer)

    def forget_failed(self, stream: Stream) -> None:
        """Forget a stream whose sender knows that it has failed, and may still send on it: it is told nothing more."""
        self.forget(stream)
        if stream.sender.peer is not None:
            self._knows(stream.sender.peer, stream.key[1:])

    def forget(self, stream: Stream) -> None:
        if self.streams.get(stream.key) is stream:
            del self.streams[stream.key]
        if stream.sender.outgoing is not None:
            stream.sender.outgoing.discard(stream)
        if stream.receiver.incoming is not None:
            stream.receiver.incoming.discard(stream)
        peer = stream.sender.peer
        if peer is not None and peer.credit is not None and peer.outlet.holds:
            account = peer.credit.get(stream.key[1:])
            if account is not None and not account.under_way:
                self._close_account(peer, account)

    # -- from one connection -----------------------------------------------------------------------------------------

    def relay(self, peer: Peer, frame: Any, size: int) -> None:
        """Carry a frame of ``size`` bytes to the agent that it names, or tell its sender why not."""
        counters = self._counters
        counters.accepted += 1
        kind = type(frame)
        counters.accepted_by_type[NAMES[kind]] += 1
        if (agent := peer.agent) is not None:
            agent.received += 1
        account, stream = None, None
        try:
            limited = self.rates.limited(peer, size)
            if agent is None:
                raise limited or Refused("not_registered", "register first: the receiver has to know who sends")
            if peer.credit is not None:
                key = _account_key(frame, kind in REPLIES) if peer.outlet.holds else frame.to
                account = self._charge(peer.credit, key, size)
            if limited is not None:
                raise limited
            target = self._agents.get(frame.to)
            if target is None or not peer.principal.may_reach(frame.to):
                raise Refused("no_such_agent", "nobody is registered under this id")
            if kind is Send or kind is Reply:
                stream = self._begin(agent, target, frame, kind is Reply)
                data = self._texts.message(agent, frame, kind)
            else:
                stream = self._continue(agent, target, frame, kind)
                data = self._texts.part(agent, frame, kind)
            self._deliver(peer, agent, target, data, KINDS[kind], stream, frame.id, account, size)
            if kind is SendEnd or kind is ReplyEnd:
                self.forget(stream)  # type: ignore[arg-type]
        except Refused as refused:
            self._refuse(peer, frame, kind, refused, stream)
            if account is not None:
                self._pay_back(peer, account, size)

    def _deliver(
        self,
        peer: Peer,
        agent: Agent,
        target: Agent,
        data: bytes,
        kind: str,
        stream: Stream | None,
        id: str | None,
        account: Account | None,
        cost: int,
    ) -> None:
        receiver, queue = target.peer, target.queue
        if receiver is not None and receiver.blocked_since is None and not queue.frames and type(queue) is Lanes:
            if receiver.outlet.write(data):
                self._count_delivered(target, len(data))
                if peer.features:
                    self._tell_outcome(peer, target.id, id, "delivered")
                    if account is not None:
                        self._pay_back(peer, account, cost)
                return
            receiver.blocked_since = self._monotonic()
        parcel = Parcel(data, kind, target.id, agent, stream, id, account, cost)
        self._admit(queue, parcel)
        queue.push(parcel)
        if receiver is not None:
            self._write_waiting(target, receiver)
        elif id is not None and peer.features:
            self._tell_outcome(peer, target.id, id, "stored")

    def _admit(self, queue: Any, parcel: Parcel) -> None:
        limits, size = self._limits, len(parcel.data)
        if not queue.frames:
            return
        if parcel.account is not None:
            full = queue.credited + size > limits.credit_bytes
        else:
            frames, octets = queue.frames - queue.credited_frames, queue.size - queue.credited + size
            full = frames >= limits.queue_frames or octets > limits.queue_bytes
            if full and type(queue) is Lanes and frames < 2 * limits.queue_frames and octets <= 2 * limits.queue_bytes:
                # one that floods an agent leaves room for what others send it
                own_frames, own_octets = queue.of_sender(parcel.sender_id)
                share = max(1, limits.queue_frames // OTHERS), limits.queue_bytes // OTHERS
                full = own_frames >= share[0] or (own_frames > 0 and own_octets + size > share[1])
        if full:
            raise Refused(
                "receiver_slow",
                f"{queue.frames} frames ({queue.size} bytes) wait for it already: it reads more slowly than it is sent to",
            )

    def _refuse(self, peer: Peer, frame: Any, kind: type, refused: Refused, stream: Stream | None) -> None:
        """Count a frame that is not carried; tell its sender, once for each message and each stream."""
        self._counters.errored += 1
        agent, to, stream_id, reply = peer.agent, frame.to, frame.stream_id, kind in REPLIES
        about: dict[str, Any] = {"to": to, "id": frame.id, "retry_ms": refused.retry_ms, "stream_id": stream_id}
        if isinstance(frame, Send):
            about["request_id"] = frame.request_id if frame.request_id is not None else request_id_of(frame.payload)
            if stream is not None:  # it had begun, and nobody hears of it
                self.forget(stream)
            if agent is not None and starts(frame, reply) and (agent.id, to, reply, stream_id) not in self.streams:
                self._knows(peer, (to, reply, stream_id))  # its chunks are told nothing more
        elif agent is not None:
            stream = self.streams.get((agent.id, to, reply, stream_id))
            if stream is not None:
                if not stream.failed:
                    self.break_off(stream, refused.code, refused.message)
                if isinstance(frame, End):
                    self.forget(stream)
                return
            if self._knows(peer, (to, reply, stream_id)):
                return
        self.tell_error(agent or peer, refused.code, refused.message, **about)

    def _knows(self, peer: Peer, key: tuple[str, bool, str]) -> bool:
        """Whether a connection was told already that it has no such stream; from now on it was."""
        if peer.told is None:
            peer.told = {}
        if key in peer.told:
            return True
        if len(peer.told) >= MOST_TOLD:
            del peer.told[next(iter(peer.told))]
        peer.told[key] = None
        return False

    # -- streams -----------------------------------------------------------------------------------------------------

    def _begin(self, agent: Agent, target: Agent, frame: Any, reply: bool) -> Stream | None:
        """Return the stream that a message starts; None: it is a message of its own."""
        limits, stream_id = self._limits, frame.stream_id
        if frame.hops is not None and frame.hops >= limits.hops:
            raise Refused("loop", f"it has passed {frame.hops} routers; at most {limits.hops} may carry it")
        if limits.pair_per_minute or target is agent:
            self.rates.within_pair(agent, target)
        if not starts(frame, reply):
            return None
        if stream_id is None:
            raise Refused("bad_request", "`stream_id` is missing: a stream needs one")
        key = (agent.id, target.id, reply, stream_id)
        now = self._monotonic()
        if agent.outgoing is None:
            agent.outgoing = set()
        old = self.streams.get(key)
        if old is not None:
            if not old.failed:
                raise Refused(
                    "stream_exists", "a stream of this id to this agent is open: end it, or choose another id"
                )
            self.forget(old)
        if len(agent.outgoing) >= limits.streams:
            for each in [each for each in agent.outgoing if each.failed]:
                self.forget_failed(each)
        if len(agent.outgoing) >= limits.streams:
            raise Refused(
                "too_many_streams", f"you have {len(agent.outgoing)} streams open; at most {limits.streams} may be"
            )
        stream = Stream(key, agent, target, now)
        self.streams[key] = stream
        agent.outgoing.add(stream)
        if target.incoming is None:
            target.incoming = set()
        target.incoming.add(stream)
        if agent.peer is not None and agent.peer.told:
            agent.peer.told.pop((target.id, reply, stream_id), None)
        return stream

    def _continue(self, agent: Agent, target: Agent, frame: Any, kind: type) -> Stream:
        """Return the stream of a chunk or an end."""
        stream = self.streams.get((agent.id, target.id, kind in REPLIES, frame.stream_id))
        if stream is None:
            raise Refused("no_such_stream", "no stream of this id to this agent is open: it begins with stream: true")
        stream.last = self._monotonic()
        if stream.failed:
            raise Refused("receiver_gone", "")  # it was told already, and why
        stream.chunks += 1
        return stream

    # -- how much ----------------------------------------------------------------------------------------------------

    def _charge(self, credit: dict[AccountKey, Account], key: AccountKey, size: int) -> Account:
        account = credit.get(key)
        if account is None:
            account = credit[key] = Account(key)
        before = account.under_way + account.to_grant
        account.under_way += size
        if before >= self._limits.credit_window:
            self._pay_back_later(account, size)
            raise Refused("credit_exceeded", f"{before} bytes are under way to it; wait for credit")
        return account

    @staticmethod
    def _pay_back_later(account: Account, cost: int) -> None:
        account.under_way -= cost
        account.to_grant += cost

    def _pay_back(self, peer: Peer | None, account: Account, cost: int) -> None:
        self._pay_back_later(account, cost)
        if peer is None or peer.credit is None or peer.credit.get(account.key) is not account:
            return  # of a connection that is gone: a new one begins with all its credit
        if account.to_grant >= self._limits.credit_window // 4:
            self._grant(peer, account)
        if not account.under_way and (len(peer.credit) > MOST_ACCOUNTS or self._is_over(peer, account)):
            self._close_account(peer, account)

    def _is_over(self, peer: Peer, account: Account) -> bool:
        """Whether it is the account of a stream that has ended."""
        return type(account.key) is tuple and (peer.agent is None or (peer.agent.id, *account.key) not in self.streams)

    def _close_account(self, peer: Peer, account: Account) -> None:
        if account.to_grant:
            self._grant(peer, account)
        assert peer.credit is not None
        del peer.credit[account.key]

    def _grant(self, peer: Peer, account: Account) -> None:
        granted, account.to_grant = account.to_grant, 0
        fields: dict[str, Any] = {"type": "credit", "to": account.key, "bytes": granted}
        if type(account.key) is tuple:
            fields["to"], fields["reply"], fields["stream_id"] = account.key
        self.answer(peer, encode(fields))


def _account_key(frame: Any, reply: bool) -> AccountKey:
    """Return what a sender whose streams can pause each by itself has credit for."""
    if isinstance(frame, Send) and not starts(frame, reply):
        return frame.to
    return frame.to, reply, frame.stream_id
