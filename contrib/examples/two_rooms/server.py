"""Plays a WAV file in two rooms: ``python server.py [HOST:PORT [FILE.wav]]``. Without a file it makes one, of beeps."""

import array
import asyncio
import math
import sys
import wave
from pathlib import Path

import anyio

from echokernel import EchoError, EchoServer, ServerContext, Session, StreamSender, Timestamped, rpc
from echokernel_clocksync import ClockSync

ROOMS = 2
PACKET = 1000  # bytes of sound: a datagram holds a little more

clock = ClockSync()  # the node that is dialled is the reference: rooms follow this clock
rooms: dict[str, StreamSender] = {}
all_here = anyio.Event()


def beeps(path: Path, seconds: int = 3, rate: int = 22_050) -> None:
    """Write a beep of 100 ms at each full second, so that ears can judge, too."""
    samples = array.array("h")
    for number in range(seconds * rate):
        is_beep = number % rate < rate // 10
        samples.append(round(12_000 * math.sin(2 * math.pi * 440 * number / rate)) if is_beep else 0)
    if sys.byteorder == "big":
        samples.byteswap()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


@rpc("room.join")
async def join(session: Session, room: str) -> tuple[int, int, int]:
    """Let a room listen. Returns the number of channels, the bytes of a sample, and the rate."""
    sound: wave.Wave_read = session.server_ctx.get("sound")
    rooms[room] = await session.create_stream("sound", delivery="datagram")
    if len(rooms) == ROOMS:
        all_here.set()
    return sound.getnchannels(), sound.getsampwidth(), sound.getframerate()


async def play(sound: wave.Wave_read) -> int:
    """Send the file as fast as it sounds: all rooms get the same stamps. Returns how many packets those were."""
    rate = sound.getframerate()
    size = min(rate // 50, PACKET // (sound.getnchannels() * sound.getsampwidth()))  # 20 ms, or as much as fits
    begin = clock.now_us()
    number = 0
    while data := sound.readframes(size):
        stamp = begin + number * size * 1_000_000 // rate
        await asyncio.sleep(max(0, stamp - clock.now_us()) / 1e6)
        for name, room in list(rooms.items()):
            try:
                await room.send_timestamped(Timestamped(stamp, number, data))
            except EchoError as error:
                print(f"{name} is gone: {error}", flush=True)
                del rooms[name]
        number += 1
    for room in rooms.values():
        await room.finish()
    return number


def started(context: ServerContext) -> None:
    print("ready", flush=True)


async def main(address: str = "127.0.0.1:5000", file: str = "") -> None:
    path = Path(file or "beeps.wav")
    if not file:
        beeps(path)
    with wave.open(str(path), "rb") as sound:
        server = EchoServer.builder().bind(address).plugin(clock).add_rpc(join).on_start(started).build()
        server.context().set("sound", sound)
        async with server:
            await all_here.wait()
            packets = await play(sound)
            print(f"{packets} packets to {len(rooms)} rooms", flush=True)
            await asyncio.Event().wait()  # until Ctrl-C; what is on its way is still played


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
