"""A service without cage, database and web: the stores in memory, and an executor that says what it runs."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import TypeAdapter

from backend.application.executions import ExecutionService
from backend.application.local_executions import LocalExecutions
from backend.application.queue_runner import QueueRunner
from backend.application.submission import Submission
from backend.application.target_resolver import TargetResolver
from backend.bus.memory import MemoryBus
from backend.core.audit.attempts import Completion
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.executor import Executor
from backend.core.execution.gateway import Gateway, Rates
from backend.core.execution.instructions import Instructions
from backend.core.execution.lifecycle import Clock, Lifecycle
from backend.core.execution.model import Delivery, Job, Outcome, SignalName, Status, StopReason, stopped_outcome
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Request
from backend.core.execution.sessions import Sessions
from backend.core.execution.targets import ExecutionLimits
from backend.core.identity import Principal, Role, User
from backend.core.limits import Rate, Slots
from backend.core.policy.egress import Egress
from backend.core.policy.files import FileView, Unseen
from backend.core.policy.profile import Profile
from backend.core.recording.lines import encode_lines
from backend.core.recording.writer import RecordingWriter
from backend.policies import loader
from backend.storage.limiter import MovingWindow
from backend.storage.memory.audit_log import MemoryAuditLog
from backend.storage.memory.execution_log import MemoryExecutionLog, MemoryOwnership
from backend.storage.memory.executions import MemoryExecutions
from backend.storage.memory.idempotency_keys import MemoryIdempotencyKeys
from backend.storage.memory.identities import MemoryIdentities
from backend.storage.memory.projects import MemoryProjects
from backend.storage.memory.recordings import MemoryRecordings
from tests.ids import numbered_id


def account(name: str, role: Role = Role.OPERATOR) -> Principal:
    """An account with the rights of its role."""
    user = User(f"01{name.upper()}", name, role, "agent", False, 0, 0)
    return Principal(f"user:{name}", "10.0.0.1", role.permissions, user)


ANN, BOB, VIC = account("ann"), account("bob"), account("vic", Role.VIEWER)
ROOT = account("root", Role.ADMIN)
VISITOR = Principal("visitor:1", "10.0.0.2")


class Quiet:
    """An observer that nothing interests."""

    def refused(self, request: Request, decision: Decision) -> None: ...

    def started(self, execution: Execution) -> None: ...

    def ended(self, execution: Execution, completion: Completion) -> None: ...

    def handed_over(self, execution: Execution) -> None: ...

    def on_crash(self, execution: str, error: Exception) -> None:
        raise error

    def on_audit_failure(self, execution: str, error: StorageError) -> None: ...


class Speaker:
    """Runs lines by saying their words; `cat` runs until it is stopped and says which signals it gets."""

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        data = f"{' '.join(job.plan.argvs[0][1:])}\n".encode()
        output.lines("stdout", encode_lines(data))
        if job.plan.program == "cat":
            cat = _Cat(output)
            with instructions.received_by(cat):
                await cat.stopped.wait()
            return stopped_outcome(instructions.reason or StopReason.CANCELLED, "SIGTERM", 143, len(data), 0)
        return Outcome(Status.SUCCEEDED, 0, stdout_bytes=len(data))


@dataclass(slots=True)
class _Cat:
    """One that runs."""

    output: RecordingWriter
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        self.stopped.set()

    async def signal(self, name: SignalName) -> Delivery:
        self.output.say("stdout", name)
        return Delivery.DELIVERED


class SpeakingPlaces:
    """Workspaces that nobody can look into, with speakers in them."""

    def workspace(self, name: str) -> FileView:
        return Unseen(PurePosixPath("/", name))

    def executor(self, profile: Profile, files: FileView, *, network: bool | Egress) -> Executor:
        return Speaker()

    def of_visitor(self, files: FileView, visitor: str) -> FileView:
        return files

    def leave(self, visitor: str) -> None:
        """There is nothing to forget."""


class ValidTokens:
    """Every token is valid."""

    async def is_valid(self, principal: Principal) -> bool:
        return True


@dataclass(slots=True)
class Shared:
    """What the servers of one service share."""

    clock: Callable[[], int]
    new_id: Callable[[], str]
    executions: MemoryExecutions
    audit: MemoryAuditLog
    identities: MemoryIdentities
    projects: MemoryProjects
    keys: MemoryIdempotencyKeys
    bus: MemoryBus


@dataclass(slots=True)
class House:
    """One server."""

    service: ExecutionService
    gateway: Gateway
    resolver: TargetResolver
    log: MemoryExecutionLog
    ownership: MemoryOwnership
    recordings: MemoryRecordings
    users: MemoryIdentities

    @property
    def runner(self) -> QueueRunner:
        """Starts what waits for this server."""
        resolver: Any = self.service.submission.resolver
        return QueueRunner(self.gateway, resolver, self.ownership, self.users, JOB.validate_json)

    def joined(self) -> Any:
        """Answer on the bus meanwhile."""
        return self.service.bus.joined(self.service.owner, self.service.folder, self.service.local)


JOB: TypeAdapter[Job] = TypeAdapter(Job)
load_profile = cache(loader.load_profile)  # a profile does not change, and every test builds servers with it


def encode(job: Job) -> str:
    """A job as it is stored while it waits."""
    return JOB.dump_json(job).decode()


def shared() -> Shared:
    """A service without servers yet."""
    numbers = itertools.count(1)

    def now() -> int:
        return 1_700_000_000_000

    def new_id() -> str:
        return numbered_id(now(), next(numbers))

    users = {each.user.id: each.user for each in (ANN, BOB, VIC, ROOT) if each.user}
    identities, executions = MemoryIdentities(now, new_id, users), MemoryExecutions()
    return Shared(
        clock=now,
        new_id=new_id,
        executions=executions,
        audit=MemoryAuditLog(lambda: "2026-01-02T03:04:05Z", new_id),
        identities=identities,
        projects=MemoryProjects(identities, now, new_id),
        keys=MemoryIdempotencyKeys(executions, now),
        bus=MemoryBus(),
    )


def build(common: Shared, *, slots: int = 8, shares: House | None = None) -> House:
    """A server of a service, with a data folder of its own or with the one that another server `shares`."""
    owner, folder = common.new_id(), shares.service.folder if shares else common.new_id()
    log = MemoryExecutionLog(common.executions, common.audit, common.clock, owner, folder)
    recordings = shares.recordings if shares else MemoryRecordings()
    window = MovingWindow(Rate(10_000, 60))
    clock = Clock(time.monotonic, lambda: "2026-01-02T03:04:05Z", common.new_id)
    ownership = MemoryOwnership(log)
    lifecycle = Lifecycle(log, ownership, encode, recordings, Quiet(), clock, str)
    gateway = Gateway(Rates(window, window, window), Slots(slots, slots), log, lifecycle, lambda: None)
    resolver = TargetResolver(
        visitors_profile=load_profile("agent"),
        visitors_files=Unseen(PurePosixPath("/visitors")),
        projects=common.projects,
        places=SpeakingPlaces(),
        limits=ExecutionLimits(10, 20, 10_000, 10),
        load_profile=load_profile,
    )
    service = ExecutionService(
        submission=Submission(gateway, resolver, common.keys, common.new_id),
        history=common.executions,
        projects=common.projects,
        tokens=ValidTokens(),
        queue=ownership,
        local=LocalExecutions(lifecycle.registry, recordings, common.executions),
        bus=common.bus,
        owner=owner,
        folder=folder,
        sessions=Sessions(time.monotonic),
    )
    return House(service, gateway, resolver, log, ownership, recordings, common.identities)


@pytest.fixture
def house() -> House:
    """A server on its own."""
    return build(shared())
