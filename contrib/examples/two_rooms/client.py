"""A room: ``python client.py [HOST:PORT [NAME [FOLDER]]]``. Writes NAME.wav, what it played, and NAME.jsonl, when.

A line of NAME.jsonl is one packet: its number, its stamp, and when it was played, by the shared clock and by this machine's.
``python measure.py one.jsonl other.jsonl`` compares two rooms.
"""

import asyncio
import json
import sys
import wave
from pathlib import Path

from echokernel import EchoClient, StreamReceiver, stream
from echokernel_clocksync import ClockSync

DELAY = 0.2  # seconds: both rooms need the same, and it has to cover the slower path


async def main(address: str = "127.0.0.1:5000", name: str = "room", folder: str = ".") -> None:
    clock = ClockSync()
    received: asyncio.Future[StreamReceiver] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    @stream("sound")
    async def sound(stream: StreamReceiver) -> None:
        received.set_result(stream)
        await done.wait()  # a stream is closed when its handler returns

    async with EchoClient.builder().plugin(clock).add_stream(sound).connect(address) as client:
        await clock.wait_synced(timeout=5)
        layout = await client.request("room.join", name, returns=tuple[int, int, int])
        path = Path(folder, name)
        with wave.open(str(path.with_suffix(".wav")), "wb") as file, path.with_suffix(".jsonl").open("w") as log:
            file.setnchannels(layout[0])
            file.setsampwidth(layout[1])
            file.setframerate(layout[2])
            async with (await received).playout(delay=DELAY) as frames:
                async for frame in frames:
                    # here a program would hand frame.data to its sound card
                    file.writeframes(bytes(len(frame.data)) * frame.missing + frame.data)  # silence for what is lost
                    line = {
                        "seq": frame.seq,
                        "wall_time": frame.wall_time,
                        "played_us": frame.played_us,
                        "played_ns": frame.played_ns,
                    }
                    print(json.dumps(line), file=log)
        done.set()
        stats = frames.stats()
        print(f"{name}: {stats['played']} packets played, {stats['late']} late, {stats['lost']} lost")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
