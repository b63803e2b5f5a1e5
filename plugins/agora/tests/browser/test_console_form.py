"""What one can do from the console: send, watch replies, disconnect, and give a token."""

from __future__ import annotations

import asyncio
import json

import pytest
from agora_browser import Page
from console_lab import agent, fill, row, serve, submit, watch

from echokernel_agora import Token

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

OPERATOR = "an-operator-of-the-tests"
MEMBER = "a-member-of-the-tests"


async def test_a_message_is_sent_as_it_was_typed_and_its_reply_shown(page: Page, console: str) -> None:
    async with agent(console, "mail-1") as mail:
        await watch(page, console)
        await fill(page, to="mail-1", payload='{"n": 12345678901234567890, "a": 1.0}')
        await submit(page)
        received = await mail.raw()
        assert '{"n": 12345678901234567890, "a": 1.0}' in received
        message = json.loads(received)
        assert message["from"].startswith("console-")
        answer = {"type": "reply", "to": message["from"], "payload": {"ok": True, "request_id": message["request_id"]}}
        await mail._connection.send(json.dumps(answer).replace("true", "98765432109876543210"))
        shown = await page.until("document.querySelector('#exchanges pre')?.textContent")
        assert '"ok": 98765432109876543210' in shown
        assert await page.evaluate("document.querySelector('#exchanges .status').innerText") == "answered"


async def test_a_streamed_reply_is_shown_as_it_comes(page: Page, console: str) -> None:
    async with agent(console, "model") as model:
        await watch(page, console)
        await fill(page, to="model", payload='{"action": "write"}')
        await submit(page)
        sender = (await model.next())["from"]
        await model.send("reply", to=sender, stream_id="s", stream=True, payload={"model": "tiny"})
        for word in ("Once ", "upon ", "a "):
            await model.send("reply_chunk", to=sender, stream_id="s", chunk=word)
        await page.until("document.querySelector('#exchanges .stream')?.textContent === 'Once upon a '")
        assert "streaming · 3 chunks" in await page.evaluate("document.querySelector('#exchanges').innerText")
        await model.send("reply_chunk", to=sender, stream_id="s", chunk="time")
        await model.send("reply_end", to=sender, stream_id="s")
        await page.until("document.querySelector('#exchanges .state').innerText === 'complete · 4 chunks'")
        assert await page.evaluate("document.querySelector('#exchanges .stream').textContent") == "Once upon a time"
        await model.send("reply", to=sender, stream_id="t", stream=True)
        await page.until("document.querySelectorAll('#exchanges .stream').length === 2")
    await page.until("document.querySelectorAll('#exchanges .state')[1].innerText.includes('aborted: sender_gone')")


async def test_a_reply_stream_can_be_stopped(page: Page, console: str) -> None:
    async with agent(console, "model") as model:
        await watch(page, console)
        await fill(page, to="model", payload="1")
        await submit(page)
        sender = (await model.next())["from"]
        await model.send("reply", to=sender, stream_id="s", stream=True)
        await page.until("document.querySelector('#exchanges .head button')")
        presses = asyncio.create_task(page.evaluate("document.querySelector('#exchanges .head button').click()"))
        for _ in range(1000):  # most of them are under way when it is pressed
            await model.send("reply_chunk", to=sender, stream_id="s", chunk="on and ")
        await presses
        assert (await model.next())["code"] == "stream_stopped"
        await model.send("reply", to=sender, payload="something else")
        await page.until("document.querySelector('#exchanges').innerText.includes('something else')")
        assert await page.evaluate("document.querySelectorAll('#exchanges .stream').length") == 1, (
            "what came later is not shown"
        )
        assert "stopped here" in await page.evaluate("document.querySelector('#exchanges .block').innerText")


async def test_a_stream_is_sent_line_by_line(page: Page, console: str) -> None:
    async with agent(console, "mail-1") as mail:
        await watch(page, console)
        await page.evaluate("document.getElementById('as-stream').click()")
        await fill(page, to="mail-1", payload="", chunks="one\ntwo\n\nfour\n")
        await submit(page)
        frames = [await mail.next() for _ in range(6)]
        assert [frame["type"] for frame in frames] == ["message", *["message_chunk"] * 4, "message_end"]
        assert [frame["chunk"] for frame in frames[1:-1]] == ["one", "two", "", "four"]
        assert frames[0]["stream"] is True
        assert "payload" not in frames[0]


async def test_mistakes_are_told_beside_the_field_and_nothing_is_sent(page: Page, console: str) -> None:
    async with agent(console, "mail-1") as mail:
        await watch(page, console)
        await fill(page, to="mail-1", payload='{"a": }')
        await submit(page)
        assert "This is not JSON" in await page.until("document.getElementById('payload-error').innerText")
        assert await page.evaluate("document.activeElement.id") == "payload"
        await fill(page, to="", payload="1")
        await submit(page)
        assert "by its id" in await page.until("document.getElementById('to-error').innerText")
        await fill(page, to="nobody", payload="1")
        await submit(page)
        await page.until("document.querySelector('#exchanges .status')?.innerText.startsWith('no_such_agent')")
        await fill(page, to="mail-1", payload="2")
        await submit(page)
        assert (await mail.next())["payload"] == 2  # the first that arrived


async def test_disconnecting_asks_first(page: Page, console: str) -> None:
    async with agent(console, "mail-1") as mail:
        await watch(page, console)
        await page.until(row("mail-1"))
        for answer in ("confirm-no", "confirm-yes"):
            await mail.send("list")
            assert (await mail.next())["type"] == "agents"
            await page.evaluate(f"{row('mail-1')}.querySelector('.disconnect').click()")
            assert "mail-1" in await page.until("document.querySelector('#confirm[open] p')?.innerText")
            await page.evaluate(f"document.getElementById('{answer}').click()")
        assert await mail.closed() == 1008
        await page.until(f"!{row('mail-1')}")
        assert "disconnect mail-1" in await page.evaluate("document.getElementById('said').innerText")


async def test_a_router_with_tokens_asks_for_one(page: Page) -> None:
    tokens = [Token("ops", OPERATOR, operator=True), Token("team", MEMBER, ids=("team/*",))]
    async with serve(tokens=tokens) as console:
        await page.open(console)
        await page.until("document.activeElement.id === 'token'")
        assert await page.evaluate("document.getElementById('content').checkVisibility()") is False
        for wrong, why in (("not-a-token-at-all", "does not know"), (MEMBER, "not an operator"), ("tökén", "ASCII")):
            await fill(page, token=wrong)
            await page.press("Enter")
            await page.until(f"document.getElementById('gate-error').innerText.includes({json.dumps(why)})")
        await fill(page, token=OPERATOR)
        await page.press("Enter")
        await page.until("document.body.dataset.state === 'live'")
        await fill(page, to="nobody", payload="1")
        await submit(page)
        await page.until("document.querySelector('#exchanges .status')?.innerText.startsWith('no_such_agent')")
        kept = await page.evaluate(
            "JSON.stringify([{...sessionStorage}, {...localStorage}, location.href, document.cookie])"
        )
        assert json.loads(kept) == [{"agora.token": OPERATOR}, {}, console, ""]
        urls = await page.evaluate("performance.getEntries().map((entry) => entry.name).join(' ')")
        assert OPERATOR not in urls
        await watch(page, console)  # a reload keeps it, and another tab would not have it
        await page.evaluate("document.getElementById('forget').click()")
        await page.until("document.activeElement.id === 'token'")
    page.problems.clear()  # the browser complains about each refusal
