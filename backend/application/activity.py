"""What accounts have done lately: the figures of the caller, and what is suspicious."""

from collections.abc import Callable

from backend.core.audit.anomalies import WINDOW_MINUTES, Alert, AttemptSummary, alerts
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.identity import Permission, Principal
from backend.core.ports import ExecutionHistory, Stats
from backend.core.times import DAY_MS


@dataclass(frozen=True, slots=True)
class Suspicion:
    """How many commands the account `user_id` had judged in the last minutes, and what is unusual about them."""

    user_id: str
    total: int
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """The use cases. Every method raises StorageError."""

    history: ExecutionHistory
    now_ms: Callable[[], int]

    async def stats(self, who: Principal, days: int) -> Stats:
        """Figures over the caller's own commands."""
        return await self.history.stats(who.account, self.now_ms() - days * DAY_MS)

    async def suspicion(self, who: Principal, user_id: str | None) -> Suspicion | Decision:
        """What is suspicious about the caller or, for administrators, about any account."""
        subject = user_id or who.account
        if subject != who.account and not who.may(Permission.ADMIN):
            return Decision.deny("role.forbidden", "Only administrators see the alerts of others.")
        records = await self.history.since(subject, self.now_ms() - WINDOW_MINUTES * 60_000)
        found = alerts(AttemptSummary.of(record) for record in records)
        return Suspicion(subject, len(records), tuple(found))
