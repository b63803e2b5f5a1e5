"""Section 6.1 of the seed: the server. ``python server.py [HOST:PORT]``"""

import asyncio
import sys

from echokernel import EchoServer, ServerContext, Session, StreamReceiver, event, rpc, stream


@rpc("math.add")
async def add(a: int, b: int) -> int:
    return a + b


@event("log")
async def on_log(session: Session, message: str) -> None:
    print(f"[{session.peer_addr[0]}] {message}", flush=True)


@stream("audio")
async def handle_audio(session: Session, stream: StreamReceiver) -> None:
    while (frame := await stream.recv()) is not None:
        print(f"audio: {len(frame.data)} bytes", flush=True)  # work on the frame


async def on_start(ctx: ServerContext) -> None:
    print("the server has started", flush=True)


async def on_connect(session: Session) -> None:
    print(f"a client connected: {session.peer_addr[0]}", flush=True)


async def main(address: str = "127.0.0.1:5000") -> None:  # the seed has 0.0.0.0, which needs authentication here
    server = (
        EchoServer.builder()
        .bind(address)
        .add_rpc(add)
        .add_event(on_log)
        .add_stream(handle_audio)
        .on_start(on_start)
        .on_connect(on_connect)
        .build()
    )

    await server.run()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
