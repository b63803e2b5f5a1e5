"""Answers the server's questions while it waits for its own answer. ``python client.py [HOST:PORT]``"""

import asyncio
import sys

from echokernel import EchoClient, PermissionDenied, rpc


@rpc
async def confirm(question: str) -> bool:
    """Answer a question of the server's; a real program would ask its user."""
    answer = "thesis" not in question
    print(question, "yes" if answer else "no")
    return answer


async def main(address: str = "127.0.0.1:5000") -> None:
    async with EchoClient.builder().add_rpc(confirm).connect(address) as client:
        print("left:", await client.request("files.delete", "notes.txt", returns=list[str]))
        try:
            await client.request("files.delete", "thesis.txt")
        except PermissionDenied as error:
            print(error)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
