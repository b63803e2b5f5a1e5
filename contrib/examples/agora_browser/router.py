"""A router for the page beside this file: ``python router.py [HOST:PORT [ORIGIN]]``."""

import asyncio
import sys

from echokernel_agora import AgoraServer

DEFAULTS = ["127.0.0.1:8765", "http://127.0.0.1:8000"]


async def main(listen: str, origin: str) -> None:
    # ORIGIN is where the page comes from; pages of other places are refused
    async with AgoraServer(listen=listen, origins=[origin]) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(main(*(sys.argv[1:] + DEFAULTS[len(sys.argv) - 1 :])))
    except KeyboardInterrupt:
        pass
