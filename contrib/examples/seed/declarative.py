"""Section 2.4.2 of the seed: handlers of each kind. ``python declarative.py`` tries them out in one process."""

import asyncio
from dataclasses import dataclass

from echokernel import EchoClient, EchoServer, Session, StreamReceiver, event, rpc, stream


@dataclass
class LoginReq:
    name: str
    password: str


@dataclass
class LoginResp:
    token: str


# a handler of requests
@rpc("user.login")
async def login(session: Session, req: LoginReq) -> LoginResp:
    # what the program does
    return LoginResp(token="...")


# named like its function
@rpc
async def add(a: int, b: int) -> int:
    return a + b


# a handler of events
@event("user.logout")
async def on_logout(session: Session, user_id: int) -> None:
    print(f"user {user_id} has logged out")


# a handler of streams
@stream("audio.stream")
async def handle_audio(session: Session, stream: StreamReceiver) -> None:
    while (frame := await stream.recv()) is not None:
        print(f"audio: {len(frame.data)} bytes")


async def main() -> None:
    server = (
        EchoServer.builder()
        .bind("127.0.0.1:0")
        .add_rpc(login)
        .add_rpc(add)
        .add_event(on_logout)
        .add_stream(handle_audio)
        .build()
    )
    async with server, EchoClient.connect(server.addresses[0]) as client:
        print(await client.request("user.login", LoginReq("ada", "secret"), returns=LoginResp))
        print(await client.request("add", (1, 2), returns=int))
        await client.emit("user.logout", 7)
        sender = await client.create_stream("audio.stream")
        await sender.send(b"audio data...")
        await sender.finish()


if __name__ == "__main__":
    asyncio.run(main())
