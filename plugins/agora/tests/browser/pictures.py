"""Pictures of the console with 200 agents: ``python plugins/agora/tests/browser/pictures.py docs/images``.

Writes ``agora-console-light.png`` and ``-dark.png`` for the guide; with ``--all``, those of a phone as well.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agora_browser import Browser, browser
from console_lab import Agent, agent, crowd, fill, serve, submit, talking, watch
from PIL import Image

from echokernel_agora import Limits, Router

SCREENS = {"": (1280, 800), "-phone": (390, 844)}
PANELS = ("content", "agents-panel", "streams-panel", "send-panel")
COLOURS = 255  # of one palette and its shades; a third of the bytes
STORY = "Each of these words came in a frame of its own, and the page showed them as they came."
SLEEPERS = {"team-a/archive": 40, "team-b/archive": 470, "team-c/archive": 960}  # frames that wait for them


@asynccontextmanager
async def waiting(console: str, router: Router, id: str, frames: int) -> AsyncIterator[None]:
    """An agent that does not read, with frames that wait for it."""
    async with (
        agent(console, id, "Archive", capabilities=["store"]) as sleeper,
        agent(console, f"{id}-feeder", "Feeder") as feeder,
    ):
        sleeper._connection.transport.pause_reading()
        while router.agents[id].queue.frames < 4:  # until the kernel's buffers are full
            await feeder.send("send", to=id, payload="x" * 60_000)
            await asyncio.sleep(0.005)
        for number in range(frames):
            await feeder.send("send", to=id, payload={"entry": number})
        yield
        sleeper._connection.transport.resume_reading()


async def show(chromium: Browser, console: str, model: Agent, screen: str, scheme: str, folder: Path) -> None:
    page = await chromium.page()
    width, height = SCREENS[screen]
    await page.look(width, height, scheme, touch=width < 500)
    await watch(page, console)
    await page.evaluate(
        "((node) => { node.value = 'queue'; node.dispatchEvent(new Event('change')) })(document.getElementById('sort'))"
    )
    await fill(page, to=model.id, payload='{"action": "tell", "about": "streams"}')
    await submit(page)
    sender = (await model.next())["from"]
    await model.send("reply", to=sender, stream_id="story", stream=True, payload={"model": "tiny"})
    for word in STORY.split():
        await model.send("reply_chunk", to=sender, stream_id="story", chunk=f"{word} ")
    await asyncio.sleep(50)  # of rates
    for number, panel in enumerate(PANELS if screen else PANELS[:1]):
        await page.evaluate(f"document.activeElement.blur(), document.getElementById('{panel}').scrollIntoView()")
        if not number:
            await page.evaluate("scrollTo(0, 0)")
        await asyncio.sleep(0.5)
        file = folder / f"agora-console{screen}-{scheme}{f'-{panel}' if number else ''}.png"
        picture = Image.open(io.BytesIO(await page.screenshot())).convert("RGB")
        picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(
            file, optimize=True
        )
    await model.send("reply_end", to=sender, stream_id="story")
    await page.close()


async def draw(folder: Path, screens: list[str]) -> None:
    router = Router(
        Limits(
            byte_rate=1e9, frame_rate=1e6, frame_burst=1e6, stuck_after=900.0, ping_interval=900.0, ping_timeout=900.0
        )
    )
    async with (
        browser() as chromium,
        serve(router=router) as console,
        crowd(console) as (*agents, model),
        talking(agents),
    ):
        one, two, three = (waiting(console, router, *each) for each in SLEEPERS.items())
        async with one, two, three:
            for screen in screens:
                for scheme in ("light", "dark"):
                    await show(chromium, console, model, screen, scheme, folder)


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1]), [*SCREENS] if "--all" in sys.argv else [""]))
