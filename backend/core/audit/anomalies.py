"""Suspicious activity: what the commands of one user in a window look like, as pure rules over records."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from backend.core.audit.attempts import Record
from backend.core.decisions import Risk
from backend.core.execution.model import Status

WINDOW_MINUTES = 5
MANY_COMMANDS = 50
ENOUGH_FOR_A_RATE = 10
FAILURE_RATE = 0.5
MANY_DELETIONS = 10
MANY_AT_HIGH_RISK = 5
MOST = 10_000  # attempts of a user that are remembered; a flood takes no more memory
DANGEROUS = frozenset({Risk.HIGH, Risk.BLOCKED})


@dataclass(frozen=True, slots=True)
class Trace:
    """What the rules look at in one attempt."""

    failed: bool
    deletes: bool
    dangerous: bool

    @classmethod
    def of(cls, record: Record) -> "Trace":
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
class Tally:
    """How many attempts of each sort there are in a window."""

    total: int = 0
    failed: int = 0
    deletions: int = 0
    dangerous: int = 0

    def add(self, trace: Trace, times: int = 1) -> None:
        """Count an attempt; -1 times takes it out again."""
        self.total += times
        self.failed += times * trace.failed
        self.deletions += times * trace.deletes
        self.dangerous += times * trace.dangerous

    def alerts(self) -> Iterator[Alert]:
        """What is unusual in these."""
        total, failed = self.total, self.failed
        if total > MANY_COMMANDS:
            yield Alert("rapid_execution", "high", f"{total} commands in {WINDOW_MINUTES} minutes", total)
        if total >= ENOUGH_FOR_A_RATE and failed / total > FAILURE_RATE:
            yield Alert("high_failure_rate", "medium", f"{failed} of {total} commands failed", failed)
        if self.deletions > MANY_DELETIONS:
            yield Alert("excessive_deletions", "high", f"{self.deletions} commands that delete", self.deletions)
        if self.dangerous > MANY_AT_HIGH_RISK:
            yield Alert("high_risk_activity", "high", f"{self.dangerous} commands at high risk", self.dangerous)


def alerts(traces: Iterable[Trace]) -> list[Alert]:
    """The alerts for the attempts of one user within one window."""
    tally = Tally()
    for trace in traces:
        tally.add(trace)
    return list(tally.alerts())


@dataclass(slots=True)
class _Recent:
    traces: deque[tuple[float, Trace]] = field(default_factory=deque)
    tally: Tally = field(default_factory=Tally)
    open: frozenset[str] = frozenset()


class Watch:
    """Looks at attempts as they come and tells of alerts that open; one that stays open is told once.

    An attempt costs the same however many came before it.
    """

    def __init__(self) -> None:
        self._users: dict[str, _Recent] = {}

    def see(self, user: str, trace: Trace, now: float) -> list[Alert]:
        """The alerts that this attempt opens. `now` is in seconds."""
        recent = self._users.setdefault(user, _Recent())
        recent.traces.append((now, trace))
        recent.tally.add(trace)
        oldest = now - WINDOW_MINUTES * 60
        while recent.traces[0][0] < oldest or len(recent.traces) > MOST:
            recent.tally.add(recent.traces.popleft()[1], -1)
        found = list(recent.tally.alerts())
        opened = [alert for alert in found if alert.type not in recent.open]
        recent.open = frozenset(alert.type for alert in found)
        self._forget(oldest)
        return opened

    def _forget(self, oldest: float) -> None:
        """Users who have gone take no memory."""
        for user in [user for user, recent in self._users.items() if recent.traces[-1][0] < oldest]:
            del self._users[user]
