"""How the console looks: on a phone, in both themes, with many agents, and without a mouse."""

from __future__ import annotations

import asyncio
import json

import pytest
from agora_browser import Page
from console_lab import agent, crowd, fill, row, submit, talking, watch

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

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
    if (!walker.currentNode.data.trim() || !node.checkVisibility({opacityProperty: true})) continue;
    if (node.closest('.unseen, #said, option, script')) continue;
    const [one, other] = [light(numbers(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) low.add(`${node.tagName}.${node.className} ${walker.currentNode.data.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return [...low];
})()"""


STOP = "((node) => node.id || node.ariaLabel || node.getAttribute('aria-labelledby') || node.className)(document.activeElement)"
SEEN = """(() => {
  const node = document.activeElement;
  const style = getComputedStyle(node.matches('.segments input') ? node.nextElementSibling : node);
  return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
})()"""


async def test_two_hundred_agents_stay_readable_and_cheap(page: Page, console: str) -> None:
    async with crowd(console) as agents:
        await watch(page, console)
        await page.until("document.querySelectorAll('#agents tr').length === 200")
        await page.evaluate(
            "document.querySelectorAll('#agents tr').forEach((row) => { row.before_ = true; }), window.changes = 0,"
            "new MutationObserver((all) => { changes += all.length; })"
            ".observe(document.getElementById('agents-panel'),"
            " {subtree: true, childList: true, attributes: true, characterData: true})"
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
        await sort(page, "newest")
        assert await page.evaluate("document.querySelector('#agents .id').innerText") == agents[-1].id


async def sort(page: Page, order: str) -> None:
    await page.evaluate(
        f"(node => {{ node.value = '{order}'; node.dispatchEvent(new Event('change')) }})(document.getElementById('sort'))"
    )


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
            await page.until(
                "document.querySelectorAll('#streams li').length && document.querySelectorAll('#errors li').length"
            )
            await page.evaluate(f"{row(agents[7].id)}.querySelector('.id').click()")
            await fill(page, to="nobody", payload='{"long": "' + "x" * 200 + '"}')
            await submit(page)
            await page.until("document.querySelector('#exchanges .status')?.innerText.startsWith('no_such_agent')")
            assert (
                await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
            )
            beyond = "[...document.querySelectorAll('main *')].filter((node) => node.checkVisibility()"
            beyond += f" && !node.closest('.unseen, thead, svg') && node.getBoundingClientRect().right > {width})"
            beyond += ".map((node) => node.outerHTML.slice(0, 80))"
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
            stop = await page.evaluate(STOP)
            if stop in stops or await page.evaluate("document.activeElement === document.body"):
                break
            stops.append(stop)
            assert await page.evaluate(SEEN), stop
        assert stops[:5] == ["filter", "sort", "id", "Message to one", "Disconnect one"]
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
        assert (
            await page.evaluate("[document.activeElement.id, document.getElementById('to').value].join()")
            == "payload,one"
        )
        await page.press("Enter", control=True)
        assert (await one.next())["payload"] == {"action": "query"}


async def test_the_focus_stays_while_news_come_in(page: Page, console: str) -> None:
    async with crowd(console, 30) as agents:
        await watch(page, console)
        await page.until("document.querySelectorAll('#agents tr').length === 30")
        await sort(page, "traffic")
        await page.evaluate("document.querySelectorAll('#agents .id')[4].focus()")
        focused = await page.evaluate("document.activeElement.innerText")
        order = await page.evaluate(
            "[...document.querySelectorAll('#agents .id')].map((node) => node.innerText).join()"
        )
        async with talking(agents):
            await page.until(
                "[...document.querySelectorAll('#agents .num')].some((node) => Number(node.innerText) > 1)"
            )
            await asyncio.sleep(2.5)
            assert await page.evaluate("document.activeElement.innerText") == focused
            assert (
                await page.evaluate(
                    "[...document.querySelectorAll('#agents .id')].map((node) => node.innerText).join()"
                )
                == order
            )
            await page.evaluate("document.getElementById('filter').focus()")
            await page.until(
                f"[...document.querySelectorAll('#agents .id')].map((node) => node.innerText).join() !== {json.dumps(order)}"
            )
