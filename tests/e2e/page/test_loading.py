"""How the page is loaded: what is seen first at once, compressed, and not twice; the rest when it is opened."""

import re

from playwright.async_api import Browser, expect

from tests.e2e.page.visits import ONE_LOOP, WAIT, Visit, is_known, new_context, new_visit
from tests.serving import Server

SENT = """
  Object.fromEntries(performance.getEntriesByType("resource")
    .filter(({ name }) => name.includes("/static/"))
    .map(({ name, transferSize }) => [name, transferSize]))
"""


@ONE_LOOP
async def test_a_second_visit_requests_no_file_again(browser: Browser, server: Server) -> None:
    context = await new_context(browser)
    sent: list[dict[str, int]] = []
    for _ in range(2):
        visit = await new_visit(context, server)
        await visit.page.goto(server.url)
        await visit.state("ready")
        sent.append(await visit.page.evaluate(SENT))
        visit.is_clean()
    first, second = sent
    assert len(first) > 20
    assert 90_000 < sum(first.values()) < 180_000  # uncompressed it would be more than 400 KB
    assert set(second) == set(first)
    assert sum(second.values()) == 0
    await context.close()


PANELS = {"history": "Nothing here yet.", "django": "Create a project first", "automation": "A schedule runs a command"}


async def modules(visit: Visit) -> set[str]:
    """The modules of views that were requested so far."""
    names: list[str] = await visit.page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
    return {found[1] for name in names if (found := re.search(r"/views/([a-z-]+)\.js$", name))}


@ONE_LOOP
async def test_a_panel_is_loaded_when_it_is_opened_and_says_when_that_fails(
    browser: Browser, server: Server, ann: str
) -> None:
    context = await new_context(browser)
    await context.add_init_script(f"sessionStorage.setItem('gatepost.login', '\"{ann}\"')")
    visit = await new_visit(context, server)
    await visit.page.goto(server.url)
    await is_known(visit, "ann")
    views = {f"{name}-view" for name in PANELS}
    assert not await modules(visit) & views
    await context.set_offline(True)
    for name in PANELS:
        await shows(visit, name, "could not be loaded")
    await context.set_offline(False)
    for name, text in PANELS.items():
        await shows(visit, name, text)
    assert await modules(visit) >= views
    visit.is_clean()
    await context.close()


async def shows(visit: Visit, name: str, text: str) -> None:
    """Open a panel, which shows the text and nothing that went wrong before."""
    await visit.page.click(f"#{name}")
    await expect(visit.page.locator(f"#{name}-dialog")).to_contain_text(text, timeout=WAIT)
    failed = await visit.page.inner_text(f"#{name}-problem")
    assert failed == "" or text in failed
    await visit.page.click(f"#{name}-close")
