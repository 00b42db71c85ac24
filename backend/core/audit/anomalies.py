"""Suspicious activity: pure rules over the attempts of one user within a window."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import field

from backend.core.audit.attempts import Record
from backend.core.dataclasses import dataclass
from backend.core.decisions import Risk
from backend.core.execution.model import Status

WINDOW_MINUTES = 5
MANY_COMMANDS = 50
ENOUGH_FOR_A_RATE = 10
FAILURE_RATE = 0.5
MANY_DELETIONS = 10
MANY_AT_HIGH_RISK = 5
MOST = 10_000  # attempts of a user that are remembered, which bounds the memory
DANGEROUS = frozenset({Risk.HIGH, Risk.BLOCKED})
# Mistakes of typing and of naming, and what a limit of the rate has answered already: neither is a command.
MISTAKES = "syntax."  # the rules that start with this
UNCOUNTED_RULES = frozenset({"limits.rate", "project.unknown", "target.unknown", "target.ambiguous"})


def is_counted(rule: str, *, dry_run: bool) -> bool:
    """Whether an attempt counts in alerts and figures: it meant to run a command."""
    return not dry_run and not rule.startswith(MISTAKES) and rule not in UNCOUNTED_RULES


@dataclass(frozen=True, slots=True)
class AttemptSummary:
    """The properties of one attempt that the rules evaluate."""

    failed: bool
    deletes: bool
    dangerous: bool

    @classmethod
    def of(cls, record: Record) -> "AttemptSummary":
        failed = record.status not in {Status.SUCCEEDED, Status.RUNNING}
        return cls(failed, record.deletes, record.risk in DANGEROUS)


@dataclass(frozen=True, slots=True)
class Alert:
    """Something unusual. `count` is how often; `severity` is medium or high."""

    type: str
    severity: str
    message: str
    count: int


@dataclass(slots=True)
class AttemptCounts:
    """How many attempts of each kind there are in a window."""

    total: int = 0
    failed: int = 0
    deletions: int = 0
    dangerous: int = 0

    def add(self, attempt: AttemptSummary, times: int = 1) -> None:
        """Count an attempt; with `times` -1 it is removed again."""
        self.total += times
        self.failed += times * attempt.failed
        self.deletions += times * attempt.deletes
        self.dangerous += times * attempt.dangerous

    def alerts(self) -> Iterator[Alert]:
        """The alerts for these counts."""
        total, failed = self.total, self.failed
        if total > MANY_COMMANDS:
            yield Alert("rapid_execution", "high", f"{total} commands in {WINDOW_MINUTES} minutes", total)
        if total >= ENOUGH_FOR_A_RATE and failed / total > FAILURE_RATE:
            yield Alert("high_failure_rate", "medium", f"{failed} of {total} commands failed", failed)
        if self.deletions > MANY_DELETIONS:
            yield Alert("excessive_deletions", "high", f"{self.deletions} commands that delete", self.deletions)
        if self.dangerous > MANY_AT_HIGH_RISK:
            yield Alert("high_risk_activity", "high", f"{self.dangerous} commands at high risk", self.dangerous)


def alerts(attempts: Iterable[AttemptSummary]) -> list[Alert]:
    """The alerts for the attempts of one user within one window."""
    counts = AttemptCounts()
    for attempt in attempts:
        counts.add(attempt)
    return list(counts.alerts())


@dataclass(slots=True)
class _Recent:
    attempts: deque[tuple[float, AttemptSummary]] = field(default_factory=deque)
    counts: AttemptCounts = field(default_factory=AttemptCounts)
    open: frozenset[str] = frozenset()


class AlertTracker:
    """Evaluates attempts as they come and reports each alert once, when it opens.

    The cost of an attempt does not depend on how many came before it.
    """

    def __init__(self) -> None:
        self._users: dict[str, _Recent] = {}

    def observe(self, user: str, attempt: AttemptSummary, now: float) -> list[Alert]:
        """The alerts that this attempt opens. `now` is in seconds."""
        recent = self._users.setdefault(user, _Recent())
        recent.attempts.append((now, attempt))
        recent.counts.add(attempt)
        oldest = now - WINDOW_MINUTES * 60
        while recent.attempts[0][0] < oldest or len(recent.attempts) > MOST:
            recent.counts.add(recent.attempts.popleft()[1], -1)
        found = list(recent.counts.alerts())
        opened = [alert for alert in found if alert.type not in recent.open]
        recent.open = frozenset(alert.type for alert in found)
        self._forget(oldest)
        return opened

    def _forget(self, oldest: float) -> None:
        """Remove users without attempts in the window, so that they take no memory."""
        for user in [user for user, recent in self._users.items() if recent.attempts[-1][0] < oldest]:
            del self._users[user]
