"""What the console shows of a real router and real agents, in a browser."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress

import pytest
from agora_browser import Page
from console_lab import agent, fill, row, serve, submit, watch

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

HOSTILE = """<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>"""


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
        shown = await page.until(
            f"{row('sleeper')}.querySelector('.queue').innerText.match(/^\\d+ · [\\d.,]+ .B$/)?.[0]"
        )
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
            "document.querySelector('#exchanges .stream')?.textContent.includes('exe')"
            " && document.querySelector('#exchanges').textContent"
        )
        assert "‹U+202E›gnp.exe" in shown
        await page.until("document.querySelector('#streams li')")
        await evil.send("send", to=HOSTILE[:100])
        assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert await page.evaluate("document.title") == "Agora console"


async def test_names_cannot_turn_their_surroundings_around(page: Page) -> None:
    async with serve() as console:
        await watch(page, console)
        turned = await page.evaluate(
            "import('/text.js').then(({visible}) => visible('a\\u202eb\\u2066c\\u0000d\\u200fe'))"
        )
        assert turned == "a‹U+202E›b‹U+2066›c‹U+0000›d‹U+200F›e"
        assert await page.evaluate("import('/text.js').then(({visible}) => visible('👩‍🔬 é 名'))") == "👩‍🔬 é 名"


async def test_the_page_can_run_nothing_but_its_own_scripts(page: Page, console: str) -> None:
    await watch(page, console)
    policy = await page.evaluate("fetch('/').then((answer) => answer.headers.get('content-security-policy'))")
    assert "unsafe" not in policy
    inline = (
        "const made = document.createElement('script'); made.append('document.title = 1'); document.body.append(made)"
    )
    markup = "document.getElementById('agents').insertAdjacentHTML('beforeend', '<tr><td><b>markup</b></td></tr>')"
    for attempt in (inline, markup):
        await page.evaluate(f"(() => {{ try {{ {attempt} }} catch {{}} }})()")
    left = await page.evaluate("[document.title, document.querySelectorAll('#agents b').length].join()")
    assert left == "Agora console,0"
    await page.complains("TrustedHTML")
    page.problems.clear()


ROUTER = """
import asyncio
from echokernel_agora import AgoraServer

async def main():
    async with AgoraServer(listen="127.0.0.1:0") as server:
        print(server.address.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_router_that_says_nothing_counts_as_lost(page: Page) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", ROUTER, stdout=pipe)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            port = int(await process.stdout.readline())
        await watch(page, f"http://127.0.0.1:{port}/")
        process.send_signal(signal.SIGSTOP)
        await page.until("document.getElementById('lost').checkVisibility()")
        assert "it said nothing" in await page.evaluate("document.getElementById('lost-text').innerText")
        process.send_signal(signal.SIGCONT)
        await page.until("document.body.dataset.state === 'live'")
    finally:
        process.kill()
        await process.wait()
    page.problems.clear()  # the browser complains about each connection that failed


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
