"""The one path of a command: limits, parse, policy, recording, executor.

    submit(request) -> Refused | Execution

Every front calls `submit` and `follow`; every executor only writes to the recorder. The order of the checks in
`Gateway._admit` is the security of the product: read it from top to bottom.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol, assert_never

from backend.core.commands import Script, Word, parse
from backend.core.decisions import Decision
from backend.core.errors import RecordingError
from backend.core.executions import EXIT_GATEPOST_FAILED, Control, Executor, Order, Outcome, Request, Status, Stop
from backend.core.limits import RateLimiter, Slots, check_rate
from backend.core.messages import Complete, Problem, Started, Truncated
from backend.core.policy import Place, Profile
from backend.core.recording import Recorder, RecordingLog, Send


class Workspace(Protocol):
    """The folder that commands run in, seen through the file system."""

    root: PurePosixPath

    def enter(self, cwd: str) -> PurePosixPath | Decision:
        """The absolute folder `cwd` names, read from the root, or why not."""
        ...

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...] | Decision:
        """The words with their globs replaced by the names that match."""
        ...

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> Decision | None:
        """Refuse paths that lead out of the workspace through links."""
        ...


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


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was refused and nothing ran."""

    request: Request
    decision: Decision


@dataclass(slots=True, eq=False)
class Execution:
    """A command that was let through."""

    id: str
    request: Request
    argv: tuple[str, ...]
    decision: Decision
    log: RecordingLog
    control: Control
    viewers: int = 0
    running: bool = True
    task: asyncio.Task[None] | None = None
    abandon: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a command gets at most: seconds to run, bytes to write, seconds without a viewer."""

    timeout: float
    output_limit: int
    detach_grace: float


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness, handed in. `monotonic` is in seconds, `utc` is ISO 8601 with Z."""

    monotonic: Callable[[], float]
    utc: Callable[[], str]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Admitted:
    argv: tuple[str, ...]
    cwd: PurePosixPath
    decision: Decision


@dataclass(slots=True)
class Gateway:
    """The gate. One for the whole service."""

    profile: Profile
    workspace: Workspace
    limiter: RateLimiter
    slots: Slots
    recordings: Recordings
    executor: Executor
    observer: Observer
    terms: Terms
    clock: Clock
    live: dict[str, Execution] = field(default_factory=dict)
    closing: bool = False

    async def submit(self, request: Request) -> Execution | Refused:
        """Judge a request and start it. The caller follows the execution from here on."""
        admitted = await self._admit(request)
        if isinstance(admitted, Decision):
            return self._refuse(request, admitted)
        if busy := self.slots.take(request.principal.name):
            return self._refuse(request, busy)
        try:
            return self._start(request, admitted)
        except RecordingError as error:
            self.slots.release(request.principal.name)
            hint = "Ask the operator to look at the disk of the data folder."
            return self._refuse(request, Decision.deny("recording.unavailable", str(error), hint))

    async def _admit(self, request: Request) -> _Admitted | Decision:
        """Every check before a command, in the order in which they protect each other."""
        if self.closing:
            return Decision.deny("server.stopping", "The server is stopping.", "Connect again in a moment.")
        principal = request.principal
        if refusal := await check_rate(self.limiter, (principal.name, principal.address)):
            return refusal
        script = self.profile.check_length(request.command) or parse(request.command)
        return script if isinstance(script, Decision) else self._judge(request, script)

    def _judge(self, request: Request, script: Script) -> _Admitted | Decision:
        if refusal := self.profile.check_count(len(script.words)) or self._check_timeout(request):
            return refusal
        cwd = self.workspace.enter(request.cwd)
        if isinstance(cwd, Decision):
            return cwd
        argv = self.workspace.expand(script.words, cwd)
        if isinstance(argv, Decision):
            return argv
        decision = self.profile.decide(argv, Place(self.workspace.root, cwd))
        if not decision.allowed:
            return decision
        return self.workspace.check(decision.paths, cwd) or _Admitted(argv, cwd, decision)

    def _check_timeout(self, request: Request) -> Decision | None:
        if request.timeout is None or request.timeout <= self.terms.timeout:
            return None
        return Decision.deny(
            "limits.timeout",
            f"A command may run for at most {self.terms.timeout:g} s; {request.timeout:g} s were asked for.",
            "Ask for less, or leave the timeout out.",
        )

    def _refuse(self, request: Request, decision: Decision) -> Refused:
        self.observer.refused(request, decision)
        return Refused(request, decision)

    def _start(self, request: Request, admitted: _Admitted) -> Execution:
        id = self.clock.new_id()
        log = self.recordings.create(id)
        recorder = Recorder(id, log, self.clock.monotonic)
        order = Order(
            execution=id,
            argv=admitted.argv,
            cwd=str(admitted.cwd),
            timeout=request.timeout or self.terms.timeout,
            output_limit=self.terms.output_limit,
            stdin=request.stdin,
        )
        recorder.add(self._started(request, admitted, order))
        control = Control(stdin=request.stdin)
        execution = Execution(id, request, admitted.argv, admitted.decision, log, control)
        self.live[id] = execution
        self.observer.started(execution)
        self._await_viewer(execution)
        execution.task = asyncio.create_task(self._run(execution, order, recorder))
        return execution

    def _started(self, request: Request, admitted: _Admitted, order: Order) -> Started:
        return Started(
            command=request.command.strip(),
            argv=admitted.argv,
            risk=admitted.decision.risk,
            rule=admitted.decision.rule,
            cwd=order.cwd,
            time=self.clock.utc(),
            timeout=order.timeout,
            dry_run=request.dry_run,
            id=request.id,
        )

    async def _run(self, execution: Execution, order: Order, recorder: Recorder) -> None:
        begun = self.clock.monotonic()
        outcome = Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem="Gatepost failed.", rule="server.failed")
        try:
            if execution.request.dry_run:
                outcome = Outcome(Status.SUCCEEDED, None)
            else:
                outcome = await self.executor.run(order, recorder, execution.control)
        except Exception as error:  # the outermost edge of an execution: it must end on record whatever broke
            self.observer.broke(execution, error)
        finally:
            self._end(execution, outcome, recorder, self.clock.monotonic() - begun)

    def _end(self, execution: Execution, outcome: Outcome, recorder: Recorder, seconds: float) -> None:
        execution.running = False
        if execution.abandon:
            execution.abandon.cancel()
        del self.live[execution.id]
        self.slots.release(execution.request.principal.name)
        reason = execution.control.reason
        with suppress(RecordingError):
            if reason is Stop.OUTPUT_LIMIT:
                limit = self.terms.output_limit
                recorder.add(
                    Truncated(limit_bytes=limit, message=f"Output over {limit} bytes; the command was stopped.")
                )
            if problem := _problem(outcome, reason, self.terms, recorder):
                recorder.add(problem)
        recorder.end(_complete(outcome, reason, seconds, dry_run=execution.request.dry_run))
        self.observer.ended(execution, outcome, seconds)

    async def follow(self, execution: str, after_seq: int, send: Send) -> bool:
        """Send what an execution has recorded after `after_seq`, then what it records, until its end.

        Blocks are whole stored lines. False when there is no such execution.
        """
        log = self.recordings.find(execution)
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

    def _come(self, execution: Execution) -> None:
        execution.viewers += 1
        if execution.abandon:
            execution.abandon.cancel()
            execution.abandon = None

    def _leave(self, execution: Execution) -> None:
        execution.viewers -= 1
        if not execution.viewers and execution.running:
            self._await_viewer(execution)

    def _await_viewer(self, execution: Execution) -> None:
        """A command that nobody watches is stopped after the grace."""
        loop = asyncio.get_running_loop()
        execution.abandon = loop.call_later(self.terms.detach_grace, execution.control.stop, Stop.ABANDONED)

    async def close(self) -> None:
        """Stop everything that runs and wait for its end; nothing new is let in."""
        self.closing = True
        running = list(self.live.values())
        for execution in running:
            execution.control.stop(Stop.SHUTDOWN)
        await asyncio.gather(*(execution.task for execution in running if execution.task))


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
    )
