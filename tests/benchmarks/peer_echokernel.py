"""echokernel as a benchmark peer: ``serve`` prints its address, ``MODE ADDRESS SECONDS`` prints one JSON line.

The handler takes and returns a validated dataclass; limits and deadlines are the defaults.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echokernel import EchoClient, EchoServer, Session, StreamReceiver, event, rpc, stream

PAYLOAD = bytes(32)
FRAME = bytes(65_536)


@dataclass
class Message:
    data: bytes


@rpc("bench.echo")
async def echo(message: Message) -> Message:
    return message


@event("bench.event")
async def on_event(session: Session, message: Message) -> None:
    session.counted += 1  # type: ignore[attr-defined]


@rpc("bench.counted")
async def counted(session: Session) -> int:
    return session.counted  # type: ignore[attr-defined,no-any-return]


@stream("bench.bulk")
async def bulk(session: Session, receiver: StreamReceiver) -> None:
    async for frame in receiver:
        session.counted += len(frame.data)  # type: ignore[attr-defined]


@stream("bench.stuck")
async def stuck(session: Session, receiver: StreamReceiver) -> None:
    await receiver.recv()
    await asyncio.sleep(3600)


@rpc("bench.memory")
async def memory() -> int:
    return rss_kib()


def rss_kib() -> int:
    """Return the resident memory of this process, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


async def serve() -> None:
    def prepare(session: Session) -> None:
        session.counted = 0  # type: ignore[attr-defined]

    builder = EchoServer.builder().bind("quic://127.0.0.1:0").on_connect(prepare)
    for handler in (echo, on_event, counted, bulk, stuck, memory):
        builder.add_handler(handler)
    async with builder.build() as server:
        print(server.addresses[0], flush=True)
        await asyncio.Event().wait()


async def requests(client: EchoClient, seconds: float, in_flight: int) -> dict[str, Any]:
    message = Message(PAYLOAD)
    times: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds

    async def work() -> None:
        while (began := clock()) < end:
            await client.request("bench.echo", message, returns=Message)
            times.append(clock() - began)

    began, cpu = clock(), time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    took, cpu = clock() - began, time.process_time() - cpu
    times.sort()
    return {
        "per_s": len(times) / took,
        "p50_us": times[len(times) // 2] * 1e6,
        "p99_us": times[len(times) * 99 // 100] * 1e6,
        "cpu_us": cpu / len(times) * 1e6,
    }


async def sequential(client: EchoClient, seconds: float) -> dict[str, Any]:
    return await requests(client, seconds, 1)


async def concurrent(client: EchoClient, seconds: float) -> dict[str, Any]:
    return await requests(client, seconds, 64)


async def wait_counted(client: EchoClient, wanted: int) -> None:
    while await client.request("bench.counted", returns=int) < wanted:
        await asyncio.sleep(0.002)


async def events(client: EchoClient, seconds: float) -> dict[str, Any]:
    message = Message(PAYLOAD)
    sent = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(100):
            await client.emit("bench.event", message)
        sent += 100
    await wait_counted(client, sent)
    return {"per_s": sent / (time.perf_counter() - began)}


async def push(client: EchoClient, seconds: float) -> int:
    sent = 0
    end = time.perf_counter() + seconds
    async with await client.create_stream("bench.bulk") as sender:
        while time.perf_counter() < end:
            await sender.send(FRAME)
            sent += len(FRAME)
    return sent


async def bulk_mode(client: EchoClient, seconds: float) -> dict[str, Any]:
    began = time.perf_counter()
    sent = await push(client, seconds)
    await wait_counted(client, sent)
    return {"per_s": sent / (time.perf_counter() - began) / 1e6}


async def mixed(client: EchoClient, seconds: float) -> dict[str, Any]:
    """Small requests while a bulk transfer runs on the same connection."""
    transfer = asyncio.create_task(push(client, seconds + 1))
    await asyncio.sleep(0.5)
    result = await requests(client, seconds, 1)
    transfer.cancel()
    return {"p50_ms": result["p50_us"] / 1000, "p99_ms": result["p99_us"] / 1000}


async def stuck_mode(client: EchoClient, seconds: float) -> dict[str, Any]:
    """Push up to 200 MB at a reader that has stopped; how much memory both ends grew by."""
    here, there = rss_kib(), await client.request("bench.memory", returns=int)
    sender = await client.create_stream("bench.stuck")
    pushed = 0
    waiting = False
    while pushed < 200_000_000:
        try:
            async with asyncio.timeout(2):
                await sender.send(FRAME)
            pushed += len(FRAME)
        except TimeoutError:
            waiting = True
            break
    grown_there = await client.request("bench.memory", returns=int) - there
    return {
        "pushed_mb": pushed / 1e6,
        "send_waits": waiting,
        "client_mb": (rss_kib() - here) / 1024,
        "server_mb": grown_there / 1024,
    }


async def idle(client: EchoClient, seconds: float) -> dict[str, Any]:
    """1,000 idle connections per second of ``seconds``: the server's memory, and what they cost it."""
    before = await client.request("bench.memory", returns=int)
    address = client._address
    others: list[EchoClient] = []
    began = time.perf_counter()
    for _ in range(int(100 * seconds)):
        others += await asyncio.gather(*(EchoClient.connect(address) for _ in range(10)))
    took = time.perf_counter() - began
    await asyncio.sleep(2)
    after = await client.request("bench.memory", returns=int)
    return {
        "connections": len(others),
        "server_mb": after / 1024,
        "kib_each": (after - before) / len(others),
        "per_s": len(others) / took,
    }


MODES = {
    "sequential": sequential,
    "concurrent": concurrent,
    "events": events,
    "bulk": bulk_mode,
    "mixed": mixed,
    "stuck": stuck_mode,
    "idle": idle,
}


async def run(mode: str, address: str, seconds: float) -> None:
    client = await EchoClient.connect(address)
    print(json.dumps(await MODES[mode](client, seconds)), flush=True)
    if mode != "stuck" and mode != "idle":
        await client.close()


def main() -> None:
    import uvloop

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    if sys.argv[1] == "serve":
        uvloop.run(serve())
    else:
        uvloop.run(run(sys.argv[1], sys.argv[2], float(sys.argv[3])))


if __name__ == "__main__":
    main()
