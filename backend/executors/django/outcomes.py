"""The outcome of a command whose end a runner has reported."""

from signal import Signals

from backend.core.django.runs import RunEnd
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    EXIT_SIGNAL_BASE,
    EXIT_TIMED_OUT,
    INCOMPLETE,
    Outcome,
    Status,
    StopReason,
    stopped_outcome,
)


def reported(end: RunEnd, reason: StopReason | None, stdout: int, stderr: int) -> Outcome:
    """The outcome of a command whose end was reported; `reason` is why it was stopped, if it was."""
    code, signal = _exit_code(end)
    if end.status == "success" and reason not in INCOMPLETE:
        return Outcome(Status.SUCCEEDED, code, signal, stdout, stderr)
    if reason:
        return stopped_outcome(reason, signal, code or EXIT_GATEPOST_FAILED, stdout, stderr)
    match end.status:
        case "timed_out":
            problem = "Timed out: the runner stopped the command."
            return Outcome(Status.TIMED_OUT, EXIT_TIMED_OUT, signal, stdout, stderr, problem, "limits.timeout")
        case "cancelled":
            problem = "The runner stopped the command."
            return Outcome(Status.CANCELLED, code, signal, stdout, stderr, problem, "runner.stopped")
        case _:
            return Outcome(Status.FAILED, code, signal, stdout, stderr)


def _exit_code(end: RunEnd) -> tuple[int, str | None]:
    """The exit code as Gatepost stores it, and the name of the signal."""
    if end.exit_code >= 0:
        return min(end.exit_code, 255), None
    if end.exit_code == -1:  # the runner failed, or did not let the command run
        return EXIT_GATEPOST_FAILED, None
    number = min(-end.exit_code, 127)
    name = Signals(number).name if number in set(Signals) else None
    return EXIT_SIGNAL_BASE + number, name
