"""The quickstart's server in Python. ``config.toml`` beside it is the same server without this file.

``python server.py [HOST:PORT]``
"""

import asyncio
import sys

from quickstart_handlers import add, handle_audio, on_log

from echokernel import EchoServer, ServerContext, Session


async def started(context: ServerContext) -> None:
    print("server started", flush=True)


async def connected(session: Session) -> None:
    print("client connected:", *session.peer_addr, flush=True)


async def main(address: str = "127.0.0.1:5000") -> None:
    server = (
        EchoServer.builder()
        .bind(address)  # a public address would need authentication
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
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
