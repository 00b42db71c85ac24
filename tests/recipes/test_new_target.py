"""The recipe of docs/design.md for a new target, followed once: another machine, which is a string here."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import TypeAdapter

from backend.application.submission import CommandSpec
from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    Delivery,
    Job,
    Outcome,
    Signal,
    SignalName,
    Status,
    Stop,
    StopReason,
    Write,
)
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import Target, TargetRef
from backend.core.identity import Principal
from backend.core.policy.files import Unseen
from backend.core.ports import Filter
from backend.core.recording.writer import RecordingWriter
from backend.policies.loader import load_profile
from tests.recipes.house import ANN, BOB, House

JOB: TypeAdapter[Job] = TypeAdapter(Job)
SHOP = TargetRef("later", "shop")


@dataclass(frozen=True, slots=True)
class OverTheWire:
    """An executor that sends its job away as JSON, to a machine that answers with the line in capitals."""

    machine: str

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        received = JOB.validate_json(JOB.dump_json(job))
        size = output.say("stdout", f"{self.machine}: {received.line.upper()}")
        return Outcome(Status.SUCCEEDED, 0, stdout_bytes=size)


@dataclass(frozen=True, slots=True)
class GoesOn:
    """An executor whose machine goes on when its server ends; `jobs` are those that it was given."""

    jobs: list[Job]

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        self.jobs.append(job)
        return Outcome(Status.SUCCEEDED, 0) if job.resumed else Outcome(Status.QUEUED, None)


@dataclass(frozen=True, slots=True)
class WithMachines:
    """The resolver of the server, and a case for machines, which only ann may use; `reached` are those that wait."""

    rest: Any
    reached: frozenset[TargetRef] = frozenset()
    goes_on: GoesOn = field(default_factory=lambda: GoesOn([]))

    def reachable(self) -> frozenset[TargetRef]:
        return self.reached

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        match ref:
            case TargetRef("machine", name) if who.name == ANN.name:
                files = Unseen(PurePosixPath("/srv"))
                return Target(ref, load_profile("agent"), files, OverTheWire(name), self.rest.limits)
            case TargetRef("later", name) if who.name == ANN.name:
                files = Unseen(PurePosixPath("/srv"))
                return Target(ref, load_profile("agent"), files, OverTheWire(name), self.rest.limits, waits=True)
            case TargetRef("lasting"):
                files = Unseen(PurePosixPath("/srv"))
                return Target(ref, load_profile("agent"), files, self.goes_on, self.rest.limits)
            case TargetRef("machine", name):
                return Decision.deny("target.unknown", f"There is no machine {name} for you.", "Ask ann.")
            case _:
                found: Target | Decision = await self.rest.resolve(who, ref)
                return found


def machines_of(house: House, *reached: TargetRef) -> House:
    """The server, with machines."""
    object.__setattr__(house.service.submission, "resolver", WithMachines(house.resolver, frozenset(reached)))
    return house


@pytest.fixture
def machines(house: House) -> House:
    return machines_of(house)


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
    assert record.target == "machine:web-01"
    page = await machines.service.page(ANN, Filter(), TargetRef("machine", "web-01"))
    assert page == [record]
    assert await machines.service.page(ANN, Filter(), TargetRef("machine", "web-02")) == []
    assert isinstance(await machines.service.page(BOB, Filter(), TargetRef("machine", "web-01")), Decision)
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


async def waiting(machines: House) -> str:
    """The id of an execution that waits."""
    answer = await machines.service.submit(ANN, CommandSpec("echo later", SHOP, detached=True))
    assert isinstance(answer, Waiting)
    record = await machines.service.view(ANN, answer.id)
    assert not isinstance(record, Decision)
    assert (record.status, record.owner) == (Status.QUEUED, None)
    return answer.id


async def test_an_execution_waits_for_a_server_that_reaches_its_target(machines: House) -> None:
    id = await waiting(machines)
    assert await machines.runner.run_once() == 0
    seen: list[dict[str, Any]] = []

    async def send(block: bytes) -> None:
        seen.extend(map(json.loads, block.splitlines()))

    following = asyncio.create_task(machines.service.follow(ANN, id, 0, send))
    await asyncio.sleep(0)
    assert await machines_of(machines, SHOP).runner.run_once() == 1
    assert await following is None
    assert [each.get("lines", each["type"]) for each in seen] == ["started", ["shop: ECHO LATER"], "complete"]
    record = await machines.service.view(ANN, id)
    assert not isinstance(record, Decision)
    assert (record.status, record.target, record.owner) == (Status.SUCCEEDED, "later:shop", machines.service.owner)
    assert await machines.runner.run_once() == 0


async def test_what_is_taken_up_keeps_the_timeout_that_it_was_started_with(machines: House) -> None:
    ref = TargetRef("lasting", "shop")
    resolver = machines_of(machines, ref).service.submission.resolver
    assert isinstance(resolver, WithMachines)
    jobs, usual = resolver.goes_on.jobs, resolver.rest.limits.timeout
    for timeout in (usual - 7, None):
        started = await machines.service.submit(ANN, CommandSpec("ls", ref, timeout=timeout, detached=True))
        assert isinstance(started, Execution)
        assert started.task
        await started.task  # its server leaves it
        assert await machines.runner.run_once() == 1
        assert [(job.timeout, job.resumed) for job in jobs[-2:]] == [
            (timeout or usual, False),
            (timeout or usual, True),
        ]


async def test_one_that_waits_can_be_cancelled_and_nothing_else(machines: House) -> None:
    id = await waiting(machines)
    for instruction in (Write(b"x"), Signal(SignalName.INT)):
        assert await machines.service.instruct(ANN, id, instruction) is Delivery.NOT_RUNNING
    following = asyncio.create_task(machines.service.follow(ANN, id, 0, forget))
    await asyncio.sleep(0)  # it waits for an owner from here on
    assert await machines.service.instruct(ANN, id, Stop(StopReason.CANCELLED, ANN.name)) is Delivery.DELIVERED
    record = await machines.service.view(ANN, id)
    assert not isinstance(record, Decision)
    assert record.status is Status.CANCELLED
    problem = await following
    assert problem
    assert problem.rule == "execution.unknown"
    assert await machines_of(machines, SHOP).runner.run_once() == 0


async def test_the_death_of_a_server_does_not_lose_what_waits(machines: House) -> None:
    id = await waiting(machines)
    await machines.ownership.release_dead([machines.service.owner])
    assert await machines.ownership.expired(2**60) == []
    [found] = await machines.ownership.queued({str(SHOP)}, 5)
    assert found.record.id == id
    assert JOB.validate_json(found.job).target == "later:shop"


async def forget(_: bytes) -> None:
    """A viewer that wants nothing."""
