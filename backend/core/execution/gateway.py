"""The one path of a command: limits, parse, policy, audit, recording, executor.

    submit(request) -> Refused | Execution

Every front calls `submit` and `follow`; every executor only writes to the recorder. The order of the checks in
`Gateway._admit` is the security of the product: read it from top to bottom.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol, assert_never

from backend.core.audit.attempts import Attempt, Completion, Ledger
from backend.core.decisions import Decision
from backend.core.errors import GatepostError, RecordingError, StorageError
from backend.core.execution.model import EXIT_GATEPOST_FAILED, Control, Executor, Outcome, Request, Status, Stop
from backend.core.execution.sequence import Bounds, run_script
from backend.core.identity import Permission, Principal
from backend.core.language.lexer import GLOB_STARTS
from backend.core.language.parser import Script
from backend.core.limits import RateLimiter, Slots, check_rate
from backend.core.policy.admit import Plan, Verdict, judge, read
from backend.core.recording.messages import Complete, Problem, Started, Truncated
from backend.core.recording.reader import Send
from backend.core.recording.sanitized import SanitizedRecording
from backend.core.recording.writer import Recorder, RecordingLog

ENDING_BOUND = 5.0  # seconds that the end of a command waits for the audit
FIRST_VIEWER = 1.0  # seconds that whoever started a command has to begin watching, however short the grace


class Recordings(Protocol):
    """All recordings."""

    def create(self, execution: str) -> RecordingLog:
        """Begin one. Raises RecordingError."""
        ...

    def find(self, execution: str) -> RecordingLog | None:
        """One that lives or is kept."""
        ...


class Observer(Protocol):
    """Told what happens, for logs and figures."""

    def refused(self, request: Request, decision: Decision) -> None: ...

    def started(self, execution: "Execution") -> None: ...

    def ended(self, execution: "Execution", outcome: Outcome, seconds: float) -> None: ...

    def broke(self, execution: "Execution", error: Exception) -> None: ...

    def unwritten(self, attempt: Attempt, error: StorageError) -> None: ...


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was refused and nothing ran. `execution` is the id under which the history has it."""

    request: Request
    decision: Decision
    execution: str


@dataclass(slots=True, eq=False)
class Execution:
    """A command that was let through."""

    id: str
    request: Request
    plan: Plan
    attempt: Attempt
    log: RecordingLog
    control: Control
    viewers: int = 0
    running: bool = True
    task: asyncio.Task[None] | None = None
    abandon: asyncio.TimerHandle | None = None

    @property
    def program(self) -> str:
        return self.plan.argvs[0][0]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a command gets at most: seconds to run, bytes to write, seconds without a viewer.

    `longest` is how many seconds an account may ask for; a visitor gets `timeout` at most.
    """

    timeout: float
    longest: float
    output_limit: int
    detach_grace: float


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness, handed in. `monotonic` is in seconds, `utc` is ISO 8601 with Z."""

    monotonic: Callable[[], float]
    utc: Callable[[], str]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Rates:
    """How often commands are taken: from a visitor, counted for connection and address, and from an account."""

    visitors: RateLimiter
    users: RateLimiter

    async def check(self, principal: Principal) -> Decision | None:
        if principal.user:
            return await check_rate(self.users, (principal.name,))
        return await check_rate(self.visitors, (principal.name, principal.address))


@dataclass(frozen=True, slots=True)
class _Admitted:
    plan: Plan
    cwd: PurePosixPath


@dataclass(slots=True)
class Gateway:
    """The gate. One for the whole service.

    `mask` hides secrets in what is kept of a command line; `protected` refuses where the kernel cannot hold commands as
    it must; `raw` recordings are filtered for their viewers.
    """

    rates: Rates
    slots: Slots
    ledger: Ledger
    recordings: Recordings
    executor: Executor
    observer: Observer
    terms: Terms
    clock: Clock
    mask: Callable[[str], str]
    protected: Callable[[], Decision | None]
    raw: bool = False
    live: dict[str, Execution] = field(default_factory=dict)
    starting: set[asyncio.Future[Execution | Refused]] = field(default_factory=set)
    ending: set[asyncio.Future[None]] = field(default_factory=set)
    closing: bool = False

    async def submit(self, request: Request) -> Execution | Refused:
        """Judge a request and start it. The caller follows the execution from here on."""
        request = replace(request, execution=request.execution or self.clock.new_id())
        # A caller who goes away must not leave a command between its audit and its start.
        starting = asyncio.ensure_future(self._submit(request))
        self.starting.add(starting)
        starting.add_done_callback(self.starting.discard)
        return await asyncio.shield(starting)

    async def _submit(self, request: Request) -> Execution | Refused:
        try:
            admitted = await self._admit(request)
        except StorageError as error:
            admitted = _unavailable(error)
        if isinstance(admitted, Decision):
            return await self._refuse(request, self._masked(admitted))
        if busy := self.slots.acquire(request.principal.name):
            return await self._refuse(request, busy, admitted.plan)
        try:
            return await self._start(request, admitted)
        except GatepostError as error:
            self.slots.release(request.principal.name)
            return await self._refuse(request, _unavailable(error), admitted.plan)
        except BaseException:
            self.slots.release(request.principal.name)
            raise

    async def explain(self, request: Request) -> Plan | Decision:
        """The verdict on a request without running it, counting it or keeping it."""
        admitted = await self._judge_line(request)
        return self._masked(admitted) if isinstance(admitted, Decision) else admitted.plan

    def _masked(self, decision: Decision) -> Decision:
        """Reasons repeat words of the line."""
        return replace(decision, reason=self.mask(decision.reason), hint=self.mask(decision.hint))

    async def _admit(self, request: Request) -> _Admitted | Decision:
        """Every check before a command, in the order in which they protect each other."""
        if self.closing:
            return Decision.deny("server.stopping", "The server is stopping.", "Connect again in a moment.")
        if not request.principal.may(Permission.EXECUTE):
            reason = "You may look, but not run commands."
            return Decision.deny("role.forbidden", reason, "Ask an administrator for the role or scope to run them.")
        return await self.rates.check(request.principal) or self.protected() or await self._judge_line(request)

    async def _judge_line(self, request: Request) -> _Admitted | Decision:
        """Globs look through folders, which can take a while: then others are served meanwhile."""
        if GLOB_STARTS.isdisjoint(request.command):
            return self._parse_and_judge(request)
        return await asyncio.to_thread(self._parse_and_judge, request)

    def _parse_and_judge(self, request: Request) -> _Admitted | Decision:
        script = read(request.command, request.target.profile)
        return script if isinstance(script, Decision) else self._judge(request, script)

    def _judge(self, request: Request, script: Script) -> _Admitted | Decision:
        target = request.target
        if refusal := target.profile.check_count(len(script.words)) or self._check_timeout(request):
            return refusal
        cwd = target.workspace.enter(request.cwd)
        if isinstance(cwd, Decision):
            return cwd
        plan = judge(script, target, cwd)
        return plan if isinstance(plan, Decision) else _Admitted(plan, cwd)

    def _check_timeout(self, request: Request) -> Decision | None:
        most = self.terms.longest if request.principal.user else self.terms.timeout
        if request.timeout is None or request.timeout <= most:
            return None
        return Decision.deny(
            "limits.timeout",
            f"A command may run for at most {most:g} s; {request.timeout:g} s were asked for.",
            "Ask for less, or leave the timeout out.",
        )

    async def refuse(self, request: Request, decision: Decision) -> Refused:
        """Count and keep a request that cannot be judged, since what it is for is not there."""
        return await self._refuse(replace(request, execution=self.clock.new_id()), decision)

    async def _refuse(self, request: Request, decision: Decision, plan: Plan | None = None) -> Refused:
        self.observer.refused(request, decision)
        attempt = self._attempt(request, decision, plan.argvs if plan else ())
        try:
            await self.ledger.refuse(attempt)
        except StorageError as error:
            self.observer.unwritten(attempt, error)
        return Refused(request, decision, attempt.id)

    def _attempt(self, request: Request, decision: Decision, argvs: tuple[tuple[str, ...], ...]) -> Attempt:
        return Attempt(
            id=request.execution or "",
            principal=request.principal,
            project=request.target.project,
            command=self.mask(request.command.strip()[: request.target.profile.max_characters]),
            argvs=tuple(tuple(map(self.mask, argv)) for argv in argvs),
            working_dir=self.mask(request.cwd),
            decision=decision,
            policy=request.target.profile.hash,
            dry_run=request.dry_run,
            metadata_only=request.hides_output,
        )

    async def _start(self, request: Request, admitted: _Admitted) -> Execution:
        """Open the recording and the audit, then begin. Raises RecordingError or StorageError, and nothing runs."""
        attempt = self._attempt(request, admitted.plan.decision, admitted.plan.argvs)
        log = self.recordings.create(attempt.id)
        try:
            await self.ledger.open(attempt)
        except StorageError:
            log.discard()
            raise
        recorder = Recorder(attempt.id, log, self.clock.monotonic, mask=self.mask, muted=request.hides_output)
        execution = Execution(attempt.id, request, admitted.plan, attempt, log, Control(stdin=request.stdin))
        self.live[attempt.id] = execution
        self.observer.started(execution)
        if not request.detached:
            self._await_viewer(execution, max(self.terms.detach_grace, FIRST_VIEWER))
        execution.task = asyncio.create_task(self._run(execution, admitted.cwd, recorder))
        return execution

    async def _run(self, execution: Execution, cwd: PurePosixPath, recorder: Recorder) -> None:
        begun = self.clock.monotonic()
        outcome = Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem="Gatepost failed.", rule="server.failed")
        try:
            recorder.add(self._started(execution, cwd))
            if execution.request.dry_run:
                outcome = Outcome(Status.SUCCEEDED, None)
            else:
                outcome = await self._run_script(execution, cwd, recorder)
        except RecordingError:
            execution.control.stop(Stop.UNRECORDED)
        except StorageError as error:
            outcome = replace(outcome, problem=str(error), rule="storage.unavailable")
        except Exception as error:  # the outermost edge of an execution: it must end on record whatever broke
            self.observer.broke(execution, error)
        finally:
            await self._end(execution, outcome, recorder, self.clock.monotonic() - begun)

    async def _run_script(self, execution: Execution, cwd: PurePosixPath, recorder: Recorder) -> Outcome:
        request = execution.request
        bounds = Bounds(execution.id, request.timeout or self.terms.timeout, self.terms.output_limit, request.stdin)
        return await run_script(
            execution.plan,
            request.target,
            cwd,
            bounds,
            self.executor,
            recorder,
            execution.control,
            self.clock.monotonic,
            partial(self._announce, execution),
        )

    async def _announce(self, execution: Execution, verdict: Verdict) -> None:
        """Audit a step that runs with other words than those that were judged first. Raises StorageError."""
        argvs = tuple(tuple(map(self.mask, each.argv)) for each in verdict.invocations)
        await self.ledger.step(execution.attempt, argvs, verdict.decision)

    def _started(self, execution: Execution, cwd: PurePosixPath) -> Started:
        request, attempt = execution.request, execution.attempt
        return Started(
            command=attempt.command,
            argv=tuple(word for argv in attempt.argvs for word in argv),
            commands=attempt.argvs if len(attempt.argvs) > 1 else None,
            risk=attempt.decision.risk,
            rule=attempt.decision.rule,
            cwd=str(cwd),
            time=self.clock.utc(),
            timeout=request.timeout or self.terms.timeout,
            dry_run=request.dry_run,
            metadata_only=request.hides_output or None,
            id=request.id,
        )

    async def _end(self, execution: Execution, outcome: Outcome, recorder: Recorder, seconds: float) -> None:
        execution.running = False
        if execution.abandon:
            execution.abandon.cancel()
        reason = execution.control.reason
        complete = _complete(outcome, reason, seconds, dry_run=execution.request.dry_run)
        outcome = replace(outcome, problem=self.mask(outcome.problem)) if outcome.problem else outcome
        with suppress(RecordingError):
            if reason is Stop.OUTPUT_LIMIT:
                limit = self.terms.output_limit
                recorder.add(
                    Truncated(limit_bytes=limit, message=f"Output over {limit} bytes; the command was stopped.")
                )
            if problem := _problem(outcome, reason, self.terms, recorder):
                recorder.add(problem)
        await self._write_ending(execution.attempt, _ending(complete, outcome, execution))
        del self.live[execution.id]
        self.slots.release(execution.request.principal.name)
        recorder.end(complete)
        self.observer.ended(execution, outcome, seconds)

    async def _write_ending(self, attempt: Attempt, ending: Completion) -> None:
        """Close the audit of an execution; a database that does not answer holds nobody up for long."""
        writing = asyncio.ensure_future(self._close_attempt(attempt, ending))
        self.ending.add(writing)
        writing.add_done_callback(self.ending.discard)
        await asyncio.wait({writing}, timeout=ENDING_BOUND)

    async def _close_attempt(self, attempt: Attempt, ending: Completion) -> None:
        try:
            await self.ledger.close(attempt, ending)
        except StorageError as error:
            # Its recording tells how it ended, so this can be made up for; see `backend.runtime.recovery`.
            self.observer.unwritten(attempt, error)

    def find(self, execution: str) -> Execution | None:
        """One that runs now in this process."""
        return self.live.get(execution)

    def recording(self, execution: str) -> RecordingLog | SanitizedRecording | None:
        """A recording as its viewers may have it."""
        log = self.recordings.find(execution)
        return SanitizedRecording(log) if log and self.raw else log

    async def follow(self, execution: str, after_seq: int, send: Send) -> bool:
        """Send what an execution has recorded after `after_seq`, then what it records, until its end.

        Blocks are whole stored lines. False when there is no such execution.
        """
        log = self.recording(execution)
        if log is None:
            return False
        watched = self.live.get(execution)
        if watched is None:
            await log.follow(after_seq, send)
            return True
        self._come(watched)
        try:
            await log.follow(after_seq, send)
        finally:
            self._leave(watched)
        return True

    async def read(self, execution: str, send: Send, begin: int, end: int | None) -> int | None:
        """Send what an execution has recorded until now between two places, and say where the next line is to come.

        See `RecordingLog.copy`. None when there is no such execution.
        """
        log = self.recording(execution)
        return await log.copy(send, begin, end) if log else None

    def _come(self, execution: Execution) -> None:
        execution.viewers += 1
        if execution.abandon:
            execution.abandon.cancel()
            execution.abandon = None

    def _leave(self, execution: Execution) -> None:
        execution.viewers -= 1
        if not execution.viewers and execution.running and not execution.request.detached:
            self._await_viewer(execution, self.terms.detach_grace)

    def _await_viewer(self, execution: Execution, grace: float) -> None:
        """A command that nobody watches is stopped after the grace."""
        loop = asyncio.get_running_loop()
        execution.abandon = loop.call_later(grace, execution.control.stop, Stop.ABANDONED)

    async def close(self) -> None:
        """Stop everything that runs and wait for its end; nothing new is let in."""
        self.closing = True
        await asyncio.gather(*self.starting, return_exceptions=True)
        while running := list(self.live.values()):
            for execution in running:
                execution.control.stop(Stop.SHUTDOWN)
            await asyncio.gather(*(execution.task for execution in running if execution.task))


def _unavailable(error: GatepostError) -> Decision:
    """Nothing runs that cannot be recorded, audited, or counted."""
    rule = "recording.unavailable" if isinstance(error, RecordingError) else "storage.unavailable"
    return Decision.deny(rule, str(error), "Ask the operator to look at the disk and the database.", retry_after=5.0)


def _ending(complete: Complete, outcome: Outcome, execution: Execution) -> Completion:
    return Completion(
        status=outcome.status,
        exit_code=outcome.exit_code,
        duration_ms=complete.duration_ms,
        stopped_by=execution.control.stopped_by,
        usage=outcome.usage,
        recording=execution.log.seal(),
    )


def _problem(outcome: Outcome, reason: Stop | None, terms: Terms, recorder: Recorder) -> Problem | None:
    """What the viewers are told before the end, beside the figures."""
    if outcome.problem:
        return Problem(message=f"❌ {outcome.problem}", rule=outcome.rule)
    match reason:
        case Stop.TIMED_OUT:
            seconds = f"{recorder.elapsed_ms / 1000:.1f}"
            message = f"❌ Timed out: the command was stopped after {seconds} s."
            return Problem(message=message, rule="limits.timeout")
        case Stop.ABANDONED:
            message = f"❌ Nobody watched for {terms.detach_grace:g} s; the command was stopped."
            return Problem(message=message, rule="limits.detach")
        case Stop.SHUTDOWN:
            return Problem(message="❌ The server stopped, and the command with it.", rule="server.stopping")
        case Stop.UNRECORDED:
            message = "❌ The recording cannot be written; the command was stopped."
            return Problem(message=message, rule="recording.unavailable")
        case Stop.WORKSPACE_FULL:
            message = "❌ The workspace holds more than it may; the command was stopped. Delete files to go on."
            return Problem(message=message, rule="limits.workspace")
        case Stop.DISK_FULL:
            return Problem(
                message="❌ The disk of the server is nearly full; the command was stopped.", rule="storage.full"
            )
        case Stop.CANCELLED | Stop.OUTPUT_LIMIT | None:
            return None
        case _:
            assert_never(reason)


def _complete(outcome: Outcome, reason: Stop | None, seconds: float, *, dry_run: bool) -> Complete:
    return Complete(
        status=outcome.status,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        duration_ms=int(seconds * 1000),
        timed_out=outcome.status is Status.TIMED_OUT,
        truncated=reason is Stop.OUTPUT_LIMIT,
        stdout_bytes=outcome.stdout_bytes,
        stderr_bytes=outcome.stderr_bytes,
        dry_run=dry_run or None,
        cpu_ms=outcome.usage.cpu_ms,
        peak_memory_bytes=outcome.usage.peak_memory,
        read_bytes=outcome.usage.read_bytes,
        written_bytes=outcome.usage.written_bytes,
        protection=outcome.usage.protection or None,
    )
