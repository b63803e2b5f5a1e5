"""One event to many sessions: encoded once, put into each channel as the same bytes, never waiting for any of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import anyio
import anyio.lowlevel

from echokernel._suggest import did_you_mean
from echokernel.engine.backlog import Tally
from echokernel.engine.flushing import Flushes
from echokernel.engine.metadata import encode_metadata
from echokernel.engine.waiting_events import Ready
from echokernel.errors import InvalidArgument
from echokernel_protocol.channel import FRAME_CHARGE, event_frame
from echokernel_protocol.frames import Flags, check_method
from echokernel_protocol.postcard import encode_varint

if TYPE_CHECKING:
    from echokernel.engine.codecs import Codecs
    from echokernel.session import Session

BroadcastPolicy = Literal["wait", "drop_oldest", "latest", "disconnect"]
"""What becomes of a broadcast at a session that cannot take it at once: it waits, or pushes out the oldest of its event
that wait, or replaces the one that waits, or costs the session."""

TURN = 2_048  # sessions that get their frame before others run: about 10 ms

_METADATA, _BODY = int(Flags.METADATA), int(Flags.BODY)

__all__ = ["BroadcastPolicy", "Broadcasts", "check_event", "check_policy"]


def check_policy(policy: str) -> None:
    """Raise InvalidArgument for what is no policy."""
    known = get_args(BroadcastPolicy)
    if policy not in known:
        hint = did_you_mean(policy, known) if isinstance(policy, str) else ""
        raise InvalidArgument(f"broadcast policy {policy!r}: wanted {', '.join(known)}" + (f"; {hint}" if hint else ""))


def check_event(event: str) -> None:
    """Raise InvalidArgument for a name that no event of a program can have."""
    if not isinstance(event, str):
        raise InvalidArgument(f"an event's name is a {type(event).__name__}; wanted a text")
    try:
        check_method(event)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    if event.startswith("$"):
        raise InvalidArgument(f"event {event!r}: names that begin with $ are the kernel's")


class _Message:
    """One event in the forms that its sessions need: by serializer and slot, in a frame or beside one."""

    __slots__ = ("_event", "_forms", "_metadata", "_payloads", "_value")

    def __init__(self, event: str, value: Any, metadata: bytes) -> None:
        self._event = event
        self._value = value
        self._metadata = metadata
        self._payloads: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        self._forms: dict[tuple[tuple[str, int], bool], Ready] = {}

    def encode(self, codecs: Codecs) -> None:
        """Encode for sessions like this one, unless that was done. Raises SerializationError."""
        if codecs.key not in self._payloads:
            self._payloads[codecs.key] = codecs.head(self._event), codecs.encode(self._value)

    @property
    def largest(self) -> int:
        """Bytes of the longest form."""
        return max((len(payload) for _, payload in self._payloads.values()), default=0)

    def ready_for(self, session: Session) -> Ready | None:
        """Return what travels to this session; None where its peer does not take that much."""
        key, peer = session._codecs.key, session.peer
        head, payload = self._payloads[key]
        in_frame = len(payload) + len(self._metadata) <= peer.max_frame
        ready = self._forms.get((key, in_frame))
        if ready is None:
            ready = self._forms[key, in_frame] = self._form(head, payload, in_frame)
        if len(payload) > peer.max_message or ready.size + FRAME_CHARGE > peer.event_limit:
            return None
        return ready

    def _form(self, head: bytes, payload: bytes, in_frame: bool) -> Ready:
        flags = head[-1] | (_METADATA if self._metadata else 0) | (0 if in_frame else _BODY)
        content = self._metadata + (payload if in_frame else encode_varint(len(payload)))
        body = None if in_frame else payload
        size = len(content) + (0 if in_frame else len(payload))
        return Ready(event_frame(head[:-1] + bytes((flags,)), content), body, size)


class Broadcasts:
    """The broadcasts of one server: policies by event, counters, and the order of those that take several turns."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.flushes = Flushes()
        self._count = 0
        self._too_large = 0
        self._policies: dict[str, str] = {}
        self._turn = 0
        self._turns = anyio.Lock()
        self._underway: dict[str, anyio.Lock] = {}

    def set_policy(self, event: str, policy: str) -> None:
        """Choose what happens to broadcasts of ``event`` from now on. Raises InvalidArgument."""
        check_event(event)
        check_policy(policy)
        self._policies[event] = policy

    def policy(self, event: str) -> str:
        """Return the policy of an event."""
        return self._policies.get(event, "wait")

    def stats(self) -> Mapping[str, int]:
        """Return the counters of all broadcasts."""
        return {"broadcasts": self._count, **self.tally.stats(), "too_large": self._too_large}

    async def send(
        self,
        event: str,
        data: Any,
        sessions: Sequence[Session],
        exclude: Session | Iterable[Session] | None,
        policy: str | None,
        metadata: Mapping[str, str] | None,
    ) -> int:
        """Send; see :meth:`ServerContext.broadcast`."""
        check_event(event)
        if policy is None:
            policy = self.policy(event)
        else:
            check_policy(policy)
        message = _Message(event, data, encode_metadata(event, metadata, {}))
        left_out = _ids(exclude)
        targets = [session for session in sessions if session.id not in left_out and session.takes_events]
        for session in targets:
            message.encode(session._codecs)
        if targets and not any(message.ready_for(session) is not None for session in targets):
            raise InvalidArgument(
                f"{event}: an event of {message.largest:,} bytes; no session takes that much. Send larger data as a stream."
            )
        self._count += 1
        if event not in self._underway and self._turn + len(targets) <= TURN:
            return self._spread(event, message, targets, policy)
        return await self._send_in_turns(event, message, targets, policy)

    async def _send_in_turns(self, event: str, message: _Message, targets: Sequence[Session], policy: str) -> int:
        """So many sessions take several turns of the loop; the next broadcast of that name must not overtake this one."""
        lock = self._underway.setdefault(event, anyio.Lock())
        try:
            async with lock:
                reached = 0
                for start in range(0, len(targets), TURN):
                    async with self._turns:  # shared with broadcasts of other names: the loop's time is one
                        await anyio.lowlevel.checkpoint()
                        self._turn = 0
                        reached += self._spread(event, message, targets[start : start + TURN], policy)
                return reached
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._underway.pop(event, None)

    def _spread(self, event: str, message: _Message, targets: Iterable[Session], policy: str) -> int:
        reached = 0
        for session in targets:
            if not session.takes_events:
                continue  # it has ended meanwhile
            self._turn += 1
            ready = message.ready_for(session)
            if ready is None:
                self._too_large += 1
            elif session._calls.backlog.offer(event, ready, policy):
                reached += 1
        return reached


def _ids(exclude: Session | Iterable[Session] | None) -> frozenset[int]:
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Iterable):
        return frozenset(session.id for session in exclude)
    return frozenset((exclude.id,))
