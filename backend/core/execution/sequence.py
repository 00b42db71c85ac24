"""Runs the steps of a line one after another: what `&&`, `||`, `;`, `!`, groups and builtins mean."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from backend.core.decisions import Decision
from backend.core.errors import RecordingError, StorageError
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_DENIED,
    EXIT_GATEPOST_FAILED,
    Actor,
    Job,
    Outcome,
    Status,
    StopReason,
    stopped_outcome,
    unrecorded,
)
from backend.core.language.parser import Group, Invocation, Step
from backend.core.policy.admit import PolicyTarget, Verdict, judge_step
from backend.core.policy.egress import Egress
from backend.core.policy.line_state import Effect, Enter, Exit, LineState, normal
from backend.core.recording.writer import RecordingWriter

NO_ONE = Actor("", "")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One step of a line as it runs: its programs, its folder, its timeout in seconds, its output limit in bytes.

    `root` is the workspace, which contains `cwd`; `home` the folder for what tools store, `actor` who runs it; with
    `stdin` the first program reads what the client sends; with `pipefail` it fails if any of its programs does. `network` is
    the machine's network, or listed hosts alone.
    """

    execution: str
    invocations: tuple[Invocation, ...]
    root: str
    cwd: str
    timeout: float
    output_limit: int
    stdin: bool = False
    network: bool | Egress = False
    pipefail: bool = False
    home: str = ""
    actor: Actor = NO_ONE

    @property
    def argv(self) -> tuple[str, ...]:
        """The words of the first program."""
        return self.invocations[0].argv


class PipelineRunner(Protocol):
    """Runs one pipeline to its end."""

    async def run(self, pipeline: Pipeline, output: RecordingWriter, instructions: Instructions) -> Outcome: ...


class StepLog(Protocol):
    """Records what a later step runs."""

    async def step(self, execution: str, actor: Actor, argvs: tuple[tuple[str, ...], ...], decision: Decision) -> None:
        """Record a step that is about to run with words other than those judged first. Raises StorageError."""
        ...


@dataclass(slots=True)
class _Progress:
    """The progress of a line. `begun`: a step has run; `ended`: nothing else of it runs."""

    outcome: Outcome
    state: LineState
    begun: bool = False
    ended: bool = False

    @property
    def failed(self) -> bool:
        return self.outcome.exit_code != 0

    def skips(self, join: str) -> bool:
        """Whether the next step is skipped because of the operator before it."""
        return self.failed if join == "&&" else not self.failed if join == "||" else False

    def add(self, outcome: Outcome) -> None:
        """A step has ended. One that could not run as it should ends the line."""
        self.outcome = _added(self.outcome, outcome)
        self.state = replace(self.state, status=outcome.exit_code or 0)
        self.ended = self.ended or bool(outcome.problem)

    def negate(self) -> None:
        """What `!` before a step makes of its end."""
        code = 0 if self.failed else 1
        self.outcome = replace(self.outcome, exit_code=code, signal=None, status=_ended(code).status)
        self.state = replace(self.state, status=code)


@dataclass(frozen=True, slots=True)
class Sequence:
    """Runs lines that were judged against `target`; `runner` runs their pipelines. With `egress` the network of the target
    is a list of hosts."""

    target: PolicyTarget
    runner: PipelineRunner
    log: StepLog
    mask: Callable[[str], str]
    clock: Callable[[], float]
    egress: Egress | None = None

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Run a line to its end. The outcome is that of the last step that ran, with the output of all."""
        progress = _Progress(Outcome(Status.SUCCEEDED, 0), job.plan.start)
        line = _Line(self, job, output, instructions, self.clock() + job.timeout, progress)
        await line.steps(job.plan.script.steps, tested=False)
        return replace(progress.outcome, left=progress.state)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that runs, until `end` at most."""

    sequence: Sequence
    job: Job
    output: RecordingWriter
    instructions: Instructions
    end: float
    progress: _Progress

    async def steps(self, steps: tuple[Step, ...], *, tested: bool) -> None:
        """Run steps one after another. With `set -e` a failure ends the line, unless it is `tested` by what follows."""
        progress = self.progress
        for number, step in enumerate(steps):
            if progress.ended:
                return
            if number and progress.skips(step.join):
                continue
            if progress.begun and self.instructions.reason:
                progress.outcome, progress.ended = _stopped(self.instructions.reason, progress.outcome), True
                return
            follows = steps[number + 1].join if number + 1 < len(steps) else ""
            is_tested = tested or step.negated or follows in {"&&", "||"}
            await self._step(step, tested=is_tested)
            if progress.state.errexit and progress.failed and not is_tested:
                progress.ended = True

    async def _step(self, step: Step, *, tested: bool) -> None:
        if step.group:
            await self._group(step.group, tested=tested)
        else:
            await self._commands(step)
        if step.negated and not self.progress.ended and not self.instructions.reason:
            self.progress.negate()

    async def _group(self, group: Group, *, tested: bool) -> None:
        """A subshell leaves the state as it was, and `exit` ends only the subshell."""
        progress, before = self.progress, self.progress.state
        await self.steps(group.steps, tested=tested)
        if group.subshell:
            progress.state = replace(before, status=progress.state.status)
            progress.ended = bool(progress.outcome.problem or self.instructions.reason)

    async def _commands(self, step: Step) -> None:
        progress = self.progress
        try:
            verdict = await self._verdict(step)
        except StorageError as error:
            progress.add(_unaudited(error))
            return
        progress.begun = True
        if isinstance(verdict, Decision):
            progress.add(_denied(verdict))
            return
        try:
            await self._perform(verdict)
        except RecordingError as error:
            self.instructions.stop(unrecorded(error))
            progress.outcome, progress.ended = _stopped(unrecorded(error), progress.outcome), True

    async def _perform(self, verdict: Verdict) -> None:
        if verdict.is_builtin:
            self._change(verdict.effect)
        else:
            pipeline = self._pipeline(verdict)
            self.progress.add(await self.sequence.runner.run(pipeline, self.output, self.instructions))

    async def _verdict(self, step: Step) -> Verdict | Decision:
        """The verdict on a step now; words other than those judged first are recorded before they run."""
        plan, sequence = self.job.plan, self.sequence
        if not self.progress.begun:
            return plan.verdicts[0]
        # In a thread, since links and globs can take a while.
        verdict = await asyncio.to_thread(judge_step, step, sequence.target, self.progress.state)
        if isinstance(verdict, Verdict) and not set(verdict.invocations) <= plan.invocations:
            argvs = tuple(tuple(map(sequence.mask, each.argv)) for each in verdict.invocations)
            await sequence.log.step(self.job.execution, self.job.actor, argvs, verdict.decision)
        return verdict

    def _pipeline(self, verdict: Verdict) -> Pipeline:
        job, target, progress = self.job, self.sequence.target, self.progress
        spent = progress.outcome.stdout_bytes + progress.outcome.stderr_bytes
        return Pipeline(
            execution=job.execution,
            invocations=verdict.invocations,
            root=str(target.files.root),
            cwd=str(progress.state.cwd),
            timeout=max(self.end - self.sequence.clock(), 0),
            output_limit=max(job.output_limit - spent, 0),
            stdin=job.stdin,
            network=self.sequence.egress or target.network,
            pipefail=target.profile.pipefail or progress.state.pipefail,
            home=target.files.variables["HOME"],
            actor=job.actor,
        )

    def _change(self, effect: Effect | None) -> None:
        """Run a builtin. `cd` fails like a program, so that `cd x && y` behaves as in a shell."""
        progress = self.progress
        if isinstance(effect, Exit):
            progress.add(_ended(effect.status))
            progress.ended = True
        elif isinstance(effect, Enter) and not self._is_folder(effect.folder):
            said = self.output.say("stderr", f"cd: {effect.folder}: No such folder") if effect.reports else 0
            progress.add(Outcome(Status.FAILED, 1, stderr_bytes=said))
        else:
            progress.add(_ended(0))
            progress.state = progress.state.after(effect)

    def _is_folder(self, folder: str) -> bool:
        entered = self.sequence.target.files.for_line().enter(str(normal(self.progress.state.cwd / folder)))
        return not isinstance(entered, Decision)


def _ended(code: int) -> Outcome:
    return Outcome(Status.FAILED if code else Status.SUCCEEDED, code)


def _added(before: Outcome, outcome: Outcome) -> Outcome:
    return replace(
        outcome,
        stdout_bytes=before.stdout_bytes + outcome.stdout_bytes,
        stderr_bytes=before.stderr_bytes + outcome.stderr_bytes,
        usage=before.usage.plus(outcome.usage),
    )


def _stopped(reason: StopReason, before: Outcome) -> Outcome:
    """A stop between two steps has the same outcome as one within a step."""
    if before.status not in {Status.SUCCEEDED, Status.FAILED}:
        return before
    code = EXIT_GATEPOST_FAILED if before.exit_code is None else before.exit_code
    return stopped_outcome(reason, before.signal, code, before.stdout_bytes, before.stderr_bytes, before.usage)


def _denied(decision: Decision) -> Outcome:
    """A step that was allowed at first is refused now, because an earlier step changed the files or the variables."""
    return Outcome(Status.FAILED, EXIT_DENIED, problem=decision.reason, rule=decision.rule)


def _unaudited(error: StorageError) -> Outcome:
    """A step that cannot be recorded in the audit does not run; what the earlier ones used and wrote remains."""
    return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=str(error), rule="storage.unavailable")
