"""Time from nothing to the first answer: connect, say hello, ask; with early data and without, interleaved.

    python plugins/quic/benchmarks/first_answer.py --rounds 40 --delay 0.02

``--delay``: one way, in seconds, added by a relay on loopback. Prints medians in milliseconds. Budget: with a delay, early data
takes at most 0.5 of the ordinary time (one round trip instead of three).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from typing import Any

from echokernel import EchoClient, EchoServer, rpc
from echokernel.addresses import Address
from echokernel.testing import JsonSerializer
from echokernel_quic import QuicConfig, QuicTransport


@rpc
async def echo(text: str) -> str:
    return text


class Relay(asyncio.DatagramProtocol):
    """Delays what passes between the clients and the server."""

    def __init__(self, server: tuple[str, int], delay: float) -> None:
        self.server, self.delay, self.ways = server, delay, {}  # type: ignore[var-annotated]

    def connection_made(self, transport: Any) -> None:
        self.front = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        asyncio.get_running_loop().create_task(self._forward(data, source))

    async def _forward(self, data: bytes, source: Any) -> None:
        loop = asyncio.get_running_loop()
        arrives = loop.time() + self.delay
        if source not in self.ways:
            way: asyncio.Future[Any] = loop.create_future()
            self.ways[source] = way
            back = _Back(self, source)
            await loop.create_datagram_endpoint(lambda: back, remote_addr=self.server)
            way.set_result(back.transport)
        transport = await self.ways[source]
        loop.call_at(arrives, transport.sendto, data)


class _Back(asyncio.DatagramProtocol):
    def __init__(self, relay: Relay, client: Any) -> None:
        self.relay, self.client = relay, client

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        asyncio.get_running_loop().call_later(self.relay.delay, self.relay.front.sendto, data, self.client)


async def first_answer(config: QuicConfig, address: Address) -> float:
    began = time.perf_counter()
    builder = EchoClient.builder().transport(QuicTransport(config)).serializer(JsonSerializer())
    async with builder.connect(address) as client:
        await client.request("echo", "hello", idempotent=True)
        took = time.perf_counter() - began
        await client.ping()  # the next ticket is here
    return took


async def measure(rounds: int, delay: float) -> None:
    ways = {"ordinary": QuicConfig(), "early": QuicConfig(zero_rtt=True)}
    builder = EchoServer.builder().transport(QuicTransport(ways["early"])).bind("quic://127.0.0.1:0")
    async with builder.serializer(JsonSerializer()).add_rpc(echo).build() as server:
        target = server.addresses[0]
        loop = asyncio.get_running_loop()
        transport, relay = await loop.create_datagram_endpoint(
            lambda: Relay((target.host, target.port), delay), local_addr=("127.0.0.1", 0)
        )
        address = target if not delay else Address("quic", "127.0.0.1", transport.get_extra_info("sockname")[1])
        for config in ways.values():
            await first_answer(config, address)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, config in ways.items():
                taken[name].append(await first_answer(config, address))
        transport.close()
        for way in relay.ways.values():
            way.result().close()
    medians = {name: statistics.median(times) * 1000 for name, times in taken.items()}
    early, ordinary = medians["early"], medians["ordinary"]
    print(
        f"delay {delay * 1000:g} ms each way, {rounds} rounds: "
        f"ordinary {ordinary:.1f} ms, early {early:.1f} ms, ratio {early / ordinary:.2f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--delay", type=float, default=0.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        os.environ["ECHOKERNEL_STATE_DIR"] = state
        asyncio.run(measure(arguments.rounds, arguments.delay))
