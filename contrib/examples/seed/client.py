"""Section 6.2 of the seed: the client. ``python client.py [HOST:PORT]``"""

import asyncio
import sys

from echokernel import EchoClient


async def main(address: str = "127.0.0.1:5000") -> None:
    client = await EchoClient.connect(address)

    # a request
    result = await client.request("math.add", (10, 20), returns=int)
    print(f"10 + 20 = {result}")

    # an event
    await client.emit("log", "Hello from client!")

    # a stream
    stream = await client.create_stream("audio")
    await stream.send(b"audio data...")
    await stream.finish()

    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
