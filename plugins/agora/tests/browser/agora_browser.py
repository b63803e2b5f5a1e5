"""Chromium without a screen, driven over its DevTools protocol with the WebSocket library that the plugin has anyway.

Where ``CI`` is set, Chromium is installed with apt; elsewhere the tests that need it are left out, loudly.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--remote-debugging-port=0",
]
SECONDS = 30.0  # for anything the browser does; a loaded machine takes a while to draw its first page
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "PageDown": 34,
    "End": 35,
    "Home": 36,
    "ArrowUp": 38,
    "ArrowDown": 40,
}


def executable() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@functools.cache
def _try_to_install() -> None:
    """Once a run: where there is no package index, the second try would take as long as the first."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with suppress(subprocess.SubprocessError, OSError):
        for command in (
            ["update", "-q"],
            ["install", "-y", "-q", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
        ):
            subprocess.run(["apt-get", *command], env=environment, check=True, timeout=240, capture_output=True)


def require() -> str:
    """Return the path of Chromium; skip the test, loudly, where there is none."""
    if executable() is None and os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
        _try_to_install()
    found = executable()
    if found is None:
        pytest.skip("THE TESTS IN A BROWSER DID NOT RUN: apt-get install chromium, or set CI=1 as root")
    return found


class Page:
    """A tab with cookies and storage of its own.

    ``problems`` holds what its scripts threw and what the browser complained of.
    """

    def __init__(self, browser: Browser, context: str, session: str) -> None:
        self._browser, self._context, self._session = browser, context, session
        self.problems: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.call(method, parameters, self._session)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise. Raises AssertionError for what it throws."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        thrown = answer.get("exceptionDetails")
        assert thrown is None, f"{expression}\n{thrown}"
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = SECONDS) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = asyncio.get_running_loop().time() + seconds
        value = None
        while asyncio.get_running_loop().time() < deadline:
            with suppress(AssertionError):  # while a page loads, its parts are missing
                value = await self.evaluate(expression)
                if value or value == {}:  # which is what a node of the page comes as
                    return value
            await asyncio.sleep(0.03)
        shown = await self.evaluate("document.body?.innerText.slice(0, 2000)")
        raise AssertionError(f"not within {seconds} s: {expression}\nlast value: {value!r}\n{self.problems}\n{shown}")

    async def complains(self, text: str) -> None:
        """Wait until a problem has ``text`` in it."""
        for _ in range(int(SECONDS / 0.03)):
            if any(text in problem for problem in self.problems):
                return
            await asyncio.sleep(0.03)
        raise AssertionError(f"no complaint about {text}: {self.problems}")

    async def look(self, width: int, height: int = 800, scheme: str = "light", *, touch: bool = False) -> None:
        """Emulate a screen and what its owner prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def screenshot(self) -> bytes:
        """Return what the screen shows, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])

    async def press(self, key: str, *, shift: bool = False, control: bool = False) -> None:
        """Press and release a key as a hand would."""
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"Enter": "\r", " ": " "}.get(key)
        down = {"type": "keyDown", "text": text} if text and not control else {"type": "rawKeyDown"}
        modifiers = 8 * shift + 2 * control
        await self.call("Input.dispatchKeyEvent", **down, **about, modifiers=modifiers)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **about, modifiers=modifiers)

    async def write(self, text: str) -> None:
        """Put text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def close(self) -> None:
        await self._browser.call("Target.disposeBrowserContext", {"browserContextId": self._context})


class Browser:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def call(
        self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        frame: dict[str, Any] = {"id": number, "method": method, "params": parameters or {}}
        await self._connection.send(json.dumps(frame if session is None else {**frame, "sessionId": session}))
        async with asyncio.timeout(SECONDS):
            result = await answer
        assert "error" not in result, f"{method}: {result['error']}"
        return dict(result.get("result", {}))

    async def page(self) -> Page:
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = self._pages[attached["sessionId"]] = Page(self, context, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return page

    async def read(self) -> None:
        async for message in self._connection:
            frame = json.loads(message)
            if "id" in frame:
                answer = self._answers.pop(frame["id"])
                if not answer.done():
                    answer.set_result(frame)
            elif frame.get("sessionId") in self._pages:
                self._note(self._pages[frame["sessionId"]], frame["method"], frame["params"])

    def _note(self, page: Page, method: str, about: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            page.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            page.problems.append(f"{about['entry']['text']} ({about['entry'].get('url', '')})")
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            page.problems.append(str([each.get("value", each.get("description")) for each in about["args"]]))


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Run Chromium with an empty profile, and end it with everything that it started."""
    program = require()
    with tempfile.TemporaryDirectory(prefix="agora-chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with connect(await _address(Path(profile), process), max_size=None, proxy=None) as connection:
                chromium = Browser(connection)
                reading = asyncio.create_task(chromium.read())
                try:
                    yield chromium
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its profile is thrown away: there is nothing to save
            await process.wait()


async def _address(profile: Path, process: asyncio.subprocess.Process) -> str:
    told = profile / "DevToolsActivePort"
    async with asyncio.timeout(SECONDS):
        while True:
            assert process.returncode is None, f"chromium ended with {process.returncode}"
            lines = told.read_text("ascii").splitlines() if told.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.05)
