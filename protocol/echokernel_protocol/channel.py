"""The channel: one session's conversation seen from one end, as a value. No socket, no clock, no task.

Four concerns share it, because they share the order of its frames:

* **Calls**: who may use which request id, and which are open.
* **Order**: counted frames leave as they were put in; link frames go before them.
* **Credit**: how much either end may send before the other one has taken it.
* **Link**: hello, ``$ack``, ``$ping``, ``$goaway``.

``receive`` takes the stream's bytes and returns what the session has to act on; everything else puts frames in, and
``data_to_send`` takes them out. Times are monotonic seconds and come in as arguments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from echokernel_protocol.codes import Code
from echokernel_protocol.early import fits
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.frames import (
    FRAME_OVERHEAD,
    KIND_MASK,
    MAX_REQUEST_ID,
    NAMELESS,
    Flags,
    FrameDecoder,
    MessageType,
    RawFrame,
    encode_frame,
    encode_method,
)
from echokernel_protocol.hello import MAX_HELLO, Hello, check_requirements
from echokernel_protocol.link import ACK, CLOCK, GOAWAY, HELLO, LINK_FRAMES, PING, Ack, GoAway
from echokernel_protocol.maps import take_map
from echokernel_protocol.postcard import Malformed, Truncated, encode_varint, take_varint

FRAME_CHARGE: Final = 64
"""Bytes that every event and request counts beside its payload and body, so that empty ones are not free."""
ACK_DELAY: Final = 0.025
"""Seconds that an ``$ack`` may wait for company."""
MAX_PONGS: Final = 64
"""Answers to ``$ping`` that may wait for room; a peer that asks faster and never reads is closed."""

POSITIONS_AT_ONCE: Final = 16
"""Frames with streams of their own that are taken before an ``$ack`` is due at once: a quarter of what a flow may have open."""
ALL_POSITIONS: Final = MAX_REQUEST_ID
"""Stands for every frame of a flow."""
MAX_POSITIONS: Final = 8_192
"""Positions that may wait for an ``$ack``; a sender that keeps to its window, and ends its flows, never has so many open."""
MAX_PEER_FLOWS: Final = 4_096
"""Streams of the peer that are open on the channel; how many are served at a time is the session's limit, far below."""

_REQUEST, _RESPONSE, _EVENT, _STREAM = range(4)
_ERROR, _CANCEL, _END, _METADATA, _BODY = (
    int(flag) for flag in (Flags.ERROR, Flags.CANCEL, Flags.END, Flags.METADATA, Flags.BODY)
)


class Role(Enum):
    """Who dialled. Ids are odd from the dialer, even from the acceptor."""

    DIALER = 1
    ACCEPTOR = 2


class Phase(Enum):
    """Where the hello stands."""

    WAITING = "waiting for the other end's hello"
    DECIDING = "the dialer's hello is here, and is being judged"
    ASSUMED = "the dialer goes by an answer that it remembers, until the acceptor's own is here"
    OPEN = "both hellos are exchanged"
    REFUSED = "the acceptor said no"


# (phase, what happens) -> phase: every move there is. docs/wire.md draws its diagram from this table.
HANDSHAKE: Final = {
    (Phase.WAITING, "dialer's hello arrives"): Phase.DECIDING,
    (Phase.DECIDING, "accept"): Phase.OPEN,
    (Phase.DECIDING, "refuse"): Phase.REFUSED,
    (Phase.WAITING, "acceptor's answer arrives"): Phase.OPEN,
    (Phase.WAITING, "acceptor's refusal arrives"): Phase.REFUSED,
    (Phase.WAITING, "assume"): Phase.ASSUMED,
    (Phase.ASSUMED, "acceptor's answer arrives"): Phase.OPEN,
    (Phase.ASSUMED, "acceptor's refusal arrives"): Phase.REFUSED,
}

_BEFORE_HELLO: Final = (Phase.WAITING, Phase.ASSUMED)


@dataclass(frozen=True, slots=True)
class Announced:
    """Stands for the payload of a frame whose bytes travel beside the channel, on a body stream."""

    number: int
    """The frame's number: the body stream's prelude repeats it."""
    length: int
    """Bytes of the body."""
    metadata: bytes
    """The Map before it, as it arrived; empty without METADATA."""
    size: int
    """Bytes of the frame's own payload and the body together: what counts against credit."""


Received = tuple[int, int, str, int, bytes | Announced]
"""What the session acts on: message type, request id, method, flags, payload."""


class Channel:
    """One end of a session's channel. Every method either changes it completely or raises and changes nothing,
    except ``receive``, whose ProtocolViolation ends the channel.
    """

    def __init__(self, role: Role, ours: Hello) -> None:
        self.role = role
        self.ours = ours
        self.peer: Hello | None = None
        """The other end's hello, once it is here; its ``serializers`` are then what slots 1 to 3 mean."""
        self.phase = Phase.WAITING
        self.refusal: ErrorInfo | None = None
        self.goaway: GoAway | None = None
        """The last ``$goaway`` of the other end."""
        self.late = 0
        """Frames for ids that were closed already: dropped and counted."""
        self._decoder = FrameDecoder(MAX_HELLO)
        self._decoder.one_at_a_time = True
        # what goes out
        self._link: deque[bytes] = deque()
        self._outbox: deque[bytes] = deque()
        self.outbox_size = 0
        """Bytes of counted frames that nobody took yet."""
        self.sent = 0
        """Counted frames put in so far: the number of the last one."""
        self._pongs: list[bytes] = []
        # ids
        self._next_id = 1 if role is Role.DIALER else 2
        self._parity = 0 if role is Role.DIALER else 1  # the remainder of the peer's ids by 2
        self._last_peer_id = 0
        self._goaway_last = MAX_REQUEST_ID
        # our requests and flows
        self._calls: dict[int, int] = {}
        self._call_bytes = 0
        self._cancelled: set[int] = set()
        self._flows: set[int] = set()
        # the peer's
        self.received = 0
        """Counted frames received so far: the number of the last one."""
        self._peer_calls: dict[int, int] = {}
        self._peer_call_bytes = 0
        self._peer_flows: set[int] = set()
        # event credit, both ways, in bytes since the session began
        self._events_sent = 0
        self._peer_event_limit = 0
        self._events_received = 0
        self._events_taken = 0
        self._event_window = ours.event_limit
        self._event_limit = ours.event_limit
        self._ack_at: float | None = None
        self._ack_due = False
        self._pings: deque[int] = deque()
        self._clocks: list[bytes] = []
        # positions of flows, both ways: what their receivers have taken
        self._taken: list[tuple[int, int]] = []
        self.positions: list[tuple[int, int]] = []
        """What :meth:`take_positions` would return now."""

    # --- the hello ---------------------------------------------------------------------------------------------

    def send_hello(self) -> None:
        """The dialer's first frame. Raises ValueError when the credentials make it too long."""
        self._link.append(_link_frame(_REQUEST, HELLO, self.ours.encode()))

    def assume(self, answer: Hello) -> None:
        """Go by what the acceptor answered in an earlier session; our hello has to say so, as ``assumed``."""
        self._move("assume")
        self.peer = answer
        self.serializers = answer.serializers
        self._peer_event_limit = answer.event_limit

    def accept(self, answer: Hello) -> None:
        """Answer the dialer's hello; the channel is open then."""
        self._move("accept")
        self._link.append(_link_frame(_RESPONSE, HELLO, answer.encode()))
        self._open(answer.serializers)

    def refuse(self, error: ErrorInfo) -> None:
        """Answer the dialer's hello with an error; close after it was sent."""
        self._move("refuse")
        self._link.append(_link_frame(_RESPONSE, HELLO, error.encode(), Flags.ERROR))

    def _move(self, event: str) -> None:
        self.phase = HANDSHAKE[self.phase, event]

    def _open(self, serializers: tuple[str, ...]) -> None:
        assert self.peer is not None
        self.serializers = serializers
        self._peer_event_limit = self.peer.event_limit
        self._decoder.limit = self.ours.max_frame + FRAME_OVERHEAD
        self._decoder.one_at_a_time = False

    def _receive_hello(self, frame: RawFrame) -> None:
        message_type, request_id, method, flags, payload = frame
        wanted = _REQUEST if self.role is Role.ACCEPTOR else _RESPONSE
        if method != HELLO or request_id != 0 or message_type != wanted or self.phase not in _BEFORE_HELLO:
            raise ProtocolViolation(
                f"a {MessageType(message_type).name.lower()} frame {method!r} before the hello was answered"
            )
        if flags & _ERROR:
            self._move("acceptor's refusal arrives")
            self.refusal = ErrorInfo.decode(payload)
        elif flags != _METADATA:
            raise ProtocolViolation(f"a hello with flags {flags:#04x}; wanted {_METADATA:#04x}")
        else:
            self.peer = Hello.decode(payload)
            if self.role is Role.ACCEPTOR:
                self._move("dialer's hello arrives")
            else:
                check_requirements(self.peer, self.ours)
                unknown = [name for name in self.peer.serializers if name not in self.ours.serializers]
                if unknown or len(self.peer.serializers) > 3:
                    raise ProtocolViolation(
                        f"the acceptor chose serializers that were not offered: {', '.join(unknown)[:100]}"
                    )
                if self.phase is Phase.ASSUMED and not fits(self.ours.assumed, self.peer):
                    raise ProtocolViolation(
                        "the acceptor's answer is not what it took the dialer's word for", code=Code.INCOMPATIBLE
                    )
                self._move("acceptor's answer arrives")
                self._open(self.peer.serializers)

    # --- what arrives ------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Received]:
        """Take the stream's bytes; return the frames that the session has to act on, in order.

        Raises ProtocolViolation, with the code to close the connection with.
        """
        frames = self._decoder.feed(data)
        while frames and self.phase is not Phase.OPEN:
            self._receive_hello(frames.pop(0))
            if self.phase is Phase.DECIDING and self.peer is not None and self.peer.assumed:
                return []  # it did not wait for an answer: what is behind its hello is read once there is one
            frames = self._decoder.feed(b"")  # what is behind the hello is judged by the limits that it brought
        result: list[Received] = []
        for frame in frames:
            message_type, request_id, method, flags, payload = frame
            if request_id == 0 and method[:1] == "$" and self._receive_link(frame):
                continue
            self.received += 1
            size = len(payload)
            received: Received = frame
            if flags & _BODY:
                announced = self._announce(message_type, flags, payload)
                size = announced.size
                received = message_type, request_id, method, flags, announced
            if message_type == _RESPONSE:
                charged = None if method or flags & _END else self._calls.pop(request_id, None)
                if charged is not None:
                    self._call_bytes -= charged
                    if self._cancelled:
                        self._cancelled.discard(request_id)
                    result.append(received)
                else:
                    self._drop_response(request_id, method, flags)
            elif message_type == _REQUEST:
                charge = size + FRAME_CHARGE
                if (
                    flags & KIND_MASK == 0
                    and self._last_peer_id < request_id <= self._goaway_last
                    and request_id % 2 == self._parity
                    and method
                    and len(self._peer_calls) < self.ours.max_requests
                    and self._peer_call_bytes + charge <= self.ours.max_request_bytes
                ):  # nearly always; what else it can be is judged apart
                    self._last_peer_id = request_id
                    self._peer_calls[request_id] = charge
                    self._peer_call_bytes += charge
                    result.append(received)
                elif self._receive_request(request_id, method, flags, size):
                    result.append(received)
            elif message_type == _EVENT:
                if request_id or not method:
                    raise ProtocolViolation("an event with a request id, or without a name")
                self._events_received += size + FRAME_CHARGE
                if self._events_received > self._event_limit:
                    raise ProtocolViolation(
                        f"events beyond the {self._event_limit:,} bytes that were granted", code=Code.LIMIT_EXCEEDED
                    )
                result.append(received)
            elif self._receive_stream(request_id, method, flags):
                result.append(received)
        return result

    def end_of_stream(self) -> None:
        """The other end finished the channel's stream. Raises ProtocolViolation when a frame was cut short."""
        if not self._decoder.is_empty:
            raise ProtocolViolation("the channel ended within a frame", code=Code.TRUNCATED)

    def _announce(self, message_type: int, flags: int, payload: bytes) -> Announced:
        start = take_map(payload)[1] if flags & _METADATA else 0
        try:
            length, end = take_varint(payload, start)
        except (Truncated, Malformed) as error:
            raise ProtocolViolation("a BODY frame without the body's length") from error
        with_value = not flags & KIND_MASK or (message_type == _RESPONSE and not flags & (_CANCEL | _END))
        if end != len(payload) or not with_value:
            raise ProtocolViolation("a BODY frame with more than the body's length")
        if length > self.ours.max_message:
            raise ProtocolViolation(
                f"a message of {length:,} bytes; the limit here is {self.ours.max_message:,}", code=Code.LIMIT_EXCEEDED
            )
        return Announced(self.received, length, payload[:start], len(payload) + length)

    def _receive_request(self, request_id: int, method: str, flags: int, size: int) -> bool:
        if flags & KIND_MASK:
            if flags & _END:
                raise ProtocolViolation("a request's END belongs on a call stream, not on the channel")
            self._check_peer_id(request_id)
            if request_id in self._peer_calls:
                return True
            self.late += 1
            return False
        self._take_peer_id(request_id, method)
        size += FRAME_CHARGE
        if len(self._peer_calls) >= self.ours.max_requests:
            raise ProtocolViolation(f"more than {self.ours.max_requests:,} open requests", code=Code.LIMIT_EXCEEDED)
        if self._peer_calls and self._peer_call_bytes + size > self.ours.max_request_bytes:
            raise ProtocolViolation(
                f"more than {self.ours.max_request_bytes:,} bytes of open requests", code=Code.LIMIT_EXCEEDED
            )
        if request_id > self._goaway_last:
            return False  # it was told; it answers this one itself
        self._peer_calls[request_id] = size
        self._peer_call_bytes += size
        return True

    def _drop_response(self, request_id: int, method: str, flags: int) -> None:
        """A response that no request waits for: late, or a violation."""
        ours = 0 < request_id < self._next_id and request_id % 2 != self._parity
        if not ours or method or flags & _END:
            raise ProtocolViolation(
                f"a response to id {request_id}, for which no request is open, or with a name or END"
            )
        self.late += 1

    def _receive_stream(self, request_id: int, method: str, flags: int) -> bool:
        kind = flags & KIND_MASK
        if request_id % 2 != self._parity:  # one of ours: its receiver speaks
            if not 0 < request_id < self._next_id or kind not in (_CANCEL, _ERROR):
                raise ProtocolViolation(f"a stream frame for id {request_id}, which is not one of ours to stop")
            if request_id in self._flows:
                self._flows.discard(request_id)
                return True
        elif kind == 0:
            self._take_peer_id(request_id, method)
            if request_id > self._goaway_last:
                return False
            if len(self._peer_flows) >= MAX_PEER_FLOWS:
                raise ProtocolViolation(
                    f"more than {MAX_PEER_FLOWS:,} streams that do not end", code=Code.LIMIT_EXCEEDED
                )
            self._peer_flows.add(request_id)
            return True
        elif kind == _CANCEL:
            raise ProtocolViolation("a stream's CANCEL comes from its receiver")
        else:
            self._check_peer_id(request_id)
            if request_id in self._peer_flows:
                self._peer_flows.discard(request_id)
                return True
        self.late += 1
        return False

    def _take_peer_id(self, request_id: int, method: str) -> None:
        if request_id <= self._last_peer_id or request_id % 2 != self._parity:
            raise ProtocolViolation(
                f"id {request_id} after {self._last_peer_id}: ids rise, are never used again, and are "
                f"{'even from the acceptor' if self._parity == 0 else 'odd from the dialer'}"
            )
        if not method:
            raise ProtocolViolation(f"the first frame of id {request_id} names no method")
        self._last_peer_id = request_id

    def _check_peer_id(self, request_id: int) -> None:
        if not 0 < request_id <= self._last_peer_id or request_id % 2 != self._parity:
            raise ProtocolViolation(f"id {request_id} was never opened by the peer")

    # --- link frames -------------------------------------------------------------------------------------------

    def _receive_link(self, frame: RawFrame) -> bool:
        """Act on a link frame; False: it is none, though its name begins with ``$``."""
        message_type, _, method, flags, payload = frame
        if method == ACK and message_type == _EVENT and not flags:
            ack = Ack.decode(payload)
            if ack.event_limit < self._peer_event_limit or ack.received > self.sent:
                raise ProtocolViolation("an $ack that takes back credit, or acknowledges what was never sent")
            self._peer_event_limit = ack.event_limit
            self.positions.extend(ack.positions)
        elif method == PING and message_type == _REQUEST and not flags:
            if len(self._pongs) >= MAX_PONGS:
                raise ProtocolViolation("pings faster than their answers are read", code=Code.LIMIT_EXCEEDED)
            self._pongs.append(_link_frame(_RESPONSE, PING, payload[:8], 0))
        elif method == PING and message_type == _RESPONSE and not flags:
            self._pings.append(_ping_number(payload))
        elif method == GOAWAY and message_type == _EVENT and flags == _METADATA:
            goaway = GoAway.decode(payload)
            if self.goaway is not None and goaway.last > self.goaway.last:
                raise ProtocolViolation("a $goaway that takes back an earlier one")
            self.goaway = goaway
        elif method == CLOCK and message_type == _EVENT and not flags:
            self._clocks.append(payload)
        elif method == HELLO:
            raise ProtocolViolation("a second hello")
        elif method in LINK_FRAMES and method != CLOCK:
            raise ProtocolViolation(f"a {method} of a type or with flags that it cannot have")
        else:
            return method == CLOCK  # not counted, and not understood by this version
        return True

    def ping(self, number: int) -> None:
        """Ask the other end for ``number`` (below 2^56) back; :meth:`take_pongs` has the answers."""
        self._link.append(_link_frame(_REQUEST, PING, encode_varint(number), 0))

    def take_pongs(self) -> list[int]:
        """Return the numbers that came back since the last call."""
        pongs = list(self._pings)
        self._pings.clear()
        return pongs

    def clock(self, payload: bytes) -> bool:
        """Put in a ``$clock`` frame; False where too many frames wait: late, it would be worth nothing."""
        if len(self._link) >= MAX_PONGS:
            return False
        self._link.append(_link_frame(_EVENT, CLOCK, payload, 0))
        return True

    def take_clocks(self) -> list[bytes]:
        """Return the payloads of the ``$clock`` frames that came since the last call."""
        clocks, self._clocks = self._clocks, []
        return clocks

    def go_away(self, goaway: GoAway) -> None:
        """Tell the other end that ids above ``goaway.last`` are never run; from now on they are dropped."""
        self._goaway_last = min(goaway.last, self._goaway_last)
        self._link.append(_link_frame(_EVENT, GOAWAY, goaway.encode()))

    @property
    def goaway_last(self) -> int:
        """The highest id of the other end that is still run: what our last ``$goaway`` said."""
        return self._goaway_last

    @property
    def peer_parity(self) -> int:
        """The remainder by 2 of all ids of the other end."""
        return self._parity

    def take_id(self) -> int:
        """Return a new id of ours, for a call on a stream of its own."""
        request_id = self._next_id
        if request_id > MAX_REQUEST_ID:
            raise ProtocolViolation("this session has used all its ids", code=Code.RESOURCE_EXHAUSTED)
        self._next_id = request_id + 2
        return request_id

    @property
    def last_peer_id(self) -> int:
        """The highest id that the other end has used."""
        return self._last_peer_id

    # --- calls -------------------------------------------------------------------------------------------------

    @property
    def open_calls(self) -> int:
        """Our requests that have no response yet."""
        return len(self._calls)

    @property
    def open_peer_calls(self) -> int:
        """The other end's requests that we have not answered yet."""
        return len(self._peer_calls)

    def may_call(self, size: int) -> bool:
        """Whether a request whose payload and body have ``size`` bytes may be put in now."""
        peer = self.peer
        assert peer is not None
        calls = self._calls
        return len(calls) < peer.max_requests and (
            self._call_bytes + size + FRAME_CHARGE <= peer.max_request_bytes or not calls
        )

    def call(self, method_and_flags: bytes, payload: bytes, body: int = 0) -> int:
        """Put a request in and return its id. ``body``: the bytes that travel beside it, where the flags say BODY."""
        request_id = self._next_id
        if request_id > MAX_REQUEST_ID:
            raise ProtocolViolation("this session has used all its ids", code=Code.RESOURCE_EXHAUSTED)
        self._next_id = request_id + 2
        size = len(payload) + body + FRAME_CHARGE
        self._calls[request_id] = size
        self._call_bytes += size
        frame = encode_frame(_REQUEST, request_id, method_and_flags, payload)
        self._outbox.append(frame)
        self.outbox_size += len(frame)
        self.sent += 1
        return request_id

    def cancel(self, request_id: int) -> None:
        """Give up a request of ours: once, and only while it is open. Its response is still to come."""
        if request_id in self._calls and request_id not in self._cancelled:
            self._cancelled.add(request_id)
            self._put(encode_frame(_REQUEST, request_id, _CANCEL_FRAME, b""))

    def respond(self, request_id: int, flags: int, payload: bytes) -> None:
        """Answer one of the other end's requests; its id is closed then. Raises KeyError when it was answered."""
        self._peer_call_bytes -= self._peer_calls.pop(request_id)
        frame = encode_frame(_RESPONSE, request_id, NAMELESS[flags], payload)
        self._outbox.append(frame)
        self.outbox_size += len(frame)
        self.sent += 1

    # --- events ------------------------------------------------------------------------------------------------

    def may_emit(self, size: int) -> bool:
        """Whether an event whose payload and body have ``size`` bytes may be put in now."""
        return self._events_sent + size + FRAME_CHARGE <= self._peer_event_limit

    def emit(self, method_and_flags: bytes, payload: bytes, body: int = 0) -> None:
        """Put an event in."""
        self._events_sent += len(payload) + body + FRAME_CHARGE
        self._put(encode_frame(_EVENT, 0, method_and_flags, payload))

    def emit_ready(self, frame: bytes, size: int) -> None:
        """Put in an event that :func:`event_frame` made, perhaps for many channels; ``size``: bytes of payload and body."""
        self._events_sent += size + FRAME_CHARGE
        self._put(frame)

    def take_events(self, size: int, count: int, now: float) -> None:
        """Handlers took ``count`` events of ``size`` bytes, payloads and bodies: the other end may send as many more."""
        self._events_taken += size + count * FRAME_CHARGE
        if self._events_taken + self._event_window - self._event_limit >= self._event_window // 4:
            self._ack_due = True
        elif self._ack_at is None:
            self._ack_at = now + ACK_DELAY

    # --- flows -------------------------------------------------------------------------------------------------

    def open_flow(self, method_and_flags: bytes, payload: bytes) -> int:
        """Open a stream of ours and return its id."""
        request_id = self._next_id
        self._next_id = request_id + 2
        self._flows.add(request_id)
        self._put(encode_frame(_STREAM, request_id, method_and_flags, payload))
        return request_id

    def end_flow(self, flow_id: int, frames: int) -> None:
        """All ``frames`` of our stream were sent. Nothing happens when its receiver has stopped it."""
        if flow_id in self._flows:
            self._flows.discard(flow_id)
            self._put(encode_frame(_STREAM, flow_id, NAMELESS[_END], encode_varint(frames)))

    def abort_flow(self, flow_id: int, error: ErrorInfo) -> None:
        """Our stream ends early. Nothing happens when it has ended."""
        if flow_id in self._flows:
            self._flows.discard(flow_id)
            self._put(encode_frame(_STREAM, flow_id, NAMELESS[_ERROR], error.encode()))

    def stop_flow(self, flow_id: int, error: ErrorInfo | None = None) -> None:
        """We want no more of a stream of the other end's; with ``error``: it is refused. Nothing happens when it has ended."""
        if flow_id in self._peer_flows:
            self._peer_flows.discard(flow_id)
            flags, payload = (_CANCEL, b"") if error is None else (_ERROR, error.encode())
            self._put(encode_frame(_STREAM, flow_id, NAMELESS[flags], payload))

    def take_flow(self, flow_id: int, position: int, now: float) -> None:
        """A frame of a ``per_frame`` stream of the other end's was taken; ``ALL_POSITIONS``: no more of them is wanted."""
        if len(self._taken) < MAX_POSITIONS:
            self._taken.append((flow_id, position))
        if len(self._taken) >= POSITIONS_AT_ONCE or position == ALL_POSITIONS:
            self._ack_due = True
        elif self._ack_at is None:
            self._ack_at = now + ACK_DELAY

    def take_positions(self) -> list[tuple[int, int]]:
        """Return what the other end has taken of our flows since the last call: flow ids with positions."""
        positions, self.positions = self.positions, []
        return positions

    @property
    def open_flows(self) -> int:
        """Streams of ours that are not finished, stopped or aborted."""
        return len(self._flows)

    # --- what leaves -------------------------------------------------------------------------------------------

    def _put(self, frame: bytes) -> None:
        self._outbox.append(frame)
        self.outbox_size += len(frame)
        self.sent += 1

    @property
    def has_data(self) -> bool:
        """Whether :meth:`data_to_send` has something."""
        return bool(self._outbox or self._link or self._pongs or self._ack_due)

    def data_to_send(self, room: int) -> bytes:
        """Take frames out: all link frames, then counted ones until ``room`` bytes are passed."""
        if self._ack_due and (
            room > 0 or not self._taken
        ):  # positions wait for room: a peer may send frames and never read
            self._ack_due, self._ack_at = False, None
            self._event_limit = self._events_taken + self._event_window
            ack = Ack(self.received, self._event_limit, positions=tuple(self._taken))
            self._taken.clear()
            self._link.append(_link_frame(_EVENT, ACK, ack.encode(), 0))
        outbox = self._outbox
        if self._pongs and room > 0:  # the peer asked for them, so they wait for room: it may ask and never read
            self._link.extend(self._pongs)
            self._pongs.clear()
        if not self._link:
            if self.outbox_size <= room:
                data = b"".join(outbox)
                outbox.clear()
                self.outbox_size = 0
                return data
            taken = []
        else:
            taken = list(self._link)
            self._link.clear()
        while outbox and room > 0:
            frame = outbox.popleft()
            room -= len(frame)
            self.outbox_size -= len(frame)
            taken.append(frame)
        return b"".join(taken)

    @property
    def next_time(self) -> float | None:
        """When :meth:`handle_time` wants to be called."""
        return self._ack_at

    def handle_time(self, now: float) -> None:
        """Do what is due at ``now``; :attr:`has_data` tells whether something has to be sent."""
        if self._ack_at is not None and now >= self._ack_at:
            self._ack_due, self._ack_at = True, None


def event_frame(method_and_flags: bytes, payload: bytes) -> bytes:
    """Return an event as it stands on a channel: the same bytes on each, for an event's frame names no number."""
    return encode_frame(_EVENT, 0, method_and_flags, payload)


def _link_frame(message_type: int, method: str, payload: bytes, flags: int = Flags.METADATA) -> bytes:
    return encode_frame(message_type, 0, encode_method(method, flags), payload)


def _ping_number(payload: bytes) -> int:
    try:
        return take_varint(payload, 0)[0]
    except (Truncated, Malformed) as error:
        raise ProtocolViolation("a $ping answered with something else") from error


_CANCEL_FRAME: Final = NAMELESS[_CANCEL]
