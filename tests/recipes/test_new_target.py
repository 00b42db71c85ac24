"""The recipe of docs/design.md for a new target, followed once: another machine, which is a string here."""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import TypeAdapter

from backend.application.submission import CommandSpec
from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Job, Outcome, Status, Stop, StopReason
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused
from backend.core.execution.targets import Target, TargetRef
from backend.core.identity import Principal
from backend.core.policy.files import Unseen
from backend.core.recording.writer import RecordingWriter
from backend.policies.loader import load_profile
from tests.recipes.house import ANN, BOB, House

JOB: TypeAdapter[Job] = TypeAdapter(Job)


@dataclass(frozen=True, slots=True)
class OverTheWire:
    """An executor that sends its job away as JSON, to a machine that answers with the line in capitals."""

    machine: str

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        received = JOB.validate_json(JOB.dump_json(job))
        size = output.say("stdout", f"{self.machine}: {received.line.upper()}")
        return Outcome(Status.SUCCEEDED, 0, stdout_bytes=size)


@dataclass(frozen=True, slots=True)
class WithMachines:
    """The resolver of the server, and a case for machines, which only ann may use."""

    rest: Any

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        match ref:
            case TargetRef("machine", name) if who is ANN:
                files = Unseen(PurePosixPath("/srv"))
                return Target(ref, load_profile("agent"), files, OverTheWire(name), self.rest.limits)
            case TargetRef("machine", name):
                return Decision.deny("target.unknown", f"There is no machine {name} for you.", "Ask ann.")
            case _:
                found: Target | Decision = await self.rest.resolve(who, ref)
                return found


@pytest.fixture
def machines(house: House) -> House:
    object.__setattr__(house.service.submission, "resolver", WithMachines(house.resolver))
    return house


async def test_a_new_target_has_everything_else_already(machines: House) -> None:
    spec = CommandSpec("echo hi && ls", TargetRef("machine", "web-01"), detached=True)
    execution = await machines.service.submit(ANN, spec)
    assert isinstance(execution, Execution)
    seen: list[dict[str, Any]] = []

    async def send(block: bytes) -> None:
        seen.extend(map(json.loads, block.splitlines()))

    assert await machines.service.follow(ANN, execution.id, 0, send) is None
    started, said, complete = seen
    assert (started["rule"], said["lines"], complete["status"]) == (
        "allow.echo",
        ["web-01: ECHO HI && LS"],
        "succeeded",
    )
    record = await machines.service.view(ANN, execution.id)
    assert not isinstance(record, Decision)
    assert (record.status, record.command) == (Status.SUCCEEDED, "echo hi && ls")
    assert await machines.service.instruct(ANN, execution.id, Stop(StopReason.CANCELLED)) == "not_running"


@pytest.mark.parametrize(
    ("who", "line", "rule"),
    [(ANN, "sudo ls", "blocked.sudo"), (BOB, "ls", "target.unknown"), (ANN, "", "command.empty")],
)
async def test_its_lines_are_judged_and_refusals_are_on_record(
    machines: House, who: Principal, line: str, rule: str
) -> None:
    refused = await machines.service.submit(who, CommandSpec(line, TargetRef("machine", "web-01")))
    assert isinstance(refused, Refused)
    assert refused.decision.rule == rule
    record = await machines.service.view(who, refused.execution)
    assert not isinstance(record, Decision)
    assert (record.status, record.rule) == (Status.DENIED, rule)
