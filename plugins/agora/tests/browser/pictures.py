"""Pictures of the console with 200 agents: ``python plugins/agora/tests/browser/pictures.py docs/images``.

Writes ``agora-console-light.png`` and ``-dark.png`` for the guide; with ``--all``, those of a phone as well.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agora_browser import browser
from console_lab import crowd, fill, serve, submit, talking, watch

SCREENS = {"": (1280, 800), "-phone": (390, 844)}
STORY = "Each of these words came in a frame of its own, and the page showed them as they came."


async def draw(folder: Path, *, everything: bool) -> None:
    async with browser() as chromium, serve() as console, crowd(console) as (*agents, model), talking(agents):
        for screen, (width, height) in list(SCREENS.items())[: 2 if everything else 1]:
            for scheme in ("light", "dark"):
                page = await chromium.page()
                await page.look(width, height, scheme, touch=width < 500)
                await watch(page, console)
                await fill(page, to=model.id, payload='{"action": "tell", "about": "streams"}')
                await submit(page)
                sender = (await model.next())["from"]
                await model.send("reply", to=sender, stream_id="story", stream=True, payload={"model": "tiny"})
                for word in STORY.split():
                    await model.send("reply_chunk", to=sender, stream_id="story", chunk=f"{word} ")
                await asyncio.sleep(20)  # of rates
                for number, panel in enumerate(("content", "agents-panel", "errors-panel", "send-panel")):
                    if not screen and number:
                        break
                    await page.evaluate(
                        f"document.getElementById('{panel}').scrollIntoView(), scrollBy(0, {-200 if not number else 0})"
                    )
                    await asyncio.sleep(0.3)
                    file = folder / f"agora-console{screen}-{scheme}{f'-{panel}' if number else ''}.png"
                    await asyncio.to_thread(file.write_bytes, await page.screenshot())
                await model.send("reply_end", to=sender, stream_id="story")
                await page.close()


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1]), everything="--all" in sys.argv))
