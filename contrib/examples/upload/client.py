"""Sends a file and compares checksums: ``python client.py HOST:PORT FILE``"""

import asyncio
import hashlib
import sys
from pathlib import Path

import anyio

from echokernel import EchoClient


async def main(address: str, path: str) -> None:
    checksum = hashlib.sha256()
    async with EchoClient.connect(address) as client, await anyio.open_file(path, "rb") as file:
        name = Path(path).name
        async with await client.create_stream("file.upload", metadata={"name": name}) as sender:
            while part := await file.read(sender.max_frame):
                checksum.update(part)
                await sender.send(part)  # waits while the server is behind
        await sender.wait_taken()  # until its handler has ended
        theirs = await client.request("file.sha256", name, returns=str)
    print(f"{sender.sent} frames, checksums", "agree" if theirs == checksum.hexdigest() else "differ")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
