"""A long job that tells how far it is. ``python server.py [HOST:PORT]``"""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from echokernel import EchoServer, ServerContext, rpc


@dataclass
class Progress:
    done: int
    of: int
    result: float | None = None
    """With the last one only."""


@rpc("job.run")
async def run(steps: int) -> AsyncIterator[Progress]:
    """Work in steps; each answer is the progress so far. Ends early when the caller stops reading."""
    total = 0.0
    try:
        for step in range(1, steps + 1):
            await asyncio.sleep(0.01)  # the work
            total += step
            yield Progress(step, steps, total if step == steps else None)
    except (asyncio.CancelledError, GeneratorExit):
        print(f"stopped after {total:g}", flush=True)
        raise


def started(context: ServerContext) -> None:
    print("ready", flush=True)


async def main(address: str = "127.0.0.1:5000") -> None:
    await EchoServer.builder().bind(address).add_rpc(run).on_start(started).build().run()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
