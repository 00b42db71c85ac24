"""Which refusals are written: of a flood, only the beginning, and then how many more there were."""

import asyncio
from collections.abc import Callable

from backend.core.audit.attempts import Attempt
from backend.core.audit.suppression import RefusalSuppressor, SuppressedRefusals
from backend.core.dataclasses import dataclass

ITSELF = "gatepost"  # the actor of what the service itself does
# Refusals before the rate is counted or because of it, whose number nothing else limits: a client that repeats them would
# fill the disk. `role.forbidden` is counted, but is the answer to everything that such a client sends.
UNBOUNDED = frozenset({"limits.rate", "role.forbidden", "server.stopping", "storage.unavailable"})


@dataclass(slots=True)
class RefusalFilter:
    """Counts refusals that are not written. `report` writes a flood that is over."""

    floods: RefusalSuppressor
    now_ms: Callable[[], int]
    report: Callable[[SuppressedRefusals], None]
    _timer: asyncio.TimerHandle | None = None

    def admits(self, attempt: Attempt) -> bool:
        """Whether a refusal is to be written. Others are counted and reported, at the latest by `close`."""
        rule = attempt.decision.rule
        if rule not in UNBOUNDED:
            return True
        now = self.now_ms()
        self._report(self.floods.expire(now))
        if self.floods.admit((rule, attempt.principal.address), now):
            return True
        self._watch()
        return False

    def _watch(self) -> None:
        """Check the floods after a while, since no further refusal may come."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.floods.window / 1000, self._report_ended)

    def _report_ended(self) -> None:
        self._timer = None
        self._report(self.floods.expire(self.now_ms()))
        if self.floods.has_unreported:
            self._watch()

    def close(self) -> None:
        """Report all floods, over or not."""
        if self._timer:
            self._timer.cancel()
        self._report(self.floods.drain())

    def _report(self, floods: list[SuppressedRefusals]) -> None:
        for flood in floods:
            self.report(flood)
