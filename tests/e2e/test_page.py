"""The page in a real browser: Debian's Chromium, driven by Playwright, against a real server."""

import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.conftest import StartServer
from tests.needs import need
from tests.serving import Server, processes_of, wait_until

CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
COUNTER = "for n in $(seq 40); do echo step $n; sleep 0.1; done\n"
WAIT = 10_000  # ms
# Sockets can be closed from the test, as when a network drops them.
CUTTABLE = """
  window.WebSocket = class extends WebSocket {
    constructor(...args) { super(...args); window.gatepostCut = () => this.close(); }
  };
"""
PASTE = """(text) => {
  const clipboardData = new DataTransfer();
  clipboardData.setData("text/plain", text);
  document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""
STORAGE_REFUSED = """
  for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, { get() { throw new DOMException("refused", "SecurityError"); } });
  }
"""
# The longest time in which the page did not come to run anything, in ms.
GAPS = """
  window.longestGap = 0;
  let before = performance.now();
  setInterval(() => {
    const now = performance.now();
    window.longestGap = Math.max(window.longestGap, now - before);
    before = now;
  }, 20);
"""


@dataclass
class Visit:
    """A page that is open, and what it complained about."""

    page: Page
    server: Server
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    sent: list[dict[str, str]] = field(default_factory=list)

    async def type(self, command: str) -> None:
        await self.page.fill("#line", command)
        await self.page.press("#line", "Enter")

    async def shows(self, wanted: Callable[[str], object]) -> None:
        """Wait until the terminal, as a screen reader finds it, holds what is wanted. The view follows with a delay."""
        text = ""
        for _ in range(WAIT // 50):
            text = await self.page.inner_text("#screen .xterm-accessibility-tree")
            if wanted(text):
                return
            await self.page.wait_for_timeout(50)
        raise AssertionError(text)

    async def sees(self, text: str) -> None:
        tree = self.page.locator("#screen .xterm-accessibility-tree", has_text=text)
        await tree.wait_for(state="attached", timeout=WAIT)

    async def state(self, name: str) -> None:
        await self.page.wait_for_selector(f"#state[data-state={name}]", timeout=WAIT)

    async def prompt_holds(self, text: str) -> None:
        await expect(self.page.locator("#line")).to_have_value(text, timeout=WAIT)

    async def paste(self, text: str) -> None:
        await self.page.evaluate(PASTE, text)

    def watch(self) -> None:
        """Collect what the page complains of, whom it asks and what it says on the socket."""
        page = self.page
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: self.sent.append(json.loads(frame))))


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    need(Path(CHROMIUM).exists(), "chromium (apt-get install chromium, or CHROMIUM_PATH)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


async def open_page(context: BrowserContext, server: Server) -> Visit:
    """Open the page with the terminal's text readable, and collect complaints and hosts."""
    await context.add_init_script("localStorage.setItem('gatepost.reader', 'true')")
    await context.add_init_script(CUTTABLE)
    visit = Visit(await context.new_page(), server)
    visit.watch()
    await visit.page.goto(server.url)
    await visit.state("ready")
    return visit


@pytest.fixture
async def visit(browser: Browser, server: Server) -> AsyncIterator[Visit]:
    """The page, high enough for every line of these tests; at the end it must have complained of nothing and asked no other host."""
    context = await browser.new_context(viewport={"width": 1000, "height": 1600})
    visit = await open_page(context, server)
    yield visit
    assert visit.complaints == []
    assert visit.hosts == {f"127.0.0.1:{server.port}"}
    await context.close()


async def test_help_and_ls_run(visit: Visit) -> None:
    await visit.type("help")
    await visit.sees("Show what may be run here")
    await visit.type("ls")
    await visit.sees("welcome.txt")


async def test_the_end_of_a_command_is_told_when_it_failed(visit: Visit) -> None:
    await visit.type("ls nothing-of-this-name")
    await visit.sees("No such file or directory")
    await visit.sees("Failed: exit code 2")


async def test_an_example_runs_at_a_click(visit: Visit) -> None:
    await visit.page.click("button[data-command=help]")
    await visit.sees("Show what may be run here")
    assert not await visit.page.is_visible("#welcome")


async def test_a_refused_command_shows_rule_reason_and_what_is_allowed(visit: Visit) -> None:
    await visit.type("rm -rf /")
    await visit.sees("Refused by blocked.rm")
    await visit.sees("it deletes files")
    await visit.sees("Allowed here: cat")
    assert "blocked.rm" in await visit.page.inner_text("#live")
    await visit.state("refused")
    assert await visit.page.inner_text("#state-text") == "Refused by blocked.rm"


async def test_control_c_cancels(visit: Visit) -> None:
    await visit.type("pyguard sleep 600")
    await visit.state("running")
    await visit.page.press("#line", "Control+c")
    await visit.sees("Cancelled after")
    await visit.state("ready")
    wait_until(lambda: not processes_of(visit.server, "sleep 600"), "the command to be gone")


async def test_the_stop_button_cancels(visit: Visit) -> None:
    await visit.type("pyguard sleep 600")
    await visit.page.wait_for_selector("#stop:not([hidden])")
    await visit.state("running")
    await visit.page.click("#stop")
    await visit.sees("Cancelled after")


async def test_control_c_works_wherever_the_focus_is(visit: Visit) -> None:
    await visit.type("pyguard sleep 600")
    await visit.state("running")
    await visit.page.focus("#send")
    await visit.page.keyboard.press("Control+c")
    await visit.sees("Cancelled after")


async def test_control_c_copies_what_is_selected(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    await visit.page.fill("#line", "selected")
    await visit.page.press("#line", "Control+a")
    await visit.page.press("#line", "Control+c")
    await visit.page.press("#line", "Control+d")
    await visit.state("ready")
    assert [message["type"] for message in visit.sent] == ["run", "stdin_close"]


async def test_typing_over_the_output_goes_to_the_prompt(visit: Visit) -> None:
    await visit.type("echo something")
    await visit.sees("something")
    await visit.page.focus("#screen textarea")
    await visit.page.keyboard.type("echo more")
    await visit.prompt_holds("echo more")


async def test_tab_leads_through_the_output(visit: Visit) -> None:
    await visit.type("echo something")
    await visit.state("ready")
    await visit.page.focus("#screen textarea")
    await visit.page.keyboard.press("Tab")
    assert await visit.page.evaluate("document.activeElement.id") == "line"


async def test_input_goes_to_the_command_and_control_d_ends_it(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    await visit.type("first line")
    await visit.page.press("#line", "Control+d")
    await visit.state("ready")
    await visit.shows(lambda text: text.count("first line") == 2)


async def test_pasted_lines_are_input_line_by_line(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    await visit.page.focus("#line")
    await visit.paste("one\r\ntwo\nrest")
    await visit.prompt_holds("rest")
    await visit.page.press("#line", "Control+d")
    await visit.state("ready")
    assert [message["data"] for message in visit.sent if message["type"] == "stdin"] == ["one\n", "two\n"]


async def test_pasted_lines_are_one_command(visit: Visit) -> None:
    await visit.paste("echo one\ntwo\n")
    await visit.prompt_holds("echo one two")
    assert visit.sent == []


def counter(server: Server) -> str:
    (server.workspace / "counter.sh").write_text(COUNTER)
    return "pyguard bash counter.sh"


def steps(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("step ")]


async def test_a_running_command_survives_a_reload(visit: Visit) -> None:
    await visit.type(counter(visit.server))
    await visit.sees("step 10")
    await visit.page.reload()
    await visit.sees("step 40")
    await visit.state("ready")
    await visit.shows(lambda text: steps(text) == list(range(1, 41)) and text.count("counter.sh") == 1)


async def test_a_cut_connection_comes_back_and_goes_on(visit: Visit) -> None:
    await visit.type(counter(visit.server))
    await visit.sees("step 5")
    await visit.page.evaluate("gatepostCut()")
    await visit.state("offline")
    await visit.sees("step 40")
    await visit.state("ready")
    await visit.shows(lambda text: steps(text) == list(range(1, 41)))


async def test_input_that_cannot_be_sent_stays_in_the_prompt(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    await visit.page.evaluate("gatepostCut()")
    await visit.state("offline")
    await visit.type("kept")
    await visit.sees("Not connected; nothing was sent.")
    await visit.prompt_holds("kept")
    await visit.state("running")
    await visit.page.press("#line", "Enter")
    await visit.page.press("#line", "Control+d")
    await visit.state("ready")
    await visit.shows(lambda text: text.splitlines().count("kept") == 2)


async def test_a_server_that_falls_silent_counts_as_lost(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    context = await browser.new_context()
    await context.clock.install()
    visit = await open_page(context, server)
    await visit.type(counter(server))
    await visit.sees("step 5")
    server.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(3):  # quiet, asked, given up
            await context.clock.fast_forward(20_000)
        await visit.state("offline")
    finally:
        server.process.send_signal(signal.SIGCONT)
    await context.clock.fast_forward(20_000)
    await visit.sees("step 40")
    await visit.shows(lambda text: steps(text) == list(range(1, 41)))
    await context.close()


@pytest.mark.parametrize("kept", ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "not an id"])
async def test_an_execution_that_is_not_known_any_more_is_told_and_left(visit: Visit, kept: str) -> None:
    await visit.page.evaluate("(kept) => sessionStorage.setItem('gatepost.execution', JSON.stringify(kept))", kept)
    await visit.page.reload()
    await visit.sees("Refused by")
    await visit.type("echo goes on")
    await visit.shows(lambda text: "goes on" in text.splitlines())


async def test_a_million_lines_leave_the_page_responsive(browser: Browser, start_server: StartServer) -> None:
    visit = await open_page(await browser.new_context(), start_server({"GATEPOST_OUTPUT_LIMIT": str(2**24)}))
    await visit.page.uncheck("#reader")
    await visit.page.evaluate(GAPS)
    await visit.type("pyguard seq 1000000")
    await visit.page.wait_for_function("document.querySelector('.xterm-rows').textContent.includes('1000000')")
    assert await visit.page.evaluate("longestGap") < 500
    assert visit.complaints == []
    await visit.page.context.close()


async def test_output_is_text_and_never_markup(visit: Visit) -> None:
    markup = "<img src=x onerror=alert(1)>"
    (visit.server.workspace / "markup.txt").write_text(f"{markup}\n")
    await visit.type("cat markup.txt")
    await visit.sees(markup)
    assert await visit.page.locator("#screen img").count() == 0


async def test_output_cannot_speak_for_the_user(visit: Visit) -> None:
    """Questions that a terminal answers by itself: attributes, cursor position, size."""
    (visit.server.workspace / "asks.txt").write_text("\x1b[c\x1b[>c\x1b[6n\x1b[18t\x1b]10;?\x07asked\n")
    await visit.type("cat asks.txt")
    await visit.shows(lambda text: "asked" in text.splitlines())
    await visit.type("echo afterwards")
    await visit.shows(lambda text: "afterwards" in text.splitlines())
    assert [message["type"] for message in visit.sent] == ["run", "run"]


@pytest.mark.parametrize(
    "left_open", ["\x1b]0;title", "\x1bP", "\x1b[", "\x1b[?1049h", "\x1b[8m", "\x1b[41;31m", "\x1b(0"]
)
async def test_output_has_no_hold_on_what_follows(visit: Visit, left_open: str) -> None:
    (visit.server.workspace / "open.txt").write_text(f"before\n{left_open}")
    await visit.type("cat open.txt")
    await visit.state("ready")
    await visit.type("rm -rf /")
    await visit.sees("rm is blocked: it deletes files.")
    await visit.shows(lambda text: "before" in text)
    style = "getComputedStyle([...document.querySelectorAll('.xterm-rows span')].find((e) => /is blocked/.test(e.textContent)))"
    assert await visit.page.evaluate(f"{style}.visibility") == "visible"
    assert await visit.page.evaluate(f"{style}.backgroundColor") == "rgba(0, 0, 0, 0)"


async def test_a_line_without_an_end_stands_alone(visit: Visit) -> None:
    await visit.type("pyguard printf unended")
    await visit.sees("unended")
    await visit.state("ready")
    await visit.type("echo next")
    await visit.shows(lambda text: "unended" in text.splitlines() and "$ echo next" in text.splitlines())


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


async def test_the_history_outlives_the_page(visit: Visit) -> None:
    await visit.type("echo for later")
    await visit.sees("for later")
    await visit.page.reload()
    await visit.state("ready")
    await visit.page.press("#line", "ArrowUp")
    await visit.prompt_holds("echo for later")


@pytest.mark.parametrize("kept", ["null", "{}", "7", "not json", '[1, "ls"]'])
async def test_foreign_things_in_the_storage_do_no_harm(visit: Visit, kept: str) -> None:
    await visit.page.evaluate(
        "(kept) => ['history', 'theme'].map((key) => localStorage[`gatepost.${key}`] = kept)", kept
    )
    await visit.page.reload()
    await visit.state("ready")
    assert await visit.page.input_value("#theme") == "auto"


async def test_the_page_works_where_storage_is_refused(browser: Browser, server: Server) -> None:
    context = await browser.new_context()
    await context.add_init_script(STORAGE_REFUSED)
    visit = Visit(await context.new_page(), server)
    visit.watch()
    await visit.page.goto(server.url)
    await visit.state("ready")
    await visit.type("rm -rf /")
    await visit.state("refused")
    await visit.page.press("#line", "ArrowUp")
    await visit.prompt_holds("rm -rf /")
    assert visit.complaints == []
    await context.close()


async def test_clear_empties_the_screen_without_asking_the_server(visit: Visit) -> None:
    await visit.type("echo remember me")
    await visit.sees("remember me")
    await visit.state("ready")
    await visit.type("clear")
    await visit.shows(lambda text: "remember me" not in text)
    assert [message["command"] for message in visit.sent] == ["echo remember me"]


@pytest.mark.parametrize(("width", "height"), [(320, 640), (360, 740), (820, 1180), (1920, 1080)])
async def test_the_page_fits_every_width(browser: Browser, server: Server, width: int, height: int) -> None:
    context = await browser.new_context(viewport={"width": width, "height": height})
    visit = await open_page(context, server)
    # Every example can be reached before the first command.
    for button in await visit.page.locator("#welcome button").all():
        await button.click(trial=True, timeout=WAIT)
    await visit.type("help")
    await visit.sees("Commands:")
    assert await visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert await visit.page.evaluate("document.documentElement.scrollHeight") <= height
    box = await visit.page.locator("#send").bounding_box()
    assert box
    assert box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= height
    await context.close()


async def test_dark_and_light_follow_the_system_and_the_switch(browser: Browser, server: Server) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    seen = {}
    for scheme in ("dark", "light"):
        context = await browser.new_context(color_scheme=scheme)
        visit = await open_page(context, server)
        seen[scheme] = await visit.page.evaluate(ground)
        await visit.page.select_option("#theme", "light" if scheme == "dark" else "dark")
        seen[f"switched from {scheme}"] = await visit.page.evaluate(ground)
        await context.close()
    assert seen["dark"] == seen["switched from light"] != seen["light"] == seen["switched from dark"]


async def test_the_screen_reader_switch_lasts_and_states_are_spoken(browser: Browser, server: Server) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(server.url)
    assert await page.locator("#screen .xterm-accessibility").count() == 0
    await page.check("#reader")
    await page.reload()
    await expect(page.locator("#reader")).to_be_checked()
    await expect(page.locator("#live")).to_have_text("Connected")
    await page.fill("#line", "echo read me")
    await page.press("#line", "Enter")
    await expect(page.locator("#screen .xterm-accessibility [role=listitem]").nth(1)).to_have_text("read me")
    await expect(page.locator("#live")).to_have_text("Done")
    await context.close()


async def test_the_policy_of_the_page_is_sent_and_kept(visit: Visit) -> None:
    """Whatever it forbade would be among the complaints, which the fixture looks at."""
    policy = visit.server.get("/").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    await visit.type("help")
    await visit.sees("Commands:")


async def test_a_server_with_a_token_asks_for_it(browser: Browser, start_server: StartServer) -> None:
    server = start_server({"GATEPOST_ACCESS_TOKEN": "a token of the page tests"})
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(server.url)
    await page.wait_for_selector("#token-dialog[open]", timeout=WAIT)
    await page.fill("#token", "not this one, surely")
    await page.press("#token", "Enter")
    await expect(page.locator("#token-problem")).to_contain_text("wrong", timeout=WAIT)
    await page.keyboard.press("Escape")
    await page.fill("#line", "echo waits")
    await page.press("#line", "Enter")
    await page.wait_for_selector("#token-dialog[open]", timeout=WAIT)
    await page.fill("#token", "a token of the page tests")
    await page.press("#token", "Enter")
    await page.wait_for_selector("#state[data-state=ready]", timeout=WAIT)
    assert await page.input_value("#line") == "echo waits"
    assert await page.evaluate("Object.values(localStorage).join().includes('a token of')") is False
    await page.reload()
    await page.wait_for_selector("#state[data-state=ready]", timeout=WAIT)
    await context.close()
