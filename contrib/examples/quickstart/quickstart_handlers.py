"""The quickstart's handlers: a request, an event and a stream. Named in config.toml, imported by server.py."""

from echokernel import Session, StreamReceiver, event, rpc, stream


@rpc("math.add")
async def add(a: int, b: int) -> int:
    """Return the sum of two numbers."""
    return a + b


@event("log")
async def on_log(session: Session, message: str) -> None:
    """Print a client's message."""
    host, port = session.peer_addr
    print(f"[{host}:{port}] {message}", flush=True)


@stream("audio")
async def handle_audio(session: Session, stream: StreamReceiver) -> None:
    """Count what a client streams."""
    size = 0
    async for frame in stream:
        size += len(frame.data)
    print(f"audio: {size} bytes", flush=True)
