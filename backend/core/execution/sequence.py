"""Runs the steps of a line one after another: what `&&`, `||`, `;` and `cd` mean."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
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
from backend.core.language.parser import Invocation
from backend.core.policy.admit import PolicyTarget, Verdict, judge_step
from backend.core.recording.writer import RecordingWriter


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One step of a line as it runs: its programs, its folder, its timeout in seconds, its output limit in bytes.

    `root` is the workspace, which contains `cwd`; with `stdin` the first program reads what the client sends; with
    `pipefail` it fails if any of its programs does.
    """

    execution: str
    invocations: tuple[Invocation, ...]
    root: str
    cwd: str
    timeout: float
    output_limit: int
    stdin: bool = False
    network: bool = False
    pipefail: bool = False

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
    """The progress of a line."""

    outcome: Outcome
    cwd: PurePosixPath

    def skips(self, join: str) -> bool:
        """Whether the next step is skipped, because of the operator before it or because the line was aborted."""
        if self.outcome.problem:
            return True
        failed = self.outcome.exit_code != 0
        return failed if join == "&&" else not failed if join == "||" else False


@dataclass(frozen=True, slots=True)
class Sequence:
    """Runs lines that were judged against `target`; `runner` runs their pipelines."""

    target: PolicyTarget
    runner: PipelineRunner
    log: StepLog
    mask: Callable[[str], str]
    clock: Callable[[], float]

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Run a line to its end. The outcome is that of the last step that ran, with the output of all."""
        end = self.clock() + job.timeout
        progress = _Progress(Outcome(Status.SUCCEEDED, 0), job.plan.cwd)
        for number, step in enumerate(job.plan.script.steps):
            if number and instructions.reason:
                return _stopped(instructions.reason, progress.outcome)
            if number and progress.skips(step.join):
                continue
            try:
                verdict = await self._verdict(job, number, progress.cwd)
            except StorageError as error:
                return _unaudited(error, progress.outcome)
            if isinstance(verdict, Decision):
                return _denied(verdict, progress.outcome)
            try:
                if step.folder:
                    self._enter(step.folder, progress, output)
                    continue
                pipeline = self._pipeline(job, verdict, progress, end - self.clock())
                progress.outcome = _added(progress.outcome, await self.runner.run(pipeline, output, instructions))
            except RecordingError as error:
                instructions.stop(unrecorded(error))
                return _stopped(unrecorded(error), progress.outcome)
        return progress.outcome

    async def _verdict(self, job: Job, number: int, cwd: PurePosixPath) -> Verdict | Decision:
        """The verdict on a step now; words other than those judged first are recorded before they run."""
        first = job.plan.verdicts[number]
        if not number:
            return first
        # In a thread, since links and globs can take a while.
        verdict = await asyncio.to_thread(judge_step, job.plan.script.steps[number], self.target, cwd)
        if isinstance(verdict, Verdict) and verdict.invocations != first.invocations:
            argvs = tuple(tuple(map(self.mask, each.argv)) for each in verdict.invocations)
            await self.log.step(job.execution, job.actor, argvs, verdict.decision)
        return verdict

    def _pipeline(self, job: Job, verdict: Verdict, progress: _Progress, seconds: float) -> Pipeline:
        spent = progress.outcome.stdout_bytes + progress.outcome.stderr_bytes
        return Pipeline(
            execution=job.execution,
            invocations=verdict.invocations,
            root=str(self.target.files.root),
            cwd=str(progress.cwd),
            timeout=max(seconds, 0),
            output_limit=max(job.output_limit - spent, 0),
            stdin=job.stdin,
            network=self.target.network,
            pipefail=self.target.profile.pipefail,
        )

    def _enter(self, folder: str, progress: _Progress, output: RecordingWriter) -> None:
        """Run `cd`. It fails like a program, so that `cd x && y` behaves as in a shell."""
        entered = self.target.files.for_line().enter(str(progress.cwd / folder))
        if isinstance(entered, Decision):
            size = output.say("stderr", f"cd: {folder}: No such folder")
            progress.outcome = _added(progress.outcome, Outcome(Status.FAILED, 1, stderr_bytes=size))
        else:
            progress.cwd = entered
            progress.outcome = _added(progress.outcome, Outcome(Status.SUCCEEDED, 0))


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


def _denied(decision: Decision, before: Outcome) -> Outcome:
    """A step that was allowed at first is refused now, because an earlier step changed the files."""
    return _added(before, Outcome(Status.FAILED, EXIT_DENIED, problem=decision.reason, rule=decision.rule))


def _unaudited(error: StorageError, before: Outcome) -> Outcome:
    """A step that cannot be recorded in the audit does not run; what the earlier ones used and wrote remains."""
    problem, rule = str(error), "storage.unavailable"
    return _added(before, Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=problem, rule=rule))
