"""The use cases of an execution. Every front is a translation of them; no return value depends on HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import field
from functools import lru_cache, partial
from typing import Any, Protocol, TypeVar

from backend.application import visible
from backend.application.local_executions import LocalExecutions
from backend.application.submission import CommandSpec, Existing, IdempotencyKey, Submission
from backend.core.audit.attempts import Completion, Record
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.access import Owner, may_control, may_view
from backend.core.execution.bus import ExecutionBus, Relay
from backend.core.execution.model import Delivery, Instruction, Status, Stop
from backend.core.execution.ownership import LEASE
from backend.core.execution.refusals import (
    forgotten,
    hidden,
    unavailable,
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
from backend.core.recording.batches import last_seq
from backend.core.recording.lost import lost_lines
from backend.core.recording.reader import Send
from backend.core.recording.transcript import Index, Slice, read_slice

T = TypeVar("T")

INDEXES = 64  # recordings whose index is cached: the most recently read ones
LOST_BOUND = LEASE + 10.0  # seconds until an execution whose server died is recorded as lost
POLL = 0.5  # seconds between two reads of a record that another process changes
COUNT_AGAIN = 2.0  # seconds after which a server that did not count a viewer is asked again
BEHIND_ALL = 10**15  # a number that no message has


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
class Recording:
    """A recording that the caller may view.

    `follow(after_seq, send)` sends the lines numbered above `after_seq`, live, until the end; `copy(send)` sends what
    is stored now. Both send blocks of complete lines and return why they could not continue. With `running`, more will
    be recorded.
    """

    id: str
    running: bool
    follow: Callable[[int, Send], Coroutine[Any, Any, Decision | None]]
    copy: Callable[[Send], Coroutine[Any, Any, Decision | None]]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of an execution: it is live here, or has a record, or neither."""

    owner: Owner | None
    record: Record | None = None
    live: bool = False

    @property
    def running(self) -> bool:
        """Whether more will be recorded of it."""
        return self.live or bool(self.record and not self.record.status.is_final)

    @property
    def waits(self) -> bool:
        """Whether it has no owner yet."""
        return bool(self.record and self.record.status is Status.QUEUED)


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
    index: Callable[[str], Index] = field(default_factory=lambda: lru_cache(INDEXES)(lambda _: Index()))

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
        return await _answered(self.submission.explain(who, spec))

    async def left(self, who: Principal) -> tuple[Budget, Budget] | Decision:
        """How many commands and how many checks the caller has left."""
        return await _answered(self.submission.left(who))

    async def target(self, who: Principal, ref: TargetRef) -> Target | Decision:
        """A target that exists for the caller."""
        return await _answered(self.submission.resolver.resolve(who, ref))

    async def view(self, who: Principal, id: str) -> Record | Decision:
        """The record of an execution that exists for the caller."""
        return await _answered(visible.find(who, id, self.history, self.projects))

    async def page(self, who: Principal, query: Filter, target: TargetRef = OWN, *, everyone: bool = False) -> "Page":
        """Records, newest first: the caller's own, those of a project, or, for administrators, everyone's.

        With another target only those that ran there.
        """
        return await _answered(self._page(who, query, target, everyone=everyone))

    async def follow(self, who: Principal, id: str, after_seq: int, send: Send) -> Decision | None:
        """Send what an execution has recorded after `after_seq`, then what it records, until its end."""
        found = await self.recording(who, id)
        problem = found if isinstance(found, Decision) else await found.follow(after_seq, send)
        return hidden(problem, id) if problem else None

    async def follow_started(self, id: str, after_seq: int, send: Send) -> Decision | None:
        """The same for a client that has just started it: its output is the answer to its own request."""
        found = await _answered(self._find(id))
        recording = found if isinstance(found, Decision) else self._recording(id, found)
        return recording if isinstance(recording, Decision) else await recording.follow(after_seq, send)

    async def read_output(self, who: Principal, id: str, part: Slice) -> Output | Decision:
        """A part of the output so far."""
        record = await self.view(who, id)
        if isinstance(record, Decision):
            return record
        found = _Found(None, record)
        try:
            stored = await read_slice(partial(self._copy, id, found), self.index(id), part)
        except _Unreachable:
            return unreachable(id)
        except OSError as error:
            return unreadable(error)
        return Output(part, part.ended if stored else record.status.is_final)

    async def recording(self, who: Principal, id: str) -> Recording | Decision:
        """The recording of an execution that exists for the caller."""
        found = await _answered(self._visible(who, id))
        return found if isinstance(found, Decision) else self._recording(id, found)

    def _recording(self, id: str, found: _Found) -> Recording | Decision:
        if found.waits:
            return Recording(id, True, partial(self._follow_waiting, id), partial(self._download, id, found))
        try:
            if self._is_here(found) and self.local.reader(id) is None:
                return forgotten(id) if found.record else unknown(id)
        except OSError as error:
            return unreadable(error)
        follow = self._follow_here if self._is_here(found) else self._follow_there
        return Recording(id, found.running, partial(follow, found, id), partial(self._download, id, found))

    async def instruct(self, who: Principal, id: str, instruction: Instruction) -> Delivery | Decision:
        """Deliver an instruction to the server that runs the execution."""
        return await _answered(self._instruct(who, id, instruction))

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

    async def _find(self, id: str) -> _Found:
        # One without a task is not on record yet: what waits is to be cancelled there, where only one server claims it.
        if (live := self.local.registry.find(id)) and live.task:
            who = live.request.principal
            return _Found(Owner(who.name, who.user_id, live.attempt.project), live=True)
        record = await self.history.get(id)
        return _Found(visible.owner_of(record) if record else None, record)

    async def _visible(self, who: Principal, id: str) -> _Found | Decision:
        found = await self._find(id)
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
        found = await self._find(id)
        known = await visible.relation_to(who, found.owner, self.projects)
        if not may_control(who, known):
            return uncontrolled() if may_view(who, known) else unknown(id)
        if found.waits and isinstance(instruction, Stop):
            if await self._cancel_waiting(id, instruction):
                return Delivery.DELIVERED
            found = await self._find(id)  # a server has just claimed it
        return await self._deliver(id, found, instruction)

    async def _cancel_waiting(self, id: str, stop: Stop) -> bool:
        """End an execution that has no owner yet."""
        return await self.queue.cancel_queued(id, Completion(Status.CANCELLED, None, 0, stopped_by=stop.by))

    async def _deliver(self, id: str, found: _Found, instruction: Instruction) -> Delivery | Decision:
        record = found.record
        if found.live or (record and record.owner == self.owner):
            return await self.local.deliver(id, instruction)
        if record is None:
            return unknown(id)
        if record.status.is_final or record.owner is None:
            return Delivery.NOT_RUNNING
        return await self.bus.instruct(record.owner, id, instruction)

    def _is_here(self, found: _Found) -> bool:
        """Whether no other server has to be asked. What never ran has no recording anywhere."""
        record = found.record
        return record is None or record.owner is None or record.folder == self.folder

    async def _follow_waiting(self, id: str, after_seq: int, send: Send) -> Decision | None:
        """Wait until an execution has an owner, then follow it. One that is cancelled first has no recording."""
        while True:
            found = await _answered(self._find(id))
            if isinstance(found, Decision):
                return found
            if not found.waits:
                recording = self._recording(id, found)
                return recording if isinstance(recording, Decision) else await recording.follow(after_seq, send)
            await asyncio.sleep(POLL)

    async def _follow_here(self, found: _Found, id: str, after_seq: int, send: Send) -> Decision | None:
        owner = self._other_owner(found)
        with self._counted_by(owner, id) if owner else nullcontext():
            sent = await _read(lambda: self.local.follow_here(id, after_seq, send))
        return sent if isinstance(sent, Decision) else None if sent else forgotten(id)

    def _other_owner(self, found: _Found) -> str:
        """The other server that runs an execution now; empty if there is none."""
        record = found.record
        running_at = record.owner if record and not record.status.is_final else None
        return running_at if running_at and running_at != self.owner else ""

    @contextmanager
    def _counted_by(self, owner: str, id: str) -> Iterator[None]:
        """Have another server count a viewer of what it runs, who reads the recording here, from the shared folder."""
        counting = asyncio.create_task(self._count_viewer(owner, id))
        try:
            yield
        finally:
            counting.cancel()

    async def _count_viewer(self, owner: str, id: str) -> None:
        """Follow behind the last line: a viewer for the server that runs it, but nothing is sent twice."""
        while await _read(lambda: self.bus.follow(owner, id, BEHIND_ALL, _ignore)) is Relay.UNREACHABLE:
            await asyncio.sleep(COUNT_AGAIN)

    async def _follow_there(self, found: _Found, id: str, after_seq: int, send: Send) -> Decision | None:
        """Follow through the bus: the server that runs it, which counts its viewers, or any that has its recording.

        When that server dies, viewers still get an end: that it was lost.
        """
        seen = _LastSeq(send, after_seq)
        for address in filter(None, (self._other_owner(found), found.record.folder if found.record else "")):
            match await _read(partial(self.bus.follow, address, id, seen.seq, seen)):
                case Relay.ENDED:
                    return None
                case Relay.UNKNOWN:
                    return forgotten(id)
                case Decision() as problem:
                    return problem
                case Relay.UNREACHABLE:
                    pass  # the next one
        return await self._await_loss(id, seen)

    async def _await_loss(self, id: str, seen: "_LastSeq") -> Decision | None:
        deadline = asyncio.get_running_loop().time() + LOST_BOUND
        while asyncio.get_running_loop().time() < deadline:
            record = await _answered(self._record(id))
            if isinstance(record, Record) and record.status.is_final:
                if record.status is not Status.LOST:
                    return unreachable(id)
                await seen.send(lost_lines(id, seen.seq + 1))
                return None
            await asyncio.sleep(POLL)
        return unreachable(id)

    async def _record(self, id: str) -> Record | Decision:
        return await self.history.get(id) or unknown(id)

    async def _copy(self, id: str, found: _Found, send: Send, begin: int, end: int | None) -> int | None:
        """Send what is stored between two offsets, wherever it is stored. Raises OSError and _Unreachable."""
        if self._is_here(found):
            return await self.local.copy_here(id, send, begin, end)
        answer = await self.bus.copy(found.record.folder if found.record else "", id, send, begin, end)
        match answer:
            case Relay.UNKNOWN | Relay.ENDED:
                return None
            case Relay.UNREACHABLE:
                raise _Unreachable
            case int():
                return answer

    async def _download(self, id: str, found: _Found, send: Send) -> Decision | None:
        try:
            stored = await self._copy(id, found, send, 0, None)
        except _Unreachable:
            return unreachable(id)
        except OSError as error:
            return unreadable(error)
        return forgotten(id) if stored is None and not found.waits else None


Page = Sequence[Record] | Decision


class _Unreachable(Exception):
    """The server that stores a recording does not answer."""


async def _ignore(_: bytes) -> None:
    """Send nothing."""


class _LastSeq:
    """A `send` that remembers the number of the last line that it passed on."""

    def __init__(self, send: Send, seq: int) -> None:
        self.send, self.seq = send, seq

    async def __call__(self, block: bytes) -> None:
        await self.send(block)
        self.seq = last_seq(block)


async def _answered(work: Awaitable[T]) -> T | Decision:
    """What storage returns, or the refusal that it is unavailable."""
    try:
        return await work
    except StorageError as error:
        return unavailable(error)


async def _read(work: Callable[[], Awaitable[T]]) -> T | Decision:
    """What is read from a recording, or the refusal that it cannot be read."""
    try:
        return await work()
    except OSError as error:
        return unreadable(error)
