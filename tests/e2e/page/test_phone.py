"""The page on a phone: one row of header, a menu, and room for the output while the keyboard is open."""

import pytest
from playwright.async_api import Browser, BrowserContext

from tests.e2e.page.visits import ONE_LOOP, WAIT, Visit, new_context, open_page
from tests.serving import Server

# What a browser does that lays the keyboard over the page.
COVER = """
  Object.defineProperty(window.visualViewport, "height", { value: 400 });
  window.visualViewport.dispatchEvent(new Event("resize"));
"""


async def phone(browser: Browser, width: int = 390, height: int = 844) -> BrowserContext:
    return await new_context(browser, viewport={"width": width, "height": height}, has_touch=True, is_mobile=True)


async def lines_of(visit: Visit) -> int:
    """How many lines of output fit."""
    await visit.page.wait_for_timeout(100)  # the emulator fits itself to a new size in the next frames
    found: int = await visit.page.evaluate("document.querySelectorAll('#screen .xterm-rows > div').length")
    return found


@pytest.mark.parametrize("width", [320, 390])
@ONE_LOOP
async def test_the_header_is_one_row_and_the_rest_is_in_a_menu(browser: Browser, server: Server, width: int) -> None:
    context = await phone(browser, width)
    visit = await open_page(context, server)
    header = await visit.page.locator("header").bounding_box()
    assert header
    assert header["height"] <= 44
    assert not await visit.page.is_visible("#theme")
    await visit.page.tap("#menu-button")
    for id in ("theme", "reader", "log-in"):
        box = await visit.page.locator(f"#{id}").bounding_box()
        assert box
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
    await visit.page.tap("#log-in")
    await visit.page.wait_for_selector("#login-dialog[open]", timeout=WAIT)
    assert not await visit.page.is_visible("#menu")
    assert await visit.page.evaluate("document.activeElement.id") == "login-name"
    visit.is_clean()
    await context.close()


@pytest.mark.parametrize(("width", "height"), [(390, 508), (360, 380), (320, 360)])
@ONE_LOOP
async def test_ten_lines_fit_while_the_keyboard_is_open(
    browser: Browser, server: Server, width: int, height: int
) -> None:
    context = await phone(browser, width)
    visit = await open_page(context, server)
    await visit.page.set_viewport_size({"width": width, "height": height})
    assert await lines_of(visit) >= 10
    box = await visit.page.locator("#send").bounding_box()
    assert box
    assert box["y"] + box["height"] <= height
    await context.close()


@ONE_LOOP
async def test_ten_lines_fit_while_the_keyboard_covers_the_page(browser: Browser, server: Server) -> None:
    context = await phone(browser)
    visit = await open_page(context, server)
    await visit.page.evaluate(COVER)
    assert await lines_of(visit) >= 10
    box = await visit.page.locator("#send").bounding_box()
    assert box
    assert box["y"] + box["height"] <= 400
    await context.close()


@ONE_LOOP
async def test_an_entry_is_copied_at_a_tap_which_opens_no_keyboard(browser: Browser, server: Server) -> None:
    context = await phone(browser)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit = await open_page(context, server)
    await visit.type("echo tapped")
    await visit.sees("Done in")
    await visit.page.evaluate("document.activeElement.blur()")
    await visit.page.get_by_role("button", name="Copy echo tapped").tap()
    await visit.page.get_by_text("Copied", exact=True).wait_for(timeout=WAIT)
    assert await visit.page.evaluate("document.activeElement.id") != "line"
    assert "$ echo tapped\ntapped\n" in await visit.page.evaluate("navigator.clipboard.readText()")
    await context.close()
