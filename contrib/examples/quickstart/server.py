"""The quickstart's server in Python. ``config.toml`` beside it is the same server without this file."""

import asyncio

from quickstart_handlers import add, handle_audio, on_log

from echokernel import EchoServer, ServerContext, Session


async def started(context: ServerContext) -> None:
    print("server started", flush=True)


async def connected(session: Session) -> None:
    print("client connected:", *session.peer_addr, flush=True)


async def main() -> None:
    server = (
        EchoServer.builder()
        .bind("127.0.0.1:5000")  # a public address would need authentication
        .add_rpc(add)
        .add_event(on_log)
        .add_stream(handle_audio)
        .on_start(started)
        .on_connect(connected)
        .build()
    )
    await server.run()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
