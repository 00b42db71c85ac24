"""The page in a real browser: Debian's Chromium, driven by Playwright, against a real server."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.needs import need
from tests.serving import ROOT, Server, processes_of, wait_until

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
PASSWORD = "a password of the page tests"
# Sockets can be closed from the test, as when a network drops them.
CUTTABLE = """
  window.WebSocket = class extends WebSocket {
    constructor(...args) { super(...args); window.gatepostCut = () => this.close(); }
  };
"""


@dataclass
class Visit:
    """A page that is open, and what it complained about."""

    page: Page
    server: Server
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

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

    def is_clean(self) -> None:
        """Nothing was complained about, no other host was asked."""
        assert self.complaints == []
        assert self.hosts == {f"127.0.0.1:{self.server.port}"}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    need(Path(CHROMIUM).exists(), "chromium (apt-get install chromium, or CHROMIUM_PATH)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


async def open_page(context: BrowserContext, server: Server) -> Visit:
    """Open the page as a visitor."""
    visit = await new_visit(context, server)
    await visit.page.goto(server.url)
    await visit.state("ready")
    return visit


async def new_visit(context: BrowserContext, server: Server) -> Visit:
    """An empty page where the terminal's text will be readable; complaints and hosts are collected."""
    await context.add_init_script("localStorage.setItem('gatepost.reader', 'true')")
    await context.add_init_script(CUTTABLE)
    page = await context.new_page()
    visit = Visit(page, server)
    page.on("console", lambda message: visit.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", lambda request: visit.hosts.update(urlsplit(request.url).netloc.split() or ()))
    return visit


def cli(server: Server, *words: str, entered: str = "") -> str:
    """Run a verb of the command line on the data of a server; what it prints."""
    command = [sys.executable, "-m", "backend", *words, "--data-dir", str(server.data_dir)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": str(server.port)}
    done = subprocess.run(
        command, cwd=server.folder, env=env, input=entered, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def account(server: Server, name: str, *options: str) -> str:
    """Add an account; an API token of it."""
    cli(server, "user", "add", name, "--password-stdin", *options, entered=f"{PASSWORD}\n")
    return cli(server, "token", "create", "--user", name, "--name", "tests")


@pytest.fixture
async def visit(browser: Browser, server: Server) -> AsyncIterator[Visit]:
    """The page, high enough for every line of these tests; at the end it must have complained of nothing and asked no other host."""
    context = await browser.new_context(viewport={"width": 1000, "height": 1600})
    visit = await open_page(context, server)
    yield visit
    visit.is_clean()
    await context.close()


async def test_help_and_ls_run(visit: Visit) -> None:
    await visit.type("help")
    await visit.sees("Show what may be run here")
    await visit.type("ls")
    await visit.sees("welcome.txt")


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
    await visit.state("ready")


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


async def test_input_goes_to_the_command_and_control_d_ends_it(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    await visit.type("first line")
    await visit.page.press("#line", "Control+d")
    await visit.state("ready")
    await visit.shows(lambda text: text.count("first line") == 2)


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


async def test_output_is_text_and_never_markup(visit: Visit) -> None:
    markup = "<img src=x onerror=alert(1)>"
    (visit.server.workspace / "markup.txt").write_text(f"{markup}\n")
    await visit.type("cat markup.txt")
    await visit.sees(markup)
    assert await visit.page.locator("#screen img").count() == 0


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


async def test_clear_empties_the_screen_without_asking_the_server(visit: Visit) -> None:
    await visit.type("echo remember me")
    await visit.sees("remember me")
    await visit.state("ready")
    await visit.type("clear")
    await visit.shows(lambda text: "remember me" not in text)


async def test_the_description_of_the_api_renders_and_a_token_tries_it_out(browser: Browser, server: Server) -> None:
    token = account(server, "docs-reader")
    context = await browser.new_context()
    visit = await new_visit(context, server)
    page = visit.page
    await page.goto(f"{server.url}/docs")
    await page.wait_for_selector(".opblock", timeout=WAIT)
    paths = server.get("/openapi.json").json["paths"]
    assert await page.locator(".opblock").count() == sum(map(len, paths.values()))
    await page.click("button.authorize")
    await page.fill(".modal-ux input", token)
    await page.click(".modal-ux button.authorize")
    await page.click(".modal-ux .btn-done")
    await page.click("#operations-login-me_api_auth_me_get .opblock-summary-control")
    await page.click(".try-out__btn")
    await page.click("button.execute")
    await page.get_by_text('"name": "docs-reader"').first.wait_for(timeout=WAIT)
    visit.is_clean()
    await context.close()


async def test_the_description_of_the_api_fits_a_phone(browser: Browser, server: Server) -> None:
    context = await browser.new_context(viewport={"width": 360, "height": 740})
    visit = await new_visit(context, server)
    await visit.page.goto(f"{server.url}/docs")
    await visit.page.wait_for_selector(".opblock", timeout=WAIT)
    assert await visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    visit.is_clean()
    await context.close()


@pytest.mark.parametrize(("width", "height"), [(320, 640), (360, 740), (820, 1180), (1920, 1080)])
async def test_the_page_fits_every_width(browser: Browser, server: Server, width: int, height: int) -> None:
    context = await browser.new_context(viewport={"width": width, "height": height})
    visit = await open_page(context, server)
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
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("dark", "light"):
        context = await browser.new_context(color_scheme=scheme)
        visit = await open_page(context, server)
        seen[scheme] = await visit.page.evaluate(ground)
        await visit.page.select_option("#theme", "light" if scheme == "dark" else "dark")
        seen[f"switched from {scheme}"] = await visit.page.evaluate(ground)
        await context.close()
    assert seen["dark"] == seen["switched from light"] != seen["light"] == seen["switched from dark"]


async def test_a_server_with_a_token_asks_for_it(browser: Browser, start_server) -> None:
    server = start_server({"GATEPOST_ACCESS_TOKEN": "a token of the page tests"})
    context = await browser.new_context()
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
