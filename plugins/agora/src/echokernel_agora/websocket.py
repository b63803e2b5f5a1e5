"""One WebSocket: the protocol library between a TCP connection and whoever takes the messages. No task, no future.

The library judges every frame that arrives (masks, lengths, fragments, control frames, close codes) and answers pings and
closes. Here is what it leaves open: UTF-8, text only, heartbeat, backpressure, and ends that are bounded.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from typing import Any, Protocol

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from echokernel_agora.hub import CLOSE_CODES, OTHER_CODE, READ_SIZE, Hub

__all__ = ["Sink", "WebSocket"]

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
HIGH_WATER = 64 * 1024  # bytes that the event loop keeps for a connection; beyond them the router's own queue counts
FLUSH_SIZE = 64 * 1024  # bytes that are collected before they are written within a batch
PROBE_SECONDS = 2.0
IDLE_FRAMES = (
    200  # pings, pongs and empty fragments within a second, which carry nothing; libraries send one in many seconds
)
PONG = 0x8A  # how a pong frame begins
NEVER = float("inf")
NOT_UTF8 = "text that is not UTF-8"

silent = logging.Logger("websockets", logging.CRITICAL + 1)  # a line for each frame is nothing for a router
silent.disabled = True
_decoder = codecs.getincrementaldecoder("utf-8")


class Sink(Protocol):
    """Who takes the messages of a WebSocket: the router, or the console's feed. ``peer`` is its own idea of the other end."""

    def receive(self, peer: Any, frame: bytes) -> None: ...

    def drain(self, peer: Any) -> None: ...

    def detach(self, peer: Any, *, resumable: bool, reason: str) -> None: ...


class WebSocket(asyncio.BufferedProtocol):
    """An open WebSocket, and the outlet of its ``peer``. ``sink`` and ``peer`` have to be set before bytes arrive."""

    __slots__ = (
        "_deadline",
        "_decode",
        "_detached",
        "_heard",
        "_hub",
        "_idle_frames",
        "_idle_since",
        "_open",
        "_out",
        "_parts",
        "_paused",
        "_pong",
        "_protocol",
        "_quiet_since",
        "_size",
        "_transport",
        "_unregistered",
        "address",
        "bytes_in",
        "bytes_out",
        "close_code",
        "peer",
        "sink",
    )

    holds = False
    """What is written is gone, as far as the router is concerned."""

    def __init__(self, hub: Hub, transport: asyncio.Transport, address: str) -> None:
        self.sink: Sink
        self.peer: Any = None
        self.address = address
        self.close_code = 0
        """Of the close frame that came first, ours or theirs; 1006 when the connection ended without one, 0 before that."""
        self.bytes_in = self.bytes_out = 0
        self._hub, self._transport = hub, transport
        # what the handshake needed, headers above all, is not kept for the connection's life: a new parser, already open
        self._protocol = ServerProtocol(state=State.OPEN, max_size=hub.limits.max_frame, logger=silent)
        self._out: list[bytes] = []
        self._size = 0
        self._open, self._paused, self._detached, self._unregistered = True, False, False, True
        self._parts: bytearray | None = None
        self._decode: codecs.IncrementalDecoder | None = None
        self._pong: bytes | None = None
        self._heard, self._quiet_since, self._deadline = True, hub.loop.time(), NEVER
        self._idle_frames, self._idle_since = 0, hub.loop.time()
        hub.connections.add(self)
        hub.keep(self)

    # --- what arrives ----------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._hub.view

    def buffer_updated(self, nbytes: int) -> None:
        hub = self._hub
        self.receive(hub.view[:nbytes])
        if nbytes == READ_SIZE and hub.reads_on and self._open and not hub.draining:
            # there is more, and one that floods the router must not be all that it hears
            self._transport.pause_reading()
            hub.loop.call_soon(self.resume_reading)

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the network."""
        hub, protocol = self._hub, self._protocol
        self._heard = True
        self.bytes_in += len(data)
        began = hub.begin()
        try:
            protocol.receive_data(data)  # type: ignore[arg-type]  # it copies whatever has a buffer
            self._take(protocol.events_received())
            if protocol.writes:
                self._answer()
            if self._unregistered and self._open and getattr(self.peer, "agent", None) is not None:
                self._settle()
        finally:
            hub.end(began)

    def _take(self, frames: list[Any]) -> None:
        receive, peer = self.sink.receive, self.peer
        for frame in frames:
            if not self._open:
                return  # the router closed it because of an earlier one
            opcode = frame.opcode
            if opcode is not TEXT and not (opcode is CONT and frame.data) and self._floods():
                return self._protocol.fail(
                    CloseCode.POLICY_VIOLATION, f"{IDLE_FRAMES} pings or empty frames within 1 s"
                )
            if opcode is TEXT and frame.fin:
                data = frame.data
                if not (data.isascii() or _is_utf8(data)):
                    return self._protocol.fail(CloseCode.INVALID_DATA, NOT_UTF8)
                receive(peer, data)
            elif opcode is TEXT or opcode is CONT:
                if not self._take_fragment(frame):
                    return self._protocol.fail(CloseCode.INVALID_DATA, NOT_UTF8)
            elif opcode is BINARY:
                return self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "a binary frame; Agora's frames are text")

    def _floods(self) -> bool:
        """Count a frame that carries nothing; the bounds of the router's are on what frames carry."""
        self._idle_frames += 1
        if self._idle_frames <= IDLE_FRAMES:
            return False
        now = self._hub.loop.time()
        if now - self._idle_since < 1:
            return True
        self._idle_frames, self._idle_since = 1, now
        return False

    def _take_fragment(self, frame: Frame) -> bool:
        if self._parts is None or self._decode is None:
            self._parts, self._decode = bytearray(), _decoder()
        try:
            self._decode.decode(frame.data, final=frame.fin)  # what is wrong is found with the fragment that has it
        except UnicodeDecodeError:
            return False
        self._parts += frame.data
        if frame.fin:
            data, self._parts, self._decode = bytes(self._parts), None, None
            self.sink.receive(self.peer, data)
        return True

    def _answer(self) -> None:
        """Write what the protocol made by itself: pongs, the answer to a close frame, the end of the stream."""
        for data in self._protocol.data_to_send():
            if not data:
                self._end()
            elif self._paused and data[0] == PONG:
                self._pong = data  # only the latest has to be answered (RFC 6455, 5.5.3), so that pings fill no memory
            else:
                self._append(data)
        if self._open and self._protocol.state is not State.OPEN:
            sent = self._protocol.close_sent
            received = self._protocol.close_rcvd
            code = int(received.code if received else sent.code if sent else 1006)
            # somebody who says goodbye is gone for good, but 1011 is what libraries say that missed a pong
            self._closed(code, resumable=code in (1006, 1011))

    def eof_received(self) -> bool:
        self._protocol.receive_eof()
        self._answer()
        self._press_within(self._hub.limits.close_timeout)
        return False  # the transport closes once it has written what it has

    # --- what goes out ---------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> bool:
        """Take one text frame; False: nothing was taken, the router's :meth:`drain` will be called."""
        if self._paused or not self._open:
            return False  # where it is over, the router hears of it in a moment, and tells whoever sent this
        size = len(frame)
        # a frame that a server sends is its length and the payload: no mask, no fragments, no extensions
        if size < 126:
            header = b"\x81" + size.to_bytes(1, "big")
        elif size < 65_536:
            header = b"\x81\x7e" + size.to_bytes(2, "big")
        else:
            header = b"\x81\x7f" + size.to_bytes(8, "big")
        out = self._out
        if not out:
            self._hub.touch(self)
        out.append(header)
        out.append(frame)
        self._size += size
        if self._size >= FLUSH_SIZE:
            self.flush()
        return True

    def taken(self) -> None:
        """Never called: this outlet holds nothing."""

    def flush(self) -> None:
        """Hand what was collected to the transport, in one piece."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._size = 0
            self.bytes_out += len(data)
            self._transport.write(data)

    def _append(self, data: bytes) -> None:
        if not self._out:
            self._hub.touch(self)
        self._out.append(data)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._heard = True  # it reads: that is a sign of life, too
        began = self._hub.begin()
        try:
            if self._pong is not None:
                self._append(self._pong)
                self._pong = None
            if self._open:
                self.sink.drain(self.peer)
        finally:
            self._hub.end(began)

    @property
    def has_unwritten(self) -> bool:
        return bool(self._out) or self._transport.get_write_buffer_size() > 0

    def pause_reading(self) -> None:
        if self._open and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not (self._transport.is_closing() or (self._hub.draining and self._open)):
            self._transport.resume_reading()

    # --- heartbeat -------------------------------------------------------------------------------------------------

    def beat(self, now: float) -> None:
        """Called about once a second."""
        hub = self._hub
        if not self._open:
            return
        if self._heard:
            self._heard = False
            self._quiet_since = now - hub.period
            if self._deadline != NEVER:
                self._deadline = NEVER
                hub.unwatch(self)
        elif self._deadline == NEVER and now - self._quiet_since >= hub.limits.ping_interval - hub.period:
            self._ping(hub.limits.ping_timeout)

    def probe(self) -> None:
        """Ask now whether anybody is there, and believe a silence of 2 s; the usual one where data stands before the ping."""
        if self._open:
            self._heard = False
            patience = self._hub.limits.ping_timeout
            self._ping(patience if self._paused else min(PROBE_SECONDS, patience))

    def _ping(self, patience: float) -> None:
        self._protocol.send_ping(b"")
        self._answer()
        self._press_within(patience)

    def _press_within(self, seconds: float) -> None:
        self._deadline = min(self._deadline, self._hub.loop.time() + seconds)
        self._hub.watch(self)

    def press(self, now: float) -> None:
        """Called ten times a second while there is a deadline."""
        if self._heard and self._open:
            self._deadline = NEVER
            self._hub.unwatch(self)
        elif now >= self._deadline:
            self.abort("nothing came back to a ping" if self._open else "its close was not answered")

    def abort(self, why: str) -> None:
        """Drop the connection."""
        if self._open:
            self._closed(1006, resumable=True, why=why)
        self._transport.abort()

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        """Say goodbye behind what was written; one who does not answer in time is dropped."""
        if not self._open:
            return
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:123].decode(errors="ignore"))
        # not at once: it may be the router that calls, amid its own work
        self._hub.loop.call_soon(self._detach, False, f"{code} {reason}")
        self._closed(code, resumable=False, detach=False)
        self._answer()
        self._press_within(self._hub.limits.close_timeout)

    def _closed(self, code: int, *, resumable: bool, why: str = "", detach: bool = True) -> None:
        """The conversation is over: nothing more is taken from either side."""
        self._open = False
        self.close_code = code
        self._hub.closes[code if code in CLOSE_CODES else OTHER_CODE] += 1
        self._settle()
        self._deadline = NEVER
        self._parts = self._decode = self._pong = None
        if detach:
            self._detach(resumable, why or str(code))

    def _detach(self, resumable: bool, reason: str) -> None:
        if not self._detached:
            self._detached = True
            self.sink.detach(self.peer, resumable=resumable, reason=reason)

    def _settle(self) -> None:
        if self._unregistered:
            self._unregistered = False
            self._hub.settled(self.address)

    def _end(self) -> None:
        """Write no more, and wait a while for the other side's end: closing at once would throw away what it has not read."""
        self.flush()
        self._press_within(self._hub.limits.close_timeout)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # TLS has its own goodbye

    def connection_lost(self, error: Exception | None) -> None:
        if self._open:
            why = f"the connection was lost: {type(error).__name__}" if error else ""
            self._closed(1006, resumable=True, why=why)
        self._detach(False, str(self.close_code))
        self._hub.forget(self)
        self._hub.bytes_in += self.bytes_in
        self._hub.bytes_out += self.bytes_out
        self._out.clear()
        self._protocol.parser.close()  # a circle of references that need not wait for the garbage collector


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
