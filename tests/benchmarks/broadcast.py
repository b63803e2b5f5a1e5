#!/usr/bin/env python3
"""A broadcast to 500 sessions against 500 ready frames on the raw QUIC engine, aioquic, interleaved, in one process.

    python3 dev.py python tests/benchmarks/broadcast.py            # about a minute
    python3 dev.py python tests/benchmarks/broadcast.py --quick    # a smoke test with 20 sessions, no judgement

Budget: the median of the rounds' ratios is at most 1.5. One server process holds 500 sessions, 500 bare connections of
echokernel-quic and 500 of aioquic as it comes; a second process is at the other end of all of them. *Broadcast* is the time
from ``context.broadcast()`` of a 100 B event until the last packet is with the socket. *aioquic* is the time for handing a
ready frame, the very same bytes, to each QuicConnection of aioquic, asking it for the packet and sending that: no session, no
channel, no event loop in between. *Engine* is the same on echokernel-quic's engine, which is aioquic's with a shorter way
through a packet; *transport* the same through its streams and ``flush()``. A broadcast lets others run after 70 ms of one
turn of the loop; on a machine that needs longer for 500 packets, what they do (acknowledgements above all) is part of its
time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import ssl
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from aioquic.asyncio import connect as aioquic_connect
from aioquic.asyncio import serve as aioquic_serve
from aioquic.quic.configuration import QuicConfiguration

from echokernel import EchoClient, EchoServer, ServerBuilder, event
from echokernel.addresses import parse_address
from echokernel.errors import ConnectionClosed
from echokernel.tasks import open_tasks
from echokernel_protocol.channel import event_frame
from echokernel_quic import QuicConfig, QuicTransport

BUDGET = 1.5
DATA = bytes(100)
PAUSE = 0.1  # seconds between two looks whether the other end is done with what it got
MOST_PAUSES = 20
NOISE = 50  # packets in that time that do not matter: keepalives of a thousand connections

KEEPALIVE = 60.0  # seconds
PATIENCE = 240.0  # seconds for everything; a process that died must not keep the other one waiting


def transport() -> QuicTransport:
    """A transport whose thousand idle connections do not talk among the measurements."""
    return QuicTransport(QuicConfig(keepalive=KEEPALIVE))


def server_builder() -> ServerBuilder:
    return EchoServer.builder().bind("quic://127.0.0.1:0").transport(transport())


def stock(listener: Any = None) -> QuicConfiguration:
    """aioquic's own configuration, with the listener's certificate or none."""
    configuration = QuicConfiguration(is_client=listener is None, alpn_protocols=["bench"], idle_timeout=PATIENCE)
    if listener is None:
        configuration.verify_mode = ssl.CERT_NONE
    else:
        configuration.certificate = listener._identity.certificate
        configuration.private_key = listener._identity.key
    return configuration


async def serve(options: argparse.Namespace) -> None:
    """Wait for all clients, measure, and print one JSON line."""
    async with open_tasks() as tasks, server_builder().build() as server:
        listener = await transport().listen(parse_address("quic://127.0.0.1:0"), tasks)
        plain: list[Any] = []  # aioquic's writers, one for each connection
        stock_server = await aioquic_serve(
            "127.0.0.1",
            0,
            configuration=stock(listener),
            stream_handler=lambda reader, writer: plain.append(writer),
        )
        port = stock_server._transport.get_extra_info("sockname")[1]  # type: ignore[attr-defined]
        print(server.addresses[0], listener.address, port, flush=True)
        context = server.context()
        raw: list[tuple[Any, Any]] = []  # connections, and the streams that the other end opened
        while len(raw) < options.sessions:
            connection: Any = await listener.accept()
            connection.established()
            send, _ = await connection.accept_bi_stream()
            send.prioritize()
            raw.append((connection, send))
        while len(context.sessions()) < options.sessions:
            await asyncio.sleep(0.05)
        while len(plain) < options.sessions:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        codecs = context.sessions()[0]._codecs
        frame = event_frame(codecs.head("bench.tick"), codecs.encode(DATA))
        sendto = listener._socket.sendto  # type: ignore[attr-defined]

        async def broadcast() -> None:
            await context.broadcast("bench.tick", DATA)
            flushes = context._broadcasts.flushes
            while flushes._planned:
                await asyncio.sleep(0)

        async def on_the_engine() -> None:
            for connection, send in raw:
                send._stream.sender.write(frame)
                for datagram in connection.engine.transmit(tasks.now()):
                    sendto(*datagram)

        async def on_aioquic() -> None:
            for writer in plain:
                adapter = writer.transport
                quic = adapter.protocol._quic
                quic.send_stream_data(adapter.stream_id, frame)
                for datagram in quic.datagrams_to_send(tasks.now()):
                    sendto(*datagram)

        async def on_the_transport() -> None:
            for connection, send in raw:
                send.write_nowait(frame)
                connection.flush()

        async def quiet() -> None:
            """Wait until the other end has acknowledged everything."""
            seen = 0
            connections = [*(connection for connection, _ in raw), *(s._connection for s in context.sessions())]
            for connection in connections:
                connection.schedule_flush()  # which sets the timers that the bare engine has not set
            for writer in plain:
                writer.transport.protocol.transmit()
            for _ in range(MOST_PAUSES):
                await asyncio.sleep(PAUSE)
                before, seen = seen, sum(connection.engine.packets_received for connection in connections)
                if seen - before <= NOISE:
                    break

        rounds: list[dict[str, float]] = []
        gc.collect()
        gc.freeze()  # two thousand connections' worth of objects would be looked through at random moments
        for number in range(options.rounds + 1):
            everyone = [
                ("broadcast", broadcast),
                ("aioquic", on_aioquic),
                ("transport", on_the_transport),
                ("engine", on_the_engine),
            ]
            took: dict[str, float] = {}
            for name, run in everyone[number % 4 :] + everyone[: number % 4]:
                gc.disable()
                began, cpu = time.perf_counter(), time.process_time()
                await run()
                took[name] = time.perf_counter() - began
                took[f"{name}_cpu"] = time.process_time() - cpu
                gc.enable()
                await quiet()
            if number:  # the first one warms up
                rounds.append(took)
        print(json.dumps({"rounds": rounds, "stats": context.stats(), "frame": len(frame)}), flush=True)


async def connect(options: argparse.Namespace) -> None:
    """Be the other end of everything, until the server is gone; then print how many events came."""
    counted: list[int] = []
    shared = transport()

    def client(number: int) -> Any:
        counted.append(0)

        @event("bench.tick")
        async def on_tick(data: bytes) -> None:
            counted[number] += 1

        return EchoClient.builder().transport(shared).add_event(on_tick)

    ours, theirs, port = options.addresses
    async with open_tasks() as tasks, contextlib.AsyncExitStack() as stack:
        clients, connections, plain = [], [], []  # kept: a writer that is forgotten closes its stream
        for start in range(0, options.sessions, 10):
            numbers = range(start, min(start + 10, options.sessions))
            clients += await asyncio.gather(*(client(number).connect(ours) for number in numbers))
        for _ in range(options.sessions):
            connection = await shared.connect(parse_address(theirs), tasks)
            connection.established()
            send, recv = await connection.open_bi_stream()
            await send.write(b"raw")
            tasks.start(swallow, recv)
            connections.append(connection)
            protocol = await stack.enter_async_context(aioquic_connect("127.0.0.1", int(port), configuration=stock()))
            plain.append(await protocol.create_stream())
            plain[-1][1].write(b"raw")
        await asyncio.to_thread(sys.stdin.readline)
        for _ in range(100):
            if min(counted) > options.rounds:
                break
            await asyncio.sleep(0.05)
        print(json.dumps({"least": min(counted), "most": max(counted)}), flush=True)
        os._exit(0)  # aioquic's clients would say goodbye one by one


async def swallow(recv: Any) -> None:
    with contextlib.suppress(ConnectionClosed):
        while await recv.read():
            pass


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def measure(sessions: int, rounds: int) -> dict[str, Any]:
    """Return the rounds, the server's counters, and the fewest and most events that a client got."""
    numbers = ["--sessions", str(sessions), "--rounds", str(rounds)]
    server = run("serve", *numbers)
    watchdog = threading.Timer(PATIENCE, server.kill)
    watchdog.start()
    try:
        assert server.stdout is not None
        clients = run("connect", *server.stdout.readline().split(), *numbers)
        try:
            line = server.stdout.readline()
            if not line:
                raise SystemExit("the server did not measure anything")
            result: dict[str, Any] = json.loads(line)
            counted, _ = clients.communicate("done\n", timeout=60)
        finally:
            clients.kill()
            clients.wait()
        return {**result, **json.loads(counted)}
    finally:
        watchdog.cancel()
        server.kill()
        server.wait()
        server.stdout.close()  # type: ignore[union-attr]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["compare", "serve", "connect"], default="compare")
    parser.add_argument("addresses", nargs="*")
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="20 sessions, 3 rounds: only shows that everything runs")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    if options.command != "compare":
        import uvloop

        uvloop.run(serve(options) if options.command == "serve" else connect(options))
        return 0
    if options.quick:
        options.sessions, options.rounds = 20, 3
    found = measure(options.sessions, options.rounds)

    def median(name: str) -> float:
        return statistics.median(round[name] for round in found["rounds"]) * 1e3

    def ratio(ours: str, theirs: str) -> float:
        return statistics.median(round[ours] / round[theirs] for round in found["rounds"])

    good = ratio("broadcast", "aioquic") <= BUDGET and found["least"] == found["most"] == options.rounds + 1
    print(f"100 B to {options.sessions} sessions, the very same frame to as many bare connections:")
    for name in ("broadcast", "transport", "engine", "aioquic"):
        print(f"{name:9} {median(name):6.1f} ms, CPU {median(name + '_cpu'):6.1f} ms")
    print(
        f"broadcast / aioquic {ratio('broadcast', 'aioquic'):.2f} (CPU {ratio('broadcast_cpu', 'aioquic_cpu'):.2f}), "
        f"budget {BUDGET}; broadcast / engine {ratio('broadcast', 'engine'):.2f} "
        f"(CPU {ratio('broadcast_cpu', 'engine_cpu'):.2f}); broadcast / transport {ratio('broadcast', 'transport'):.2f} "
        f"(CPU {ratio('broadcast_cpu', 'transport_cpu'):.2f})\n"
        f"every client got {found['least']} to {found['most']} of {options.rounds + 1} events"
    )
    return 0 if good or options.quick else 1


if __name__ == "__main__":
    raise SystemExit(main())
