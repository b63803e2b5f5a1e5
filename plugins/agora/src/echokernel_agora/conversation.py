"""What an agent and its router have told each other, as a value: features, credit, numbers, frames to be sent again. No IO."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from echokernel import InvalidArgument, ProtocolError
from echokernel_agora.errors import AgoraError, TooLarge, error_of
from echokernel_protocol.agora import FrameError, field_text, parse_router_frame

__all__ = ["ABSENT", "NOTHING", "Conversation", "Got", "encoded", "json_text", "value_of"]

FEATURES = ("receipt", "credit", "resume", "presence")
MOST_FRAME = 1024 * 1024  # what a router takes by default; a longer one would close the connection
KEPT_FRAMES = 512  # that the router may not have; then sending waits for it to say how far it is
KEPT_BYTES = 2 * 1024 * 1024
ASK_FRAMES = 64  # after so many the router is asked how far it is
ASK_BYTES = 256 * 1024
ACK_FRAMES = 64
ACK_BYTES = 16 * 1024  # a quarter of a window of credit: senders go on when half of what they may send is acknowledged
ACK_AFTER = 0.02  # seconds
MOST_RECEIVERS = 1024  # whose credit is known; the one sent to longest ago, and with all its credit, is forgotten


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""No payload at all, which is not null."""
NOTHING = Raw()  # of a frame that came


class Reason(msgspec.Struct):
    code: str = ""
    message: str | None = None


class Got(msgspec.Struct, rename={"from_": "from"}):
    """Any frame of a router: the fields that it has."""

    type: str
    from_: str | None = None
    to: str | None = None
    stream_id: str | None = None
    stream: bool | None = None
    payload: Raw = NOTHING
    chunk: Raw = NOTHING
    seq: int | None = None
    id: str | None = None
    request_id: str | int | None = None
    error: Reason | None = None
    code: str = ""
    message: str | None = None
    retry_ms: int | None = None
    features: list[str] | UnsetType = UNSET
    credit: int | None = None
    resume: str | None = None
    resumed: bool | None = None
    received: int | None = None
    agents: Raw = NOTHING
    cursor: str | None = None
    bytes: int = 0
    event: str = ""
    agent: Raw = NOTHING
    status: str = ""


    def as_error(self) -> AgoraError:
        """Return what an ``error`` frame says."""
        return error_of(
            self.code,
            self.message or "",
            to=self.to,
            stream_id=self.stream_id,
            request_id=self.request_id,
            retry_ms=self.retry_ms,
        )


_decode = msgspec.json.Decoder(Got).decode
_encode = msgspec.json.Encoder().encode


def json_text(value: object, what: str = "the payload") -> Raw:
    """Return a value as JSON; a ``msgspec.Raw`` is JSON already. Raises InvalidArgument."""
    if isinstance(value, Raw):
        return value
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
        try:
            return Raw(text.encode())
        except UnicodeEncodeError:  # half a surrogate pair travels as an escape
            return Raw(json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain).encode())
    except (TypeError, ValueError, RecursionError) as error:
        wanted = "dict, list, str, numbers, bool, None, a dataclass or a model"
        raise InvalidArgument(f"{what} has no JSON: {error}; wanted {wanted}") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is none of its types")


def encoded(fields: dict[str, Any]) -> bytes:
    """Return a frame; fields that are None or absent are left out. Raises InvalidArgument."""
    written = {
        name: value for name, value in fields.items() if value is not ABSENT and (value is not None or name == "payload")
    }
    for name in written.keys() & {"payload", "chunk"}:
        written[name] = json_text(written[name], f"the {name}")
    try:
        return _encode(written)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:  # a surrogate in an id
        raise InvalidArgument(f"{fields['type']}: {error}") from error


def value_of(text: Raw | bytes) -> Any:
    """Return the value of JSON that came; None where there was none. Raises ValueError."""
    return json.loads(bytes(text)) if text else None


class Conversation:
    """One agent's side of the talk with its router, over all its connections.

    ``register`` are the fields of its ``register`` frame. What is received goes through :meth:`receive`, what is sent to other
    agents through :meth:`relay`; both return what has to be done with it.
    """

    def __init__(self, register: dict[str, Any], *, features: Iterable[str] = FEATURES) -> None:
        self._register, self._wanted = register, list(features)
        self.features: frozenset[str] = frozenset()
        """What the router granted."""
        self.extended = False
        """Whether the router knows extensions at all."""
        self._window = 0
        self._credit: dict[str, int] = {}
        self._token: str | None = None
        self._seen = self._acked = 0  # numbers of frames that came
        self._unacked_bytes = 0
        self._sent = 0  # frames for other agents, in this session of the router's
        self._kept: deque[tuple[int, str, bytes]] = deque()
        self._kept_bytes = 0
        self._asked, self._since_asked = 0, 0

    # -- a connection begins and ends ------------------------------------------------------------------------------

    def hello(self) -> bytes:
        """Return the first frame of a connection."""
        fields = {"type": "register", **self._register}
        if self._wanted:
            fields["features"] = self._wanted
        if self._token is not None:
            fields |= {"resume": self._token, "seq": self._seen}
        return _encode(fields)

    def registered(self, got: Got) -> list[bytes] | None:
        """Take the answer; return what has to be sent again, or None where nothing of an earlier connection goes on."""
        self.extended = got.features is not UNSET
        self.features = frozenset(got.features or ()) if isinstance(got.features, list) else frozenset()
        self._window, self._credit = got.credit or 0, {}
        again = None
        if got.resumed and self._token is not None:
            self._forget(got.received or 0)
            again = [frame for _, _, frame in self._kept]
            for _, to, frame in self._kept:
                self._pay(to, len(frame))
            self._acked = self._seen
        else:
            self.start_anew()
        self._token = got.resume if "resume" in self.features else None
        self._asked, self._since_asked, self._unacked_bytes = self._sent, 0, 0
        return again

    def start_anew(self) -> None:
        """Forget the session: what is sent and received counts from the start."""
        self._token = None
        self._kept.clear()
        self._seen = self._acked = self._sent = self._asked = 0
        self._kept_bytes = self._since_asked = self._unacked_bytes = 0

    @property
    def resumable(self) -> bool:
        """Whether a new connection may go on where this one is lost."""
        return self._token is not None

    # -- what comes ------------------------------------------------------------------------------------------------

    def receive(self, text: bytes) -> Got | None:
        """Return a frame; None for one that had come before, or that is for this side's books only. Raises ProtocolError."""
        try:
            got = _decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            got = _decode_odd(text, error)
        if got.seq is not None:
            if got.seq <= self._seen:
                return None
            self._seen = got.seq
            self._unacked_bytes += len(text)
        if got.type == "credit" and got.to is not None:
            if got.to in self._credit:
                self._credit[got.to] = min(self._window, self._credit[got.to] + got.bytes)
        elif got.type == "pong":
            number = (got.id or "").removeprefix("sent-")
            if number.isdecimal():
                self._forget(int(number))
        return got

    @property
    def ack_due(self) -> bool:
        """Whether an acknowledgement has to go out now; where something was received, one is due after 20 ms anyway."""
        return self._seen - self._acked >= ACK_FRAMES or self._unacked_bytes >= ACK_BYTES

    def ack(self) -> bytes | None:
        """Return the acknowledgement of all that was received; None where there is nothing new."""
        if self._seen == self._acked or "resume" not in self.features:
            return None
        self._acked, self._unacked_bytes = self._seen, 0
        return _encode({"type": "ack", "seq": self._seen})

    # -- what goes -------------------------------------------------------------------------------------------------

    def blocked(self, to: str) -> str:
        """Return why nothing may be sent to an agent now; empty where it may."""
        if self._kept and (len(self._kept) >= KEPT_FRAMES or self._kept_bytes >= KEPT_BYTES):
            return "the router has not taken what was sent before"
        if self._window and self._credit.get(to, self._window) <= 0:
            return f"{to} reads more slowly than it is sent to"
        return ""

    def relay(self, to: str, frame: bytes) -> list[bytes]:
        """Count a frame for another agent; return what has to be written. Raises TooLarge."""
        if len(frame) > MOST_FRAME:
            raise TooLarge(f"a frame of {len(frame):,} bytes; at most {MOST_FRAME:,} may travel in one: send a stream", to=to)
        self._pay(to, len(frame))
        if "resume" not in self.features:
            return [frame]
        self._sent += 1
        self._kept.append((self._sent, to, frame))
        self._kept_bytes += len(frame)
        self._since_asked += len(frame)
        if self._sent - self._asked < ASK_FRAMES and self._since_asked < ASK_BYTES:
            return [frame]
        self._asked, self._since_asked = self._sent, 0
        return [frame, _encode({"type": "ping", "id": f"sent-{self._sent}"})]

    def _pay(self, to: str, size: int) -> None:
        if not self._window:
            return
        self._credit[to] = self._credit.get(to, self._window) - size
        if len(self._credit) > MOST_RECEIVERS:
            full = next((each for each, left in self._credit.items() if left >= self._window), None)
            if full is not None:
                del self._credit[full]

    def _forget(self, number: int) -> None:
        while self._kept and self._kept[0][0] <= number:
            self._kept_bytes -= len(self._kept.popleft()[2])


def _decode_odd(text: bytes, problem: Exception) -> Got:
    """Decode what the quick decoder does not take: half surrogate pairs in texts that are passed on as they are."""
    try:
        frame = parse_router_frame(text)
    except FrameError as error:
        raise ProtocolError(f"the router sent what is no frame: {error}") from problem
    values = frame.model_dump()
    for name in ("payload", "chunk", "agents", "agent"):
        written = field_text(frame, name)
        if written is not None:
            values[name] = Raw(written.encode())
    return msgspec.convert(values, Got)


def check_receiver(to: object) -> None:
    """Raises InvalidArgument for what is no agent's id."""
    if not isinstance(to, str) or not 0 < len(to) <= 128:
        raise InvalidArgument(f"to={to!r}: wanted the id of an agent, 1 to 128 characters")
