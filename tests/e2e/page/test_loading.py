"""How the page is loaded: at once, compressed, and not twice."""

from playwright.async_api import Browser

from tests.e2e.page.visits import ONE_LOOP, new_visit
from tests.serving import Server

SENT = """
  Object.fromEntries(performance.getEntriesByType("resource")
    .filter(({ name }) => name.includes("/static/"))
    .map(({ name, transferSize }) => [name, transferSize]))
"""


@ONE_LOOP
async def test_a_second_visit_requests_no_file_again(browser: Browser, server: Server) -> None:
    context = await browser.new_context()
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
