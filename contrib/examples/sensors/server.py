"""Puts pictures and motion together: ``python server.py [HOST:PORT]``. Prints each pair, and how far apart the two are."""

import asyncio
import sys

import anyio

from echokernel import EchoServer, ServerContext, Session, StreamReceiver, stream
from echokernel_clocksync import ClockSync, align

DELAY = 0.1  # seconds: both are played this long after they were taken
TOLERANCE = 0.004  # seconds: motion is measured every 5 ms


class Rig:
    """The two streams of a session, which come one after the other."""

    def __init__(self) -> None:
        self.motion: StreamReceiver | None = None
        self.is_here = anyio.Event()
        self.is_done = anyio.Event()


def rig_of(session: Session) -> Rig:
    """Return the session's rig; whichever stream is first makes it."""
    if session.get("rig") is None:
        session.set("rig", Rig())
    return session.get("rig")  # type: ignore[no-any-return]


@stream("motion")
async def on_motion(session: Session, stream: StreamReceiver) -> None:
    """Hand the stream over, and keep it open."""
    rig = rig_of(session)
    rig.motion = stream
    rig.is_here.set()
    await rig.is_done.wait()


@stream("camera")
async def on_camera(session: Session, stream: StreamReceiver) -> None:
    """Give each picture the motion that was measured nearest to it."""
    rig = rig_of(session)
    with anyio.fail_after(10):
        await rig.is_here.wait()
    assert rig.motion is not None
    try:
        async with stream.playout(delay=DELAY) as pictures, rig.motion.playout(delay=DELAY) as motions:
            pairs = align(pictures, motions, TOLERANCE)  # the one with fewer frames comes first
            async for picture, motion in pairs:
                residual = (motion.wall_time - picture.wall_time) / 1e3
                print(f"picture {picture.seq}: {motion.data.decode()}, {residual:+.2f} ms", flush=True)
        counts = pairs.stats()
        print(f"{counts['pairs']} pairs, {counts['unmatched_a']} pictures without motion", flush=True)
    finally:
        rig.is_done.set()


def started(context: ServerContext) -> None:
    print("ready", flush=True)


async def main(address: str = "127.0.0.1:5000") -> None:
    server = (
        EchoServer.builder()
        .bind(address)
        .plugin(ClockSync())
        .add_stream(on_camera)
        .add_stream(on_motion)
        .on_start(started)
        .build()
    )
    await server.run()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
