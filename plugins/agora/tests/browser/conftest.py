"""One Chromium for the tests of each module; each gets a page of its own.

It is not one for all of them: while an async fixture of the session is open, anyio runs every later test in its event loop,
also those that want another one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import agora_browser
from agora_browser import Browser, Page
from console_lab import serve


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


@pytest.fixture
async def console() -> AsyncIterator[str]:
    async with serve() as address:
        yield address
