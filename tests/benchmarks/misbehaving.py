#!/usr/bin/env python3
"""What one misbehaving peer among twenty costs the nineteen others: p99 of their requests with and without it.

    python3 dev.py python tests/benchmarks/misbehaving.py

Loopback QUIC; the server, the nineteen and the bad one are a process each. Each client asks about ten times a second. Before
and after every kind of misbehaviour the nineteen are measured alone, because the speed of a shared machine drifts.

Budget: no request lost, p99 at most 3x that of the nineteen alone, and at most 20 ms under 20,000 junk packets a second. With
fewer cores than the three processes need, the bad one's own computing is part of what is measured: the last row says what a
process costs that only computes. Where the server gets too little of a core to empty its socket, packets of the good are lost
with the junk, and wait for their repetition: on a crowded machine the row of the junk says nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "bad_input"))

from raw_peer import EVENT, METADATA, REQUEST, SLOT, RawPeer, frame, raw_peer

from echokernel import ConnectionClosed, EchoClient, EchoServer, event, rpc
from echokernel.addresses import Address, parse_address
from echokernel.testing import JsonSerializer
from echokernel_quic import QuicTransport

GOOD = 19
PAUSE = 0.1  # seconds between the requests of one client: the nineteen leave most of a core idle
JUNK_RATE = 20_000  # packets a second
JUNK_BURST = 200  # packets in one go: 10 ms
RATIO = 3.0
JUNK_P99 = 0.020
PAYLOAD = b'"' + b"x" * 32 + b'"'


@rpc
async def echo(text: str) -> str:
    return text


@rpc
async def large() -> str:
    return "x" * 60_000


@event
async def note(text: str) -> None: ...


def settle() -> None:
    """What ``echokernel run`` does when it serves: collections leave alone what is there to stay."""
    gc.collect()
    gc.freeze()


# --- the server -----------------------------------------------------------------------------------------------------


async def serve() -> None:
    builder = EchoServer.builder().transport(QuicTransport()).bind("quic://127.0.0.1:0").serializer(JsonSerializer())
    for handler in (echo, large, note):
        builder.add_handler(handler)
    async with builder.build() as server:
        print(server.addresses[0], flush=True)
        settle()
        await asyncio.Event().wait()


# --- the nineteen ---------------------------------------------------------------------------------------------------


@dataclass
class Found:
    p99: float
    """Seconds."""
    requests: int
    lost: int


async def ask(client: EchoClient, end: float, times: list[float]) -> int:
    lost = 0
    await asyncio.sleep(random.random() * PAUSE)
    while time.perf_counter() < end:
        started = time.perf_counter()
        try:
            assert await client.request("echo", "x" * 32) == "x" * 32
        except Exception:
            lost += 1
        times.append(time.perf_counter() - started)
        await asyncio.sleep(PAUSE)
    return lost


async def measure(clients: list[EchoClient], seconds: float) -> Found:
    times: list[float] = []
    end = time.perf_counter() + seconds
    lost = sum(await asyncio.gather(*(ask(client, end, times) for client in clients)))
    return Found(statistics.quantiles(times, n=100)[98], len(times), lost)


# --- the bad one ----------------------------------------------------------------------------------------------------


async def requests(bad: RawPeer) -> None:
    """As many requests as the limits allow, at once and again."""
    while True:
        ids = [bad.take_id() for _ in range(1_000)]
        bad.write(b"".join(frame(REQUEST, request_id, "echo", SLOT, PAYLOAD) for request_id in ids))
        await bad.answer(ids[-1])
        bad.inbox.clear()


async def events(bad: RawPeer) -> None:
    """Events as fast as the window allows; a request every 5,000 shows how far the server is."""
    one = frame(EVENT, 0, "note", SLOT, PAYLOAD)
    while True:
        bad.write(one * 5_000)
        await bad.answer(bad.request("echo", PAYLOAD))


async def streams(bad: RawPeer) -> None:
    """Streams without end: silent ones, and calls that are given up at once."""
    while True:
        call = await bad.call()
        await call.put("echo", payload=PAYLOAD)
        call.send.reset(1)
        call.recv.stop(1)
        await asyncio.sleep(0)


async def never_reads(bad: RawPeer) -> None:
    """Large answers, of which none is read."""
    await bad.answer(bad.request("echo", PAYLOAD))
    with contextlib.suppress(ConnectionClosed):
        for _ in range(900):
            bad.request("large")
            await asyncio.sleep(0.001)
        await asyncio.sleep(1)


async def half_frames(bad: RawPeer) -> None:
    """Half a frame, silence, and once more from the beginning."""
    bad.write(frame(REQUEST, 1, "echo", SLOT | METADATA, b"\x01\x01a\x01b" + PAYLOAD)[:20])
    await asyncio.sleep(0.2)


def junk(address: Address, seconds: float) -> None:
    """UDP packets that are no QUIC, and some that begin as if they were."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    packets = [os.urandom(random.randrange(1, 1_200)) for _ in range(64)]
    packets += [b"\xc3\x00\x00\x00\x01" + os.urandom(1_195) for _ in range(16)]
    last = started = time.perf_counter()
    sent = said = 0
    while last < started + seconds:
        now = time.perf_counter()
        # what was missed while others computed is not made up for: that would be a burst, and another flood
        for _ in range(min(JUNK_BURST, int((now - last) * JUNK_RATE))):
            with contextlib.suppress(OSError):
                sock.sendto(packets[sent % len(packets)], (address.host, address.port))
            sent += 1
        last = now
        if now > started + said + 1:
            said += 1
            print(f"{sent / (now - started):.0f}", flush=True)
        time.sleep(0.0005)


KINDS = {
    "requests": requests,
    "events": events,
    "streams": streams,
    "never reads": never_reads,
    "half frames": half_frames,
}


async def misbehave(kind: str, address: Address) -> None:
    while True:
        with contextlib.suppress(ConnectionClosed, asyncio.TimeoutError):
            async with raw_peer(lambda tasks: QuicTransport().connect(address, tasks)) as bad:
                await KINDS[kind](bad)


def be_bad(kind: str, address: Address) -> None:
    if kind == "junk":
        junk(address, 3_600)
    elif kind == "computes":
        while True:
            sum(range(1_000))
    else:
        run(misbehave(kind, address))


# --- together -------------------------------------------------------------------------------------------------------


def run(main: object) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)  # type: ignore[arg-type]
    else:
        uvloop.run(main)  # type: ignore[arg-type]


@contextlib.contextmanager
def started(*arguments: str):  # type: ignore[no-untyped-def]
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def compare(address: str, kinds: list[str], seconds: float) -> bool:
    within = True
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(GOOD):
            builder = EchoClient.builder().transport(QuicTransport()).serializer(JsonSerializer())
            clients.append(await stack.enter_async_context(builder.connect(address)))
        await measure(clients, min(1.0, seconds))  # warm
        settle()
        print(f"{'kind':12} {'p99 alone':>10} {'p99 beside':>11} {'ratio':>6} {'lost':>5}   budget")
        for kind in kinds:
            before = await measure(clients, seconds)
            with started("--bad", kind, address) as process:
                await asyncio.sleep(min(1.0, seconds))  # it has to start
                beside = await measure(clients, seconds)
                process.kill()
                said = process.stdout.read().split()
            after = await measure(clients, seconds)
            alone = (before.p99 + after.p99) / 2
            ratio = beside.p99 / alone
            lost = before.lost + beside.lost + after.lost
            kept = lost == 0 and (beside.p99 <= JUNK_P99 if kind == "junk" else ratio <= RATIO)
            budget = "none" if kind == "computes" else "20 ms" if kind == "junk" else "3x"
            within = within and (kept or budget == "none")
            print(
                f"{kind:12} {alone * 1e3:7.2f} ms {beside.p99 * 1e3:8.2f} ms {ratio:6.2f} {lost:5}   "
                f"{budget}{'' if kept or budget == 'none' else ', missed'}"
                f"{f', at {int(said[-1]):,} packets/s' if said else ''}",
                flush=True,
            )
    return within


def main() -> None:
    names = [*KINDS, "junk", "computes"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement; there are three for each kind")
    parser.add_argument("--kinds", default=",".join(names), help="which, by commas")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a budget is missed")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bad", nargs=2, metavar=("KIND", "ADDRESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run(serve())
        return
    if options.bad:
        be_bad(options.bad[0], parse_address(options.bad[1]))
        return
    with tempfile.TemporaryDirectory() as state:
        os.environ["ECHOKERNEL_STATE_DIR"] = state  # the processes share a key of their own
        with started("--serve") as server:
            address = server.stdout.readline().strip()
            found: list[bool] = []

            async def go() -> None:
                found.append(await compare(address, options.kinds.split(","), options.seconds))

            run(go())
    if options.strict and not found[0]:
        sys.exit(1)


if __name__ == "__main__":
    main()
