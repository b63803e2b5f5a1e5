"""What a dialer remembers of an acceptor, so that it can begin the next session before the answer is here. No IO."""

from __future__ import annotations

from typing import Final

from echokernel_protocol.errors import ProtocolViolation
from echokernel_protocol.hello import Hello
from echokernel_protocol.maps import encode_map, take_map

IDEMPOTENT: Final = "$idempotent"
"""Key in the metadata of a request that may run although it may be a replay; only then is it put there."""
_SAME: Final = ("serializers", "features", "minor", "timeout")
"""What frames mean depends on these: they have to be as they were."""
_NOT_LOWER: Final = ("max_frame", "max_message", "max_requests", "max_request_bytes", "event_limit")
_OFFERED: Final = ("serializers", "features", "require", "minor")
"""Of the dialer's own hello, what the acceptor's answer depends on."""

__all__ = ["IDEMPOTENT", "assumption", "fits", "recall", "remember"]


def assumption(answer: Hello) -> str:
    """Return what a dialer that goes by ``answer`` says of it in its hello, as ``assumed``."""
    return ";".join(_text(answer, name) for name in (*_SAME, *_NOT_LOWER))


def fits(assumed: str, answer: Hello) -> bool:
    """Whether what was sent under an assumption means the same, and is within the limits, under the real ``answer``.

    Raises ProtocolViolation for a text that no dialer makes.
    """
    parts = assumed.split(";")
    same, limits = parts[: len(_SAME)], parts[len(_SAME) :]
    if len(limits) != len(_NOT_LOWER) or not all(
        each.isascii() and each.isdigit() and len(each) < 20 for each in limits
    ):
        raise ProtocolViolation(f"hello: assumed is {assumed[:80]!r}; wanted {len(_SAME) + len(_NOT_LOWER)} parts")
    return same == [_text(answer, name) for name in _SAME] and all(
        int(each) <= getattr(answer, name) for name, each in zip(_NOT_LOWER, limits, strict=True)
    )


def remember(ours: Hello, answer: Hello) -> bytes:
    """Return what :func:`recall` needs; it holds no credentials."""
    return encode_map({name: _text(ours, name) for name in _OFFERED}) + answer.encode()


def recall(data: bytes | None, ours: Hello) -> Hello | None:
    """Return the answer that was given to a hello like ``ours``; None when there is none, or the hello was another."""
    if data is None:
        return None
    try:
        offered, position = take_map(data)
        if offered != {name: _text(ours, name) for name in _OFFERED}:
            return None
        return Hello.decode(data[position:])
    except ProtocolViolation:
        return None  # another version's memory


def _text(hello: Hello, name: str) -> str:
    value = getattr(hello, name)
    return ",".join(value) if isinstance(value, tuple) else str(value)
