"""The texts of relayed frames, made without reading payloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echokernel_agora.frames import Chunk, End, Reply, ReplyChunk, ReplyEnd, Send, SendChunk, SendEnd, encode, quoted

if TYPE_CHECKING:
    from echokernel_agora.agents import Agent

HEADS: dict[type, bytes] = {
    Send: b'{"type":"message",',
    SendChunk: b'{"type":"message_chunk",',
    SendEnd: b'{"type":"message_end",',
}
REPLIES: dict[type, str] = {Reply: "reply", ReplyChunk: "reply_chunk", ReplyEnd: "reply_end"}
NAMES: dict[type, str] = {Send: "send", SendChunk: "send_chunk", SendEnd: "send_end", **REPLIES}
KINDS: dict[type, str] = {Send: "message", SendChunk: "message_chunk", SendEnd: "message_end", **REPLIES}


class Texts:
    """Makes what receivers get. ``strict_seed``: with the seed's fields only."""

    __slots__ = ("_strict_seed",)

    def __init__(self, *, strict_seed: bool) -> None:
        self._strict_seed = strict_seed

    def message(self, sender: Agent, frame: Any, kind: type) -> bytes:
        """Return what a ``send`` or ``reply`` becomes."""
        head = HEADS[Send] + sender.head if kind is Send else self._reply("reply", sender, frame.to)
        bare = kind is Reply and self._strict_seed  # the seed's reply has no stream, and with an id it begins one
        if frame.stream_id is not None and not (bare and frame.stream is False):
            head += b',"stream_id":' + quoted(frame.stream_id)
        if frame.stream is not None and not bare:
            head += b',"stream":true' if frame.stream else b',"stream":false'
        if not self._strict_seed:
            if frame.id is not None:
                head += b',"id":' + quoted(frame.id)
            if frame.request_id is not None:
                head += b',"request_id":' + encode(frame.request_id)
            if frame.hops is not None:
                head += b',"hops":%d' % (frame.hops + 1)
        payload = frame.payload
        return b'%b,"payload":%b}' % (head, payload) if payload else head + b"}"

    def part(self, sender: Agent, frame: Chunk | End, kind: type) -> bytes:
        """Return what a chunk or an end becomes."""
        head = self._reply(REPLIES[kind], sender, frame.to) if kind in REPLIES else HEADS[kind] + sender.head
        head = b'%b,"stream_id":%b' % (head, quoted(frame.stream_id))
        if frame.id is not None and not self._strict_seed:
            head += b',"id":' + quoted(frame.id)
        if isinstance(frame, Chunk):
            return b'%b,"chunk":%b}' % (head, frame.chunk)
        if frame.error is not None and not self._strict_seed:
            return b'%b,"error":%b}' % (head, _reason(frame.error.code, frame.error.message))
        return head + b"}"

    def broken(self, kind: str, sender: Agent, to: str, stream_id: str, code: str, message: str) -> bytes:
        """Return the end of a stream that its sender did not end."""
        head = self._reply(kind, sender, to) if kind == "reply_end" else HEADS[SendEnd] + sender.head
        head = b'%b,"stream_id":%b' % (head, quoted(stream_id))
        return head + b"}" if self._strict_seed else b'%b,"error":%b}' % (head, _reason(code, message))

    def _reply(self, kind: str, sender: Agent, to: str) -> bytes:
        head = b'{"type":"%b","to":"%b"' % (kind.encode(), to.encode())
        return head if self._strict_seed else b"%b,%b" % (head, sender.head)


def _reason(code: str, message: str | None) -> bytes:
    return encode({"code": code} if message is None else {"code": code, "message": message})


def starts(frame: Any, reply: bool) -> bool:
    """Whether a message is the first part of a stream. The seed's reply cannot say so: there a stream id does."""
    return bool(frame.stream) or (reply and frame.stream is None and frame.stream_id is not None)
