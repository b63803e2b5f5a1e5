#!/usr/bin/env python3
"""The bare transport between two processes: length-prefixed bytes on one stream, no kernel, no serializer.

What the kernel adds is measured against this. ``server`` prints its address; ``client`` prints one JSON line per mode.
``both`` starts a server process and runs the client against it::

    raw_echo.py both --mode concurrent --in-flight 64 --seconds 3

Modes: ``sequential`` (one request at a time), ``concurrent`` (``--in-flight`` at a time), ``events`` (one way, counted
at the receiver), ``bulk`` (one way, ``--size`` bytes per write), ``stream`` (a stream per request), ``connections``
(``--count`` idle ones; prints the server's memory). Budget: see the plugin's README.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from echokernel.addresses import parse_address
from echokernel.errors import ConnectionClosed
from echokernel.tasks import open_tasks
from echokernel_quic import CongestionControl, QuicConfig, QuicTransport

LENGTH = struct.Struct(">I")
EVENTS, ECHO, BULK, MEMORY = b"v", b"e", b"b", b"m"
JOIN = 256  # events that are joined into one write, as the kernel's outbox would do in one loop turn


def transport(options: argparse.Namespace) -> QuicTransport:
    algorithm = {"cubic": CongestionControl.Cubic, "newreno": CongestionControl.NewReno, "bbr": CongestionControl.BBR}
    return QuicTransport(
        QuicConfig(
            max_datagram_size=options.datagram_size,
            congestion_control=algorithm[options.congestion_control],
            verify=False,
        )
    )


def rss_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def split(buffer: bytearray) -> list[bytes]:
    """Take the complete messages off the buffer."""
    messages, at, size = [], 0, len(buffer)
    while size - at >= 4:
        (length,) = LENGTH.unpack_from(buffer, at)
        if size - at - 4 < length:
            break
        messages.append(bytes(buffer[at + 4 : at + 4 + length]))
        at += 4 + length
    del buffer[:at]
    return messages


# --- server ---------------------------------------------------------------------------------------------------------


async def serve(options: argparse.Namespace) -> None:
    async with open_tasks() as tasks:
        listener = await transport(options).listen(parse_address(options.address), tasks)
        print(listener.address, flush=True)
        while True:
            connection = await listener.accept()
            connection.established()
            tasks.start(serve_connection, tasks, connection)


async def serve_connection(tasks: Any, connection: Any) -> None:
    while True:
        try:
            send, recv = await connection.accept_bi_stream()
        except Exception:
            return
        tasks.start(serve_stream, send, recv)


async def serve_stream(send: Any, recv: Any) -> None:
    with contextlib.suppress(ConnectionClosed):  # the client has what it came for
        await answer_stream(send, recv)


async def answer_stream(send: Any, recv: Any) -> None:
    data = await recv.read()
    kind, buffer = data[:1], bytearray(data[1:])
    count = 0
    while True:
        if kind == ECHO:
            out = bytearray()
            for message in split(buffer):
                out += LENGTH.pack(len(message)) + message
            if out:
                await send.write(bytes(out))
        elif kind == EVENTS:
            count += len(split(buffer))
        else:
            count += len(buffer)
            buffer.clear()
        data = await recv.read()
        if not data:
            break
        buffer += data
    if kind == MEMORY:
        count = rss_kib()
    if kind != ECHO:
        await send.write(struct.pack(">Q", count))
    await send.finish()


# --- client ---------------------------------------------------------------------------------------------------------


async def sequential(connection: Any, options: argparse.Namespace) -> dict[str, Any]:
    options.in_flight = 1
    return await concurrent(connection, options)


async def concurrent(connection: Any, options: argparse.Namespace) -> dict[str, Any]:
    """``in_flight`` workers, each with one request out; replies come back in order."""
    send, recv = await connection.open_bi_stream()
    send.write_nowait(ECHO)
    loop = asyncio.get_running_loop()
    waiting: deque[tuple[asyncio.Future[bytes], float]] = deque()
    times: list[float] = []
    message = LENGTH.pack(options.payload) + bytes(options.payload)
    clock = time.perf_counter
    end = clock() + options.seconds

    async def read() -> None:
        buffer = bytearray()
        while data := await recv.read():
            buffer += data
            now = clock()
            for reply in split(buffer):
                future, began = waiting.popleft()
                times.append(now - began)
                future.set_result(reply)

    async def work() -> None:
        while clock() < end:
            future = loop.create_future()
            waiting.append((future, clock()))
            send.write_nowait(message)
            await future

    reader = asyncio.create_task(read())
    began = clock()
    cpu = time.process_time()
    await asyncio.gather(*(work() for _ in range(options.in_flight)))
    took, cpu = clock() - began, time.process_time() - cpu
    reader.cancel()
    times.sort()
    return {
        "requests_per_s": round(len(times) / took),
        "p50_us": round(times[len(times) // 2] * 1e6),
        "p99_us": round(times[len(times) * 99 // 100] * 1e6),
        "client_cpu_us_per_request": round(cpu / len(times) * 1e6, 1),
    }


async def events(connection: Any, options: argparse.Namespace) -> dict[str, Any]:
    send, recv = await connection.open_bi_stream()
    await send.write(EVENTS)
    message = LENGTH.pack(options.payload) + bytes(options.payload)
    began = time.perf_counter()
    end = began + options.seconds
    sent = 0
    while time.perf_counter() < end:
        out = bytearray()
        for _ in range(JOIN):
            out += message
        sent += JOIN
        await send.write(bytes(out))
        await asyncio.sleep(0)
    await send.finish()
    (count,) = struct.unpack(">Q", await recv.read_to_end(8))
    took = time.perf_counter() - began
    return {"events_per_s": round(count / took), "lost": sent - count}


async def bulk(connection: Any, options: argparse.Namespace) -> dict[str, Any]:
    send, recv = await connection.open_bi_stream()
    await send.write(BULK)
    block = bytes(options.size)
    began = time.perf_counter()
    sent = 0
    while time.perf_counter() < began + options.seconds:
        await send.write(block)
        sent += len(block)
    await send.finish()
    (count,) = struct.unpack(">Q", await recv.read_to_end(8))
    took = time.perf_counter() - began
    return {"mb_per_s": round(count / took / 1e6, 1), "lost": sent - count, **connection.stats()}


async def stream(connection: Any, options: argparse.Namespace) -> dict[str, Any]:
    message = ECHO + LENGTH.pack(options.payload) + bytes(options.payload)
    done = 0
    began = time.perf_counter()
    end = began + options.seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            send, recv = await connection.open_bi_stream()
            await send.write(message)
            await send.finish()
            await recv.read_to_end(1000)
            done += 1

    await asyncio.gather(*(work() for _ in range(options.in_flight)))
    return {"requests_per_s": round(done / (time.perf_counter() - began))}


MODES = {"sequential": sequential, "concurrent": concurrent, "events": events, "bulk": bulk, "stream": stream}


async def memory(connection: Any) -> int:
    send, recv = await connection.open_bi_stream()
    await send.write(MEMORY)
    await send.finish()
    return int(struct.unpack(">Q", await recv.read_to_end(8))[0])


async def run(options: argparse.Namespace) -> None:
    async with open_tasks() as tasks:
        address = parse_address(options.address)
        if options.mode == "connections":
            await run_connections(options, tasks)
            return
        connection = await transport(options).connect(address, tasks)
        connection.established()
        if options.mode in ("sequential", "concurrent"):
            await asyncio.sleep(0.05)
        result = await MODES[options.mode](connection, options)
        print(json.dumps({"mode": options.mode, "in_flight": options.in_flight, **result}), flush=True)
        await connection.close()


async def run_connections(options: argparse.Namespace, tasks: Any) -> None:
    address = parse_address(options.address)
    first = await transport(options).connect(address, tasks)
    first.established()
    before = await memory(first)
    began = time.perf_counter()
    connections = []
    gate = asyncio.Semaphore(8)

    async def connect() -> None:
        async with gate:
            connections.append(await transport(options).connect(address, tasks))

    await asyncio.gather(*(connect() for _ in range(options.count)))
    took = time.perf_counter() - began
    await asyncio.sleep(options.seconds)
    result = {
        "mode": "connections",
        "count": len(connections),
        "per_s": round(options.count / took),
        "server_rss_mb": round(await memory(first) / 1024, 1),
        "before_mb": round(before / 1024, 1),
    }
    print(json.dumps(result), flush=True)


def loop_run(main: Any, options: argparse.Namespace) -> None:
    if options.uvloop == "yes":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["server", "client", "both"])
    parser.add_argument("--address", default="quic://127.0.0.1:0")
    parser.add_argument("--mode", choices=[*MODES, "connections"], default="concurrent")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--payload", type=int, default=32, help="bytes per message")
    parser.add_argument("--size", type=int, default=65_536, help="bytes per write in bulk mode")
    parser.add_argument("--count", type=int, default=1_000, help="connections in connections mode")
    parser.add_argument("--datagram-size", type=int, default=None, help="bytes; default: as the transport chooses")
    parser.add_argument("--congestion-control", choices=["cubic", "newreno", "bbr"], default="cubic")
    parser.add_argument("--uvloop", choices=["yes", "no"], default="yes")
    options = parser.parse_args()
    if options.command == "server":
        loop_run(serve(options), options)
        return
    if options.command == "client":
        loop_run(run(options), options)
        return
    arguments = [sys.executable, __file__, "server", "--address", options.address, "--uvloop", options.uvloop]
    arguments += ["--congestion-control", options.congestion_control]
    if options.datagram_size:
        arguments += ["--datagram-size", str(options.datagram_size)]
    server = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        options.address = server.stdout.readline().strip()
        loop_run(run(options), options)
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


if __name__ == "__main__":
    main()
