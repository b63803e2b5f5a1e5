"""Many agents in one process, for the figure about restarts: ``crowd.py PORT COUNT``; told when the router is there again."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from echokernel_agora import AgoraClient


async def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    url = f"ws://127.0.0.1:{port}/ws"
    attempts: list[float] = []
    over = asyncio.Event()
    clients: list[AgoraClient] = []
    there = asyncio.Semaphore(50)

    async def live(number: int) -> None:
        async with there:
            client = AgoraClient(url, id=f"member-{number}", timeout=30.0)
            await client.__aenter__()
        clients.append(client)
        await over.wait()
        await client.__aexit__(None, None, None)

    tasks = [asyncio.create_task(live(number)) for number in range(count)]
    while len(clients) < count:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    back: dict[str, float] = {}
    lost: set[str] = set()
    began: float | None = None
    while len(back) < count:
        now = time.monotonic()
        if began is None and line.done():
            began = now
        for client in clients:
            if client.id not in lost and not client.connected:
                lost.add(client.id)
            elif client.id in lost and client.id not in back and client.connected:
                back[client.id] = now
                attempts.append(now)
        await asyncio.sleep(0.005)
    assert began is not None
    times = sorted(back.values())
    buckets: dict[int, int] = {}
    for at in attempts:
        buckets[int(at * 10)] = buckets.get(int(at * 10), 0) + 1
    print(
        json.dumps(
            {
                "95 %": max(0.0, times[int(count * 0.95) - 1] - began),
                "all": max(0.0, times[-1] - began),
                "busiest": max(buckets.values()) / count,
            }
        ),
        flush=True,
    )
    over.set()
    await asyncio.gather(*tasks)


asyncio.run(main())
