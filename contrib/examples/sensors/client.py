"""A camera of 30 pictures and a sensor of 200 measurements per second: ``python client.py [HOST:PORT [SECONDS]]``"""

import asyncio
import contextlib
import math
import os
import sys

from echokernel import EchoClient, StreamSender, StreamStopped, Timestamped
from echokernel_clocksync import ClockSync

EXPOSURE_US = 15_000  # a picture is that old when it is ready; its stamp is the middle of the exposure


async def take_pictures(clock: ClockSync, sender: StreamSender, seconds: float) -> None:
    """Send 6 kB, 30 times a second; older ones than 200 ms are not worth sending any more."""
    begin = clock.now_us()
    async with sender:
        for number in range(round(30 * seconds)):
            taken = begin + number * 1_000_000 // 30
            await asyncio.sleep(max(0, taken + EXPOSURE_US - clock.now_us()) / 1e6)
            await sender.send_timestamped(Timestamped(taken, number, os.urandom(6_000)))


async def measure_motion(clock: ClockSync, sender: StreamSender, seconds: float) -> None:
    """Send an angle, 200 times a second."""
    begin = clock.now_us()
    with contextlib.suppress(StreamStopped):  # the last picture has its motion: the server wants no more
        for number in range(round(200 * seconds)):
            await asyncio.sleep(max(0, begin + number * 5_000 - clock.now_us()) / 1e6)
            now = clock.now_us()
            angle = 30 * math.sin((now - begin) / 1e6)
            await sender.send_timestamped(Timestamped(now, number, f"{angle:+.1f}°".encode()))
        await sender.finish()


async def main(address: str = "127.0.0.1:5000", seconds: str = "2") -> None:
    clock = ClockSync()
    async with EchoClient.builder().plugin(clock).connect(address) as client:
        await clock.wait_synced(timeout=5)  # earlier frames would say that their stamps are not of the shared clock
        camera = await client.create_stream("camera", delivery="per_frame", max_age=0.2)
        motion = await client.create_stream("motion", delivery="datagram")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(take_pictures(clock, camera, float(seconds)))
            tasks.create_task(measure_motion(clock, motion, float(seconds) + 0.5))
        taken = await camera.wait_taken()
        print(f"{camera.sent} pictures sent, {taken} taken; clock right within {clock.bound_us / 1e3:.2f} ms")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
