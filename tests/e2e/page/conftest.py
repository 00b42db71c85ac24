"""The browser and the pages of the tests of the page."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.e2e.page.visits import CHROMIUM, FLAGS, Held, Tab, Visit, account, new_context, new_visit
from tests.needs import need
from tests.serving import Server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """One for all tests of a worker, from the first that asks for it. It ends with the process that holds its pipe, too."""
    need(Path(CHROMIUM).exists(), "chromium (apt-get install chromium-headless-shell, or CHROMIUM_PATH)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """Where each test opens contexts of its own; what a failed one has left open is closed with its module."""
    yield chromium
    for context in chromium.contexts:
        await context.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tab(browser: Browser, server: Server) -> Tab:
    """Of the tests of a module, which open the page in it as they need it."""
    return Tab(await new_visit(await new_context(browser), server))


@pytest_asyncio.fixture(loop_scope="session")
async def visit(tab: Tab) -> AsyncIterator[Visit]:
    """The page, high enough for every line of these tests; at the end it must have complained of nothing and asked no other host."""
    visit = await tab.open()
    yield visit
    visit.is_clean()


@pytest_asyncio.fixture(loop_scope="session")
async def held(browser: Browser, server: Server) -> AsyncIterator[tuple[Visit, Held]]:
    context = await new_context(browser, viewport={"width": 1000, "height": 1200})
    visit = await new_visit(context, server)
    held = Held()
    await held.route(visit.page)
    await visit.page.goto(server.url)
    await visit.state("ready")
    yield visit, held
    held.delivering.cancel()
    assert visit.complaints == []
    await context.close()


@pytest.fixture(scope="module")
def ann(server: Server) -> str:
    """An account with a password; an API token of it."""
    return account(server, "ann")
