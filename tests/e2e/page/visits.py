"""What the tests of the page share: pages in a real browser, Debian's Chromium, driven by Playwright."""

import asyncio
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, WebSocketRoute

from tests import preloaded
from tests.serving import ROOT, Server

# The one without windows takes half the processor time.
CHROMIUM = (
    os.environ.get("CHROMIUM_PATH")
    or shutil.which("chromium-headless-shell")
    or shutil.which("chromium")
    or "/usr/bin/chromium"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The empty page that a context begins with, and the page that is opened then, share a process.
    "--renderer-process-limit=1",
    "--disable-site-isolation-trials",
]
COUNTER = "for n in $(seq 40); do echo step $n; sleep 0.1; done\n"
WAIT = 30_000  # ms
OFFLINE = "ERR_INTERNET_DISCONNECTED"
PASSWORD = "a password of the page tests"
# Sockets can be closed from the test, as when a network drops them.
CUTTABLE = """
  window.WebSocket = class extends WebSocket {
    constructor(...args) { super(...args); window.gatepostCut = () => this.close(); }
  };
"""
ONE_LOOP = pytest.mark.asyncio(loop_scope="session")  # all of them use one browser


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

    async def rows(self) -> list[str]:
        """The rows that the terminal shows."""
        return [row.rstrip() for row in await self.page.locator("#screen .xterm-rows > div").all_text_contents()]

    async def shows(self, wanted: Callable[[str], object]) -> None:
        """Wait until the terminal shows what is wanted."""
        text, pause, end = "", 20, time.monotonic() + WAIT / 1000
        while time.monotonic() < end:
            text = "\n".join(await self.rows())
            if wanted(text):
                return
            await self.page.wait_for_timeout(pause)
            pause = min(2 * pause, 250)
        raise AssertionError(text)

    async def sees(self, text: str | re.Pattern[str]) -> None:
        await self.page.locator("#screen .xterm-rows", has_text=text).wait_for(state="attached", timeout=WAIT)

    async def state(self, name: str) -> None:
        await self.page.wait_for_selector(f"#state[data-state={name}]", timeout=WAIT)

    def hear(self, kind: str, text: str) -> None:
        """Keep a complaint, unless the test itself has taken the line down."""
        if kind == "error" and OFFLINE not in text:
            self.complaints.append(text)

    def is_clean(self) -> None:
        """Nothing was complained about, no other host was asked."""
        assert self.complaints == []
        assert self.hosts == {f"127.0.0.1:{self.server.port}"}


@dataclass
class Tab:
    """A page that tests have one after the other, each from its beginning: a new one costs as much again as to load it."""

    visit: Visit

    async def open(self, width: int = 1000, height: int = 1200, login: str | None = None) -> Visit:
        """The page as somebody sees it who was never there; somebody who is logged in with a token, if there is one."""
        visit = self.visit
        await self._forget()
        await visit.page.set_viewport_size({"width": width, "height": height})
        if login:
            await visit.page.evaluate(f"sessionStorage.setItem('gatepost.login', '\"{login}\"')")
        visit.complaints.clear()
        visit.hosts.clear()
        await visit.page.goto(visit.server.url)
        await visit.state("ready")
        return visit

    async def _forget(self) -> None:
        """Undo what tests do to a page and to what it stores, at an address that has no scripts."""
        page = self.visit.page
        await page.unroute_all()
        await page.context.set_offline(False)
        await page.context.clear_cookies()
        await page.goto(f"{self.visit.server.url}/health")
        await page.evaluate("localStorage.clear(); sessionStorage.clear()")


async def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """A profile of its own. Without a dot that moves: each of its sixty frames a second takes 5 ms of processor time."""
    return await browser.new_context(reduced_motion="reduce", **options)


async def open_page(context: BrowserContext, server: Server) -> Visit:
    """Open the page as a visitor."""
    visit = await new_visit(context, server)
    await visit.page.goto(server.url)
    await visit.state("ready")
    return visit


async def new_visit(context: BrowserContext, server: Server) -> Visit:
    """An empty page; complaints and hosts are collected."""
    await context.add_init_script(CUTTABLE)
    page = await context.new_page()
    visit = Visit(page, server)
    page.on("console", lambda message: visit.hear(message.type, message.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", lambda request: visit.hosts.update(urlsplit(request.url).netloc.split() or ()))
    return visit


def cli(server: Server, *words: str, entered: str = "") -> str:
    """Run a verb of the command line on the data of a server; what it prints."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": str(server.port)}
    done = preloaded.run([*words, "--data-dir", str(server.data_dir)], server.folder, env, entered)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def account(server: Server, name: str, *options: str) -> str:
    """Add an account; an API token of it."""
    cli(server, "user", "add", name, "--password-stdin", *options, entered=f"{PASSWORD}\n")
    return cli(server, "token", "create", "--user", name, "--name", "tests")


def counter(server: Server) -> str:
    (server.workspace / "counter.sh").write_text(COUNTER)
    return "pyguard bash counter.sh"


def steps(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("step ")]


async def log_in(visit: Visit, name: str, password: str = PASSWORD) -> None:
    """Fill in the form. All tests of this module together may do so ten times, which the server counts."""
    await visit.page.click("#log-in")
    await visit.page.fill("#login-name", name)
    await visit.page.fill("#login-password", password)
    await visit.page.press("#login-password", "Enter")


async def is_known(visit: Visit, who: str) -> None:
    # On a phone it is in the menu.
    await visit.page.locator("#who:not([hidden])", has_text=who).wait_for(timeout=WAIT, state="attached")
    await visit.state("ready")


async def is_visitor(visit: Visit) -> None:
    await visit.page.wait_for_selector("#log-in:not([hidden])", timeout=WAIT)
    await visit.state("ready")
    assert not await visit.page.is_visible("#who")
    assert await visit.page.evaluate("sessionStorage.getItem('gatepost.login')") is None


async def kept_login(visit: Visit) -> str:
    found: str = json.loads(await visit.page.evaluate("sessionStorage.getItem('gatepost.login')"))
    return found


def make_project(server: Server, token: str, name: str) -> str:
    """A project of the token's account; its id."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/api/projects", json.dumps({"name": name}).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        made: str = json.load(answer)["id"]
    return made


@dataclass
class Held:
    """A socket whose `started` waits for the test; `sent` is what the page said."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def route(self, page: Page) -> None:
        async def pass_on(socket: WebSocketRoute, text: str | bytes) -> None:
            if json.loads(text)["type"] == "started":
                await self.let_go.wait()
            socket.send(text)

        def connect(socket: WebSocketRoute) -> None:
            server = socket.connect_to_server()
            waiting: asyncio.Queue[str | bytes] = asyncio.Queue()

            async def deliver() -> None:
                while True:
                    await pass_on(socket, await waiting.get())

            self.delivering = asyncio.create_task(deliver())
            server.on_message(waiting.put_nowait)

            def said(text: str | bytes) -> None:
                self.sent.append(json.loads(text))
                server.send(text)

            socket.on_message(said)

        await page.route_web_socket("**/ws/terminal", connect)


READY = {"type": "ready", "message": "", "service": "Gatepost", "version": "0", "profile": "terminal"}


async def stage(browser: Browser, server: Server, connect: Callable[[WebSocketRoute], object]) -> Visit:
    """The page of somebody who is logged in, on a socket that `connect` plays."""
    context = await new_context(browser)
    await context.add_init_script(
        """sessionStorage.getItem('gatepost.login') ?? sessionStorage.setItem('gatepost.login', '"a token"')"""
    )
    visit = await new_visit(context, server)
    await visit.page.route("**/api/projects", lambda route: route.fulfill(json=[]))
    await visit.page.route_web_socket("**/ws/terminal", connect)
    await visit.page.goto(server.url)
    return visit


async def paste(visit: Visit, text: str, *, at_nothing: bool = False) -> None:
    """What the browser does when somebody pastes into the prompt, or while nothing has the focus."""
    if at_nothing:
        await visit.page.evaluate("document.activeElement.blur()")
    else:
        await visit.page.focus("#line")
    await visit.page.evaluate(
        """(text) => {
          const clipboardData = new DataTransfer();
          clipboardData.setData("text/plain", text);
          const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
          document.activeElement.dispatchEvent(event);
        }""",
        text,
    )
