"""The console page in a browser, against a real router with real agents."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

sys.path.insert(0, str(Path(__file__).parent))

import agora_browser
from agora_browser import Browser, Page

from echokernel_agora import AgoraServer, Token

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

OPERATOR = "an-operator-of-the-tests"
MEMBER = "a-member-of-the-tests"
IMAGES = Path(__file__).resolve().parents[3] / "docs" / "images"
HOSTILE = """<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def chromium(anyio_backend: str) -> AsyncIterator[Browser]:
    async with agora_browser.browser() as running:
        yield running


@pytest.fixture
async def page(chromium: Browser) -> AsyncIterator[Page]:
    """A page that has nothing to complain about when the test is over."""
    page = await chromium.page()
    await page.look(1280)
    yield page
    problems = list(page.problems)
    await page.close()
    assert not problems


@asynccontextmanager
async def serve(**options: Any) -> AsyncIterator[str]:
    """Run a router, and yield the address of its console."""
    async with AgoraServer(**{"listen": "127.0.0.1:0", **options}) as server:
        yield f"http://127.0.0.1:{server.address.port}/"


@pytest.fixture
async def console() -> AsyncIterator[str]:
    async with serve() as address:
        yield address


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
    async with connect(console.replace("http", "ws") + "ws", proxy=None) as connection:
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


# --- what it shows ---------------------------------------------------------------------------------------------------


async def test_agents_appear_change_and_go(page: Page, console: str) -> None:
    await watch(page, console)
    assert "No agent is registered" in await page.evaluate("document.getElementById('agents-none').innerText")
    async with agent(console, "mail-1", "Mail", capabilities=["email.send"]) as mail:
        shown = await page.until(f"{row('mail-1')}?.innerText")
        assert "Mail" in shown
        assert "email.send" in shown
        async with agent(console, "asker") as asker:
            await page.until(row("asker"))
            for number in range(20):
                await asker.send("send", to="mail-1", payload=number)
            await page.until(f"Number({row('asker')}?.querySelectorAll('.num')[0].innerText) > 0")
            await asker.send("send", to="mail-1", stream=True, stream_id="story")
            assert "asker → mail-1" in await page.until("document.querySelector('#streams li')?.innerText")
            await asker.send("send", to="nobody")
            said = await page.until("document.querySelector('#errors li')?.innerText")
            assert "no_such_agent" in said
            await page.until("document.getElementById('total-errored').innerText === '1'")
        await page.until(f"!{row('asker')}")
        await mail.send("register", id="mail-1", name="Post office")
        await page.until(f"{row('mail-1')}.innerText.includes('Post office')")
    await page.until("document.querySelectorAll('#agents tr').length === 0")
    assert await page.evaluate("document.getElementById('balance').innerText") == "adds up"


async def test_a_waiting_queue_is_shown_against_the_router_s_bound(page: Page) -> None:
    async with serve() as console, agent(console, "asker") as asker, agent(console, "sleeper") as sleeper:
        sleeper._connection.transport.pause_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                for _ in range(200):
                    await asker.send("send", to="sleeper", payload="x" * 60_000)
                    await asyncio.sleep(0.02)
        await watch(page, console)
        shown = await page.until(f"{row('sleeper')}.querySelector('.queue').innerText.match(/^\\d+ · [\\d.,]+ .B$/)?.[0]")
        assert shown
        assert await page.evaluate(f"{row('sleeper')}.dataset.load") == "high"
        sleeper._connection.transport.resume_reading()


async def test_what_agents_say_of_themselves_stays_text(page: Page, console: str) -> None:
    async with agent(console, "evil", HOSTILE, capabilities=[HOSTILE[:120]]) as evil:
        await watch(page, console)
        await page.until(row("evil"))
        await page.evaluate(f"{row('evil')}.querySelector('.id').click()")
        assert HOSTILE in await page.evaluate(f"{row('evil')}.querySelector('.name').textContent")
        await fill(page, to="evil", payload='"hello"')
        await submit(page)
        message = await evil.next()
        await evil.send("reply", to=message["from"], payload={HOSTILE: HOSTILE})
        await evil.send("reply", to=message["from"], stream_id=HOSTILE[:100], stream=True)
        await evil.send("reply_chunk", to=message["from"], stream_id=HOSTILE[:100], chunk=HOSTILE + "\u202egnp.exe")
        shown = await page.until(
            "document.querySelector('#exchanges .stream')?.textContent.includes('exe') && document.querySelector('#exchanges').textContent"
        )
        assert "‹U+202E›gnp.exe" in shown
        await page.until("document.querySelector('#streams li')")
        await evil.send("send", to=HOSTILE[:100])
        assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert await page.evaluate("document.title") == "Agora console"


async def test_names_cannot_turn_their_surroundings_around(page: Page) -> None:
    async with serve() as console:
        await watch(page, console)
        turned = await page.evaluate("import('/text.js').then(({visible}) => visible('a\\u202eb\\u2066c\\u0000d\\u200fe'))")
        assert turned == "a‹U+202E›b‹U+2066›c‹U+0000›d‹U+200F›e"
        assert await page.evaluate("import('/text.js').then(({visible}) => visible('👩‍🔬 é 名'))") == "👩‍🔬 é 名"


async def test_it_says_when_the_router_is_away_and_comes_back(page: Page) -> None:
    async with serve() as console:
        await watch(page, console)
        async with agent(console, "mail-1"):
            await page.until(row("mail-1"))
    await page.until("document.body.dataset.state === 'lost' && document.getElementById('lost').checkVisibility()")
    assert "No connection to the router" in await page.evaluate("document.getElementById('lost-text').innerText")
    await page.until("document.getElementById('said').innerText.includes('is lost')")
    port = console.rstrip("/").rpartition(":")[2]
    async with serve(listen=f"127.0.0.1:{port}"):
        await page.evaluate("document.getElementById('retry').click()")
        await page.until("document.body.dataset.state === 'live'")
        assert await page.evaluate("document.getElementById('lost').checkVisibility()") is False
        await page.until("document.querySelectorAll('#agents tr').length === 0")
    page.problems.clear()  # the browser complains about each connection that failed


# --- what one can do ---------------------------------------------------------------------------------------------------


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


# --- who may see it ------------------------------------------------------------------------------------------------------


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
        kept = await page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}, location.href, document.cookie])")
        assert json.loads(kept) == [{"agora.token": OPERATOR}, {}, console, ""]
        urls = await page.evaluate("performance.getEntries().map((entry) => entry.name).join(' ')")
        assert OPERATOR not in urls
        await watch(page, console)  # a reload keeps it, and another tab would not have it
        await page.evaluate("document.getElementById('forget').click()")
        await page.until("document.activeElement.id === 'token'")
    page.problems.clear()  # the browser complains about each refusal


# --- how it looks, and without a mouse -------------------------------------------------------------------------------------


@asynccontextmanager
async def crowd(console: str, number: int = 200) -> AsyncIterator[list[Agent]]:
    """Many agents with names of all lengths, a stream, some errors."""
    roles = ["Assistant", "Mail", "Researcher", "Code reviewer", "Translator", "Planner", "Vision", "Indexer of everything " * 8]
    abilities = ["email.send", "email.read", "search", "summarise", "translate", "code.review", "plan", "vision"]
    async with AsyncExitStack() as stack:
        agents = []
        for index in range(number):
            role = roles[index % 8]
            id = f"team-{'abc'[index % 3]}/{role.split()[0].lower()}-{index // 8 + 1}"
            about = {"capabilities": [abilities[(index + each) % 8] for each in range(index % 5)]}
            agents.append(await stack.enter_async_context(agent(console, id, f"{role} {index // 8 + 1}"[:256], **about)))
        for each, other in zip(agents[:12], agents[20:], strict=False):
            await each.send("send", to=other.id, stream=True, stream_id=f"stream-{each.id}")
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
                await agents[index].send("send", to=agents[(index * 7 + 1) % len(agents)].id, payload={"step": index})
            for each, other in zip(agents[:6], agents[20:], strict=False):
                await each.send("send_chunk", to=other.id, stream_id=f"stream-{each.id}", chunk="word ")
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


CONTRAST = """(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility({opacityProperty: true}) || node.closest('.unseen, #said, option, script')) continue;
    const [one, other] = [light(numbers(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) low.add(`${node.tagName}.${node.className} ${walker.currentNode.data.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return [...low];
})()"""


async def test_two_hundred_agents_stay_readable_and_cheap(page: Page, console: str) -> None:
    async with crowd(console) as agents:
        await watch(page, console)
        await page.until("document.querySelectorAll('#agents tr').length === 200")
        await page.evaluate(
            "document.querySelectorAll('#agents tr').forEach((row) => { row.before_ = true; }), window.changes = 0,"
            "new MutationObserver((all) => { changes += all.length; })"
            ".observe(document.getElementById('agents-panel'), {subtree: true, childList: true, attributes: true, characterData: true})"
        )
        uptime = await page.evaluate("document.getElementById('uptime').innerText")
        await page.until(f"document.getElementById('uptime').innerText !== {json.dumps(uptime)}")
        await page.until("document.getElementById('rate-accepted').innerText === '0/s'")
        await page.evaluate("changes = 0")
        await asyncio.sleep(2.5)
        assert await page.evaluate("changes") == 0, "a snapshot without news changes nothing"
        async with talking(agents):
            await page.until(f"Number({row(agents[0].id)}.querySelector('.num').innerText) > 1")
            await page.call("Performance.enable")
            before, seconds = await used(page), 5
            await asyncio.sleep(seconds)
            share = (await used(page) - before) / seconds
        assert await page.evaluate("[...document.querySelectorAll('#agents tr')].every((row) => row.before_)")
        print(f"{share:.1%} of one core")
        assert share < 0.3, f"{share:.0%} of the time goes into the page"
        await fill(page, filter="TEAM-B/mail ws")
        await page.until("document.querySelectorAll('#agents tr').length === 9")
        assert await page.evaluate("document.getElementById('agents-shown').innerText") == "9 of 200"
        await fill(page, filter="")
        await page.evaluate("document.getElementById('sort').value = 'newest', document.getElementById('sort').dispatchEvent(new Event('change'))")
        assert await page.evaluate("document.querySelector('#agents .id').innerText") == agents[-1].id


async def used(page: Page) -> float:
    """Return the seconds that the page's thread has worked."""
    metrics = (await page.call("Performance.getMetrics"))["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone_and_can_be_read(page: Page, console: str, scheme: str) -> None:
    async with crowd(console, 60) as agents:
        for width in (390, 1280):
            await page.look(width, 844, scheme, touch=width < 500)
            await watch(page, console)
            await page.until("document.querySelectorAll('#agents tr').length >= 40")
            await page.until("document.querySelectorAll('#streams li').length && document.querySelectorAll('#errors li').length")
            await page.evaluate(f"{row(agents[7].id)}.querySelector('.id').click()")
            await fill(page, to="nobody", payload='{"long": "' + "x" * 200 + '"}')
            await submit(page)
            await page.until("document.querySelector('#exchanges .status')?.innerText.startsWith('no_such_agent')")
            assert await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
            beyond = "[...document.querySelectorAll('main *')].filter((node) => node.checkVisibility() && !node.closest('.unseen, thead, svg')"
            beyond += f" && node.getBoundingClientRect().right > {width}).map((node) => node.outerHTML.slice(0, 80))"
            assert await page.evaluate(beyond) == []
            assert await page.evaluate(CONTRAST) == []
        dark = await page.evaluate("getComputedStyle(document.documentElement).colorScheme")
        assert dark == scheme


async def test_the_theme_is_remembered(page: Page, console: str) -> None:
    await page.look(1280, scheme="dark")
    await watch(page, console)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(ground)
    await page.evaluate("document.querySelector('input[value=light]').click()")
    light = await page.evaluate(ground)
    assert light != dark
    await watch(page, console)
    assert await page.evaluate(ground) == light
    await page.evaluate("document.querySelector('input[value=auto]').click()")
    assert await page.evaluate(ground) == dark


async def test_everything_can_be_reached_with_the_keyboard(page: Page, console: str) -> None:
    async with agent(console, "one") as one, agent(console, "two"), agent(console, "three"):
        await watch(page, console)
        await page.until("document.querySelectorAll('#agents tr').length === 3")
        await page.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await page.press("Enter")
        stops = []
        while "retry" not in stops and len(stops) < 40:
            await page.press("Tab")
            stop = await page.evaluate("(({id, className, ariaLabel, parentElement}) => id || ariaLabel || className + ' ' + parentElement.id)(document.activeElement)")
            if stop in stops or await page.evaluate("document.activeElement === document.body"):
                break
            stops.append(stop)
            seen = "(({outlineStyle, outlineWidth}) => outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1)(getComputedStyle(%s))"
            where = "document.activeElement.matches('.segments input') ? document.activeElement.nextElementSibling : document.activeElement"
            assert await page.evaluate(seen % where), stop
        assert stops[:5] == ["filter", "sort", "id ", "Message to one", "Disconnect one"]
        assert {"to", "as-message", "payload", "send-button", "exchanges"} <= set(stops)
        assert not [stop for stop in stops if stop.endswith(("two", "three"))], "the table is one stop"

        await page.evaluate("document.getElementById('sort').focus()")
        await page.press("Tab")
        ids = [await page.evaluate("document.activeElement.innerText")]
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "Home", "End"):
            await page.press(key)
            ids.append(await page.evaluate("document.activeElement.innerText"))
        assert ids == ["one", "three", "two", "two", "one", "two"]
        await page.press("Home")
        await page.press("Enter")
        assert await page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
        assert "127.0.0.1" in await page.evaluate(f"{row('one')}.querySelector('.detail').innerText")
        await page.press("Tab")
        await page.press("Tab")
        await page.press("Enter")
        await page.until("document.activeElement.id === 'confirm-no'")
        await page.press("Escape")
        await page.until("document.activeElement.classList.contains('disconnect')")
        await page.press("Tab", shift=True)
        await page.press(" ")
        assert await page.evaluate("[document.activeElement.id, document.getElementById('to').value].join()") == "payload,one"
        await page.press("Enter", control=True)
        assert (await one.next())["payload"] == {"action": "query"}


async def test_the_focus_stays_while_news_come_in(page: Page, console: str) -> None:
    async with crowd(console, 30) as agents:
        await watch(page, console)
        await page.until("document.querySelectorAll('#agents tr').length === 30")
        await page.evaluate("document.getElementById('sort').value = 'traffic', document.getElementById('sort').dispatchEvent(new Event('change'))")
        await page.evaluate("document.querySelectorAll('#agents .id')[4].focus()")
        focused = await page.evaluate("document.activeElement.innerText")
        order = await page.evaluate("[...document.querySelectorAll('#agents .id')].map((node) => node.innerText).join()")
        async with talking(agents):
            await page.until("[...document.querySelectorAll('#agents .num')].some((node) => Number(node.innerText) > 1)")
            await asyncio.sleep(2.5)
            assert await page.evaluate("document.activeElement.innerText") == focused
            assert await page.evaluate("[...document.querySelectorAll('#agents .id')].map((node) => node.innerText).join()") == order
            await page.evaluate("document.getElementById('filter').focus()")
            await page.until(f"[...document.querySelectorAll('#agents .id')].map((node) => node.innerText).join() !== {json.dumps(order)}")
