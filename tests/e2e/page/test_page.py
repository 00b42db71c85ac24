"""The page in a real browser: Debian's Chromium, driven by Playwright, against a real server."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Route, WebSocketRoute, expect

from tests.conftest import StartServer
from tests.e2e.page.visits import (
    ONE_LOOP,
    PASSWORD,
    READY,
    WAIT,
    Held,
    Tab,
    Visit,
    account,
    cli,
    counter,
    is_known,
    is_visitor,
    kept_login,
    log_in,
    make_project,
    new_context,
    new_visit,
    open_page,
    paste,
    stage,
    steps,
)
from tests.serving import ROOT, Server, processes_of, wait_until


@ONE_LOOP
async def test_help_and_ls_run(visit: Visit) -> None:
    await visit.type("help")
    await visit.sees("Show what may be run here")
    await visit.type("ls")
    await visit.sees("welcome.txt")


@ONE_LOOP
async def test_an_example_runs_at_a_click(visit: Visit) -> None:
    await visit.page.click("button[data-command=help]")
    await visit.sees("Show what may be run here")
    assert not await visit.page.is_visible("#welcome")


@ONE_LOOP
async def test_a_refused_command_shows_rule_reason_and_what_is_allowed(visit: Visit) -> None:
    await visit.type("rm -rf /")
    await visit.sees("Refused by blocked.rm")
    await visit.sees("it deletes files")
    await visit.sees("Allowed here: cat")
    assert "blocked.rm" in await visit.page.inner_text("#live")
    await visit.state("ready")


@ONE_LOOP
async def test_what_reorders_a_line_is_shown_and_not_obeyed(tab: Tab, server: Server) -> None:
    visit = await tab.open(login=account(server, "mirror"))
    await is_known(visit, "mirror · agent")
    await visit.type("echo '\u202etxt.exe\u2066'")
    await visit.sees("Refused by syntax.character")
    await visit.sees("$ echo '\ufffdtxt.exe\ufffd'")
    await visit.state("ready")
    await visit.page.click("#history")
    title = visit.page.locator("#history-list code").first
    await expect(title).to_have_text("echo '\ufffdtxt.exe\ufffd'", timeout=WAIT)


@ONE_LOOP
async def test_control_c_cancels(visit: Visit) -> None:
    await visit.type("pyguard sleep 600")
    await visit.state("running")
    await visit.page.press("#line", "Control+c")
    await visit.sees("Cancelled after")
    await visit.state("ready")
    wait_until(lambda: not processes_of(visit.server, "sleep 600"), "the command to be gone")


@ONE_LOOP
async def test_the_stop_button_cancels(visit: Visit) -> None:
    await visit.type("pyguard sleep 600")
    await visit.page.wait_for_selector("#stop:not([hidden])")
    await visit.state("running")
    await visit.page.click("#stop")
    await visit.sees("Cancelled after")


@ONE_LOOP
async def test_input_goes_to_the_command_and_control_d_ends_it(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    await visit.type("first line")
    await visit.page.press("#line", "Control+d")
    await visit.state("ready")
    await visit.shows(lambda text: text.count("first line") == 2)


@ONE_LOOP
async def test_a_running_command_survives_a_reload(visit: Visit) -> None:
    await visit.type(counter(visit.server))
    await visit.sees("step 10")
    await visit.page.reload()
    await visit.sees("step 40")
    await visit.state("ready")
    await visit.shows(lambda text: steps(text) == list(range(1, 41)) and text.count("counter.sh") == 1)


@ONE_LOOP
async def test_a_cut_connection_comes_back_and_goes_on(visit: Visit) -> None:
    await visit.type(counter(visit.server))
    await visit.sees("step 5")
    await visit.page.evaluate("gatepostCut()")
    await visit.state("offline")
    await visit.sees("step 40")
    await visit.state("ready")
    await visit.shows(lambda text: steps(text) == list(range(1, 41)))


@ONE_LOOP
async def test_output_is_text_and_never_markup(visit: Visit) -> None:
    markup = "<img src=x onerror=alert(1)>"
    (visit.server.workspace / "markup.txt").write_text(f"{markup}\n")
    await visit.type("cat markup.txt")
    await visit.sees(markup)
    assert await visit.page.locator("#screen img").count() == 0


@ONE_LOOP
async def test_a_screen_reader_finds_the_rows_of_the_terminal(visit: Visit) -> None:
    tree = visit.page.locator("#screen .xterm-accessibility-tree")
    await visit.page.check("#reader")
    await visit.type("echo '<b>read</b>' out")
    await expect(tree).to_contain_text("✓ Done in", timeout=WAIT)
    found = [row.replace("\xa0", " ").rstrip() for row in await tree.locator("> div").all_inner_texts()]
    assert found == await visit.rows()
    assert found[:2] == ["$ echo '<b>read</b>' out", "<b>read</b> out"]
    await visit.page.reload()
    await expect(tree).to_be_attached(timeout=WAIT)


@ONE_LOOP
async def test_arrows_walk_through_the_history(visit: Visit) -> None:
    for command in ("echo one", "echo two"):
        await visit.type(command)
        await visit.sees(command)
        await visit.state("ready")
    await visit.page.fill("#line", "draft")
    values = []
    for key in ("ArrowUp", "ArrowUp", "ArrowDown", "ArrowDown"):
        await visit.page.press("#line", key)
        values.append(await visit.page.input_value("#line"))
    assert values == ["echo two", "echo one", "echo two", "draft"]


@ONE_LOOP
async def test_clear_empties_the_screen_without_asking_the_server(visit: Visit) -> None:
    await visit.type("echo remember me")
    await visit.sees("remember me")
    await visit.state("ready")
    await visit.type("clear")
    await visit.shows(lambda text: "remember me" not in text)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def description(browser: Browser, server: Server) -> AsyncIterator[Visit]:
    """The page with the description of the API, which takes seconds to render."""
    context = await new_context(browser)
    visit = await new_visit(context, server)
    await visit.page.goto(f"{server.url}/docs")
    await visit.page.wait_for_selector(".opblock", timeout=2 * WAIT)
    yield visit
    visit.is_clean()
    await context.close()


@ONE_LOOP
async def test_the_description_of_the_api_fits_a_phone(description: Visit) -> None:
    await description.page.set_viewport_size({"width": 360, "height": 740})
    assert await description.page.evaluate("document.documentElement.scrollWidth") <= 360


@ONE_LOOP
async def test_the_description_of_the_api_renders_and_a_token_tries_it_out(description: Visit) -> None:
    token = account(description.server, "docs-reader")
    page = description.page
    await page.set_viewport_size({"width": 1280, "height": 720})
    paths = description.server.get("/openapi.json").json["paths"]
    assert await page.locator(".opblock").count() == sum(map(len, paths.values()))
    await page.click("button.authorize")
    await page.fill(".modal-ux input", token)
    await page.click(".modal-ux button.authorize")
    await page.click(".modal-ux .btn-done")
    await page.click("#operations-login-me_api_auth_me_get .opblock-summary-control")
    await page.click(".try-out__btn")
    await page.click("button.execute")
    await page.get_by_text('"name": "docs-reader"').first.wait_for(timeout=WAIT)
    description.is_clean()


@pytest.mark.parametrize(("width", "height"), [(320, 640), (360, 740), (820, 1180), (1920, 1080)])
@ONE_LOOP
async def test_the_page_fits_every_width(tab: Tab, width: int, height: int) -> None:
    visit = await tab.open(width, height)
    await visit.type("help")
    await visit.sees("Commands:")
    assert await visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert await visit.page.evaluate("document.documentElement.scrollHeight") <= height
    box = await visit.page.locator("#send").bounding_box()
    assert box
    assert box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= height


@ONE_LOOP
async def test_dark_and_light_follow_the_system_and_the_switch(browser: Browser, server: Server) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("dark", "light"):
        context = await new_context(browser, color_scheme=scheme)
        visit = await open_page(context, server)
        seen[scheme] = await visit.page.evaluate(ground)
        await visit.page.select_option("#theme", "light" if scheme == "dark" else "dark")
        seen[f"switched from {scheme}"] = await visit.page.evaluate(ground)
        await context.close()
    assert seen["dark"] == seen["switched from light"] != seen["light"] == seen["switched from dark"]


@ONE_LOOP
async def test_a_server_with_a_token_asks_for_it(browser: Browser, start_server: StartServer) -> None:
    server = start_server({"GATEPOST_ACCESS_TOKEN": "a token of the page tests"})
    context = await new_context(browser)
    page = await context.new_page()
    await page.goto(server.url)
    await page.wait_for_selector("#token-dialog[open]", timeout=WAIT)
    await page.fill("#token", "not this one, surely")
    await page.press("#token", "Enter")
    await page.get_by_text("That token was not accepted.").wait_for(timeout=WAIT)
    await page.fill("#token", "a token of the page tests")
    await page.press("#token", "Enter")
    await page.wait_for_selector("#state[data-state=ready]", timeout=WAIT)
    await context.close()


@ONE_LOOP
async def test_a_login_link_logs_in_once_and_leaves_no_trace(browser: Browser, server: Server, ann: str) -> None:
    link = cli(server, "user", "link", "ann")
    ticket = link.partition("#login=")[2]
    context = await new_context(browser)
    visit = await new_visit(context, server)
    sent: list[str] = []
    visit.page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(str(text))) and None)
    await visit.page.goto(link)
    await is_known(visit, "ann · agent")
    assert visit.page.url == f"{server.url}/"
    token = await kept_login(visit)
    assert json.loads(sent[0]) == {"type": "auth", "token": token}
    stored = await visit.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert ticket not in stored
    assert token not in await visit.page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    await visit.page.reload()
    await is_known(visit, "ann · agent")
    assert await kept_login(visit) == token
    visit.is_clean()

    elsewhere = await new_context(browser)
    other = await new_visit(elsewhere, server)
    await other.page.goto(link)
    await other.page.get_by_text("This login link was used before").wait_for(timeout=WAIT)
    await is_visitor(other)
    assert other.page.url == f"{server.url}/"
    await other.page.click("#notice-close")
    assert not await other.page.is_visible("#notice")
    await elsewhere.close()
    await context.close()


@ONE_LOOP
async def test_a_login_link_works_in_a_page_that_is_open(visit: Visit, ann: str) -> None:
    await visit.page.goto(cli(visit.server, "user", "link", "ann"))  # only the fragment changes: no load
    await is_known(visit, "ann · agent")
    assert visit.page.url == f"{visit.server.url}/"


@ONE_LOOP
async def test_the_form_logs_in_by_keyboard_alone(visit: Visit, ann: str) -> None:
    await visit.page.focus("#log-in")
    await visit.page.keyboard.press("Enter")
    await visit.page.keyboard.type("ann")
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.type(PASSWORD)
    await visit.page.keyboard.press("Enter")
    await is_known(visit, "ann · agent")
    assert await visit.page.evaluate("document.activeElement.id") == "line"
    assert await visit.page.input_value("#login-password") == ""
    await visit.page.keyboard.type("echo typed on")
    await visit.page.keyboard.press("Enter")
    await visit.shows(lambda text: text.count("typed on") == 2)


@ONE_LOOP
async def test_a_wrong_password_is_answered_kindly(tab: Tab, ann: str) -> None:
    visit = await tab.open()
    await log_in(visit, "ann", "not this one")
    await visit.page.get_by_text("The name or the password is wrong.").wait_for(timeout=WAIT)
    assert await visit.page.evaluate("document.activeElement.id") == "login-password"
    await visit.page.keyboard.press("Escape")
    await is_visitor(visit)


@ONE_LOOP
async def test_logging_out_ends_the_token_and_empties_the_page(visit: Visit, ann: str) -> None:
    await log_in(visit, "ann")
    await is_known(visit, "ann · agent")
    token = await kept_login(visit)
    bearer = {"Authorization": f"Bearer {token}"}
    assert visit.server.get("/api/auth/me", bearer).json["name"] == "ann"
    await visit.type("echo only for ann")
    await visit.sees("only for ann")
    await visit.state("ready")
    await visit.page.click("#log-out")
    await visit.page.get_by_text("You are logged out.").wait_for(timeout=WAIT)
    await is_visitor(visit)
    await visit.shows(lambda text: "only for ann" not in text)
    await visit.page.press("#line", "ArrowUp")
    assert await visit.page.input_value("#line") == ""
    for _ in range(WAIT // 50):
        if visit.server.get("/api/auth/me", bearer).status == 401:
            break
        await visit.page.wait_for_timeout(50)
    assert visit.server.get("/api/auth/me", bearer).status == 401
    assert "only for ann" not in await visit.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")


@ONE_LOOP
async def test_an_account_that_is_closed_goes_back_to_visitor_with_a_notice(visit: Visit) -> None:
    account(visit.server, "leaver")
    await log_in(visit, "leaver")
    await is_known(visit, "leaver · agent")
    cli(visit.server, "user", "disable", "leaver")
    await visit.page.get_by_text("You are logged out. Your token has expired or been revoked.").wait_for(timeout=WAIT)
    await is_visitor(visit)
    await visit.type("echo still here")
    await visit.sees("still here")


@ONE_LOOP
async def test_commands_run_in_the_project_that_is_chosen(visit: Visit, ann: str) -> None:
    made = make_project(visit.server, ann, "Shop <b>front</b>")
    await log_in(visit, "ann")
    await is_known(visit, "ann · agent")
    await visit.page.wait_for_selector("#project-label:not([hidden])", timeout=WAIT)
    assert await visit.page.locator("#project b").count() == 0
    await visit.page.select_option("#project", label="Shop <b>front</b>")
    await visit.type("echo made here > made.txt")
    await visit.state("ready")
    wait_until(lambda: (visit.server.data_dir / "projects" / made / "made.txt").exists(), "the file in the project")
    await visit.page.reload()
    await is_known(visit, "ann · agent")
    await visit.page.wait_for_selector("#project-label:not([hidden])", timeout=WAIT)
    await visit.type("cat made.txt")
    await visit.sees("made here")
    await visit.page.select_option("#project", label="none")
    await visit.type("cat made.txt")
    await visit.sees("No such file")


@ONE_LOOP
async def test_a_server_without_visitors_lets_one_log_in(browser: Browser, start_server: StartServer) -> None:
    server = start_server({"GATEPOST_VISITORS": "false"})
    token = account(server, "ann")
    context = await new_context(browser)
    visit = await new_visit(context, server)
    await visit.page.goto(server.url)
    await visit.page.wait_for_selector("#login-dialog[open]", timeout=WAIT)  # there is no access token to ask for
    await visit.page.fill("#login-name", "ann")
    await visit.page.fill("#login-password", PASSWORD)
    await visit.page.click("#login-send")
    await is_known(visit, "ann · agent")
    await visit.page.click("#log-out")
    await visit.page.click("#login-token")
    # The token of a program works too; leaving the page does not end it.
    await visit.page.fill("#token", token)
    await visit.page.press("#token", "Enter")
    await is_known(visit, "ann · agent")
    await visit.page.click("#log-out")
    await visit.page.wait_for_selector("#login-dialog[open]", timeout=WAIT)
    assert server.get("/api/auth/me", {"Authorization": f"Bearer {token}"}).status == 200
    await context.close()


@ONE_LOOP
async def test_between_sending_and_the_answer_the_page_says_that_it_was_sent(held: tuple[Visit, Held]) -> None:
    visit, socket = held
    await visit.type("echo at last")
    await visit.state("sent")
    assert "Sent" in await visit.page.inner_text("#state-text")
    await visit.type("too early")
    assert await visit.page.input_value("#line") == "too early"  # nothing could read it yet
    socket.let_go.set()
    await visit.sees("at last")
    await visit.state("ready")


@ONE_LOOP
async def test_stop_before_the_start_cancels_as_soon_as_it_starts(held: tuple[Visit, Held]) -> None:
    visit, socket = held
    await visit.type("pyguard sleep 601")
    await visit.state("sent")
    await visit.page.click("#stop")
    assert "Stops" in await visit.page.inner_text("#state-text")
    assert [message["type"] for message in socket.sent] == ["run"]
    socket.let_go.set()
    await visit.sees("Cancelled after")
    await visit.state("ready")
    assert [message["type"] for message in socket.sent] == ["run", "cancel"]
    wait_until(lambda: not processes_of(visit.server, "sleep 601"), "the command to be gone")


@ONE_LOOP
async def test_a_refusal_forgets_the_stop(held: tuple[Visit, Held]) -> None:
    visit, socket = held
    socket.let_go.set()
    await visit.type("rm -rf /")
    await visit.sees("Refused by blocked.rm")
    await visit.state("ready")
    await visit.type("echo runs to its end")
    await visit.sees("runs to its end")
    assert "cancel" not in [message["type"] for message in socket.sent]


@ONE_LOOP
async def test_somebody_logged_in_is_not_ready_before_the_server_knows_who_it_is(
    browser: Browser, server: Server
) -> None:
    sockets: list[WebSocketRoute] = []

    def connect(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.on_message(lambda _: None)
        socket.send(json.dumps(READY))

    visit = await stage(browser, server, connect)
    await visit.page.wait_for_timeout(300)
    await visit.type("echo too early")
    await visit.sees("Not connected yet; nothing was sent.")
    sockets[0].send(json.dumps({**READY, "user": "ann", "profile": "agent"}))
    await is_known(visit, "ann · agent")
    await visit.page.context.close()


@ONE_LOOP
async def test_too_many_wrong_tokens_of_others_do_not_end_a_login(browser: Browser, server: Server) -> None:
    tries: list[str] = []
    refusal = {"type": "error", "rule": "auth.limited", "message": "", "reason": "Too many wrong tokens; wait 9 s."}

    def connect(socket: WebSocketRoute) -> None:
        async def said(text: str | bytes) -> None:
            tries.append(json.loads(text)["token"])
            if len(tries) == 1:
                socket.send(json.dumps(refusal))
                await socket.close(code=4001, reason="auth.limited")
            else:
                socket.send(json.dumps({**READY, "user": "ann", "profile": "agent"}))

        socket.on_message(said)

    visit = await stage(browser, server, connect)
    await is_known(visit, "ann · agent")
    assert tries == ["a token", "a token"]
    await visit.page.context.close()


UNPROTECTED = {
    "level": "L0",
    "minimum": "L2",
    "command": "python -m backend protection",
    "tests": [
        {"name": "read a file outside", "needed_for": "L2", "passed": False, "detail": "it was read"},
        {"name": "outlive the command", "needed_for": "L0", "passed": True, "detail": "it was ended"},
    ],
}


@ONE_LOOP
async def test_a_server_that_cannot_hold_commands_says_so_in_words(browser: Browser, server: Server) -> None:
    context = await new_context(browser, viewport={"width": 360, "height": 740})
    visit = await new_visit(context, server)
    await visit.page.route("**/health/protection", lambda route: route.fulfill(status=503, json=UNPROTECTED))
    await visit.page.goto(server.url)
    banner = visit.page.locator("#unprotected")
    await banner.wait_for(timeout=WAIT)
    text = await banner.inner_text()
    assert "No command can run at the moment." in text
    assert "at level L0; L2 is required" in text
    assert "Not prevented: read a file outside." in text
    assert "For details, run on the server: python -m backend protection" in text
    await expect(visit.page.locator("#state-text")).to_have_text("Connected, but no command can run", timeout=WAIT)
    assert await visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    await context.close()


@ONE_LOOP
async def test_a_refusal_for_want_of_protection_shows_the_reason(browser: Browser, server: Server) -> None:
    context = await new_context(browser)
    visit = await new_visit(context, server)
    reason = "Commands can be held at L0 here, L2 is required."

    def serve(socket: WebSocketRoute) -> None:
        refusal = {"type": "error", "rule": "protection.unavailable", "message": reason, "reason": reason}

        def answer(text: str | bytes) -> None:
            asked = json.loads(text)
            socket.send(json.dumps({**refusal, "command": asked["command"], "id": asked["id"]}))

        socket.on_message(answer)
        socket.send(json.dumps({"type": "ready", "message": "", "service": "", "version": "", "profile": "terminal"}))

    await visit.page.route_web_socket("**/ws/terminal", serve)
    await visit.page.goto(server.url)
    await visit.state("ready")
    assert not await visit.page.is_visible("#unprotected")
    await visit.type("ls")
    await visit.page.locator("#unprotected", has_text=reason).wait_for(timeout=WAIT)
    await visit.sees("Refused by protection.unavailable")
    await visit.state("ready")
    await context.close()


@pytest.mark.parametrize("mark", ["", "✅ ", "❌ "])
@ONE_LOOP
async def test_messages_look_the_same_with_and_without_the_mark_of_other_clients(
    browser: Browser, server: Server, mark: str
) -> None:
    started = {
        "execution": "E",
        "seq": 1,
        "ms": 0,
        "argv": ["ls"],
        "risk": "safe",
        "rule": "allow.ls",
        "dry_run": False,
    }

    def connect(socket: WebSocketRoute) -> None:
        def answer(text: str | bytes) -> None:
            asked = json.loads(text)
            if asked["type"] != "run":
                return
            socket.send(json.dumps({"type": "started", **started, "command": asked["command"], "id": asked["id"]}))
            problem = {"execution": "E", "seq": 2, "ms": 1, "rule": "limits.timeout", "message": f"{mark}Timed out."}
            socket.send(json.dumps({"type": "error", **problem}))
            socket.send(json.dumps({"type": "error", "rule": "limits.busy", "message": f"{mark}The server is busy."}))

        socket.on_message(answer)
        socket.send(json.dumps({**READY, "user": "ann", "profile": "agent"}))

    visit = await stage(browser, server, connect)
    await is_known(visit, "ann · agent")
    await visit.type("ls")
    await visit.sees("The server is busy.")
    assert [row for row in await visit.rows() if row] == [
        "$ ls",
        "Timed out.",
        "✕ Refused by limits.busy",
        "  The server is busy.",
    ]
    await visit.page.context.close()


@pytest.mark.parametrize(("width", "height"), [(320, 640), (360, 740), (1280, 900)])
@ONE_LOOP
async def test_the_page_fits_when_logged_in(tab: Tab, server: Server, ann: str, width: int, height: int) -> None:
    make_project(server, ann, "A project with quite a long name, as people give them to projects")
    visit = await tab.open(width, height, login=ann)
    await is_known(visit, "ann · agent")
    await visit.type("echo fits")
    await visit.sees("fits")
    if width < 620:
        await visit.page.click("#menu-button")
    await visit.page.wait_for_selector("#project-label:not([hidden])", timeout=WAIT)
    assert await visit.page.evaluate("document.documentElement.scrollWidth") <= width
    for id in ("who", "project", "log-out", "send"):
        box = await visit.page.locator(f"#{id}").bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
    screen = await visit.page.locator("#screen").bounding_box()
    assert screen
    assert screen["height"] > height / 3


@ONE_LOOP
async def test_no_line_runs_under_the_edge_of_the_terminal(visit: Visit) -> None:
    for width in (360, 1000):
        await visit.page.set_viewport_size({"width": width, "height": 900})
        await visit.type(f"echo {'x' * 400}")
        await visit.state("ready")
        await visit.sees("Done in")
        room = await visit.page.evaluate("document.querySelector('#screen').getBoundingClientRect().right")
        scrollbar = 10
        for row in await visit.page.locator("#screen .xterm-rows > div span").all():
            box = await row.bounding_box()
            assert box is None or box["x"] + box["width"] <= room - scrollbar


@ONE_LOOP
async def test_words_of_the_page_break_between_words(visit: Visit) -> None:
    await visit.page.set_viewport_size({"width": 360, "height": 1200})
    await visit.type("rm -rf /")
    await visit.sees("pyguard.")
    rows = await visit.rows()
    begin = next(at for at, row in enumerate(rows) if "Allowed here" in row)
    hint = rows[begin : begin + 2]
    assert all(row.startswith("  ") for row in hint)
    words = ["Allowed", "here:", "cat,", "clear,", "echo,", "help,", "ls,", "pwd,", "pyguard."]
    assert "  ".join(hint).split()[: len(words)] == words


@ONE_LOOP
async def test_the_end_of_a_command_tells_what_it_took_and_what_held_it(visit: Visit) -> None:
    level = visit.server.get("/health/protection").json["level"]
    await visit.type("pyguard sleep 0.01")
    await visit.shows(
        lambda text: re.search(
            rf"✓ Done in \d+ ms · CPU \d+ ms · [\d.]+ MiB · protection {level} · allow\.pyguard, \w+", text
        )
    )
    await visit.type("cat nope.txt")
    await visit.shows(
        lambda text: re.search(rf"✕ Failed: exit code 1 · CPU .* · protection {level} · allow\.cat, safe", text)
    )


@ONE_LOOP
async def test_a_line_is_checked_without_running_it(visit: Visit) -> None:
    (visit.server.workspace / "one two.txt").write_text("kept\n")
    await visit.page.fill("#line", "cat one*.txt")
    await visit.page.click("#check")
    await visit.sees("cat 'one two.txt'")
    await visit.sees("Allowed; nothing ran · allow.cat, safe")
    await visit.shows(lambda text: "kept" not in text)
    assert await visit.page.input_value("#line") == "cat one*.txt"
    await visit.page.fill("#line", "rm -rf /")
    await visit.page.press("#line", "Shift+Enter")
    await visit.sees("Refused by blocked.rm")
    await visit.state("ready")


@ONE_LOOP
async def test_tab_leaves_the_terminal_and_letters_typed_there_reach_the_prompt(visit: Visit) -> None:
    focused = "document.activeElement.id || document.activeElement.className"
    await visit.page.focus("#screen .xterm-helper-textarea")
    await visit.page.keyboard.press("Tab")
    assert "xterm" not in await visit.page.evaluate(focused)
    await visit.page.focus("#screen .xterm-helper-textarea")
    await visit.page.keyboard.type("echo typed blindly")
    assert await visit.page.evaluate(focused) == "line"
    assert await visit.page.input_value("#line") == "echo typed blindly"


@ONE_LOOP
async def test_page_up_scrolls_the_output_from_the_prompt(visit: Visit) -> None:
    await visit.type("pyguard seq 300")
    await visit.state("ready")
    await visit.sees("Done in")
    await visit.page.press("#line", "PageUp")
    await visit.shows(lambda text: "Done in" not in text)
    await visit.page.press("#line", "PageDown")
    await visit.sees("Done in")


@ONE_LOOP
async def test_a_project_is_made_in_the_page_and_commands_run_in_it(visit: Visit) -> None:
    token = account(visit.server, "maker")
    await log_in(visit, "maker")
    await is_known(visit, "maker · agent")
    await visit.page.click("#project-new")
    await visit.page.keyboard.type("  ")
    await visit.page.keyboard.press("Enter")
    await visit.page.locator("#project-problem", has_text="name").wait_for(timeout=WAIT)
    await visit.page.fill("#project-name", "Shop <i>two</i>")
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_selector("#project-label:not([hidden])", timeout=WAIT)
    await visit.page.wait_for_selector("#project-dialog", state="hidden", timeout=WAIT)
    made = visit.server.get("/api/projects", {"Authorization": f"Bearer {token}"}).json
    assert [project["name"] for project in made] == ["Shop <i>two</i>"]
    assert await visit.page.input_value("#project") == made[0]["id"]
    assert await visit.page.evaluate("document.activeElement.id") == "line"
    await visit.page.keyboard.type("echo here > made.txt")
    await visit.page.keyboard.press("Enter")
    await visit.sees("Done in")
    assert (visit.server.data_dir / "projects" / made[0]["id"] / "made.txt").exists()
    visit.complaints.clear()  # Chromium complains of the name that was refused


@ONE_LOOP
async def test_the_history_is_listed_opened_again_and_used_once_more(visit: Visit) -> None:
    account(visit.server, "looker")
    await log_in(visit, "looker")
    await is_known(visit, "looker · agent")
    for command, end in (("echo '<b>once</b>'", "Done in"), ("cat nope.txt", "exit code 1"), ("rm -rf /", "Refused")):
        await visit.type(command)
        await visit.sees(end)
        await visit.state("ready")
    await visit.page.click("#history")
    rows = visit.page.locator("#history-list li")
    await rows.nth(2).wait_for(timeout=WAIT)
    texts = await rows.all_inner_texts()
    assert [text.split("\n")[1] for text in texts] == ["rm -rf /", "cat nope.txt", "echo '<b>once</b>'"]
    assert "Refused · path.root, blocked" in texts[0]
    assert "Failed, exit code 1" in texts[1]
    assert await rows.nth(0).get_by_text("Open").count() == 0
    async with visit.page.expect_download() as saving:
        await visit.page.get_by_role("button", name="Save the output of echo").click()
    assert Path(await (await saving.value).path()).read_text() == "<b>once</b>\n"
    assert await visit.page.get_by_text("Save", exact=True).count() == 2
    await visit.page.select_option("#history-status", "failed")
    await expect(rows).to_have_count(1, timeout=WAIT)
    await visit.page.select_option("#history-status", "lost")
    await visit.page.get_by_text("Nothing here yet.").wait_for(timeout=WAIT)
    await visit.page.select_option("#history-status", "succeeded")
    await visit.page.get_by_role("button", name="Open echo").click()
    await visit.shows(lambda text: text.count("$ echo '<b>once</b>'") == 2 and text.count("✓ Done in") == 2)
    await visit.state("ready")
    assert await visit.page.evaluate("document.activeElement.id") == "line"
    await visit.page.click("#history")
    await visit.page.get_by_role("button", name="Use again cat nope.txt").click()
    assert await visit.page.input_value("#line") == "cat nope.txt"
    await visit.type("cat")
    await visit.state("running")
    await visit.page.click("#history")
    await visit.page.get_by_role("button", name="Use again cat nope.txt").click()
    await visit.page.get_by_text("Wait until the running command has ended").wait_for(timeout=WAIT)
    await expect(rows).to_have_count(4)
    assert await visit.page.input_value("#line") == ""
    await visit.page.keyboard.press("Escape")
    await visit.page.click("#stop")
    await visit.state("ready")
    await visit.page.click("#log-out")
    await is_visitor(visit)
    assert await visit.page.locator("#history-list li").count() == 0


@ONE_LOOP
async def test_a_long_history_comes_in_pages(visit: Visit, ann: str) -> None:
    entry = {
        "command": "ls",
        "status": "succeeded",
        "exit_code": 0,
        "duration_ms": 1,
        "rule": "allow.ls",
        "risk_level": "safe",
        "dry_run": False,
        "created_at": "2026-11-21T12:00:00.000Z",
    }
    asked: list[str] = []

    async def answer(route: Route) -> None:
        asked.append(route.request.url.partition("?")[2])
        first = len(asked) == 1
        await route.fulfill(
            json={"executions": [{**entry, "id": str(len(asked))}], "next_before": "1" if first else None}
        )

    await visit.page.route("**/api/executions?*", answer)
    await visit.page.evaluate(f"sessionStorage.setItem('gatepost.login', '\"{ann}\"')")
    await visit.page.reload()
    await is_known(visit, "ann · agent")
    await visit.page.click("#history")
    await visit.page.click("#history-more")
    await expect(visit.page.locator("#history-list li")).to_have_count(2, timeout=WAIT)
    assert asked == ["limit=30", "before=1&limit=30"]
    assert not await visit.page.is_visible("#history-more")
    await visit.page.keyboard.press("Escape")
    assert await visit.page.evaluate("document.activeElement.id") == "history"


@ONE_LOOP
async def test_nothing_moves_on_a_phone_while_a_command_runs(tab: Tab) -> None:
    visit = await tab.open(360, 740)
    boxes = "['menu-button', 'screen', 'line'].map((id) => JSON.stringify(document.getElementById(id).getBoundingClientRect()))"
    await visit.type("echo first")
    await visit.state("ready")
    before = await visit.page.evaluate(boxes)
    await visit.type("pyguard bash -c 'sleep 600; echo a long line that does not fit beside the name'")
    await visit.state("running")
    assert await visit.page.evaluate(boxes) == before
    assert re.match(r"Running \d+ s", await visit.page.inner_text("#state-text"))
    await visit.page.click("#stop")
    await visit.state("ready")


@ONE_LOOP
async def test_a_phone_shows_when_the_next_attempt_to_connect_comes(browser: Browser, server: Server) -> None:
    context = await new_context(browser, viewport={"width": 360, "height": 740})
    visit = await new_visit(context, server)
    await visit.page.route_web_socket("**/ws/terminal", lambda socket: socket.close())
    await visit.page.goto(server.url)
    words = visit.page.locator("#state-text", has_text=re.compile(r"Reconnecting in \d+ s"))
    await words.wait_for(timeout=WAIT)
    assert await words.evaluate("(box) => box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight")
    await context.close()


@ONE_LOOP
async def test_lines_that_are_pasted_are_not_joined_to_another_command(visit: Visit) -> None:
    await visit.page.fill("#line", "echo ")
    await paste(visit, "one\r\nrm two\r\n")
    assert await visit.page.input_value("#line") == "echo one"
    await visit.page.get_by_text("The first of the 2 pasted lines is in the prompt").wait_for(timeout=WAIT)
    await visit.type("cat")
    await visit.state("running")
    await paste(visit, "first\nsecond\nthird")
    await visit.shows(lambda text: text.count("first") == 2 and text.count("second") == 2)
    assert await visit.page.input_value("#line") == "third"
    await visit.page.click("#stop")
    await visit.state("ready")


@ONE_LOOP
async def test_an_account_that_is_closed_leaves_no_dialog_open(tab: Tab, server: Server) -> None:
    visit = await tab.open(login=account(server, "passer"))
    await is_known(visit, "passer · agent")
    await visit.page.click("#history")
    cli(visit.server, "user", "disable", "passer")
    await visit.page.get_by_text("You are logged out.").wait_for(timeout=WAIT)
    assert await visit.page.locator("dialog[open]").count() == 0


def luminance(colour: str) -> float:
    """Of `#rrggbb`, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(scheme: int) -> None:
    style = (ROOT / "frontend/style.css").read_text()
    pairs = re.findall(r"--([a-z-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    light = {name: luminance(both[scheme]) for name, *both in pairs}

    def contrast(one: str, other: str) -> float:
        darker, lighter = sorted((light[one], light[other]))
        return (lighter + 0.05) / (darker + 0.05)

    for ground in ("ground", "panel"):
        for text in ("ink", "soft", "accent", "amber", "red"):
            assert contrast(text, ground) >= 4.5, (text, ground)
        assert contrast("field", ground) >= 3, ground
    assert contrast("on-accent", "accent") >= 4.5
