"""The table of bad input: one row for each misdeed, of a handler or of a peer, and what it gets for it.

A row misbehaves through a raw connection and checks its own answer. It returns None where its session goes on, or the code
and a part of the reason with which the server closes it. :func:`walk` then sees that another session lost nothing and that
nothing of this one is left.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
from handlers import LIMITS
from raw_peer import (
    BODY,
    CANCEL,
    END,
    ERROR,
    EVENT,
    METADATA,
    REQUEST,
    RESPONSE,
    SLOT,
    STREAM,
    Dial,
    RawCall,
    RawPeer,
    error_of,
    frame,
    raw_peer,
)

from echokernel import ConnectionClosed, EchoClient, EchoServer, StreamReset, StreamStopped
from echokernel_protocol.codes import Code
from echokernel_protocol.errors import ErrorInfo
from echokernel_protocol.frames import encode_frame
from echokernel_protocol.link import Ack, GoAway
from echokernel_protocol.maps import encode_map
from echokernel_protocol.postcard import encode_varint
from echokernel_protocol.streams import Prelude, StreamKind

Closed = tuple[Code, str]
Act = Callable[[RawPeer], Awaitable[Closed | None]]

__all__ = ["ROWS", "Row", "walk"]


@dataclass(frozen=True)
class Row:
    """One misdeed."""

    name: str
    act: Act
    floods: bool = False
    """Whether memory is measured."""
    patience: bool = False
    """Whether it waits for seconds, which only virtual time does quickly."""


ROWS: list[Row] = []


def row(name: str, *, floods: bool = False, patience: bool = False) -> Callable[[Act], Act]:
    """Put a function into the table."""

    def put(act: Act) -> Act:
        ROWS.append(Row(name, act, floods, patience))
        return act

    return put


# --- the harness ----------------------------------------------------------------------------------------------------

FLAT = 1_500_000  # bytes that a flood may leave behind: caches of names, codes and methods
PEAK = 24_000_000  # bytes that it may hold at its height, both ends in one process


async def walk(row: Row, server: EchoServer, good: EchoClient, dial: Dial) -> None:
    """Let a row misbehave, and look at what it has done. Raises AssertionError."""
    before = len(server.context().sessions())
    if row.floods:
        tracemalloc.start()
    try:
        async with raw_peer(dial) as bad:
            await until(lambda: len(server.context().sessions()) == before + 1)
            session = server.context().sessions()[-1]
            await anyio.sleep(0.01)
            tasks: Any = session._tasks
            idle = len(tasks._running)
            wanted = await row.act(bad)
            if wanted is None:
                answer = await bad.answer(bad.request("double", b"4"))
                assert answer[4] == b"8", answer
                await until(lambda: not session.stats()["open_peer_requests"] and len(tasks._running) <= idle + 1)
                assert session.stats()["open_requests"] == 0
                assert session.closed is None
            else:
                error = await bad.closed()
                assert (error.code, wanted[1] in error.reason) == (wanted[0], True), error
            assert await good.request("double", 21) == 42
        await until(lambda: len(server.context().sessions()) == before)
        assert good.session.closed is None
        if row.floods:
            _, peak = tracemalloc.get_traced_memory()
            gc.collect()  # how much of what ended waits for it differs from Python to Python
            left, _ = tracemalloc.get_traced_memory()
            assert left < FLAT and peak < PEAK, f"{left:,} bytes are left, {peak:,} at its height"
    finally:
        tracemalloc.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event, 8 s at most."""
    with anyio.fail_after(8):
        while not condition():
            await anyio.sleep(0.005)


# --- what rows say --------------------------------------------------------------------------------------------------


def timeout(milliseconds: int) -> bytes:
    return encode_map({"$timeout": str(milliseconds)})


async def ask(bad: RawPeer, how: str, method: str, payload: bytes = b"null", metadata: bytes = b"") -> Any:
    """Return the ErrorInfo, the result, or the code of the reset that a request gets, on the channel or on a stream."""
    flags = SLOT | (METADATA if metadata else 0)
    if how == "channel":
        request_id = bad.take_id()
        bad.frame(REQUEST, request_id, method, flags, metadata + payload)
        answer = await bad.answer(request_id)
        return ErrorInfo.decode(answer[4]) if answer[3] & ERROR else answer[4]
    call = await bad.call()
    await call.put(method, flags, metadata + payload)
    await call.end()
    return await outcome(call)


async def outcome(call: RawCall) -> Any:
    """Return what a call ends with: the last value, an ErrorInfo, or a reset's code."""
    try:
        answers = await call.answers()
    except StreamReset as reset:
        return reset.code
    flags, payload = answers[-1]
    return ErrorInfo.decode(payload) if flags & ERROR else answers[-2][1]


async def open_id(bad: RawPeer, method: str = "never") -> int:
    """Open a request that is not answered, and return its id."""
    request_id = bad.request(method)
    await bad.answer(bad.request("double", b"1"))  # by now it runs
    return request_id


# --- handlers -------------------------------------------------------------------------------------------------------

ANSWERS: list[tuple[str, bytes, bytes, int, str]] = [
    ("broken", b"null", b"", Code.INTERNAL, "broken failed: ValueError (error "),
    ("refuses", b"null", b"", 4711, "no"),
    ("lies", b"null", b"", Code.INTERNAL, "does not fit the handler's return type"),
    ("wrong", b"null", b"", Code.INTERNAL, "wrong failed: TypeError"),
    ("huge", b"null", b"", Code.RESOURCE_EXHAUSTED, "the caller takes 4,194,304"),
    ("double", b'"text"', b"", Code.INVALID_ARGUMENT, "double: "),
    ("double", b"{[", b"", Code.INVALID_ARGUMENT, "double: "),
    ("nothing", b"null", b"", Code.UNIMPLEMENTED, "no method 'nothing' here"),
    ("$nothing", b"null", b"", Code.UNIMPLEMENTED, "no method '$nothing' here"),
    ("x" * 128, b"null", b"", Code.UNIMPLEMENTED, "no method"),
]


def add_answers() -> None:
    """A row for each handler that fails, on the channel and on a stream of its own."""
    for how in ("channel", "isolated"):
        for method, payload, metadata, code, message in ANSWERS:

            async def act(
                bad: RawPeer,
                how: str = how,
                method: str = method,
                payload: bytes = payload,
                metadata: bytes = metadata,
                code: int = code,
                message: str = message,
            ) -> None:
                info = await ask(bad, how, method, payload, metadata)
                assert (info.code, message in info.message) == (code, True), info
                assert "secret" not in info.message and "/" not in info.message

            row(f"{how}: {method[:20]}({payload.decode()})")(act)


add_answers()


@row("channel: a handler that never answers is stopped at its deadline")
async def _(bad: RawPeer) -> None:
    info = await ask(bad, "channel", "never", metadata=timeout(50))
    assert (info.code, "the deadline passed" in info.message) == (Code.DEADLINE_EXCEEDED, True)


@row("isolated: a handler that never answers is stopped at its deadline")
async def _(bad: RawPeer) -> None:
    assert await ask(bad, "isolated", "never", metadata=timeout(50)) == Code.DEADLINE_EXCEEDED


@row("channel: a handler that is cancelled answers")
async def _(bad: RawPeer) -> None:
    request_id = await open_id(bad)
    bad.frame(REQUEST, request_id, "", CANCEL)
    info = error_of(await bad.answer(request_id))
    assert (info.code, info.message) == (Code.CANCELLED, "cancelled by the caller")


@row("isolated: a caller that stops reading cancels the handler")
async def _(bad: RawPeer) -> None:
    call = await bad.call()
    await call.put("never")
    await anyio.sleep(0.02)
    call.recv.stop(Code.CANCELLED)
    call.send.reset(Code.CANCELLED)


@row("a handler that floods its caller with events waits for credit", floods=True)
async def _(bad: RawPeer) -> None:
    info = await ask(bad, "channel", "floods", metadata=timeout(300))
    assert info.code == Code.DEADLINE_EXCEEDED


@row("a handler that floods its call waits for its caller", floods=True)
async def _(bad: RawPeer) -> None:
    call = await bad.call()
    await call.put("up", SLOT | METADATA, timeout(300) + b"null")
    await call.end()
    await anyio.sleep(0.6)
    assert await outcome(call) == Code.DEADLINE_EXCEEDED


@row("a handler that floods a stream stops when its receiver stops", floods=True)
async def _(bad: RawPeer) -> None:
    request_id = bad.request("push")
    recv = await bad.connection.accept_uni_stream()
    await recv.read(100)
    recv.stop(Code.CANCELLED)
    opened = next(found for found in await channel(bad, 1) if found[0] == STREAM)
    bad.frame(STREAM, opened[1], "", CANCEL)
    assert error_of(await bad.answer(request_id)).code == Code.ABORTED


async def channel(bad: RawPeer, least: int) -> list[Any]:
    """Return frames of the channel, at least so many."""
    while len(bad.inbox) < least:
        await bad.hear()
    return bad.inbox


@row("streaming: what a handler raises comes behind its answers")
async def _(bad: RawPeer) -> None:
    call = await bad.call()
    await call.put("two_then_broken")
    await call.end()
    answers = await call.answers()
    assert [payload for _, payload in answers[:2]] == [b"1", b"2"]
    assert ErrorInfo.decode(answers[2][1]).code == 4711


@row("streaming: an answer of the wrong type ends the call")
async def _(bad: RawPeer) -> None:
    info = await ask(bad, "stream", "two_then_lies")
    assert (info.code, "return type" in info.message) == (Code.INTERNAL, True)


@row("streaming: a handler that has enough stops its caller")
async def _(bad: RawPeer) -> None:
    call = await bad.call()
    await call.put("first")
    await call.put(payload=b"7")
    assert await outcome(call) == b"7"
    try:
        for _ in range(2_000):
            await call.put(payload=b"8")
            await anyio.lowlevel.checkpoint()
    except StreamStopped:
        return
    raise AssertionError("nobody stopped it")


# --- both directions: the server asks, the peer misbehaves ------------------------------------------------------------


async def asked(bad: RawPeer) -> tuple[int, int]:
    """Let the server ask us; return the ids of our request and of its."""
    request_id = bad.request("ask")
    while True:
        for found in bad.inbox:
            if found[0] == REQUEST and found[2] == "back":
                bad.inbox.remove(found)
                return request_id, found[1]
        await bad.hear()


@row("asked back: silence is a deadline")
async def _(bad: RawPeer) -> None:
    request_id, back = await asked(bad)
    assert error_of(await bad.answer(request_id)).code == Code.DEADLINE_EXCEEDED
    bad.frame(RESPONSE, back, "", SLOT, b"1")  # late: dropped, and the id is closed


@row("asked back: an answer of the wrong type is the handler's failure")
async def _(bad: RawPeer) -> None:
    request_id, back = await asked(bad)
    bad.frame(RESPONSE, back, "", SLOT, b'"text"')
    assert error_of(await bad.answer(request_id)).code == Code.INTERNAL


@row("asked back: a second answer is dropped")
async def _(bad: RawPeer) -> None:
    request_id, back = await asked(bad)
    bad.frame(RESPONSE, back, "", SLOT, b"5")
    bad.frame(RESPONSE, back, "", SLOT, b"6")
    assert (await bad.answer(request_id))[4] == b"5"


@row("asked back: an answer in a slot that was not agreed")
async def _(bad: RawPeer) -> None:
    request_id, back = await asked(bad)
    bad.frame(RESPONSE, back, "", 0x30, b"5")
    assert error_of(await bad.answer(request_id)).code == Code.PROTOCOL_ERROR


@row("asked back: an error that is none closes")
async def _(bad: RawPeer) -> Closed:
    _, back = await asked(bad)
    bad.frame(RESPONSE, back, "", ERROR, b"\xff\xff")
    return Code.PROTOCOL_ERROR, ""


async def asked_apart(bad: RawPeer) -> tuple[int, RawCall]:
    request_id = bad.request("ask_apart")
    send, recv = await bad.connection.accept_bi_stream()
    decoder = RawCall(0, send, recv).decoder
    frames: list[Any] = []
    data = await recv.read()
    while not frames:
        frames = decoder.feed(data[1:] if data[:1] == b"\x01" and not frames else data)
        if not frames:
            data += await recv.read()
    return request_id, RawCall(frames[0][1], send, recv)


@row("asked apart: a reset is the handler's failure")
async def _(bad: RawPeer) -> None:
    request_id, call = await asked_apart(bad)
    call.send.reset(77)
    assert error_of(await bad.answer(request_id)).code == 77


@row("asked apart: silence is a deadline")
async def _(bad: RawPeer) -> None:
    request_id, _ = await asked_apart(bad)
    assert error_of(await bad.answer(request_id)).code == Code.DEADLINE_EXCEEDED


@row("asked apart: answers without end", floods=True)
async def _(bad: RawPeer) -> None:
    request_id, call = await asked_apart(bad)
    try:
        with anyio.move_on_after(1):
            while True:
                await call.send.write(frame(RESPONSE, call.id, "", SLOT, b"1") * 1_000)
                await anyio.lowlevel.checkpoint()
    except StreamStopped:
        pass
    assert error_of(await bad.answer(request_id)).code == Code.INVALID_ARGUMENT


@row("asked apart: half an answer, and the end")
async def _(bad: RawPeer) -> Closed:
    _, call = await asked_apart(bad)
    await call.send.write(frame(RESPONSE, call.id, "", SLOT, b"1")[:6])
    await call.send.finish()
    return Code.TRUNCATED, "without its END"


@row("asked apart: an answer of another id")
async def _(bad: RawPeer) -> Closed:
    _, call = await asked_apart(bad)
    await call.send.write(frame(RESPONSE, call.id + 2, "", SLOT, b"1"))
    return Code.PROTOCOL_ERROR, "on the stream of call"


# --- peers: the channel ---------------------------------------------------------------------------------------------

BROKEN_RULES: list[tuple[str, bytes, Code, str]] = [
    ("garbage", b"\x00\x00\x00\x08garbage!", Code.PROTOCOL_ERROR, "message type 103 is unknown"),
    ("http", b"GET / HTTP/1.1\r\n\r\n", Code.LIMIT_EXCEEDED, "a frame of 1,195,725,856 bytes"),
    ("an empty frame", b"\x00\x00\x00\x00", Code.PROTOCOL_ERROR, "shorter than its header"),
    ("a frame one byte over", b"\x00\x00\x44\x01", Code.LIMIT_EXCEEDED, "a frame of 17,409 bytes"),
    ("unknown flags", frame(REQUEST, 1, "double", 0x80), Code.PROTOCOL_ERROR, "flags 0x80 mean nothing"),
    ("two kinds in one", frame(RESPONSE, 1, "", ERROR | END), Code.PROTOCOL_ERROR, "mean nothing"),
    ("an id of ours", frame(REQUEST, 2, "double", SLOT, b"1"), Code.PROTOCOL_ERROR, "odd from the dialer"),
    ("id 0", frame(REQUEST, 0, "double", SLOT, b"1"), Code.PROTOCOL_ERROR, "id 0 after 0"),
    ("an id used again", frame(REQUEST, 1, "double", SLOT, b"1") * 2, Code.PROTOCOL_ERROR, "never used again"),
    (
        "a falling id",
        frame(REQUEST, 9, "double", SLOT, b"1") + frame(REQUEST, 7, "double", SLOT, b"1"),
        Code.PROTOCOL_ERROR,
        "ids rise",
    ),
    ("an answer nobody asked for", frame(RESPONSE, 2), Code.PROTOCOL_ERROR, "no request is open"),
    ("an answer to itself", frame(RESPONSE, 1), Code.PROTOCOL_ERROR, "no request is open"),
    ("a request without a name", frame(REQUEST, 1), Code.PROTOCOL_ERROR, "names no method"),
    ("a name of 129", frame(REQUEST, 1, "x" * 129), Code.LIMIT_EXCEEDED, "a method name of 129 bytes"),
    ("a name with a space", frame(REQUEST, 1, "a b"), Code.PROTOCOL_ERROR, "characters other than"),
    ("a second hello", frame(REQUEST, 0, "$hello", METADATA, b"\x00"), Code.PROTOCOL_ERROR, "a second hello"),
    ("an END on the channel", frame(REQUEST, 1, "", END), Code.PROTOCOL_ERROR, "belongs on a call stream"),
    ("a CANCEL of nothing", frame(REQUEST, 1, "", CANCEL), Code.PROTOCOL_ERROR, "never opened"),
    (
        "a $timeout of words",
        frame(REQUEST, 1, "double", SLOT | METADATA, encode_map({"$timeout": "soon"}) + b"1"),
        Code.PROTOCOL_ERROR,
        "$timeout is 'soon'",
    ),
    (
        "65 entries of metadata",
        frame(REQUEST, 1, "double", SLOT | METADATA, b"\x41" + b"".join(b"\x02%02d\x00" % n for n in range(65)) + b"1"),
        Code.LIMIT_EXCEEDED,
        "a Map of 65 entries",
    ),
    (
        "a key twice",
        frame(REQUEST, 1, "double", SLOT | METADATA, b"\x02\x01a\x00\x01a\x00" + b"1"),
        Code.PROTOCOL_ERROR,
        "",
    ),
    (
        "8,193 bytes of metadata",
        frame(REQUEST, 1, "double", SLOT | METADATA, b"\x01\x01a" + encode_varint(8_193 - 5) + b"x" * 8_188 + b"1"),
        Code.LIMIT_EXCEEDED,
        "8,192",
    ),
    (
        "a body over the limit",
        frame(REQUEST, 1, "double", SLOT | BODY, encode_varint(65_537)),
        Code.LIMIT_EXCEEDED,
        "a message of 65,537 bytes; the limit here is 65,536",
    ),
    ("a BODY without a length", frame(REQUEST, 1, "double", SLOT | BODY), Code.PROTOCOL_ERROR, "body's length"),
    ("an event with an id", frame(EVENT, 1, "note", SLOT, b'""'), Code.PROTOCOL_ERROR, "an event with a request id"),
    ("an event without a name", frame(EVENT, 0, "", SLOT, b'""'), Code.PROTOCOL_ERROR, "without a name"),
    (
        "events beyond their credit",
        frame(EVENT, 0, "stuck", SLOT, b'"%s"' % (b"x" * 16_000)) * 9,
        Code.LIMIT_EXCEEDED,
        "events beyond the 131,072 bytes",
    ),
    (
        "a request too many",
        b"".join(frame(REQUEST, 2 * n + 1, "never", SLOT, b"null") for n in range(33)),
        Code.LIMIT_EXCEEDED,
        "more than 32 open requests",
    ),
    (
        "a stream END without its count",
        frame(STREAM, 1, "audio") + frame(STREAM, 1, "", END),
        Code.PROTOCOL_ERROR,
        "without the number",
    ),
    ("a stream CANCEL of its sender", frame(STREAM, 1, "", CANCEL), Code.PROTOCOL_ERROR, "comes from its receiver"),
    ("a stop of a stream of nobody", frame(STREAM, 2, "", CANCEL), Code.PROTOCOL_ERROR, "not one of ours to stop"),
    (
        "an $ack of what was never sent",
        frame(EVENT, 0, "$ack", 0, Ack(99, 1 << 40).encode()),
        Code.PROTOCOL_ERROR,
        "an $ack that takes back credit, or acknowledges",
    ),
    ("an $ack that is none", frame(EVENT, 0, "$ack", 0, b"\xff"), Code.PROTOCOL_ERROR, ""),
    (
        "pings without end",
        frame(REQUEST, 0, "$ping", 0, b"\x01") * 200,
        Code.LIMIT_EXCEEDED,
        "pings faster than their answers",
    ),
    (
        "a $goaway taken back",
        frame(EVENT, 0, "$goaway", METADATA, GoAway(last=1).encode())
        + frame(EVENT, 0, "$goaway", METADATA, GoAway(last=9).encode()),
        Code.PROTOCOL_ERROR,
        "takes back an earlier one",
    ),
]


def add_broken_rules() -> None:
    """A row for each rule of the channel."""
    for name, data, code, reason in BROKEN_RULES:

        async def act(bad: RawPeer, data: bytes = data, closed: Closed = (code, reason)) -> Closed:
            bad.write(data)
            return closed

        row(f"channel: {name}")(act)


add_broken_rules()


@row("channel: half a frame and silence, then the end")
async def _(bad: RawPeer) -> Closed:
    bad.write(b"\x00\x00\x00\x64abc")
    await anyio.sleep(0.3)
    await bad.send.finish()
    return Code.TRUNCATED, "within a frame"


@row("channel: finished, and the connection left open", patience=True)
async def _(bad: RawPeer) -> Closed:
    await bad.send.finish()
    return Code.PROTOCOL_ERROR, "the connection left open"


@row("channel: cancels twice, and too late")
async def _(bad: RawPeer) -> None:
    request_id = await open_id(bad)
    for _ in range(1_000):
        bad.frame(REQUEST, request_id, "", CANCEL)
    assert error_of(await bad.answer(request_id)).code == Code.CANCELLED
    bad.frame(REQUEST, request_id, "", CANCEL)


@row("channel: metadata and names at their limits")
async def _(bad: RawPeer) -> None:
    entries = encode_map({f"{n:02}": "" for n in range(64)})
    assert await ask(bad, "channel", "double", b"4", entries) == b"8"
    assert await ask(bad, "isolated", "double", b"4", entries) == b"8"
    long = encode_map({"a": "x" * (8_192 - 5)})
    assert len(long) == 8_192
    assert await ask(bad, "channel", "double", b"4", long) == b"8"
    bad.frame(EVENT, 0, "x" * 128, SLOT, b'""')


@row("channel: a slot that was not agreed")
async def _(bad: RawPeer) -> None:
    request_id = bad.take_id()
    bad.frame(REQUEST, request_id, "double", 0x20, b"4")
    assert "slot 2 was not agreed" in error_of(await bad.answer(request_id)).message
    call = await bad.call()
    await call.put("double", 0x20, b"4")
    await call.end()
    assert "slot 2 was not agreed" in (await call.error()).message


@row("channel: a streaming method")
async def _(bad: RawPeer) -> None:
    info = await ask(bad, "channel", "up")
    assert (info.code, "use request_stream" in info.message) == (Code.INVALID_ARGUMENT, True)


@row("channel: a flood of requests that are refused, never read", floods=True)
async def _(bad: RawPeer) -> Closed:
    try:
        for _ in range(10_000):
            bad.write(b"".join(frame(REQUEST, bad.take_id(), "x" * 120, SLOT, b"null") for _ in range(20)))
            await anyio.sleep(0.001)
    except ConnectionClosed:
        pass
    return Code.LIMIT_EXCEEDED, ""  # open requests, or answers that are not read: what is reached first


@row("events: unknown, of the wrong type, of a handler that fails")
async def _(bad: RawPeer) -> None:
    for name, payload in (("nothing", b'""'), ("note", b"{["), ("fails", b'"x"'), ("note", b"7")):
        bad.frame(EVENT, 0, name, SLOT, payload)
    bad.frame(EVENT, 0, "note", 0x30, b'""')


@row("events: a flood within the credit, to a handler that is done", floods=True)
async def _(bad: RawPeer) -> None:
    for _ in range(60):
        bad.write(frame(EVENT, 0, "note", SLOT, b'"%s"' % (b"x" * 400)) * 20)
        await bad.answer(bad.request("double", b"1"))
        await anyio.sleep(0.001)
        await anyio.lowlevel.checkpoint()


# --- peers: bodies --------------------------------------------------------------------------------------------------


@row("bodies: announced and never sent")
async def _(bad: RawPeer) -> None:
    request_id = bad.take_id()
    bad.frame(REQUEST, request_id, "length", SLOT | BODY | METADATA, timeout(50) + encode_varint(100))
    assert error_of(await bad.answer(request_id)).code == Code.DEADLINE_EXCEEDED


@row("bodies: too short")
async def _(bad: RawPeer) -> Closed:
    bad.frame(REQUEST, 1, "length", SLOT | BODY, b"\x0a")
    await (await bad.open(Prelude(StreamKind.BODY, (1,)), b"short")).finish()
    return Code.TRUNCATED, "is not the 10 bytes"


@row("bodies: too long")
async def _(bad: RawPeer) -> Closed:
    bad.frame(REQUEST, 1, "length", SLOT | BODY, b"\x0a")
    await (await bad.open(Prelude(StreamKind.BODY, (1,)), b"x" * 11)).finish()
    return Code.TRUNCATED, "is not the 10 bytes"


@row("bodies: reset half way")
async def _(bad: RawPeer) -> None:
    request_id = bad.take_id()
    bad.frame(REQUEST, request_id, "length", SLOT | BODY, b"\x64")
    stream = await bad.open(Prelude(StreamKind.BODY, (1,)), b"x")
    await anyio.sleep(0.02)
    stream.reset(Code.CANCELLED)
    assert error_of(await bad.answer(request_id)).code == Code.ABORTED


@row("bodies: two for one frame")
async def _(bad: RawPeer) -> Closed:
    for _ in range(2):
        await bad.open(Prelude(StreamKind.BODY, (7,)), b"x")
    return Code.PROTOCOL_ERROR, "two bodies for frame 7"


# --- peers: calls on streams ----------------------------------------------------------------------------------------

CALL = frame(REQUEST, 1, "deaf", SLOT, b"null")
TOTAL = frame(REQUEST, 1, "total", SLOT, b"null")
BROKEN_CALLS: list[tuple[str, bytes, Code, str]] = [
    ("an item before the call", frame(REQUEST, 1, "", SLOT, b"1"), Code.PROTOCOL_ERROR, "begins with something other"),
    ("a response", frame(RESPONSE, 1, "", SLOT, b"1"), Code.PROTOCOL_ERROR, "type 1"),
    ("an event", frame(EVENT, 0, "note", SLOT, b'""'), Code.PROTOCOL_ERROR, "type 2"),
    ("an id of ours", frame(REQUEST, 2, "double", SLOT, b"1"), Code.PROTOCOL_ERROR, "not one of the peer's"),
    ("id 0", frame(REQUEST, 0, "double", SLOT, b"1"), Code.PROTOCOL_ERROR, "begins with something other"),
    ("a name of 129", frame(REQUEST, 1, "x" * 129, SLOT, b"1"), Code.LIMIT_EXCEEDED, "a method name of 129"),
    ("a frame one byte over", b"\x00\x00\x44\x01", Code.LIMIT_EXCEEDED, "a frame of 17,409 bytes"),
    ("an item of another id", TOTAL + frame(REQUEST, 3, "", SLOT, b"1"), Code.PROTOCOL_ERROR, "id 3 on the stream"),
    ("an item in another slot", TOTAL + frame(REQUEST, 1, "", 0x20, b"1"), Code.PROTOCOL_ERROR, "another serializer"),
    (
        "an item with metadata",
        TOTAL + frame(REQUEST, 1, "", SLOT | METADATA, encode_map({"a": "b"}) + b"1"),
        Code.PROTOCOL_ERROR,
        "metadata belongs",
    ),
    (
        "more behind its END",
        TOTAL + frame(REQUEST, 1, "", END) + frame(REQUEST, 1, "", SLOT, b"1"),
        Code.PROTOCOL_ERROR,
        "behind its end",
    ),
    (
        "a $timeout of words",
        frame(REQUEST, 1, "double", SLOT | METADATA, encode_map({"$timeout": "-1"}) + b"1"),
        Code.PROTOCOL_ERROR,
        "$timeout is '-1'",
    ),
    (
        "a body over the limit",
        frame(REQUEST, 1, "double", SLOT | BODY, encode_varint(65_537)),
        Code.LIMIT_EXCEEDED,
        "a message of 65,537",
    ),
]


def add_broken_calls() -> None:
    """A row for each rule of a call's stream."""
    for name, data, code, reason in BROKEN_CALLS:

        async def act(bad: RawPeer, data: bytes = data, closed: Closed = (code, reason)) -> Closed:
            await bad.call(data)
            return closed

        row(f"call: {name}")(act)


add_broken_calls()


@row("call: cut before its END")
async def _(bad: RawPeer) -> Closed:
    call = await bad.call(TOTAL)
    await call.send.finish()
    return Code.TRUNCATED, "without its END"


@row("call: cut within its body")
async def _(bad: RawPeer) -> Closed:
    call = await bad.call(frame(REQUEST, 1, "length", SLOT | BODY, b"\x64") + b"x" * 50)
    await call.send.finish()
    return Code.TRUNCATED, "without its END"


@row("call: an open id used again")
async def _(bad: RawPeer) -> Closed:
    await bad.call(CALL)
    await anyio.sleep(0.02)
    await bad.call(CALL)
    return Code.PROTOCOL_ERROR, "two calls with id 1"


@row("call: reset before its first frame")
async def _(bad: RawPeer) -> None:
    call = await bad.call(CALL[:5])
    await anyio.sleep(0.02)
    call.send.reset(Code.CANCELLED)
    assert await outcome(call) == Code.CANCELLED


@row("call: reset among its items")
async def _(bad: RawPeer) -> None:
    call = await bad.call()
    await call.put("total")
    await call.put(payload=b"1")
    await anyio.sleep(0.02)
    call.send.reset(Code.CANCELLED)
    assert (await outcome(call)).code == Code.CANCELLED


@row("call: an item of the wrong type")
async def _(bad: RawPeer) -> None:
    call = await bad.call()
    await call.put("total")
    await call.put(payload=b'"one"')
    assert (await outcome(call)).code == Code.INVALID_ARGUMENT


@row("call: one more than is served")
async def _(bad: RawPeer) -> None:
    calls = []
    for _ in range(LIMITS.max_requests):
        call = await bad.call()
        await call.put("deaf")
        calls.append(call)
    await anyio.sleep(0.1)
    extra = await bad.call()
    await extra.put("double", payload=b"1")
    assert (await outcome(extra)).code == Code.RESOURCE_EXHAUSTED
    for call in calls:
        call.send.reset(Code.CANCELLED)
        call.recv.stop(Code.CANCELLED)


@row("call: tiny items for ever, to a handler that reads none", floods=True)
async def _(bad: RawPeer) -> None:
    call = await bad.call()
    await call.put("deaf", SLOT | METADATA, timeout(400) + b"null")
    item = frame(REQUEST, call.id, "", SLOT, b"1") * 1_000
    try:
        with anyio.fail_after(5):
            while True:
                await call.send.write(item)
                await anyio.lowlevel.checkpoint()
    except StreamStopped:
        pass
    assert await outcome(call) == Code.DEADLINE_EXCEEDED


@row("call: half a frame and silence", patience=True)
async def _(bad: RawPeer) -> None:
    call = await bad.call(CALL[:5])
    assert await outcome(call) == Code.DEADLINE_EXCEEDED


# --- peers: streams beside the channel ------------------------------------------------------------------------------


@row("stream: of an unknown kind, each way")
async def _(bad: RawPeer) -> None:
    uni = await bad.connection.open_uni_stream()
    await uni.write(b"\x09hello")
    send, recv = await bad.connection.open_bi_stream()
    await send.write(b"\x09hello")
    try:
        await recv.read()
    except StreamReset as reset:
        assert reset.code == Code.UNKNOWN_KIND
    try:
        with anyio.fail_after(5):
            while True:
                await uni.write(b"x")
                await anyio.sleep(0.005)
    except StreamStopped as stopped:
        assert stopped.code == Code.UNKNOWN_KIND


MISPLACED = [
    (StreamKind.CHANNEL, "bi", (), "a channel stream where none may be"),
    (StreamKind.BODY, "bi", (1,), "a body stream where none may be"),
    (StreamKind.FLOW, "bi", (1, 0), "a flow stream where none may be"),
    (StreamKind.CHANNEL, "uni", (), "a channel stream where none may be"),
    (StreamKind.CALL, "uni", (), "a call stream where none may be"),
]


def add_misplaced() -> None:
    """A row for each kind of stream in the wrong place."""
    for kind, way, numbers, reason in MISPLACED:

        async def act(
            bad: RawPeer, kind: StreamKind = kind, way: str = way, numbers: Any = numbers, reason: str = reason
        ) -> Closed:
            if way == "uni":
                await bad.open(Prelude(kind, numbers))
            else:
                send, _ = await bad.connection.open_bi_stream()
                await send.write(Prelude(kind, numbers).encode())
            return Code.PROTOCOL_ERROR, reason

        row(f"stream: {kind.name.lower()} on a {way} stream")(act)


add_misplaced()


@row("stream: a prelude without end")
async def _(bad: RawPeer) -> Closed:
    stream = await bad.connection.open_uni_stream()
    await stream.write(b"\x83" * 12)
    return Code.PROTOCOL_ERROR, "prelude"


@row("stream: ended within its prelude")
async def _(bad: RawPeer) -> Closed:
    stream = await bad.connection.open_uni_stream()
    await stream.write(b"\x83")
    await stream.finish()
    return Code.TRUNCATED, "within its prelude"


@row("streams: opened for ever, saying nothing", floods=True, patience=True)
async def _(bad: RawPeer) -> None:
    with anyio.move_on_after(2):
        for _ in range(400):
            await bad.connection.open_bi_stream()
            await bad.connection.open_uni_stream()
            await anyio.lowlevel.checkpoint()
    await anyio.sleep(35)


@row("streams: calls opened for ever, and left", floods=True)
async def _(bad: RawPeer) -> None:
    for _ in range(150):
        call = await bad.call()
        await call.put("deaf")
        call.send.reset(Code.CANCELLED)
        call.recv.stop(Code.CANCELLED)


# --- peers: flows ---------------------------------------------------------------------------------------------------

DATA = encode_frame(STREAM, 1, b"\x00\x00", b"\x00\x00\x02hi")


async def said_of(bad: RawPeer, flow_id: int) -> Any:
    """Return what the server's channel says of a flow of ours."""
    with anyio.fail_after(10):
        while True:
            for found in bad.inbox:
                if found[0] == STREAM and found[1] == flow_id:
                    bad.inbox.remove(found)
                    return found
            await bad.hear()


@row("flow: of a name that nobody takes")
async def _(bad: RawPeer) -> None:
    bad.frame(STREAM, bad.take_id(), "nothing")
    assert error_of(await said_of(bad, 1)).code == Code.UNIMPLEMENTED


@row("flow: more than are served")
async def _(bad: RawPeer) -> None:
    ids = [bad.take_id() for _ in range(LIMITS.max_streams + 1)]
    for flow_id in ids:
        bad.frame(STREAM, flow_id, "audio")
    assert error_of(await said_of(bad, ids[-1])).code == Code.RESOURCE_EXHAUSTED
    for flow_id in ids[:-1]:
        bad.frame(STREAM, flow_id, "", ERROR, ErrorInfo(Code.CANCELLED, "").encode())


@row("flow: of a handler that leaves, and of one that fails")
async def _(bad: RawPeer) -> None:
    for name in ("brief", "crash"):
        flow_id = bad.take_id()
        bad.frame(STREAM, flow_id, name)
        data = encode_frame(STREAM, flow_id, b"\x00\x00", b"\x00\x00\x02hi")
        await bad.open(Prelude(StreamKind.FLOW, (flow_id, 0)), data)
        assert (await said_of(bad, flow_id))[3] in (CANCEL, ERROR)


@row("flow: something else on its stream")
async def _(bad: RawPeer) -> Closed:
    bad.frame(STREAM, 1, "audio")
    await bad.open(Prelude(StreamKind.FLOW, (1, 0)), frame(EVENT, 0, "note", SLOT, b'""'))
    return Code.PROTOCOL_ERROR, "other than its data"


@row("flow: fewer frames than it says, then the end")
async def _(bad: RawPeer) -> None:
    flow_id = bad.take_id()
    bad.frame(STREAM, flow_id, "audio")
    stream = await bad.open(Prelude(StreamKind.FLOW, (1, 0)), DATA)
    await stream.finish()
    bad.frame(STREAM, flow_id, "", END, b"\x05")


@row("flow: data that was never opened")
async def _(bad: RawPeer) -> None:
    await bad.open(Prelude(StreamKind.FLOW, (99, 0)), DATA)


@row("flow: opened and ended for ever", floods=True)
async def _(bad: RawPeer) -> None:
    for _ in range(40):
        for _ in range(10):
            flow_id = bad.take_id()
            bad.write(frame(STREAM, flow_id, "audio") + frame(STREAM, flow_id, "", END, b"\x00"))
        await bad.answer(bad.request("double", b"1"))


# --- peers: datagrams -----------------------------------------------------------------------------------------------


@row("datagrams: junk", floods=True)
async def _(bad: RawPeer) -> None:
    if bad.connection.max_datagram:
        for number in range(1_000):
            bad.connection.send_datagram(bytes([number % 256]) * (number % 500))
            if not number % 50:
                await anyio.lowlevel.checkpoint()
