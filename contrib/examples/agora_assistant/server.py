"""A router of agents, and an email agent beside it: it sends letters and lists those that it has sent."""

import asyncio
import sys

from echokernel_agora import AgoraClient, AgoraServer, Message


async def email_agent(url: str) -> None:
    sent: list[dict[str, str]] = []
    async with AgoraClient(url, id="email", name="Email agent", capabilities=["email"]) as agent:
        async for message in agent.messages():
            await message.reply(answer(message, sent))


def answer(message: Message, sent: list[dict[str, str]]) -> dict[str, object]:
    match message.payload:
        case {"body": {"action": "send", "to": str(to), "subject": str(subject), "body": str(text)}}:
            sent.append({"to": to, "subject": subject})
            print(f"{message.sender} sends {to}: {subject} ({len(text)} characters)", flush=True)
            return {"ok": True, "number": len(sent)}
        case {"body": {"action": "list"}}:
            return {"ok": True, "letters": sent}
        case payload:
            return {"ok": False, "error": f"no action that I know: {payload!r}"}


async def main(address: str = "127.0.0.1:8765") -> None:
    async with AgoraServer(listen=address) as server:
        agent = asyncio.create_task(email_agent(server.url))
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
