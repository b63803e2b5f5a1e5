"""Asks its client back before it does what the client wants. ``python server.py [HOST:PORT]``"""

import asyncio
import sys

from echokernel import EchoServer, PermissionDenied, ServerContext, Session, rpc

FILES = {"notes.txt": "buy tea", "thesis.txt": "three years of work"}


@rpc("files.delete")
async def delete(session: Session, name: str) -> list[str]:
    """Delete a file, and return what is left. The client is asked first."""
    if not await session.request("confirm", f"really delete {name}?", returns=bool):
        raise PermissionDenied(f"{name} stays: you said no")
    FILES.pop(name, None)
    return sorted(FILES)


def started(context: ServerContext) -> None:
    print("ready", flush=True)


async def main(address: str = "127.0.0.1:5000") -> None:
    await EchoServer.builder().bind(address).add_rpc(delete).on_start(started).build().run()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
