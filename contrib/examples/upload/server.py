"""Takes files: ``python server.py [HOST:PORT [FOLDER]]``. A file that arrives in part leaves nothing behind."""

import asyncio
import hashlib
import re
import sys
from pathlib import Path

import anyio

from echokernel import EchoServer, InvalidArgument, ServerContext, Session, StreamReceiver, rpc, stream


@stream("file.upload")
async def upload(session: Session, stream: StreamReceiver) -> None:
    """Write down what comes; the name stands in the stream's metadata."""
    name = stream.metadata.get("name", "")
    if not re.fullmatch(r"\w[\w.-]{0,100}", name):  # never trust a peer with a path
        raise InvalidArgument(f"{name!r} is no name for a file")
    folder = anyio.Path(session.server_ctx.get("folder"))
    part = folder / f".{name}.{session.id}-{stream.id}"
    try:
        async with await anyio.open_file(part, "wb") as file:
            async for frame in stream:  # raises when the sender gave up, or was lost
                await file.write(frame.data)
        size = (await part.stat()).st_size
        await part.replace(folder / name)
    finally:
        with anyio.CancelScope(shield=True):
            await part.unlink(missing_ok=True)
    print(f"{name}: {size:,} bytes", flush=True)


@rpc("file.sha256")
def sha256(session: Session, name: str) -> str:
    """Return the checksum of a file. A plain function: it runs in a thread, so it may read."""
    path = Path(session.server_ctx.get("folder"), Path(name).name)
    if not path.is_file():
        raise InvalidArgument(f"there is no file {name!r}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def started(context: ServerContext) -> None:
    print("ready", flush=True)


async def main(address: str = "127.0.0.1:5000", folder: str = "uploads") -> None:
    await anyio.Path(folder).mkdir(exist_ok=True)
    server = EchoServer.builder().bind(address).add_stream(upload).add_rpc(sha256).on_start(started).build()
    server.context().set("folder", folder)
    await server.run()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
