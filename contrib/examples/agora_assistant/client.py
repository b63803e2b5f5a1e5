"""An assistant: it finds an agent that can do email, lets it send a letter, and asks what has been sent."""

import asyncio
import sys

from echokernel_agora import AgoraClient, AgoraError


async def main(address: str = "127.0.0.1:8765", subject: str = "Tomorrow at ten") -> None:
    async with AgoraClient(f"ws://{address}/ws", id="assistant", name="Assistant") as assistant:
        (email,) = await assistant.list(capability="email")
        letter = {"action": "send", "to": "ada@example.org", "subject": subject, "body": "Shall we meet?"}
        reply = await assistant.request(email.id, {"body": letter})
        print(f"{email.name} says: {reply.payload['ok']}, letter number {reply.payload['number']}")
        reply = await assistant.request(email.id, {"body": {"action": "list"}})
        for each in reply.payload["letters"]:
            print(f"sent to {each['to']}: {each['subject']}")
        try:
            await assistant.request("calendar", {"body": {"action": "list"}})
        except AgoraError as error:
            print(f"no calendar here: {error}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
