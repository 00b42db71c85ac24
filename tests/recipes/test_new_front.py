"""The recipe of docs/design.md for a new front, followed once: a front of one function."""

import json
from collections.abc import Awaitable, Callable

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec, Existing
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused
from backend.core.identity import Principal
from tests.recipes.house import ANN, House

Line = Callable[[str], Awaitable[None]]


async def mail(service: ExecutionService, who: Principal, letter: str, answer: Line) -> None:
    """A front that answers letters: each line of a letter is a command."""
    for line in letter.splitlines():
        match await service.submit(who, CommandSpec(line, detached=True)):
            case Refused(decision=decision):
                await answer(f"{line}: {decision.rule}")
            case Execution(id=id) | Existing(id=id):

                async def send(block: bytes) -> None:
                    for message in map(json.loads, block.splitlines()):
                        for text in message.get("lines", ()):
                            await answer(text)

                assert await service.follow(who, id, 0, send) is None


async def test_a_new_front_is_a_translation(house: House) -> None:
    answers: list[str] = []

    async def answer(text: str) -> None:
        answers.append(text)

    await mail(house.service, ANN, "echo hello\nsudo x\necho again", answer)
    assert answers == ["hello", "sudo x: blocked.sudo", "again"]
