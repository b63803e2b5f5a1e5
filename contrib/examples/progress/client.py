"""Runs a job to its end, and stops another one early. ``python client.py [HOST:PORT]``"""

import asyncio
import sys
from dataclasses import dataclass

from echokernel import EchoClient


@dataclass
class Progress:
    done: int
    of: int
    result: float | None = None


async def main(address: str = "127.0.0.1:5000") -> None:
    async with EchoClient.connect(address) as client:
        async with client.request_stream("job.run", 4, returns=Progress) as job:
            async for progress in job:
                print(f"{progress.done} of {progress.of}")
        print("result:", progress.result)

        async with client.request_stream("job.run", 1_000_000, returns=Progress) as job:
            async for progress in job:
                if progress.done == 3:
                    break  # leaving the block stops the job over there
        print("stopped at", progress.done)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
