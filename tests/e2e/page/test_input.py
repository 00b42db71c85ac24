"""What is typed into the page: nothing that could not be sent is lost, and the keys go where they are expected."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import expect

from tests.e2e.page.visits import ONE_LOOP, WAIT, Visit, paste
from tests.serving import processes_of, wait_until

FOCUSED = "document.activeElement.id"


@asynccontextmanager
async def line_down(visit: Visit) -> AsyncIterator[None]:
    """The network is gone, and comes back at the end."""
    await visit.page.context.set_offline(True)
    await visit.page.evaluate("gatepostCut()")
    await visit.state("offline")
    yield
    await visit.page.context.set_offline(False)
    visit.complaints.clear()  # Chromium complains of the sockets that could not be opened


@ONE_LOOP
async def test_input_that_is_typed_while_the_line_is_down_stays_in_the_prompt(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    async with line_down(visit):
        await visit.type("kept for later")
        await visit.sees("Not connected yet; nothing was sent.")
        assert await visit.page.input_value("#line") == "kept for later"
        await visit.page.press("#line", "Control+d")
        await visit.shows(lambda text: text.count("nothing was sent") == 2 and "kept for later" not in text)
    await visit.state("running")
    await visit.page.press("#line", "Enter")
    await visit.shows(lambda text: text.count("kept for later") == 2)
    assert await visit.page.input_value("#line") == ""
    await visit.page.press("#line", "Control+d")
    await visit.state("ready")


@ONE_LOOP
async def test_a_stop_while_the_line_is_down_takes_effect_when_it_is_back(visit: Visit) -> None:
    await visit.type("pyguard sleep 602")
    await visit.state("running")
    async with line_down(visit):
        await visit.page.click("#stop")
        await visit.sees("stopped as soon as the connection is back")
    await visit.sees("Cancelled after")
    await visit.state("ready")
    wait_until(lambda: not processes_of(visit.server, "sleep 602"), "the command to be gone")


@ONE_LOOP
async def test_pasted_lines_that_were_not_sent_are_counted(visit: Visit) -> None:
    await visit.type("cat")
    await visit.state("running")
    async with line_down(visit):
        await paste(visit, "one\ntwo\nthree")
        await visit.page.get_by_text("The last 3 of the 3 pasted lines were not sent.").wait_for(timeout=WAIT)
        assert await visit.page.input_value("#line") == "one"
    await visit.state("running")
    await visit.page.click("#stop")
    await visit.state("ready")


@pytest.mark.parametrize("text", [f"{'x' * 9_999}🦀{'y' * 30_000}", "\u20ac" * 50_000, '"' * 50_000])
@ONE_LOOP
async def test_a_line_of_input_of_any_length_arrives_complete(visit: Visit, text: str) -> None:
    await visit.type("pyguard tee long.txt")
    await visit.state("running")
    await visit.page.fill("#line", text)
    await visit.page.press("#line", "Enter")
    stored = visit.server.workspace / "long.txt"
    wait_until(lambda: stored.read_text() == f"{text}\n", "the line of input")
    await visit.page.click("#stop")
    await visit.state("ready")


@ONE_LOOP
async def test_a_command_over_the_limit_of_a_frame_stays_in_the_prompt(visit: Visit) -> None:
    command = f"echo {'€' * 30_000}"
    await visit.type(command)
    await visit.sees("The line is too long")
    assert await visit.page.input_value("#line") == command
    await visit.state("ready")
    await visit.type("echo still connected")
    await visit.sees("still connected")


@ONE_LOOP
async def test_after_stop_and_end_input_the_keys_go_to_the_prompt(visit: Visit) -> None:
    for button in ("#stop", "#end"):
        await visit.type("cat")
        await visit.state("running")
        await visit.page.click(button)
        await visit.state("ready")
        assert await visit.page.evaluate(FOCUSED) == "line"
        await visit.type("cat")
        await visit.state("running")
        await visit.page.focus(button)
        await visit.page.keyboard.press("Enter")
        await visit.state("ready")
        assert await visit.page.evaluate(FOCUSED) == "line"


@ONE_LOOP
async def test_keys_that_are_typed_at_nothing_go_to_the_prompt(visit: Visit) -> None:
    await visit.page.evaluate("document.activeElement.blur()")
    await visit.page.keyboard.type("echo to")
    assert await visit.page.input_value("#line") == "echo to"
    await visit.page.focus("#check")
    await visit.page.keyboard.type("-the")
    await visit.page.evaluate("document.activeElement.blur()")
    await visit.page.keyboard.press("Backspace")
    await paste(visit, "e prompt", at_nothing=True)
    assert await visit.page.input_value("#line") == "echo to-the prompt"
    await visit.page.focus("#theme")
    await visit.page.keyboard.type("d")
    assert await visit.page.input_value("#theme") == "dark"


@ONE_LOOP
async def test_the_focus_in_the_output_can_be_seen(visit: Visit) -> None:
    await visit.page.focus("#line")
    await expect(visit.page.locator("main")).to_have_css("outline-style", "none")
    await visit.page.focus("#screen .xterm-helper-textarea")
    await expect(visit.page.locator("main")).to_have_css("outline-style", "solid")
    await visit.page.keyboard.press("PageUp")
    await expect(visit.page.locator("main")).to_have_css("outline-style", "solid")
