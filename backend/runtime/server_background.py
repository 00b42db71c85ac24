"""The background jobs that only a server has: its queue, schedules, notifications, runners, figures, and what accounts have."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from backend.application.notifier import Notifier
from backend.application.queue_runner import QueueRunner
from backend.application.runners import Runners
from backend.application.schedule_runner import ScheduleRunner
from backend.core.errors import StorageError
from backend.core.times import iso
from backend.runtime.background import PRUNE_EVERY, before, by_trusted_clock
from backend.runtime.outage import Outage
from backend.runtime.persistence import Stores
from backend.runtime.settings import Settings

TAKE_UP_EVERY = 2.0  # seconds between two searches for executions on runners that have lost their server
SUMMARISE_EVERY = 1200.0  # seconds between two looks for hours that are over
FORGET_RUNS_EVERY = 600.0  # seconds between two deletions of answers to runners, of which there can be many
CUT_AUDIT_EVERY = 86400.0  # seconds between two checks of the age of the audit
# Seconds between two searches for executions that wait. A server that reaches no such target asks nothing.
RUN_QUEUE_EVERY = 1.0
RUN_SCHEDULES_EVERY = 1.0  # seconds between two searches for what schedules have due
NOTIFY_EVERY = 1.0  # seconds between two searches for executions that have ended


async def prune_accounts_often(settings: Settings, stores: Stores) -> None:
    """Delete what is too old of accounts and of what they have."""

    async def prune(now: int) -> None:
        await stores.identities.forget_expired()
        await stores.schedules.prune(before(now, settings.history_days))
        await stores.notifications.prune(before(now, settings.retention_days))

    await by_trusted_clock(stores, prune, PRUNE_EVERY, "old data not deleted")


async def summarise_often(stores: Stores) -> None:
    """Sum up the hours that are over."""
    await by_trusted_clock(stores, stores.figures.summarise, SUMMARISE_EVERY, "hours not summed up")


async def forget_runs_often(stores: Stores) -> None:
    """Delete what runners are no longer answered: it is what commands that run report."""

    async def forget(_: int) -> None:
        await stores.runners.forget()

    await by_trusted_clock(stores, forget, FORGET_RUNS_EVERY, "old answers to runners not deleted")


async def take_up_often(runners: Runners) -> None:
    """Follow the executions on runners whose servers have died or ended."""
    await _repeat(runners.take_up, TAKE_UP_EVERY, "executions on runners not taken up")


async def cut_audit_often(settings: Settings, stores: Stores) -> None:
    """Prune the old events of the audit, which verifies all of it."""

    async def cut(now: int) -> None:
        if gone := await stores.audit.prune(iso(before(now, settings.audit_days))):
            structlog.get_logger().info("audit events deleted", count=gone)

    if settings.audit_days:
        await by_trusted_clock(stores, cut, CUT_AUDIT_EVERY, "old audit events not deleted")


async def run_queue_often(runner: QueueRunner) -> None:
    """Start the executions that wait for this server."""
    await _repeat(runner.run_once, RUN_QUEUE_EVERY, "waiting executions not started")


async def run_schedules_often(runner: ScheduleRunner) -> None:
    """Start what schedules have due."""
    await _repeat(runner.run_once, RUN_SCHEDULES_EVERY, "schedules not run")


async def notify_often(notifier: Notifier) -> None:
    """Report how executions ended."""
    await _repeat(notifier.run_once, NOTIFY_EVERY, "notifications not sent")


async def _repeat(work: Callable[[], Awaitable[object]], every: float, problem: str) -> None:
    """Do something every so many seconds; while the database cannot be reached, it is tried again."""
    outage = Outage(problem)
    while True:
        try:
            await work()
            outage.over()
        except StorageError as error:
            outage.report(error)
        await asyncio.sleep(every)
