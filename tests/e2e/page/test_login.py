"""The login of the page: renewed while it is used, shared by the tabs, repeated over the screen; and the password."""

import asyncio
import time

import jwt
from playwright.async_api import Browser, expect

from tests.conftest import StartServer
from tests.e2e.page.visits import (
    ONE_LOOP,
    PASSWORD,
    WAIT,
    Visit,
    account,
    cli,
    is_known,
    is_visitor,
    kept_login,
    log_in,
    new_context,
    new_visit,
    open_page,
)
from tests.serving import Server, wait_until

KEY = "a key for the access tokens of the page tests"
NEW_PASSWORD = "another password of the page tests"


def claims(token: str) -> dict[str, int]:
    found: dict[str, int] = jwt.decode(token, options={"verify_signature": False})
    return found


@ONE_LOOP
async def test_a_login_is_renewed_while_the_page_is_used(browser: Browser, server: Server, ann: str) -> None:
    context = await new_context(browser)
    visit = await new_visit(context, server)
    await visit.page.clock.install()
    await visit.page.goto(cli(server, "user", "link", "ann"))
    await is_known(visit, "ann · agent")
    first = await kept_login(visit)
    await visit.page.clock.fast_forward("32:00")
    await visit.page.clock.run_for(6000)
    assert await kept_login(visit) == first  # nobody was there
    # The clock of the server went on by itself: a token of the same second would be the same token.
    await asyncio.to_thread(wait_until, lambda: time.time() >= claims(first)["iat"] + 1, "the next second")
    async with visit.page.expect_response("**/api/auth/renew") as renewing:
        await visit.page.keyboard.type("echo still logged in")
        await visit.page.clock.run_for(6000)
    assert (await renewing.value).status == 200
    await is_known(visit, "ann · agent")
    renewed = await kept_login(visit)
    assert renewed != first
    assert claims(renewed)["jti"] == claims(first)["jti"]
    await visit.page.keyboard.press("Enter")
    await visit.page.clock.resume()
    await visit.shows(lambda text: text.count("still logged in") == 2)
    visit.is_clean()
    await context.close()


@ONE_LOOP
async def test_when_a_login_ends_the_screen_stays_and_the_login_is_offered_over_it(
    browser: Browser, start_server: StartServer
) -> None:
    server = start_server({"GATEPOST_SECRET_KEY": KEY})
    api_token = account(server, "eve")
    id = server.get("/api/auth/me", {"Authorization": f"Bearer {api_token}"}).json["id"]
    context = await new_context(browser, viewport={"width": 1000, "height": 1200})
    visit = await open_page(context, server)

    async def use_until_the_end() -> None:
        now = int(time.time())
        ids = {"sub": id, "jti": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
        ending = {"iss": "gatepost", "aud": "gatepost", **ids, "iat": now, "exp": now + 4}
        token = jwt.encode(ending, KEY, "HS256")
        await visit.page.evaluate(f"sessionStorage.setItem('gatepost.login', '\"{token}\"')")
        await visit.page.reload()
        await is_known(visit, "eve · agent")
        await visit.type("echo stays here")
        await visit.shows(lambda text: text.count("stays here") == 2)
        await visit.page.wait_for_selector("#login-dialog[open]", timeout=2 * WAIT)
        assert await visit.page.input_value("#login-name") == "eve"
        await visit.page.get_by_text("Your login has ended.").first.wait_for()
        await visit.shows(lambda text: text.count("stays here") == 2)

    await use_until_the_end()
    await visit.page.fill("#login-password", PASSWORD)
    await visit.page.press("#login-password", "Enter")
    await is_known(visit, "eve · agent")
    await visit.shows(lambda text: text.count("stays here") == 2)
    await use_until_the_end()
    await visit.page.keyboard.press("Escape")
    await is_visitor(visit)
    await visit.shows(lambda text: "stays here" not in text)
    await context.close()


@ONE_LOOP
async def test_tabs_share_a_login_and_its_end_and_store_it_nowhere_else(
    browser: Browser, server: Server, ann: str
) -> None:
    context = await new_context(browser)
    one = await open_page(context, server)
    two = await open_page(context, server)
    await log_in(one, "ann")
    for tab in (one, two):
        await is_known(tab, "ann · agent")
    three = await new_visit(context, server)
    await three.page.goto(server.url)
    await is_known(three, "ann · agent")
    token = await kept_login(one)
    assert await kept_login(two) == await kept_login(three) == token
    assert token not in await one.page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    await three.page.click("#log-out")
    for tab in (one, two, three):
        await is_visitor(tab)
    assert server.get("/api/auth/me", {"Authorization": f"Bearer {token}"}).status == 401
    await context.close()


@ONE_LOOP
async def test_a_password_is_set_in_the_page(browser: Browser, server: Server) -> None:
    cli(server, "user", "add", "guest", "--no-password")
    context = await new_context(browser)
    visit = await new_visit(context, server)
    await visit.page.goto(cli(server, "user", "link", "guest"))
    await is_known(visit, "guest · agent")
    await visit.page.get_by_text("Set a password to log in without").wait_for(timeout=WAIT)
    await set_password(visit, NEW_PASSWORD)
    visit.is_clean()
    await context.close()

    context = await new_context(browser)
    visit = await open_page(context, server)
    await log_in(visit, "guest", NEW_PASSWORD)
    await is_known(visit, "guest · agent")
    await visit.page.click("#password-set")
    await visit.page.fill("#password-current", "not this one")
    await visit.page.fill("#password-new", PASSWORD)
    await visit.page.press("#password-new", "Enter")
    await visit.page.get_by_text("The current password is wrong.").wait_for(timeout=WAIT)
    await visit.page.fill("#password-current", NEW_PASSWORD)
    await visit.page.press("#password-new", "Enter")
    await visit.page.get_by_text("Your password is set.").wait_for(timeout=WAIT)
    await is_known(visit, "guest · agent")
    await context.close()


async def set_password(visit: Visit, password: str) -> None:
    """After a login by link: without the current one."""
    await visit.page.click("#password-set")
    await expect(visit.page.locator("#password-current")).to_be_hidden()
    await visit.page.fill("#password-new", password)
    await visit.page.press("#password-new", "Enter")
    await visit.page.get_by_text("Your password is set.").wait_for(timeout=WAIT)
    await is_known(visit, "guest · agent")
