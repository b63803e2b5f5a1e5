"""The example of an agent in a browser: plain ``new WebSocket``, driven in Chromium, against a real router."""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from agora_browser import Browser, Page
from console_lab import agent, serve

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

EXAMPLE = Path(__file__).resolve().parents[4] / "contrib" / "examples" / "agora_browser"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[str]:
    """The example's folder, as ``python -m http.server`` serves it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(EXAMPLE))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def join(page: Page, origin: str, router: str, id: str) -> None:
    await page.open(f"{origin}/?id={id}&router={router.replace('http', 'ws')}ws")
    await page.until("document.getElementById('state').innerText === 'registered'")


async def say(page: Page, to: str, text: str, *, streamed: bool = False) -> None:
    values = f"to.value = {json.dumps(to)}, text.value = {json.dumps(text)}, streamed.checked = {json.dumps(streamed)}"
    await page.evaluate(f"(({{to, text, streamed}}) => {{ {values} }})(document.getElementById('form').elements)")
    await page.evaluate("document.getElementById('form').requestSubmit()")


def logged(text: str) -> str:
    return f"[...document.querySelectorAll('#log li')].find((line) => line.innerText.includes({json.dumps(text)}))?.innerText"


async def test_it_registers_lists_and_answers(page: Page, origin: str) -> None:
    async with serve(origins=[origin]) as router, agent(router, "asker", "Asker") as asker:
        await join(page, origin, router, "anna")
        assert "asker (Asker)" in await page.until(logged("there are: "))
        await asker.send("send", to="anna", payload={"n": 1}, request_id="r1")
        reply = await asker.next()
        assert (reply["type"], reply["from"], reply["request_id"]) == ("reply", "anna", "r1")
        assert reply["payload"] == {"heard": {"n": 1}, "by": "anna"}
        await asker.send("send", to="anna", stream=True, stream_id="s")
        for word in ("one ", "two"):
            await asker.send("send_chunk", to="anna", stream_id="s", chunk=word)
        await asker.send("send_end", to="anna", stream_id="s")
        frames = [await asker.next() for _ in range(4)]
        assert [frame["type"] for frame in frames] == ["reply", "reply_chunk", "reply_chunk", "reply_end"]
        assert [frame["chunk"] for frame in frames[1:3]] == ["ONE ", "TWO"]
        await say(page, "nobody", "hello")
        assert "no_such_agent" in await page.until(logged("the router says"))


async def test_two_browsers_talk(page: Page, chromium: Browser, origin: str) -> None:
    other = await chromium.page()
    async with serve(origins=[origin]) as router:
        await join(page, origin, router, "anna")
        await join(other, origin, router, "bert")
        await say(page, "bert", "<b>hello</b>")
        assert '"heard":{"text":"<b>hello</b>"}' in await page.until(logged("bert answers {"))
        await say(page, "bert", "word by word it comes", streamed=True)
        assert await page.until(logged("∎")) == "bert answers: WORD BY WORD IT COMES ∎"
        assert await other.until(logged("anna ends its stream after 5 chunks"))
        assert not other.problems
    await other.close()
    page.problems.clear()  # the router went before the page


async def test_it_comes_back(page: Page, origin: str) -> None:
    async with serve(origins=[origin]) as router:
        await join(page, origin, router, "anna")
    await page.until("document.getElementById('state').innerText.startsWith('not connected')")
    port = router.rstrip("/").rpartition(":")[2]
    async with serve(origins=[origin], listen=f"127.0.0.1:{port}"), agent(router, "asker") as asker:
        await page.until("document.getElementById('state').innerText === 'registered'")
        await asker.send("send", to="anna", payload="again")
        assert (await asker.next())["payload"]["heard"] == "again"
    page.problems.clear()  # the browser complains about each connection that failed


async def test_a_page_of_elsewhere_is_refused(page: Page, origin: str) -> None:
    async with serve() as router:
        await page.open(f"{origin}/?router={router.replace('http', 'ws')}ws")
        await page.until("document.getElementById('state').innerText.startsWith('not connected')")
        await page.complains("403")
    page.problems.clear()


async def test_the_router_of_the_example_lets_its_page_in(page: Page, origin: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE / "router.py"), "127.0.0.1:0", origin, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            url = (await process.stdout.readline()).decode().strip()
        await join(page, origin, url.removesuffix("ws").replace("ws:", "http:"), "anna")
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    page.problems.clear()  # the router went before the page
