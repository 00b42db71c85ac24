"""Runs the steps of a line one after another: what `&&`, `||`, `;` and `cd` mean."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from backend.core.decisions import Decision
from backend.core.execution.model import (
    EXIT_DENIED,
    EXIT_GATEPOST_FAILED,
    Control,
    Executor,
    Order,
    Outcome,
    Status,
    Stop,
    stopped_outcome,
)
from backend.core.execution.targets import Target
from backend.core.policy.admit import Plan, Verdict, judge_step
from backend.core.recording.writer import RecordingWriter


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the whole line gets: seconds, bytes of output, whether its first program has a standard input."""

    execution: str
    timeout: float
    output_limit: int
    stdin: bool


@dataclass(slots=True)
class _Progress:
    """How far a line has come."""

    outcome: Outcome
    cwd: PurePosixPath

    @property
    def goes_on(self) -> bool:
        """Whether a further step may run: nothing stopped the line from outside."""
        return not self.outcome.problem

    def skips(self, join: str) -> bool:
        failed = self.outcome.exit_code != 0
        return failed if join == "&&" else not failed if join == "||" else False


async def run_script(
    plan: Plan,
    target: Target,
    cwd: PurePosixPath,
    bounds: Bounds,
    executor: Executor,
    recorder: RecordingWriter,
    control: Control,
    clock: Callable[[], float],
    announce: Callable[[Verdict], Awaitable[None]],
) -> Outcome:
    """Run a judged line to its end. The outcome is that of the last step that ran, with the output of all.

    `announce` is told before a step runs with other words than those that were judged first.
    """
    end = clock() + bounds.timeout
    progress = _Progress(Outcome(Status.SUCCEEDED, 0), cwd)
    for number, step in enumerate(plan.script.steps):
        if number and control.reason:
            return _stopped(control.reason, progress.outcome)
        if number and (progress.skips(step.join) or not progress.goes_on):
            continue
        verdict = judge_step(step, target, progress.cwd) if number else plan.verdicts[0]
        if isinstance(verdict, Decision):
            return _denied(verdict, progress.outcome)
        if verdict.invocations != plan.verdicts[number].invocations:
            await announce(verdict)
        if step.folder:
            _enter(step.folder, target, progress, recorder)
            continue
        order = _order(verdict, target, progress, bounds, end - clock())
        progress.outcome = _added(progress.outcome, await executor.run(order, recorder, control))
    return progress.outcome


def _order(verdict: Verdict, target: Target, progress: _Progress, bounds: Bounds, seconds: float) -> Order:
    spent = progress.outcome.stdout_bytes + progress.outcome.stderr_bytes
    return Order(
        execution=bounds.execution,
        profile=target.profile,
        pipeline=verdict.invocations,
        root=str(target.workspace.root),
        cwd=str(progress.cwd),
        timeout=max(seconds, 0),
        output_limit=max(bounds.output_limit - spent, 0),
        stdin=bounds.stdin,
        network=target.network,
    )


def _enter(folder: str, target: Target, progress: _Progress, recorder: RecordingWriter) -> None:
    """`cd`: its message is that of a program, so that `cd x && y` fails as it would in a shell."""
    entered = target.workspace.enter(str(progress.cwd / folder))
    if isinstance(entered, Decision):
        size = recorder.say("stderr", f"cd: {folder}: No such folder")
        failed = Outcome(Status.FAILED, 1, stderr_bytes=size)
        progress.outcome = _added(progress.outcome, failed)
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


def _stopped(reason: Stop, before: Outcome) -> Outcome:
    """What is asked to stop between two steps stops as it would within one."""
    if before.status not in {Status.SUCCEEDED, Status.FAILED}:
        return before
    code = EXIT_GATEPOST_FAILED if before.exit_code is None else before.exit_code
    return stopped_outcome(reason, before.signal, code, before.stdout_bytes, before.stderr_bytes, before.usage)


def _denied(decision: Decision, before: Outcome) -> Outcome:
    """A step that was allowed when the line came is not any more: what ran before it changed the files."""
    return _added(before, Outcome(Status.FAILED, EXIT_DENIED, problem=decision.reason, rule=decision.rule))
