"""The router that is measured: prints its port, serves until it is ended. Its argument is a JSON object of limits."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from echokernel_agora import AgoraServer, Limits


async def main() -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    options = json.loads(sys.argv[1])
    port = options.pop("port", 0)
    async with AgoraServer(listen=f"127.0.0.1:{port}", limits=Limits(**options)) as server:
        print(server.address.port, flush=True)
        await over.wait()


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        run = asyncio.run
    run(main())
