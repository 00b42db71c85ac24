"""The runner of schedules on this server."""

import secrets

import structlog

from backend.application.executions import ExecutionService
from backend.application.schedule_runner import ScheduleRunner
from backend.core.execution.gateway import Gateway
from backend.core.schedules.cron import CronError
from backend.core.schedules.model import Schedule
from backend.runtime.clock import now_ms
from backend.runtime.persistence import Stores

STEPS = 1 << 20  # of a random number from 0 to 1


def random() -> float:
    """A random number from 0 to 1."""
    return secrets.randbelow(STEPS) / STEPS


def schedule_runner(stores: Stores, gateway: Gateway, service: ExecutionService) -> ScheduleRunner:
    """The runner of this server."""
    return ScheduleRunner(
        store=stores.schedules,
        service=service,
        users=stores.identities,
        unavailable=gateway.unavailable,
        now_ms=now_ms,
        random=random,
        on_error=_warn,
    )


def _warn(schedule: Schedule, error: CronError) -> None:
    structlog.get_logger().error("schedule paused", schedule=schedule.id, reason=str(error))
