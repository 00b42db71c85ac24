"""What the runners of Django projects ask for. Every call is that of a key, whose project it is about.

A call may reach any server, and any number of times: what it says is stored, and the server that owns the execution
reads it there.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import field

from backend.application.queue_runner import BATCH, QueueRunner
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.django.commands import CommandList, command_and_arguments
from backend.core.django.ports import Added, Reply, RunnerKey, RunnerStore, RunnerVersions
from backend.core.django.runs import Chunk, Run, RunEnd, StopLevel
from backend.core.errors import StorageError
from backend.core.execution.model import Job, Status
from backend.core.execution.refusals import unknown
from backend.core.execution.registry import Execution
from backend.core.execution.targets import TargetRef
from backend.core.execution.wakeups import Wakeups
from backend.core.ports import AuditLog, ExecutionHistory, QueuedExecution

DJANGO = "django"
AT_ONCE = 16  # executions that a runner is offered at once; it runs a few of them
MOST_REPORTED = 1000  # executions whose late output is recorded once; what comes later than that, once more
LATE_SHOWN = 4096  # characters of late output that the audit contains


def target_of(project: str) -> TargetRef:
    """The target of a Django project."""
    return TargetRef(DJANGO, project)


def is_django(target: str) -> bool:
    """Whether commands on a target outlive their server, since runners run them."""
    return target.startswith(f"{DJANGO}:")


@dataclass(frozen=True, slots=True)
class Pending:
    """An execution that waits for a runner. `arguments` can be taken apart by `shlex.split`; `timeout` is in seconds."""

    execution: str
    command: str
    arguments: str
    timeout: float
    metadata_only: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a heartbeat is answered with."""

    suspended: str | None
    in_sync: bool
    pending: int


@dataclass(frozen=True, slots=True)
class Runners:
    """The use cases of runners. All of them raise StorageError.

    `recheck` is in seconds: how often to look for what other servers have queued. What this one queues is found at once.
    """

    store: RunnerStore
    queue_runner: QueueRunner
    history: ExecutionHistory
    audit: AuditLog
    wakeups: Wakeups
    mask: Callable[[str], str]
    now_ms: Callable[[], int]
    recheck: float
    reported: OrderedDict[str, None] = field(default_factory=OrderedDict)  # whose late output or end was recorded
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        """The server stops: runners that wait are answered, and none waits any more."""
        self.closing.set()
        self.wakeups.wake_all()

    async def heartbeat(self, key: RunnerKey, versions: RunnerVersions, commands_hash: str) -> Heartbeat:
        """A runner is alive."""
        await self.store.seen(key.id, versions)
        in_sync = commands_hash == await self.store.commands_hash(key.project)
        return Heartbeat(key.suspended, in_sync, len(await self._waiting(key)))

    async def sync(self, key: RunnerKey, commands: CommandList) -> None:
        """A runner lists the commands of its project."""
        await self.store.set_commands(key.project, commands)

    async def pending(self, key: RunnerKey, wait: float = 0.0) -> list[Pending]:
        """What waits for a runner, the oldest first; waits for so many seconds until there is something."""
        if key.suspended is not None:
            return []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (0 if self.closing.is_set() else wait)
        with self.wakeups.watch(str(target_of(key.project))) as watch:
            found = await self._offers(await self._waiting(key))
            while not found and (left := deadline - loop.time()) > 0:
                await watch.wait(min(left, self.recheck))
                if self.closing.is_set() or not await self._is_active(key):
                    return []  # suspended or revoked meanwhile: the next request says so
                found = await self._offers(await self._queued(key))
        return found

    async def _is_active(self, key: RunnerKey) -> bool:
        now = await self.store.key(key.id)
        return now is not None and now.is_valid(self.now_ms()) and now.suspended is None

    async def take_up(self) -> None:
        """Have this server follow what goes on though its server has died or ended. It has no job: it was started."""
        targets = {str(target_of(project)) for project in await self.store.projects_with_keys()}
        for each in await self.queue_runner.queue.queued(targets, BATCH):
            if not each.job:
                await self.queue_runner.start(each)

    async def _waiting(self, key: RunnerKey) -> Sequence[QueuedExecution]:
        """What waits for a runner. Most runners ask in vain, and often: they are answered from memory."""
        clock, known = asyncio.get_running_loop().time, self.wakeups.known_empty(str(target_of(key.project)))
        if clock() < known.until:
            return ()
        if not (found := await self._queued(key)):
            known.found_nothing(clock() + self.recheck)
        return found

    async def _queued(self, key: RunnerKey) -> Sequence[QueuedExecution]:
        found = await self.queue_runner.queue.queued({str(target_of(key.project))}, AT_ONCE)
        return [each for each in found if each.job]

    async def _offers(self, waiting: Sequence[QueuedExecution]) -> list[Pending]:
        return [offer for each in waiting if (offer := await self._offer(each))]

    async def _job(self, waiting: QueuedExecution) -> Job | None:
        """What waits. One that cannot be read is ended, as if it were started."""
        try:
            return self.queue_runner.decode(waiting.job)
        except ValueError:
            await self.queue_runner.start(waiting)
            return None

    async def _offer(self, waiting: QueuedExecution) -> Pending | None:
        """What a runner needs to know of a job."""
        if (job := await self._job(waiting)) is None:
            return None
        command, arguments = command_and_arguments(job.plan.argvs[0])
        return Pending(waiting.record.id, command, arguments, job.timeout, waiting.record.metadata_only)

    async def start(self, key: RunnerKey, execution: str, nonce: str) -> Decision | None:
        """A runner claims an execution. One request gets it, however often that is repeated."""
        record = await self.history.get(execution)
        if record is None or record.target != str(target_of(key.project)):
            return unknown(execution)
        if record.status is not Status.QUEUED:
            return None if await self._has_started(key, execution, nonce) else _claimed(execution)
        if key.suspended is not None:
            reason = f"This runner is suspended: {key.suspended}"
            return Decision.deny("runner.suspended", reason, "It gets executions again once it is resumed.")
        return await self._claim(key, execution, nonce)

    async def _claim(self, key: RunnerKey, execution: str, nonce: str) -> Decision | None:
        """Have this server own an execution that waits, if no other request has begun it."""
        mine = await self.queue_runner.queue.waiting(execution)
        if mine is None or not mine.job:  # it was started, though it may have no server now
            return None if await self._has_started(key, execution, nonce) else _claimed(execution)
        job, muted = await self._job(mine), mine.record.metadata_only
        if job is None or not await self.store.begin(
            execution, key.id, nonce, muted=muted, timeout_ms=round(job.timeout * 1000)
        ):
            return _claimed(execution)
        started = await self.queue_runner.start(mine)
        if isinstance(started, Execution):
            return None
        record = await self.history.get(execution)
        if record and record.status is Status.RUNNING:
            return None  # the same request, sent again while it was being answered
        await self.store.abandon(execution, nonce)
        return started or _claimed(execution)

    async def _has_started(self, key: RunnerKey, execution: str, nonce: str) -> bool:
        """Whether this request has started an execution that has not ended."""
        run, record = await self.store.run(execution), await self.history.get(execution)
        same = run is not None and not run.closed and (run.key, run.nonce) == (key.id, nonce)
        return same and record is not None and not record.status.is_final

    async def output(self, key: RunnerKey, execution: str, chunk: Chunk, reply: Reply) -> Reply | Decision | None:
        """A runner reports a piece of output. It may arrive twice, late and out of order.

        The reply, if it was stored with the chunk; None if what is answered is still to be stored.
        """
        if isinstance(run := await self._run(key, execution), Decision):
            return run
        added = await self.store.add_chunk(execution, chunk, reply)
        if added is Added.NEW:
            self.wakeups.wake(execution)
        if added is Added.LATE and not run.muted and chunk.text:
            await self._record_late(key, execution, output=self.mask(chunk.text)[:LATE_SHOWN])
        return reply if added in {Added.NEW, Added.KNOWN} else None

    async def complete(self, key: RunnerKey, execution: str, end: RunEnd) -> Decision | None:
        """A runner reports how a command ended. The first end stays."""
        if isinstance(run := await self._run(key, execution), Decision):
            return run
        if await self.store.complete(execution, end) and run.closed:
            await self._record_late(key, execution, end=end.status, exit_code=end.exit_code)
        self.wakeups.wake(execution)
        return None

    async def stop_level(self, key: RunnerKey, execution: str) -> StopLevel | Decision:
        """What a runner is asked to do with a command. One whose end is recorded has nothing left to do."""
        if isinstance(run := await self._run(key, execution), Decision):
            return run
        await self.store.heard(run)
        return StopLevel.KILL if run.closed and not run.end else run.stop

    async def _run(self, key: RunnerKey, execution: str) -> Run | Decision:
        """An execution that this key, or another one of its project, has started."""
        run = await self.store.run(execution)
        if run is None or (run.key != key.id and not await self._shares(run.key, key)):
            return unknown(execution)
        return run

    async def _shares(self, id: str, key: RunnerKey) -> bool:
        """Whether a key is one of the same project, for example before it was rotated."""
        other = await self.store.key(id)
        return other is not None and other.project == key.project

    async def _record_late(self, key: RunnerKey, execution: str, **what: str | int) -> None:
        """Record in the audit what is reported of an execution whose end is in the history, once for each."""
        kind = f"{execution} {'output' if 'output' in what else 'end'}"
        if kind in self.reported:
            return
        self.reported[kind] = None
        if len(self.reported) > MOST_REPORTED:
            self.reported.popitem(last=False)
        target = str(target_of(key.project))
        try:
            await self.audit.record(
                Kind.ANSWERED_LATE, f"runner:{key.name}", "", {"execution": execution, "target": target, **what}
            )
        except StorageError:
            self.reported.pop(kind, None)
            raise


def _claimed(execution: str) -> Decision:
    reason = f"The execution {execution} does not wait: a runner has claimed it, or it has ended."
    return Decision.deny("runner.claimed", reason, "Do not run it.")
