"""The lifecycle of an admitted command: audited, recorded, run by its target's executor, its end recorded."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field
from functools import partial
from typing import Protocol, assert_never

from backend.core.audit.attempts import Attempt, Completion
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import RecordingError, StorageError
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    Actor,
    Job,
    Outcome,
    Status,
    StopReason,
    unrecorded,
)
from backend.core.execution.registry import Execution, Registry
from backend.core.execution.requests import Request, Waiting
from backend.core.execution.sessions import Kept
from backend.core.execution.timeouts import timeout
from backend.core.figures import duration_text, size_text
from backend.core.policy.admit import Plan
from backend.core.policy.line_state import BEGINNING, LineState
from backend.core.ports import ExecutionLog, Queue, Recordings
from backend.core.recording.messages import Complete, Problem, Started, Truncated
from backend.core.recording.retention import RecordingShares
from backend.core.recording.writer import Recorder, Resumed

LATE = "This server did not answer for too long, so another one has recorded the execution as lost."
BROKEN = Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem="Gatepost failed.", rule="server.failed")
ENDING_BOUND = 5.0  # seconds for which the end of a command waits for the audit


class Observer(Protocol):
    """Is notified of what happens, for logs and metrics."""

    def refused(self, request: Request, decision: Decision) -> None: ...

    def started(self, execution: Execution) -> None: ...

    def ended(self, execution: Execution, completion: Completion) -> None: ...

    def handed_over(self, execution: Execution) -> None: ...

    def on_crash(self, execution: str, error: Exception) -> None: ...

    def on_audit_failure(self, execution: str, error: StorageError) -> None: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness, passed in. `monotonic` is in seconds, `utc` is ISO 8601 with Z."""

    monotonic: Callable[[], float]
    utc: Callable[[], str]
    new_id: Callable[[], str]


def ignored(_: str) -> None:
    """No target of this server is waited for."""


@dataclass(slots=True)
class Lifecycle:
    """Starts executions and ends them.

    `mask` hides secrets in what is stored of a command line; `encode` serialises the job of a queued execution, whose
    target `enqueued` is called with.
    """

    log: ExecutionLog
    queue: Queue
    encode: Callable[[Job], str]
    recordings: Recordings
    observer: Observer
    clock: Clock
    mask: Callable[[str], str]
    enqueued: Callable[[str], None] = ignored
    shares: RecordingShares = field(default_factory=RecordingShares)
    registry: Registry = field(default_factory=Registry)

    def attempt(self, request: Request, decision: Decision, argvs: tuple[tuple[str, ...], ...]) -> Attempt:
        """The record of a request and of the verdict on it."""
        return Attempt(
            id=request.execution,
            principal=request.principal,
            target=str(request.target.ref),
            project=request.target.project,
            command=self.mask(request.command.strip()[: request.target.profile.max_characters]),
            argvs=tuple(tuple(map(self.mask, argv)) for argv in argvs),
            working_dir=self.mask(request.cwd),
            decision=decision,
            policy=request.target.profile.hash,
            dry_run=request.dry_run,
            metadata_only=request.hides_output,
            schedule=request.schedule,
        )

    async def start(self, request: Request, plan: Plan, on_end: Callable[[], None]) -> Execution:
        """Open the recording and the audit; the same task is to `run` it at once.

        If it raises RecordingError or StorageError, nothing is to run.
        """
        execution = self._prepare(request, plan, Resumed(self.recordings.create(request.execution)), on_end)
        try:
            await self.log.open(execution.attempt)
        except BaseException:
            self._discard(execution)
            raise
        return self._begin(execution)

    async def resume(self, request: Request, plan: Plan, on_end: Callable[[], None]) -> Execution | None:
        """Claim an execution that waits, to `run` it as any other. If it raises as `start` does, it still waits.

        None if it does not wait (any more): it was cancelled, or another server was first. What is taken up keeps the
        timeout that it was started with.
        """
        stored = self.recordings.resume(request.execution)
        request = replace(request, timeout=request.timeout or stored.timeout)
        execution = self._prepare(request, plan, stored, on_end)
        try:
            claimed = await self.queue.claim(execution.id)
        except BaseException:
            self._discard(execution)
            raise
        if claimed:
            return self._begin(execution)
        self._discard(execution)
        return None

    def _prepare(self, request: Request, plan: Plan, stored: Resumed, on_end: Callable[[], None]) -> Execution:
        attempt, log = self.attempt(request, plan.decision, plan.argvs), stored.log
        count = partial(self.shares.add, request.principal.account)
        recorder = Recorder(
            attempt.id,
            log,
            self.clock.monotonic,
            mask=self.mask,
            count=count,
            muted=request.hides_output,
            resumed=stored,
        )
        execution = Execution(attempt.id, request, plan, attempt, log, recorder, _instructions(request), on_end)
        self.registry.add(execution)  # now: as soon as it is on record, any server may send it an instruction
        return execution

    def _discard(self, execution: Execution) -> None:
        self.registry.remove(execution)
        execution.log.discard()

    def _begin(self, execution: Execution) -> Execution:
        """It is on record, so whatever fails from here on must be recorded as its end: all of it is in `run`."""
        execution.task = asyncio.current_task()
        execution.watch_for_viewers()
        return execution

    async def enqueue(self, request: Request, plan: Plan) -> Waiting:
        """Record an execution that waits for an owner. Raises StorageError."""
        attempt = self.attempt(request, plan.decision, plan.argvs)
        await self.queue.enqueue(attempt, self.encode(_job(request, plan)))
        self.enqueued(attempt.target)
        return Waiting(attempt.id)

    async def run(self, execution: Execution) -> None:
        """Run what was started, until its end is recorded."""
        recorder = execution.recorder
        begun = 0 if recorder.resumed else recorder.elapsed_ms
        outcome = BROKEN
        try:
            self.observer.started(execution)
            recorder.begin(self._started(execution))
            outcome = await self._execute(execution, recorder)
        except RecordingError as error:
            execution.instructions.stop(unrecorded(error))
        except StorageError as error:
            outcome = replace(outcome, problem=str(error), rule="storage.unavailable")
        except Exception as error:  # the outermost edge of an execution: whatever failed, its end must be recorded
            self.observer.on_crash(execution.id, error)
        finally:
            if outcome.status is Status.QUEUED:
                await self._hand_over(execution, recorder)
            else:
                await self._end(execution, outcome, recorder, recorder.elapsed_ms - begun)

    async def _hand_over(self, execution: Execution, recorder: Recorder) -> None:
        """Leave an execution that goes on elsewhere to the server that takes it up."""
        execution.ended()
        recorder.leave()
        with suppress(StorageError):  # then its lease runs out
            await self.queue.hand_over(execution.id)
        self.registry.remove(execution)
        self.observer.handed_over(execution)
        execution.on_end()

    async def _execute(self, execution: Execution, recorder: Recorder) -> Outcome:
        request = execution.request
        if request.dry_run:
            return Outcome(Status.SUCCEEDED, None)
        job = _job(request, execution.plan)
        outcome = await request.target.executor.run(job, recorder, execution.instructions)
        if outcome.left:
            request.keep(_kept(outcome.left, request))
        return outcome

    def _started(self, execution: Execution) -> Started:
        request, attempt = execution.request, execution.attempt
        return Started(
            command=attempt.command,
            argv=tuple(word for argv in attempt.argvs for word in argv),
            commands=attempt.argvs if len(attempt.argvs) > 1 else None,
            risk=attempt.decision.risk,
            rule=attempt.decision.rule,
            cwd=str(execution.plan.cwd),
            time=self.clock.utc(),
            timeout=request.seconds,
            dry_run=request.dry_run,
            metadata_only=request.hides_output or None,
            id=request.client_ref,
        )

    async def _end(self, execution: Execution, outcome: Outcome, recorder: Recorder, duration_ms: int) -> None:
        execution.ended()
        reason = execution.instructions.reason
        outcome = replace(outcome, problem=self.mask(outcome.problem)) if outcome.problem else outcome
        with suppress(RecordingError):
            for message in _last_messages(outcome, execution):
                recorder.add(message)
        completion = Completion(
            status=outcome.status,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            duration_ms=duration_ms,
            stdout_bytes=outcome.stdout_bytes,
            stderr_bytes=outcome.stderr_bytes,
            truncated=reason is StopReason.OUTPUT_LIMIT,
            stopped_by=execution.instructions.stopped_by,
            usage=outcome.usage,
            background=outcome.background,
        )
        dry_run = execution.request.dry_run
        completion = replace(completion, recording=recorder.seal(complete_message(completion, dry_run=dry_run)))
        # A database that does not answer delays the end by so much.
        late = timeout(ENDING_BOUND, partial(self._show_end, execution, completion))
        is_first = await self._close(execution.attempt, completion)
        late.cancel()
        if is_first:
            self._show_end(execution, completion)
            return
        completion = replace(completion, status=Status.LOST, exit_code=None, signal=None)
        told = [] if reason is StopReason.LEASE_LOST else [Problem(message=LATE, rule="server.lost")]  # else they know
        self._show_end(execution, completion, *told, complete_message(completion, dry_run=dry_run))

    def _show_end(self, execution: Execution, completion: Completion, *instead: Problem | Complete) -> None:
        """Let the viewers have the end, unless they have it."""
        if self.registry.find(execution.id) is execution:
            self.registry.remove(execution)
            execution.recorder.end(*instead)
            self.observer.ended(execution, completion)
            execution.on_end()

    async def _close(self, attempt: Attempt, completion: Completion) -> bool:
        try:
            return await self.log.close(attempt, completion)
        except StorageError as error:
            # The recording contains the end, so it is written to the audit later; see `backend.runtime.recovery`.
            self.observer.on_audit_failure(attempt.id, error)
            return True


def _instructions(request: Request) -> Instructions:
    """Where the client's input comes later, or all of it at once."""
    instructions = Instructions(stdin=request.stdin or bool(request.input))
    if request.input:
        instructions.stdin.write(request.input, last=True)
    return instructions


def _kept(left: LineState, request: Request) -> Kept:
    """What a line leaves to the next one of its session."""
    before, placed = request.kept, request.is_placed
    previous = before.state.previous if placed else left.previous
    kept = BEGINNING
    if left.exported or left.background or previous:
        kept = replace(BEGINNING, exported=left.exported, background=left.background, previous=previous)
    return Kept(before.folder if placed else left.folder(request.target.files.root), kept)


def _job(request: Request, plan: Plan) -> Job:
    return Job(
        execution=request.execution,
        target=str(request.target.ref),
        actor=Actor(request.principal.name, request.principal.address),
        line=request.command,
        plan=plan,
        timeout=request.seconds,
        output_limit=request.target.limits.output_limit,
        stdin=request.stdin or bool(request.input),
        client_ref=request.client_ref,
        resumed=request.resumed,
    )


def complete_message(completion: Completion, *, dry_run: bool = False) -> Complete:
    """The last message of a recording."""
    return Complete(
        status=completion.status,
        exit_code=completion.exit_code,
        signal=completion.signal,
        duration_ms=completion.duration_ms,
        timed_out=completion.status is Status.TIMED_OUT,
        truncated=completion.truncated,
        stdout_bytes=completion.stdout_bytes,
        stderr_bytes=completion.stderr_bytes,
        dry_run=dry_run or None,
        background=completion.background or None,
        **completion.usage.figures,
    )


def _last_messages(outcome: Outcome, execution: Execution) -> list[Truncated | Problem]:
    """The messages that viewers get before the last one."""
    messages: list[Truncated | Problem] = []
    reason, limits = execution.instructions.reason, execution.request.target.limits
    if reason is StopReason.OUTPUT_LIMIT:
        limit = limits.output_limit
        message = f"Output over {size_text(limit)}; the command was stopped."
        messages.append(Truncated(limit_bytes=limit, message=message))
    if outcome.problem:
        messages.append(Problem(message=outcome.problem, rule=outcome.rule))
    elif reason and (problem := _stop_problem(reason, limits.detach_grace, execution.request.seconds)):
        messages.append(problem)
    return messages


def _stop_problem(reason: StopReason, grace: float, timeout: float) -> Problem | None:
    match reason:
        case StopReason.TIMED_OUT:
            message = f"Timed out: the command was stopped after {duration_text(timeout)}."
            return Problem(message=message, rule="limits.timeout")
        case StopReason.ABANDONED:
            message = f"No viewer was connected for {duration_text(grace)}; the command was stopped."
            return Problem(message=message, rule="limits.detach")
        case StopReason.SHUTDOWN:
            return Problem(message="The command was stopped because the server is stopping.", rule="server.stopping")
        case StopReason.UNRECORDED:
            message = "The recording cannot be written; the command was stopped."
            return Problem(message=message, rule="recording.unavailable")
        case StopReason.RECORDINGS_FULL:
            message = "The recordings of a day are over their limit; the command was stopped."
            return Problem(message=message, rule="limits.recordings")
        case StopReason.WORKSPACE_FULL:
            message = "The workspace is over its limit; the command was stopped. Delete files to continue."
            return Problem(message=message, rule="limits.workspace")
        case StopReason.DISK_FULL:
            return Problem(
                message="The disk of the server is nearly full; the command was stopped.", rule="storage.full"
            )
        case StopReason.LEASE_LOST:
            message = "The server lost its lease on this execution; the command was stopped."
            return Problem(message=message, rule="server.lost")
        case StopReason.CANCELLED | StopReason.OUTPUT_LIMIT:
            return None
        case _:
            assert_never(reason)
