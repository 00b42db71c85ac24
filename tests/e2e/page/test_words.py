"""What the page says, when, and how often."""

import json
import re

from playwright.async_api import Browser, WebSocketRoute, expect

from tests.conftest import StartServer
from tests.e2e.page.visits import ONE_LOOP, READY, WAIT, Visit, new_context, new_visit, open_page
from tests.serving import Server

STARTED = {"type": "started", "execution": "E", "seq": 1, "ms": 0, "argv": ["cat"], "risk": "safe", "rule": "allow.cat"}
COMPLETE = {"type": "complete", "execution": "E", "seq": 2, "ms": 5, "status": "succeeded", "duration_ms": 5}
LATE = {
    "type": "error",
    "rule": "execution.not_running",
    "message": "No such command is running.",
    "reason": "No such command is running.",
}
DRAWN_WHEN_READY = """
  new Promise((done) => new MutationObserver(() => {
    if (document.querySelector("#state").dataset.state !== "ready") return;
    done(document.querySelector("#screen .xterm-rows").innerText.includes("Done in"));
  }).observe(document.querySelector("#state"), { attributes: true }))
"""


@ONE_LOOP
async def test_a_stop_that_comes_too_late_is_no_refusal_and_input_that_does_is_told(
    browser: Browser, server: Server
) -> None:
    """The server's end of the command and the instruction to it pass each other."""
    context = await new_context(browser)
    visit = await new_visit(context, server)

    def connect(socket: WebSocketRoute) -> None:
        def answer(text: str | bytes) -> None:
            asked = json.loads(text)
            if asked["type"] == "run":
                socket.send(json.dumps({**STARTED, "command": asked["command"], "id": asked["id"], "dry_run": False}))
            else:
                socket.send(json.dumps(LATE))
                socket.send(json.dumps(COMPLETE))

        socket.on_message(answer)
        socket.send(json.dumps(READY))

    await visit.page.route_web_socket("**/ws/terminal", connect)
    await visit.page.goto(server.url)
    await visit.state("ready")
    for key in ("Control+c", "Control+d"):
        await visit.type("cat")
        await visit.state("running")
        await visit.page.press("#line", key)
        await visit.state("ready")
    await visit.shows(lambda text: text.count("Done in") == 2 and "Refused" not in text and "last input" not in text)
    await visit.type("cat")
    await visit.state("running")
    await visit.type("too late")
    await visit.sees("The command ended before it read the last input.")
    await visit.shows(lambda text: "Refused" not in text)
    await context.close()


@ONE_LOOP
async def test_ready_is_said_when_the_output_is_on_the_screen(visit: Visit) -> None:
    drawn = await visit.page.evaluate_handle(f"({{ answer: {DRAWN_WHEN_READY} }})")
    await visit.type("pyguard seq 200000")
    assert await drawn.evaluate("(box) => box.answer")


@ONE_LOOP
async def test_a_timeout_is_told_once_and_sizes_are_told_in_units(browser: Browser, start_server: StartServer) -> None:
    server = start_server({"GATEPOST_COMMAND_TIMEOUT": "1", "GATEPOST_OUTPUT_LIMIT": "65536"})
    context = await new_context(browser, viewport={"width": 1000, "height": 1200})
    visit = await open_page(context, server)
    await visit.type("pyguard sleep 60")
    await visit.sees(re.compile(r"Stopped after 1\.\d s"))
    await visit.shows(lambda text: text.count("Timed out") == 1)
    await visit.type("pyguard yes")
    await visit.sees("Output over 64 KiB; the command was stopped.")
    await context.close()


@ONE_LOOP
async def test_an_account_only_server_offers_the_login_and_a_token_server_asks_for_the_token(
    browser: Browser, start_server: StartServer
) -> None:
    for env, dialog in (
        ({"GATEPOST_VISITORS": "false"}, "#login-dialog[open]"),
        ({"GATEPOST_ACCESS_TOKEN": "a token of the page tests"}, "#token-dialog[open]"),
    ):
        server = start_server(env)
        context = await new_context(browser)
        visit = await new_visit(context, server)
        await visit.page.goto(server.url)
        await visit.page.wait_for_selector(dialog, timeout=WAIT)
        await context.close()
        server.stop()


@ONE_LOOP
async def test_checks_do_not_use_up_the_commands_and_what_is_left_is_shown(
    browser: Browser, start_server: StartServer
) -> None:
    server = start_server({"GATEPOST_COMMAND_RATE": "2/minute", "GATEPOST_CHECK_RATE": "5/minute"})
    context = await new_context(browser, viewport={"width": 1000, "height": 1200})
    visit = await open_page(context, server)
    state = visit.page.locator("#state-text")
    await expect(state).to_have_text("Ready", timeout=WAIT)
    await visit.page.fill("#line", "pwd")
    for _ in range(4):
        await visit.page.press("#line", "Shift+Enter")
        await visit.state("ready")
    await expect(state).to_have_text(re.compile(r"Ready · 1 of 5 checks left, one more in \d+ s"), timeout=WAIT)
    for _ in range(3):
        await visit.type("pwd")
        await visit.state("ready")
    await expect(state).to_have_text(re.compile(r"Ready · 0 of 2 commands left, one more in \d+ s"), timeout=WAIT)
    await visit.sees("Too many commands: 2 in a minute are allowed.")
    await context.close()
