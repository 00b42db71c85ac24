"""Taking text and links out of the terminal, also where nothing can be selected."""

from playwright.async_api import Browser, BrowserContext

from tests.e2e.page.visits import ONE_LOOP, WAIT, Visit, new_context, open_page
from tests.serving import Server

NO_CLIPBOARD = "Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined })"
LONG = "x" * 300


async def copied(context: BrowserContext, server: Server) -> str:
    """What is in the clipboard, read by another page."""
    reader = await context.new_page()
    await reader.goto(f"{server.url}/healthz")
    await reader.bring_to_front()
    text: str = await reader.evaluate(
        "Object.getPrototypeOf(navigator).hasOwnProperty('clipboard') && navigator.clipboard.readText()"
    )
    await reader.close()
    return text


@ONE_LOOP
async def test_an_entry_is_copied_with_its_output(browser: Browser, server: Server) -> None:
    context = await new_context(browser, permissions=["clipboard-read", "clipboard-write"])
    visit = await open_page(context, server)
    for command in (f"echo {LONG}", "echo second"):
        await visit.type(command)
        await visit.state("ready")
    await visit.sees("second")
    buttons = visit.page.locator("#screen .copy")
    await buttons.nth(1).wait_for(timeout=WAIT)
    await visit.page.get_by_role("button", name="Copy echo xxx").click()
    await visit.page.get_by_text("Copied", exact=True).wait_for(timeout=WAIT)
    lines = (await copied(context, server)).splitlines()
    assert lines[:2] == [f"$ echo {LONG}", LONG]
    assert lines[2].startswith("✓ Done in")
    assert len(lines) == 3
    await visit.page.bring_to_front()
    await visit.page.get_by_role("button", name="Copy echo second").click()
    assert (await copied(context, server)).splitlines()[:2] == ["$ echo second", "second"]
    await visit.type("clear")
    await visit.page.wait_for_function("document.querySelectorAll('#screen .copy').length === 0")
    visit.is_clean()
    await context.close()


@ONE_LOOP
async def test_copying_works_without_the_clipboard_of_a_secure_page(browser: Browser, server: Server) -> None:
    context = await new_context(browser, permissions=["clipboard-read", "clipboard-write"])
    visit = await open_page(context, server)
    await visit.page.evaluate(NO_CLIPBOARD)
    await visit.type("echo by selection")
    await visit.sees("Done in")
    await visit.page.get_by_role("button", name="Copy echo by selection").click()
    await visit.page.get_by_text("Copied", exact=True).wait_for(timeout=WAIT)
    assert "$ echo by selection\nby selection\n" in await copied(context, server)
    await context.close()


async def click_at(visit: Visit, text: str, offset: int) -> None:
    """Click a character of a line of output, counted from its beginning."""
    row = visit.page.locator("#screen .xterm-rows > div", has_text=text).last
    box = await row.bounding_box()
    columns = await visit.page.evaluate("document.querySelector('#screen .xterm-rows > div').textContent.length")
    cell = await visit.page.evaluate(
        "document.querySelector('#screen .xterm-rows span').getBoundingClientRect().width"
        " / document.querySelector('#screen .xterm-rows span').textContent.length"
    )
    assert box
    assert columns
    at = (box["x"] + cell * (offset + 0.5), box["y"] + box["height"] / 2)
    await visit.page.mouse.move(*at)
    await visit.page.mouse.move(at[0] + 1, at[1])
    await visit.page.wait_for_selector("#screen .xterm-cursor-pointer", timeout=WAIT)
    await visit.page.mouse.click(*at)


@ONE_LOOP
async def test_a_web_address_in_the_output_opens_in_a_tab_that_knows_nothing_of_this_one(
    browser: Browser, server: Server
) -> None:
    context = await new_context(browser, viewport={"width": 1000, "height": 900})
    visit = await open_page(context, server)
    await visit.type(f"echo '日本 (see {server.url}/healthz?a=b). javascript:alert(1) ftp://x.test/'")
    await visit.sees("Done in")
    async with context.expect_page() as opening:
        await click_at(visit, "日本 (see http", 15)
    opened = await opening.value
    await opened.wait_for_load_state()
    assert opened.url == f"{server.url}/healthz?a=b"
    assert await opened.evaluate("window.opener") is None
    assert await opened.evaluate("document.referrer") == ""
    visit.is_clean()
    await context.close()
