#!/usr/bin/env python3
"""A peer that follows docs/wire.md, and has nothing of echokernel: QUIC by aioquic, every byte of the protocol by hand.

``peer.py HOST PORT`` says hello, calls, tells, streams and is called, and prints what it learned as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import sys
from typing import Any

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration

REQUEST, RESPONSE, EVENT, STREAM = range(4)  # docs/wire.md, section 1
ERROR, END, METADATA, SLOT_1 = 0x01, 0x04, 0x08, 0x10


# --- section 1: encodings -----------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def zigzag(number: int) -> bytes:
    """An i64 of a payload; postcard's."""
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def text(value: str) -> bytes:
    data = value.encode()
    return varint(len(data)) + data


def entries(values: dict[str, str]) -> bytes:
    return varint(len(values)) + b"".join(text(key) + text(value) for key, value in values.items())


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def zigzag(self) -> int:
        number = self.varint()
        return number >> 1 if number & 1 == 0 else -(number + 1 >> 1)

    def take(self, size: int) -> bytes:
        self.at += size
        assert self.at <= len(self.data)
        return self.data[self.at - size : self.at]

    def text(self) -> str:
        return self.take(self.varint()).decode()

    def f64(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def map(self) -> dict[str, str]:
        return {self.text(): self.text() for _ in range(self.varint())}

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def frame(kind: int, request_id: int, method: str, flags: int, payload: bytes = b"") -> bytes:
    """A Frame with its length before it: section 2."""
    data = varint(kind) + varint(request_id) + text(method) + bytes((flags,)) + varint(len(payload)) + payload
    return struct.pack(">I", len(data)) + data


# --- a session ----------------------------------------------------------------------------------------------------


class Peer:
    def __init__(self, protocol: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.protocol, self.reader, self.writer = protocol, reader, writer
        self.next_id = 1
        self.answers: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self.asked: list[str] = []

    async def receive(self) -> tuple[int, int, str, int, Reader]:
        (length,) = struct.unpack(">I", await self.reader.readexactly(4))
        found = Reader(await self.reader.readexactly(length))
        kind, request_id, method, flags = found.varint(), found.varint(), found.text(), found.byte()
        payload = found.take(found.varint())
        assert found.at == length, "the payload ends exactly where its frame ends"
        return kind, request_id, method, flags, Reader(payload)

    async def hello(self) -> dict[str, str]:
        ours = {"node": "by-hand", "serializers": "postcard"}
        self.writer.write(varint(0) + frame(REQUEST, 0, "$hello", METADATA, entries(ours)))  # kind 0: the channel
        kind, request_id, method, flags, payload = await self.receive()
        assert (kind, request_id, method, flags) == (RESPONSE, 0, "$hello", METADATA), (kind, request_id, method, flags)
        return payload.map()

    async def run(self) -> None:
        """Act on what comes: answers, the node's own requests, link frames."""
        while True:
            kind, request_id, method, flags, payload = await self.receive()
            if kind == RESPONSE:
                self.answers.pop(request_id).set_result((flags, payload.rest()))
            elif kind == REQUEST and request_id:
                self.asked.append(method)
                if method == "peer.double":
                    if flags & METADATA:
                        payload.map()
                    answer = frame(RESPONSE, request_id, "", SLOT_1, zigzag(2 * payload.zigzag()))
                else:  # section 11: unknown requests are answered with code 12
                    answer = frame(RESPONSE, request_id, "", ERROR, varint(12) + text(f"no {method} here") + b"\x00")
                self.writer.write(answer)

    async def request(self, method: str, payload: bytes) -> tuple[int, Reader]:
        request_id, self.next_id = self.next_id, self.next_id + 2
        future = self.answers[request_id] = asyncio.get_running_loop().create_future()
        self.writer.write(frame(REQUEST, request_id, method, SLOT_1, payload))
        flags, answer = await asyncio.wait_for(future, 10)
        return flags, Reader(answer)

    async def flow(self, name: str, frames: list[bytes]) -> None:
        """Section 7: opened on the channel, data on a stream of its own, END on the channel."""
        flow_id, self.next_id = self.next_id, self.next_id + 2
        self.writer.write(frame(STREAM, flow_id, name, 0))
        _, data = await self.protocol.create_stream(is_unidirectional=True)
        data.write(varint(3) + varint(flow_id) + varint(0))  # kind 3
        for number, part in enumerate(frames):
            stamped = varint(1_700_000_000_000_000 + number) + varint(number) + varint(len(part)) + part
            data.write(frame(STREAM, flow_id, "", 0, stamped))
        data.write_eof()
        self.writer.write(frame(STREAM, flow_id, "", END, varint(len(frames))))


async def talk(host: str, port: int) -> dict[str, Any]:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echostream/1"], verify_mode=ssl.CERT_NONE)
    found: dict[str, Any] = {}
    async with connect(host, port, configuration=configuration) as protocol:
        peer = Peer(protocol, *await protocol.create_stream())
        found["hello"] = await peer.hello()
        running = asyncio.ensure_future(peer.run())

        flags, answer = await peer.request("math.add", zigzag(10) + zigzag(-300))
        found["add"] = [flags, answer.zigzag(), answer.rest().hex()]

        # struct Reading { name: String, values: Vec<f64>, level: Option<u8>, kind: Kind, tags: BTreeMap<String, i64> }
        reading = text("Ä1") + varint(2) + struct.pack("<dd", 0.5, -1.5) + b"\x01\xff" + varint(1)
        reading += varint(1) + text("k") + zigzag(-1)
        flags, answer = await peer.request("reading.reverse", reading)
        found["reading"] = [flags, answer.text(), [answer.f64() for _ in range(answer.varint())]]
        found["reading"] += [answer.byte(), answer.byte(), answer.varint()]
        found["reading"] += [{answer.text(): answer.zigzag() for _ in range(answer.varint())}, answer.rest().hex()]

        flags, answer = await peer.request("absent", b"")
        found["absent"] = [flags, answer.varint(), answer.text(), answer.rest().hex()]

        peer.writer.write(frame(EVENT, 0, "note", SLOT_1, text("hello") + zigzag(7)))
        flags, answer = await peer.request("heard", b"")
        found["heard"] = [[answer.text(), answer.zigzag()] for _ in range(answer.varint())]

        flags, answer = await peer.request("call_back", zigzag(21))
        found["call_back"] = [flags, answer.zigzag(), peer.asked]

        await peer.flow("audio", [b"one", b"two", bytes(1000)])
        flags, answer = await peer.request("audio.taken", b"")
        found["flow"] = [answer.zigzag() for _ in range(answer.varint())]
        running.cancel()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(sys.argv[1], int(sys.argv[2])))))
    assert not [name for name in sys.modules if name.startswith("echokernel")]
