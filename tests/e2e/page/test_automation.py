"""The page with Django projects, and with what runs by itself: schedules, notifications, hooks."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, Locator, Route, expect

from tests.e2e.page.visits import ONE_LOOP, WAIT, Visit, is_known, log_in, make_project, new_context, new_visit
from tests.serving import Server, wait_until

HELP = """\
usage: manage.py migrate [-h] [--plan] [--database {default,other}] [app_label ...]

Updates database schema.

positional arguments:
  app_label             An application.

options:
  -h, --help            show this help message and exit
  --plan                Shows what would be done.
  --database {default,other}
                        Which database.
"""
COMMANDS = [
    {"name": "migrate", "app_label": "django.core", "help_text": HELP},
    {"name": "check", "app_label": "django.core", "help_text": ""},
    {"name": "flush", "app_label": "django.core", "help_text": ""},
]


def asked(url: str, headers: dict[str, str], body: Any = None) -> Any:
    """The JSON answer to a request; a POST if there is a body."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@dataclass
class Runner:
    """A runner that says what a test has it say."""

    server: Server
    key: str
    chunks: int = 0

    def say(self, path: str, body: Any = None) -> Any:
        headers = {
            "Authorization": f"Bearer {self.key}",
            "X-Request-Timestamp": str(int(time.time())),
            "X-Request-Nonce": str(uuid.uuid4()),
        }
        return asked(f"{self.server.url}/api/runner/{path}", headers, body)

    def start(self) -> Any:
        """Claim the execution that waits."""
        [offer] = wait_until(lambda: self.say("pending/")["executions"], "an execution")
        self.say(f"executions/{offer['id']}/start/", {})
        return offer

    def write(self, id: str, text: str) -> None:
        self.chunks += 1
        segments = [{"timestamp": None, "content": text}]
        self.say(f"executions/{id}/output/", {"chunk_number": self.chunks, "segments": segments, "is_stderr": False})

    def asked_to(self, id: str, what: str) -> None:
        wait_until(lambda: self.say(f"executions/{id}/cancel-status/")[what], f"{what} of {id}")


@dataclass
class Desk:
    """The page of ann, in which a dialog is open."""

    visit: Visit
    name: str

    @property
    def body(self) -> Locator:
        return self.visit.page.locator(f"#{self.name}-body")

    async def press(self, label: str) -> None:
        await self.body.get_by_role("button", name=label, exact=True).click(timeout=WAIT)

    async def shows(self, text: str) -> None:
        await expect(self.visit.page.locator(f"#{self.name}-dialog")).to_contain_text(text, timeout=WAIT)
        assert await self.body.evaluate("(body) => body.scrollWidth <= body.clientWidth"), "it is wider than the page"

    async def fill(self, **values: str) -> None:
        for name, value in values.items():
            await self.body.locator(f"[name={name}]").fill(value)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def known(browser: Browser, server: Server, ann: str) -> AsyncIterator[Visit]:
    """The page of ann, as a phone shows it: what fits there fits everywhere."""
    make_project(server, ann, "shop")
    context = await new_context(browser, viewport={"width": 390, "height": 844})
    context.set_default_timeout(WAIT)
    visit = await new_visit(context, server)
    await visit.page.goto(server.url)
    await visit.page.click("#menu-button")
    await log_in(visit, "ann")
    await is_known(visit, "ann")
    yield visit
    visit.is_clean()
    await context.close()


async def opened(visit: Visit, name: str) -> Desk:
    await visit.page.click("#menu-button")
    await visit.page.click(f"#{name}")
    return Desk(visit, name)


@ONE_LOOP
async def test_a_django_project_from_its_key_to_the_output_of_a_command(known: Visit, server: Server) -> None:
    desk = await opened(known, "django")
    await desk.shows("shop (no runner)")
    await desk.press("New key for a runner of shop")
    await desk.press("Create")
    secret = await desk.body.get_by_label("Secret", exact=True).input_value(timeout=WAIT)
    runner = Runner(server, secret)
    versions = {"runner_version": "1.2.3", "python_version": "3.12", "django_version": "5.2", "commands_hash": ""}
    runner.say("heartbeat/", versions)
    runner.say("commands/sync/", {"commands": COMMANDS})
    await desk.press("Done")
    await desk.shows("Online")
    await desk.shows("Django 5.2")
    await desk.shows("Not allowed for this project.")
    assert secret not in await known.page.content()
    await desk.body.get_by_role("searchbox").fill("schema")
    await expect(desk.body.get_by_role("button", name="Open check")).to_have_count(0, timeout=WAIT)
    await desk.press("Open migrate")
    await desk.body.get_by_label("--plan").check()
    await desk.body.get_by_label("app_label").fill("shop  it's")
    await desk.body.get_by_label("--database").select_option("other")
    await desk.shows("@shop migrate shop 'it'\\''s' --plan --database other")
    await desk.press("Run")

    await known.sees("Queued: it starts as soon as")
    await known.page.reload()
    await known.state("running")
    offer = runner.start()
    assert (offer["command"], offer["args"]) == ("migrate", "shop 'it'\"'\"'s' --plan --database other")
    runner.write(offer["id"], "Planned operations:\n")
    await known.sees("Planned operations:")
    await known.page.click("#stop")
    runner.asked_to(offer["id"], "cancel_requested")
    await known.page.click("#kill", timeout=WAIT)
    runner.asked_to(offer["id"], "force_kill")
    runner.say(f"executions/{offer['id']}/complete/", {"exit_code": -9, "status": "cancelled"})
    await known.sees("Cancelled after")
    assert not await known.page.is_visible("#kill")

    await known.type("@shop migrate --plan")
    await known.shows(lambda text: text.count("Queued: it starts") == 1)  # the first one was before the reload
    await known.page.click("#stop")
    await known.sees("The command was cancelled before it started.")
    await known.state("ready")


@ONE_LOOP
async def test_runners_are_suspended_and_keys_rotated_and_revoked(known: Visit, server: Server) -> None:
    desk = await opened(known, "django")
    await desk.press("Suspend production")
    await desk.fill(reason="maintenance")
    await desk.press("Suspend")
    await desk.shows("Suspended: maintenance")
    await desk.press("Resume production")
    await expect(desk.body).not_to_contain_text("maintenance", timeout=WAIT)
    await desk.press("Rotate the key of production")
    await desk.press("Rotate? Rotate the key of production: press again")
    new = Runner(server, await desk.body.get_by_label("Secret", exact=True).input_value(timeout=WAIT))
    assert new.say("pending/") == {"executions": []}
    await desk.press("Done")
    await desk.shows("key valid until")
    revoke = desk.body.get_by_role("button", name="Revoke")
    for left in (2, 1):
        await expect(revoke).to_have_count(left, timeout=WAIT)
        await revoke.first.click()
        await desk.body.get_by_role("button", name="Revoke?").click()
    await desk.shows("No runner yet.")
    await known.page.click("#django-close")


@ONE_LOOP
async def test_a_schedule_is_added_run_and_deleted(known: Visit) -> None:
    desk = await opened(known, "automation")
    await desk.shows("A schedule runs a command at the times of a cron expression")
    await desk.press("New schedule")
    await desk.fill(name="nightly", command="rm -rf /", cron="30 2 * * *", zone="Europe/Berlin")
    await desk.press("Create")
    await expect(known.page.locator("#automation-problem")).not_to_be_empty(timeout=WAIT)  # and the form stays
    (complaint,) = known.complaints  # of the browser, about the status
    assert "status of 4" in complaint
    known.complaints.clear()
    await desk.fill(command="echo it is night")
    await desk.press("Create")
    await desk.shows("nightly: echo it is night")
    await desk.shows("02:30")
    await desk.press("Pause nightly")
    await desk.shows("Paused")
    await desk.press("Resume nightly")
    await desk.press("Edit nightly")
    assert await desk.body.get_by_label("Command").input_value(timeout=WAIT) == "echo it is night"
    await desk.fill(command="echo it is late", cron="0 3 * * *")
    await desk.body.get_by_label("Times while it still runs").select_option("queue")
    await desk.press("Save")
    await desk.shows("nightly has been changed.")
    await desk.shows("nightly: echo it is late")
    await desk.shows("03:00")
    await desk.press("Edit nightly")
    await expect(desk.body.get_by_label("Times while it still runs")).to_have_value("queue", timeout=WAIT)
    await expect(desk.body.get_by_label("Where")).to_have_value("local")
    await desk.press("Save")
    await desk.press("Run nightly now")
    await desk.shows("nightly has been started.")
    await desk.press("Runs of nightly")
    await desk.shows("requested")
    await desk.body.get_by_role("button", name="Open the run of").click()
    await known.sees("it is late")
    await known.state("ready")
    desk = await opened(known, "automation")
    await desk.press("Delete nightly")
    await desk.press("Delete? Delete nightly: press again")
    await desk.shows("A schedule runs a command")
    await known.page.click("#automation-close")


@ONE_LOOP
async def test_messages_that_are_dead_are_shown_and_sent_again(known: Visit) -> None:
    desk = await opened(known, "automation")
    await known.page.get_by_label("Notifications").check()
    await desk.press("New notification")
    await desk.fill(name="page us", url="http://localhost:1/")
    await desk.body.get_by_label("any other end").check()
    await desk.press("Create")
    assert (await desk.body.get_by_label("Secret", exact=True).input_value(timeout=WAIT)).startswith("whsec_")
    await desk.press("Done")
    await desk.press("Send a test message to page us")
    await desk.shows("Not accepted:")
    await known.page.click("#automation-close")
    await known.type("echo something ends")
    await known.sees("Done in")
    dead = desk.body.get_by_text("1 message was not accepted.")
    await known.page.click("#menu-button")
    await known.page.click("#automation")
    for _ in range(40):  # a server looks for what has ended every second
        if await dead.count():
            break
        await known.page.wait_for_timeout(250)
        await known.page.get_by_label("Hooks").check()
        await known.page.get_by_label("Notifications").check()
    await desk.press("Messages of page us")
    await desk.shows("dead · 1 attempt")
    await desk.body.get_by_role("button", name="Send the message of").click()
    await desk.shows("It is sent within a second or two.")
    await desk.press("Delete page us")
    await desk.press("Delete? Delete page us: press again")
    await desk.shows("A notification reports how executions ended")
    await known.page.click("#automation-close")


@ONE_LOOP
async def test_no_button_is_replaced_while_it_may_be_pressed(known: Visit) -> None:
    desk = await opened(known, "automation")
    loaded = asyncio.Event()

    async def answer(route: Route) -> None:
        await loaded.wait()
        await route.continue_()

    await known.page.route("**/api/hooks", answer)
    await known.page.get_by_label("Hooks").check()
    await desk.shows("Loading …")
    before = await desk.body.get_by_role("button").element_handles()
    loaded.set()
    await desk.shows("A hook is a fixed line")
    for button in before:
        assert await button.evaluate("(button) => button.isConnected")
    await known.page.unroute("**/api/hooks", answer)
    await known.page.click("#automation-close")


@ONE_LOOP
async def test_a_hook_is_added_and_called(known: Visit, server: Server) -> None:
    desk = await opened(known, "automation")
    await known.page.get_by_label("Hooks").check()
    await desk.press("New hook")
    await desk.fill(name="deploy", command="echo deploying {branch} to {stage}")
    parameter = desk.body.get_by_role("group", name="{branch}")
    await parameter.get_by_label("It is").select_option("text")
    await parameter.get_by_label("Example").fill("main")
    await desk.body.get_by_role("group", name="{stage}").get_by_label("Values").fill("test, live")
    await desk.press("Create")
    secret = await desk.body.get_by_label("Secret", exact=True).input_value(timeout=WAIT)
    url = next(word for word in (await desk.body.inner_text()).split() if "/hooks/" in word)
    body, now = json.dumps({"branch": "main", "stage": "live"}), int(time.time())
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.digest(key, f"m1.{now}.{body}".encode(), hashlib.sha256)).decode()
    headers = {"webhook-id": "m1", "webhook-timestamp": str(now), "webhook-signature": f"v1,{signature}"}
    started = asked(url, headers, json.loads(body))
    assert started["url"] == f"/api/executions/{started['id']}"
    await desk.press("Send a test call")
    await desk.shows("The call was accepted.")
    await desk.press("Done")
    await desk.press("New secret for deploy")
    await desk.press("Replace it? New secret for deploy: press again")
    assert await desk.body.get_by_label("Secret", exact=True).input_value(timeout=WAIT) != secret
    await desk.shows("The old secret is valid for another day.")
    await known.page.click("#automation-close")
