"""A router of agents, and one that answers as a language model does: token by token."""

import asyncio
import sys

from echokernel_agora import AgoraClient, AgoraServer, Message

POEM = "The kernel is small, the plugins are many, and each of them does one thing well ."


async def speak(message: Message) -> None:
    async with message.reply_stream({"model": "parrot-1"}) as out:
        for word in f"{message.payload['prompt']} … {POEM}".split():
            await out.send(word + " ")  # waits where the reader is slow
            await asyncio.sleep(0.01)  # a model would think here


async def model(url: str) -> None:
    async with AgoraClient(url, id="model", name="Parrot", capabilities=["text"]) as agent, asyncio.TaskGroup() as tasks:
        async for message in agent.messages():
            tasks.create_task(speak(message))


async def main(address: str = "127.0.0.1:8765") -> None:
    async with AgoraServer(listen=address) as server:
        agent = asyncio.create_task(model(server.url))
        print(f"agents connect to {server.url}", flush=True)
        try:
            await agent
        finally:
            agent.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
