"""The use cases of an execution. Every front is a translation of them; no return value depends on HTTP."""

from collections.abc import Callable, Sequence
from dataclasses import field
from functools import lru_cache, partial
from typing import Protocol

from backend.application import visible
from backend.application.local_executions import LocalExecutions
from backend.application.recordings import Found, Recording, RecordingFinder, UnreachableError, answered
from backend.application.submission import CommandSpec, Existing, IdempotencyKey, Submission
from backend.core.audit.attempts import Completion, Record
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.access import may_control, may_view
from backend.core.execution.bus import ExecutionBus
from backend.core.execution.model import Delivery, Instruction, Status, Stop
from backend.core.execution.refusals import (
    hidden,
    uncontrolled,
    unknown,
    unreachable,
    unreadable,
)
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.sessions import Session, Sessions
from backend.core.execution.targets import OWN, Target, TargetRef
from backend.core.identity import Permission, Principal
from backend.core.limits import Budget
from backend.core.policy.admit import Plan
from backend.core.ports import ExecutionHistory, Filter, Projects, Queue
from backend.core.recording.reader import Send
from backend.core.recording.transcript import Index, Slice, read_slice

INDEXES = 64  # recordings whose index is cached: the most recently read ones


class TokenCheck(Protocol):
    """Checks the token of a principal."""

    async def is_valid(self, principal: Principal) -> bool:
        """Whether the token is still valid. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Output:
    """A part of the output of an execution; `completed` when no more will come."""

    part: Slice
    completed: bool


@dataclass(frozen=True, slots=True)
class ExecutionService:
    """What clients do with executions. `owner` and `folder` are the ids of this server and of its data folder."""

    submission: Submission
    history: ExecutionHistory
    projects: Projects
    tokens: TokenCheck
    queue: Queue
    local: LocalExecutions
    bus: ExecutionBus
    owner: str
    folder: str
    sessions: Sessions
    recordings: RecordingFinder = field(init=False)
    index: Callable[[str], Index] = field(default_factory=lambda: lru_cache(INDEXES)(lambda _: Index()))

    def __post_init__(self) -> None:
        found = RecordingFinder(self.history, self.local, self.bus, self.owner, self.folder)
        object.__setattr__(self, "recordings", found)

    async def submit(
        self, who: Principal, spec: CommandSpec, once: IdempotencyKey | None = None
    ) -> Execution | Waiting | Existing | Refused:
        """Start a command, or find the execution that the same key started before."""
        return await self.submission.submit(who, spec, once)

    def session(self, who: Principal, name: str) -> Session | Decision:
        """The session of the caller with this name."""
        return self.sessions.named(who.name, name)

    async def explain(self, who: Principal, spec: CommandSpec) -> Plan | Decision:
        """The verdict on a command. It is counted as a check; nothing runs or is recorded."""
        return await answered(self.submission.explain(who, spec))

    async def left(self, who: Principal) -> tuple[Budget, Budget] | Decision:
        """How many commands and how many checks the caller has left."""
        return await answered(self.submission.left(who))

    async def target(self, who: Principal, ref: TargetRef) -> Target | Decision:
        """A target that exists for the caller."""
        return await answered(self.submission.resolver.resolve(who, ref))

    async def view(self, who: Principal, id: str) -> Record | Decision:
        """The record of an execution that exists for the caller."""
        return await answered(visible.find(who, id, self.history, self.projects))

    async def page(self, who: Principal, query: Filter, target: TargetRef = OWN, *, everyone: bool = False) -> "Page":
        """Records, newest first: the caller's own, those of a project, or, for administrators, everyone's.

        With another target only those that ran there.
        """
        return await answered(self._page(who, query, target, everyone=everyone))

    async def follow(self, who: Principal, id: str, after_seq: int, send: Send) -> Decision | None:
        """Send what an execution has recorded after `after_seq`, then what it records, until its end."""
        found = await self.recording(who, id)
        problem = found if isinstance(found, Decision) else await found.follow(after_seq, send)
        return hidden(problem, id) if problem else None

    async def follow_started(self, id: str, after_seq: int, send: Send) -> Decision | None:
        """The same for a client that has just started it: its output is the answer to its own request."""
        found = await answered(self.recordings.find(id))
        recording = found if isinstance(found, Decision) else self.recordings.recording(id, found)
        return recording if isinstance(recording, Decision) else await recording.follow(after_seq, send)

    async def read_output(self, who: Principal, id: str, part: Slice) -> Output | Decision:
        """A part of the output so far."""
        record = await self.view(who, id)
        if isinstance(record, Decision):
            return record
        found = Found(None, record)
        try:
            stored = await read_slice(partial(self.recordings.copy, id, found), self.index(id), part)
        except UnreachableError:
            return unreachable(id)
        except OSError as error:
            return unreadable(error)
        return Output(part, part.ended if stored else record.status.is_final)

    async def recording(self, who: Principal, id: str) -> Recording | Decision:
        """The recording of an execution that exists for the caller."""
        found = await answered(self._visible(who, id))
        return found if isinstance(found, Decision) else self.recordings.recording(id, found)

    async def instruct(self, who: Principal, id: str, instruction: Instruction) -> Delivery | Decision:
        """Deliver an instruction to the server that runs the execution."""
        return await answered(self._instruct(who, id, instruction))

    def waiting_input(self, id: str) -> int:
        """Bytes of standard input that an execution of this server has not read yet."""
        found = self.local.registry.find(id)
        return len(found.instructions.stdin.waiting) if found else 0

    async def still_allowed(self, who: Principal, id: str | None = None) -> bool:
        """Whether the caller's token is valid and, with `id`, the execution still exists for it.

        While the database is unavailable, it is taken to be valid.
        """
        try:
            if not await self.tokens.is_valid(who):
                return False
            return id is None or not isinstance(await self._visible(who, id), Decision)
        except StorageError:
            return True

    async def _visible(self, who: Principal, id: str) -> Found | Decision:
        found = await self.recordings.find(id)
        return found if may_view(who, await visible.relation_to(who, found.owner, self.projects)) else unknown(id)

    async def _page(self, who: Principal, query: Filter, target: TargetRef, *, everyone: bool) -> "Page":
        if target != OWN:
            found = await self.submission.resolver.resolve(who, target)
            if isinstance(found, Decision):
                return found
            query = replace(query, target=str(found.ref))
            if found.project:
                return await self.history.page(query)
        if everyone and not who.may(Permission.ADMIN):
            return Decision.deny("role.forbidden", "Only administrators can list the executions of everyone.")
        return await self.history.page(query if everyone else replace(query, user_id=who.account))

    async def _instruct(self, who: Principal, id: str, instruction: Instruction) -> Delivery | Decision:
        found = await self.recordings.find(id)
        known = await visible.relation_to(who, found.owner, self.projects)
        if not may_control(who, known):
            return uncontrolled() if may_view(who, known) else unknown(id)
        if found.waits and isinstance(instruction, Stop):
            if await self._cancel_waiting(id, instruction):
                return Delivery.DELIVERED
            found = await self.recordings.find(id)  # a server has just claimed it
        return await self._deliver(id, found, instruction)

    async def _cancel_waiting(self, id: str, stop: Stop) -> bool:
        """End an execution that has no owner yet."""
        return await self.queue.cancel_queued(id, Completion(Status.CANCELLED, None, 0, stopped_by=stop.by))

    async def _deliver(self, id: str, found: Found, instruction: Instruction) -> Delivery | Decision:
        record = found.record
        if found.live or (record and record.owner == self.owner):
            return await self.local.deliver(id, instruction)
        if record is None:
            return unknown(id)
        if record.status.is_final or record.owner is None:
            return Delivery.NOT_RUNNING
        return await self.bus.instruct(record.owner, id, instruction)


Page = Sequence[Record] | Decision
