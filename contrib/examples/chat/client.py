"""Talks in a room: ``python client.py [HOST:PORT [NAME]]``. Each line that you type is said; an empty line ends it."""

import asyncio
import sys

from echokernel import EchoClient, event

ROOM = "lounge"


@event("room.entered")
async def entered(room: str, name: str) -> None:
    print(f"* {name} enters {room}", flush=True)


@event("room.said")
async def said(room: str, name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)


@event("room.left")
async def left(room: str, name: str) -> None:
    print(f"* {name} leaves {room}", flush=True)


async def main(address: str = "127.0.0.1:5000", name: str = "somebody") -> None:
    builder = EchoClient.builder().add_event(entered).add_event(said).add_event(left)
    async with builder.connect(address) as client:
        print("* here are", *await client.request("room.enter", (ROOM, name), returns=list[str]), flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            await client.emit("room.say", (ROOM, line))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
