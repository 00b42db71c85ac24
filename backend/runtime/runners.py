"""The wiring of the runners of Django projects: their targets, and what they are answered."""

import time
from collections.abc import Callable

from backend.application.django_targets import DjangoTargets
from backend.application.queue_runner import QueueRunner
from backend.application.runners import Runners
from backend.core.dataclasses import dataclass
from backend.core.execution.targets import ExecutionLimits
from backend.core.execution.wakeups import Wakeups
from backend.core.ports import AuditLog
from backend.core.recording.lines import LineAssembler
from backend.executors.django.remote import DjangoExecutor
from backend.policies.loader import load_profile
from backend.runtime.clock import now_ms
from backend.runtime.persistence import Stores

RECHECK_ALONE = 5.0  # seconds; a server with a database of its own is woken by every call itself
RECHECK_SHARED = 0.25  # seconds until it notices what another server was called for


@dataclass(frozen=True, slots=True)
class Django:
    """The Django projects of a server."""

    targets: DjangoTargets
    wakeups: Wakeups
    recheck: float

    def runners(
        self, stores: Stores, queue_runner: QueueRunner, audit: AuditLog, mask: Callable[[str], str]
    ) -> Runners:
        """The use cases of runners."""
        return Runners(stores.runners, queue_runner, stores.history, audit, self.wakeups, mask, now_ms, self.recheck)


def build_django(stores: Stores, limits: ExecutionLimits, lines: Callable[[], LineAssembler]) -> Django:
    """The Django projects, whose runners call this server or others with the same database."""
    wakeups, recheck = Wakeups(), RECHECK_ALONE if stores.database.sqlite else RECHECK_SHARED
    executor = DjangoExecutor(stores.runners, wakeups, lines, now_ms, time.monotonic, recheck)
    targets = DjangoTargets(stores.projects, stores.runners, load_profile("django"), executor, limits, now_ms)
    return Django(targets, wakeups, recheck)
