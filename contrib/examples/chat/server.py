"""Rooms to talk in: a session keeps its name, a room is a group. ``python server.py [HOST:PORT]``"""

import asyncio
import sys

from echokernel import EchoServer, InvalidArgument, ServerContext, Session, event, rpc


@rpc("room.enter")
async def enter(session: Session, room: str, name: str) -> list[str]:
    """Enter a room under a name, and return who is there."""
    there = [other.get("name") for other in session.server_ctx.sessions(room)]
    if name in there:
        raise InvalidArgument(f"{name} is in {room} already; choose another name")
    session.set("name", name)
    session.join(room)
    await session.server_ctx.broadcast("room.entered", (room, name), group=room, exclude=session)
    return [*there, name]


@event("room.say")
async def say(session: Session, room: str, text: str) -> None:
    """Say something to everybody in a room."""
    if room in session.groups:
        await session.server_ctx.broadcast("room.said", (room, session.get("name"), text), group=room)


async def gone(session: Session) -> None:
    """Tell the rooms that somebody has left, whether or not they said goodbye."""
    for room in session.groups:
        await session.server_ctx.broadcast("room.left", (room, session.get("name")), group=room)


def started(context: ServerContext) -> None:
    print("ready", flush=True)


async def main(address: str = "127.0.0.1:5000") -> None:
    builder = EchoServer.builder().bind(address).add_rpc(enter).add_event(say)
    await builder.on_disconnect(gone).on_start(started).build().run()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
