"""How far a line has come, and how it ends: what the outcomes of its steps make of that of the line."""

from dataclasses import field

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.model import (
    EXIT_DENIED,
    EXIT_GATEPOST_FAILED,
    Outcome,
    Status,
    StopReason,
    stopped_outcome,
)
from backend.core.policy.line_state import Leave, LineState, Return

NOTHING_YET = Outcome(Status.SUCCEEDED, 0)  # the outcome of a line of which nothing has run


@dataclass(slots=True)
class Progress:
    """The progress of a line. `begun`: a step has run; `ended`: nothing else of it runs."""

    outcome: Outcome
    state: LineState
    begun: bool = False
    ended: bool = False
    leaving: Leave | Return | None = None  # the loop, or the function, around what runs now
    depth: int = 0  # compounds within compounds, where functions are called
    files: set[str] = field(default_factory=set)  # of `<( )`
    started: list[str] = field(default_factory=list)  # in the background

    @property
    def over(self) -> bool:
        """Whether nothing else of this list of steps runs."""
        return self.ended or self.leaving is not None

    @property
    def failed(self) -> bool:
        return self.outcome.exit_code != 0

    def skips(self, join: str) -> bool:
        """Whether the next step is skipped because of the operator before it."""
        return self.failed if join == "&&" else not self.failed if join == "||" else False

    def add(self, outcome: Outcome) -> None:
        """A step has ended. One that could not run as it should, or was stopped, ends the line: also as a condition."""
        self.outcome = _added(self.outcome, outcome)
        self.state = _ending_in(outcome.left or self.state, outcome.exit_code or 0)
        self.ended = self.ended or bool(outcome.problem) or outcome.status not in {Status.SUCCEEDED, Status.FAILED}

    def negate(self) -> None:
        """What `!` before a step makes of its end."""
        self.conclude(0 if self.failed else 1)

    def conclude(self, code: int) -> None:
        """The exit code of what has just ended, whatever ran in it."""
        self.outcome = replace(self.outcome, exit_code=code, signal=None, status=exited(code).status)
        self.state = _ending_in(self.state, code)

    def left_loop(self) -> bool:
        """Whether the loop that has just finished a round ends."""
        leaving = self.leaving
        if isinstance(leaving, Return):
            return True
        self.leaving = None
        return self.ended or (leaving is not None and not leaving.again)


def exited(code: int) -> Outcome:
    """The outcome of a step that ends with an exit code, without output."""
    return Outcome(Status.FAILED if code else Status.SUCCEEDED, code)


def _ending_in(state: LineState, code: int) -> LineState:
    return state if state.status == code else replace(state, status=code)


def _added(before: Outcome, outcome: Outcome) -> Outcome:
    if before == NOTHING_YET:
        return outcome
    return replace(
        outcome,
        stdout_bytes=before.stdout_bytes + outcome.stdout_bytes,
        stderr_bytes=before.stderr_bytes + outcome.stderr_bytes,
        usage=before.usage.plus(outcome.usage),
    )


def stopped(reason: StopReason, before: Outcome) -> Outcome:
    """A stop between two steps has the same outcome as one within a step."""
    if before.status not in {Status.SUCCEEDED, Status.FAILED}:
        return before
    code = EXIT_GATEPOST_FAILED if before.exit_code is None else before.exit_code
    return stopped_outcome(reason, before.signal, code, before.stdout_bytes, before.stderr_bytes, before.usage)


def denied(decision: Decision) -> Outcome:
    """A step that was allowed at first is refused now, because an earlier step changed the files or the variables."""
    said = f"{decision.reason} {decision.hint}".strip()
    return Outcome(Status.FAILED, EXIT_DENIED, problem=said, rule=decision.rule)


def unaudited(error: StorageError) -> Outcome:
    """A step that cannot be recorded in the audit does not run; what the earlier ones used and wrote remains."""
    return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=str(error), rule="storage.unavailable")
