"""RFC 6455 at the socket, after the cases of the Autobahn test suite: nothing that is put around the library weakens it.

Each case has a connection of its own, and a pair of agents beside it that must not notice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from listening import (
    BACKENDS,
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Raw,
    agent,
    close,
    frame,
    names,
    request,
    split_everywhere,
    until,
    watched,
    websocket,
)

from echokernel_agora import AgoraServer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS, ids=names)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def message(size: int, to: str = "receiver", fill: str = "*") -> tuple[bytes, str]:
    """Return a ``send`` of exactly so many bytes, and its payload."""
    empty = len(json.dumps({"type": "send", "to": to, "payload": ""}, separators=(",", ":")))
    payload = fill * ((size - empty) // len(fill.encode()))
    made = json.dumps({"type": "send", "to": to, "payload": payload}, separators=(",", ":"), ensure_ascii=False)
    return made.encode(), payload


# --- 1: sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [None, 997, 1], ids=["whole", "pieces", "bytes"])
async def test_payloads_of_every_size_arrive(step: int | None) -> None:
    sizes = [60, 124, 125, 126, 127, 128] + ([4_096] if step == 1 else [65_535, 65_536, 65_537, 2**20])
    async with watched() as (server, pair):
        async with await agent(server, "receiver") as receiver, await agent(server, "sender") as sender:
            for size in sizes:
                data, payload = message(size)
                assert len(data) == size
                if step is None:
                    sender.send(frame(TEXT, data))
                else:
                    await sender.dribble(frame(TEXT, data), step)
                assert await receiver.json() == {"type": "message", "from": "sender", "payload": payload}
        await pair.exchange()


async def test_frames_that_come_together_are_all_taken() -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        pings = [json.dumps({"type": "ping", "id": str(number)}).encode() for number in range(200)]
        raw.send(*(frame(TEXT, ping) for ping in pings))
        for number in range(200):
            assert await raw.json() == {"type": "pong", "id": str(number)}


# --- 2: pings and pongs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"Hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125])
@pytest.mark.parametrize("step", [None, 1], ids=["whole", "bytes"])
async def test_a_ping_is_answered_with_its_payload(payload: bytes, step: int | None) -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        await raw.dribble(frame(PING, payload), step or 1000)
        assert await raw.frame() == (PONG, payload)


async def test_ten_pings_get_ten_pongs_in_order_and_pongs_get_nothing() -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(frame(PONG, b"unasked"), frame(PONG))
        raw.send(*(frame(PING, b"%d" % number) for number in range(10)))
        assert [await raw.frame() for _ in range(10)] == [(PONG, b"%d" % number) for number in range(10)]


# --- 3, 4, 5: what breaks the protocol -------------------------------------------------------------------------------

hello = b'{"type":"list"}'

BROKEN = {
    **{f"reserved bits {bits}": frame(TEXT, hello, rsv=bits) for bits in range(1, 8)},
    "reserved bits of a ping": frame(PING, b"x", rsv=2),
    "reserved bits of a close": frame(CLOSE, b"\x03\xe8", rsv=4),
    "compressed, and nobody agreed to it": frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4),
    **{f"opcode {opcode}": frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "opcode 3 without payload": frame(3),
    "not masked": frame(TEXT, hello, mask=False),
    "a ping that is not masked": frame(PING, mask=False),
    "a ping of 126 bytes": frame(PING, b"x" * 126),
    "a pong of 126 bytes": frame(PONG, b"x" * 126),
    "a close of 126 bytes": close(1000, b"x" * 124),
    "a fragmented ping": frame(PING, b"x", fin=False),
    "a fragmented pong": frame(PONG, b"x", fin=False) + frame(CONT, b"x"),
    "a fragmented close": frame(CLOSE, b"\x03\xe8", fin=False),
    "a continuation of nothing": frame(CONT, b"x"),
    "a continuation of nothing that goes on": frame(CONT, b"x", fin=False) + frame(TEXT, hello),
    "a continuation after the end": frame(TEXT, b"{", fin=False) + frame(CONT, b"}") + frame(CONT, b"x"),
    "a text within a text": frame(TEXT, b"{", fin=False) + frame(TEXT, hello),
    "a close of one byte": frame(CLOSE, b"\x03"),
    **{f"close {code}": close(code) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)},
}


@pytest.mark.parametrize("case", BROKEN)
async def test_what_breaks_the_protocol_is_closed_with_1002(case: str) -> None:
    async with watched() as (server, pair), await websocket(server) as raw:
        raw.send(BROKEN[case])
        assert await raw.closed() == 1002
        await pair.exchange()


async def test_a_fragmented_text_may_be_interleaved_with_control_frames() -> None:
    async with (
        watched() as (server, _),
        await agent(server, "receiver") as receiver,
        await agent(server, "sender") as sender,
    ):
        data, payload = message(3_000)
        parts = [data[start : start + 300] for start in range(0, 3_000, 300)]
        sender.send(frame(TEXT, parts[0], fin=False), frame(PING, b"amid"), frame(PONG, b"unasked"))
        assert await sender.frame() == (PONG, b"amid")
        sender.send(*(frame(CONT, part, fin=False) + frame(CONT, b"", fin=False) for part in parts[1:]))
        sender.send(frame(PING, b"again"), frame(CONT))
        assert await sender.frame() == (PONG, b"again")
        assert await receiver.json() == {"type": "message", "from": "sender", "payload": payload}


@pytest.mark.parametrize("step", [None, 1], ids=["whole", "bytes"])
async def test_a_text_may_be_split_anywhere(step: int | None) -> None:
    data = '{"type":"ping","id":"κόσμε 𝄞"}'.encode()
    async with watched() as (server, _), await websocket(server) as raw:
        for one, other in split_everywhere(data):
            await raw.dribble(frame(TEXT, one, fin=False) + frame(CONT, other), step or 1000)
            assert await raw.json() == {"type": "pong", "id": "κόσμε 𝄞"}
        raw.send(*(frame(CONT if index else TEXT, data[index : index + 1], fin=False) for index in range(len(data))))
        raw.send(frame(CONT))
        assert await raw.json() == {"type": "pong", "id": "κόσμε 𝄞"}


@pytest.mark.parametrize("fragmented", [False, True], ids=["whole", "fragmented"])
async def test_binary_is_closed_with_1003(fragmented: bool) -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(frame(BINARY, hello, fin=not fragmented))
        assert await raw.closed() == 1003


# --- 6: UTF-8 --------------------------------------------------------------------------------------------------------

NOT_UTF8 = {
    "a continuation byte alone": b"\x80",
    "two of them": b"\xbf\xbf",
    "a start without its end": b"\xc3",
    "a start before a space": b"\xe2\x82 ",
    "an overlong slash": b"\xc0\xaf",
    "an overlong slash in three": b"\xe0\x80\xaf",
    "an overlong slash in four": b"\xf0\x80\x80\xaf",
    "an overlong zero": b"\xc0\x80",
    "a surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "behind the last plane": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff",
    "Latin 1": "Grüße".encode("latin-1"),
}
UTF8 = ["\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U00010000", "\U0010ffff", "κόσμε"]


@pytest.mark.parametrize("case", NOT_UTF8)
async def test_what_is_not_utf8_is_closed_with_1007(case: str) -> None:
    data = b'{"type":"ping","id":"' + NOT_UTF8[case] + b'"}'
    async with watched() as (server, pair):
        async with await websocket(server) as raw:
            raw.send(frame(TEXT, data))
            assert await raw.closed() == 1007
        for split in (21, 22):
            async with await websocket(server) as raw:
                raw.send(frame(TEXT, data[:split], fin=False), frame(CONT, data[split:]))
                assert await raw.closed() == 1007
        await pair.exchange()


async def test_what_is_utf8_arrives() -> None:
    async with (
        watched() as (server, _),
        await agent(server, "receiver") as receiver,
        await agent(server, "sender") as sender,
    ):
        for wanted in UTF8:
            made = json.dumps({"type": "send", "to": "receiver", "payload": wanted}, ensure_ascii=False).encode()
            for one, other in [(made, b""), *split_everywhere(made)]:
                sender.send(frame(TEXT, one, fin=False), frame(CONT, other))
            for _ in range(len(made)):
                assert (await receiver.json())["payload"] == wanted


async def test_what_is_not_utf8_fails_with_the_fragment_that_has_it() -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(frame(TEXT, b'{"type":"', fin=False), frame(CONT, b"\xf4\x90", fin=False))
        assert await raw.closed() == 1007, "without waiting for the end of the message"


async def test_a_text_that_ends_amid_a_character_fails_at_its_end() -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(frame(TEXT, b'"\xf0\x9d', fin=False), frame(PING, b"so far"))
        assert await raw.frame() == (PONG, b"so far")
        raw.send(frame(CONT, b""))
        assert await raw.closed() == 1007


# --- 7: closing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
async def test_a_close_is_echoed(code: int) -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(close(code, b"bye"))
        assert await raw.frame() == (CLOSE, code.to_bytes(2, "big") + b"bye")
        assert await raw.frame() == (-1, b"")


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8" + b"x" * 123], ids=["empty", "code", "123 bytes"])
async def test_a_close_of_any_length_is_echoed(payload: bytes) -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(frame(CLOSE, payload))
        assert await raw.frame() == (CLOSE, payload)
        assert await raw.frame() == (-1, b"")


async def test_a_reason_that_is_not_utf8_is_closed_with_1007() -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80"))
        assert await raw.closed() == 1007


async def test_what_comes_behind_a_close_is_not_looked_at() -> None:
    async with (
        watched() as (server, _),
        await agent(server, "receiver") as receiver,
        await agent(server, "sender") as sender,
    ):
        before, payload = message(60)
        sender.send(
            frame(TEXT, before), close(), frame(TEXT, message(70)[0]), frame(PING, b"x"), close(1001), b"\xff" * 99
        )
        assert await sender.closed() == 1000
        assert (await receiver.json())["payload"] == payload, "what stands before it counts"
        receiver.send(frame(PING, b"that was all"))
        assert await receiver.frame() == (PONG, b"that was all")


async def test_a_close_amid_a_fragmented_text_is_an_error() -> None:
    async with watched() as (server, _), await websocket(server) as raw:
        raw.send(frame(TEXT, b"{", fin=False), close(1000))
        assert await raw.closed() == 1002


# --- sizes that are claimed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        [frame(TEXT, b"", length=10 * 2**20)[:10]],
        [frame(TEXT, b"", length=2**63)[:10]],
        [frame(TEXT, b"x" * (2**20 + 1))],
        [frame(TEXT, b"x" * 2**19, fin=False), frame(CONT, b"x" * (2**19 + 1))],
    ],
    ids=["10 MB", "2^63", "one byte too many", "in fragments"],
)
async def test_a_message_above_the_limit_is_closed_with_1009(sent: list[bytes]) -> None:
    async with watched() as (server, pair), await websocket(server) as raw:
        raw.send(*sent)
        assert await raw.closed() == 1009
        await pair.exchange()


async def test_whoever_goes_on_sending_still_learns_why_it_is_closed() -> None:
    async with watched() as (server, pair), await websocket(server) as raw:
        raw.send(frame(TEXT, b"", length=10 * 2**20)[:10])
        for _ in range(100):
            raw.send(b"x" * 100_000)
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert await raw.closed() == 1009, "closing at once would have thrown it away"
        await pair.exchange()


async def test_fragments_below_the_limit_are_one_message() -> None:
    async with (
        watched() as (server, _),
        await agent(server, "receiver") as receiver,
        await agent(server, "sender") as sender,
    ):
        data, payload = message(2**20)
        sender.send(frame(TEXT, data[: 2**19], fin=False), frame(CONT, data[2**19 :]))
        assert (await receiver.json())["payload"] == payload


async def test_compression_is_not_agreed_to() -> None:
    offer: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    async with watched() as (server, _), await websocket(server, headers=offer) as raw:
        assert b"extensions" not in raw.head.lower()


async def test_bytes_may_come_with_the_handshake() -> None:
    async with watched() as (server, _), await Raw.dial(server) as raw:
        raw.send(request(), frame(PING, b"early"))
        assert (await raw.response())[0] == 101
        assert await raw.frame() == (PONG, b"early")


async def test_a_connection_that_ends_without_a_close_is_gone() -> None:
    async with watched() as (server, pair):
        raw = await agent(server, "short")
        raw.send(frame(TEXT, b"x" * 50)[:20])
        await raw.leave()
        await until(lambda: "short" not in server.router.agents)
        await pair.exchange()


# --- at random -------------------------------------------------------------------------------------------------------


async def test_mutated_connections_end_and_leave_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(6455)
    head = request()
    whole = b"".join(
        [
            head,
            frame(TEXT, b'{"type":"register","id":"mutant","name":"x"}'),
            frame(PING, b"abc"),
            frame(TEXT, b'{"type":"list", "x":"\xc3', fin=False) + frame(PING) + frame(CONT, b'\xa9"}'),
            close(1000),
        ]
    )

    async def connect(server: AgoraServer) -> None:
        data = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(chance.choice([0, len(head)]), len(data))
            kind = chance.randrange(3)
            if kind == 0:
                data[at] = chance.randrange(256)
            elif kind == 1:
                del data[at : at + chance.randint(1, 5)]
            else:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
        async with await Raw.dial(server) as raw:
            try:
                await raw.dribble(bytes(data), chance.choice([7, 64, 1_000, 1_000]))
                raw.writer.write_eof()
                async with asyncio.timeout(5):
                    await raw.reader.read(-1)  # whatever it was, there is an end
            except OSError:
                pass

    async with watched() as (server, pair):
        for _ in range(10):
            await asyncio.gather(*(connect(server) for _ in range(20)))
            await pair.exchange()
        hub = server._hub
        assert hub is not None
        await until(lambda: len(hub.connections) == 2)
        assert len(server.router.peers) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
