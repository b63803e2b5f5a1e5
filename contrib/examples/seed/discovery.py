"""Section 6.3 of the seed: a server that can be found, and a client that finds it. ``python discovery.py [HOST:PORT]``"""

import asyncio
import sys

from echokernel import EchoClient, EchoServer, rpc
from echokernel_mdns import Discovery, ServiceInfo


@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b


async def serve(address: str, ready: asyncio.Event, done: asyncio.Event) -> None:
    server = EchoServer.builder().bind(address).add_rpc(add).build()
    async with server:
        # the seed says with_port(5000) and serves 0.0.0.0; this server is on 127.0.0.1, and is announced as just that
        service = ServiceInfo("echo-server").with_addresses(*server.addresses).with_property("protocol", "quic")
        async with Discovery.advertise(service):
            ready.set()
            await done.wait()


async def find() -> None:
    services = await Discovery.discover("echo-server", timeout=3.0)
    for service in services:
        print(f"found: {service.name} at {service.address}, protocol {service.get_property('protocol')}")

    # any of them may have gone meanwhile; EchoClient.connect("mdns://echo-server") tries all
    client = await EchoClient.connect(services[0].address)
    print(f"10 + 20 = {await client.request('math.add', (10, 20), returns=int)}")
    await client.close()


async def main(address: str = "127.0.0.1:0") -> None:
    ready, done = asyncio.Event(), asyncio.Event()
    server = asyncio.create_task(serve(address, ready, done))
    await ready.wait()
    await find()
    done.set()
    await server


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
