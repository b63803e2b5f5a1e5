"""Asks two things at once and shows the tokens as they come; the answers do not hold each other up."""

import asyncio
import sys

from echokernel_agora import AgoraClient


async def main(address: str = "127.0.0.1:8765", *prompts: str) -> None:
    async with AgoraClient(f"ws://{address}/ws", id="reader") as reader, asyncio.TaskGroup() as tasks:
        for prompt in prompts or ("Hello", "Once upon a time"):
            tasks.create_task(show(reader, prompt))


async def show(reader: AgoraClient, prompt: str) -> None:
    reply = await reader.request("model", {"prompt": prompt})
    tokens = [token async for token in reply.chunks()]
    print(f"{reply.payload['model']}, {len(tokens)} tokens: {''.join(tokens)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
