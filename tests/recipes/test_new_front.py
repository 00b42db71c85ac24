"""The recipe of docs/design.md for a new front, followed once: a front of one function."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import assert_never

import pytest

from backend.application import recordings
from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec, Existing, IdempotencyKey
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import OWN, TargetRef
from backend.core.identity import Permission, Principal
from tests.recipes.house import ANN, House
from tests.recipes.test_new_target import SHOP, machines_of

Line = Callable[[str], Awaitable[None]]


async def mail(
    service: ExecutionService, who: Principal, letter: str, answer: Line, target: TargetRef = OWN, stamp: str = ""
) -> None:
    """A front that answers letters: each line of a letter is a command. A letter with a stamp is answered once."""
    for line in letter.splitlines():
        once = IdempotencyKey(f"{stamp} {line}", b"") if stamp else None
        started = await service.submit(who, CommandSpec(line, target, detached=True), once)
        match started:
            case Refused(decision=decision):
                await answer(f"{line}: {decision.rule}")
                continue
            case Execution():
                pass
            case Waiting():
                await answer(f"{line}: waits for {target}")
            case Existing():
                await answer(f"{line}: once more")
            case _:
                assert_never(started)

        async def send(block: bytes) -> None:
            for message in map(json.loads, block.splitlines()):
                for text in message.get("lines", ()):
                    await answer(text)

        if problem := await service.follow_started(started.id, 0, send):
            await answer(f"{line}: {problem.rule}")


@pytest.fixture
def answers() -> list[str]:
    return []


@pytest.fixture
def answer(answers: list[str]) -> Line:
    async def write(text: str) -> None:
        answers.append(text)

    return write


async def test_a_new_front_is_a_translation(house: House, answers: list[str], answer: Line) -> None:
    await mail(house.service, ANN, "echo hello\nsudo x\necho again", answer)
    assert answers == ["hello", "sudo x: blocked.sudo", "again"]


async def test_who_may_only_run_commands_reads_their_output(house: House, answers: list[str], answer: Line) -> None:
    await mail(house.service, replace(ANN, permissions=frozenset({Permission.EXECUTE})), "echo hello", answer)
    assert answers == ["hello"]


async def test_what_was_started_before_is_answered_again(house: House, answers: list[str], answer: Line) -> None:
    for _ in range(2):
        await mail(house.service, ANN, "echo hello", answer, stamp="red")
    assert answers == ["hello", "echo hello: once more", "hello"]


async def test_what_waits_is_answered_when_it_runs(
    house: House, answers: list[str], answer: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "POLL", 0)
    front = asyncio.create_task(mail(machines_of(house, SHOP).service, ANN, "echo hello", answer, SHOP))
    async with asyncio.timeout(60):
        while not await house.runner.run_once():
            await asyncio.sleep(0)
        await front
    assert answers == ["echo hello: waits for later:shop", "shop: ECHO HELLO"]
