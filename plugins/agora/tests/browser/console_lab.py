"""A router, agents as anybody could write them, and hands for the console page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from agora_browser import Page
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from echokernel_agora import AgoraServer


@asynccontextmanager
async def serve(**options: Any) -> AsyncIterator[str]:
    """Run a router, and yield the address of its console."""
    async with AgoraServer(**{"listen": "127.0.0.1:0", **options}) as server:
        yield f"http://127.0.0.1:{server.address.port}/"


class Agent:
    """An agent as anybody could write one."""

    def __init__(self, connection: ClientConnection, id: str) -> None:
        self._connection, self.id = connection, id

    async def send(self, type: str, **fields: Any) -> None:
        await self._connection.send(json.dumps({"type": type, **fields}))

    async def raw(self) -> str:
        async with asyncio.timeout(10):
            return str(await self._connection.recv())

    async def next(self) -> dict[str, Any]:
        return dict(json.loads(await self.raw()))

    async def closed(self) -> int:
        async with asyncio.timeout(10):
            with suppress(ConnectionClosed):
                while True:
                    await self._connection.recv()
        assert self._connection.close_code is not None
        return self._connection.close_code


@asynccontextmanager
async def agent(console: str, id: str, name: str = "Tester", **fields: Any) -> AsyncIterator[Agent]:
    async with connect(console.replace("http", "ws") + "ws", proxy=None, ping_interval=None) as connection:
        registered = Agent(connection, id)
        await registered.send("register", id=id, name=name, **fields)
        assert (await registered.next())["type"] == "registered"
        yield registered


async def watch(page: Page, console: str) -> None:
    await page.open(console)
    await page.until("document.body.dataset.state === 'live'")


ROW = """[...document.querySelectorAll('#agents tr')].find((row) => row.querySelector('.id').textContent === %s)"""


def row(id: str) -> str:
    return ROW % json.dumps(id)


async def fill(page: Page, **fields: str) -> None:
    """Type into fields of the form, by their ids."""
    for field, text in fields.items():
        await page.evaluate(f"document.getElementById('{field}').focus(), document.getElementById('{field}').select()")
        await page.write(text)


async def submit(page: Page) -> None:
    await page.evaluate("document.getElementById('send-button').click()")


@asynccontextmanager
async def crowd(console: str, number: int = 200) -> AsyncIterator[list[Agent]]:
    """Many agents with names of all lengths, a stream, some errors."""
    roles = [
        "Assistant",
        "Mail",
        "Researcher",
        "Code reviewer",
        "Translator",
        "Planner",
        "Vision",
        "Indexer of all " * 9,
    ]
    abilities = ["email.send", "email.read", "search", "summarise", "translate", "code.review", "plan", "vision"]
    async with AsyncExitStack() as stack:
        agents = []
        for index in range(number):
            role = roles[index % 8]
            id = f"team-{'abc'[index % 3]}/{role.split()[0].lower()}-{index // 8 + 1}"
            about = {"capabilities": [abilities[(index + each) % 8] for each in range(index % 5)]}
            agents.append(
                await stack.enter_async_context(agent(console, id, f"{role} {index // 8 + 1}"[:256], **about))
            )
        for each, other in zip(agents[:12], agents[20:], strict=False):
            await each.send("send", to=other.id, stream=True, stream_id="answer-1")
            await each.send("send", to=f"nobody-{each.id}")
        yield agents


async def chatter(agents: list[Agent]) -> None:
    """Some of them talk, until cancelled; nobody's buffer fills."""

    async def read(each: Agent) -> None:
        with suppress(ConnectionClosed):
            async for _ in each._connection:
                pass

    async with asyncio.TaskGroup() as tasks:
        for each in agents:
            tasks.create_task(read(each))
        while True:
            for index in range(0, len(agents), 3):
                await agents[index].send("send", to=agents[(index + 50) % len(agents)].id, payload={"step": index})
            for each, other in zip(agents[:6], agents[20:], strict=False):
                await each.send("send_chunk", to=other.id, stream_id="answer-1", chunk="word ")
            await asyncio.sleep(0.25)


@asynccontextmanager
async def talking(agents: list[Agent]) -> AsyncIterator[None]:
    task = asyncio.create_task(chatter(agents))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
