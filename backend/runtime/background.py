"""The background jobs: extend leases, write ends that are late, close executions of dead servers, delete old data."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import structlog

from backend.application.notifier import Notifier
from backend.application.queue_runner import QueueRunner
from backend.application.runners import Runners
from backend.application.schedule_runner import ScheduleRunner
from backend.core.errors import StorageError, reason_of
from backend.core.execution.ownership import HEARTBEAT
from backend.core.times import DAY_MS, iso
from backend.runtime.outage import Outage
from backend.runtime.persistence import Stores
from backend.runtime.settings import Settings

PRUNE_EVERY = 3600.0  # seconds between two checks of the age of what is stored
TAKE_UP_EVERY = 2.0  # seconds between two searches for executions on runners that have lost their server
SUMMARISE_EVERY = 1200.0  # seconds between two looks for hours that are over
FORGET_RUNS_EVERY = 600.0  # seconds between two deletions of answers to runners, of which there can be many
CUT_AUDIT_EVERY = 86400.0  # seconds between two checks of the age of the audit
RECOVER_EVERY = 5.0  # seconds between two searches for executions with an expired lease; this adds to the lease
# Seconds between two searches for executions that wait. A server that reaches no such target asks nothing.
RUN_QUEUE_EVERY = 1.0
RUN_SCHEDULES_EVERY = 1.0  # seconds between two searches for what schedules have due
NOTIFY_EVERY = 1.0  # seconds between two searches for executions that have ended
RESTART_AFTER = HEARTBEAT  # seconds until a job that crashed is started again; a lease outlasts several of them


async def supervised(job: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a background job; one that crashes is logged and started again."""
    while True:
        try:
            await work()
            return
        except Exception as error:  # a bug in one job must not end it unnoticed
            structlog.get_logger().error("background job crashed", job=job, exc_info=error)
        await asyncio.sleep(RESTART_AFTER)


async def prune_often(settings: Settings, stores: Stores) -> None:
    """Delete what is too old."""

    async def prune(now: int) -> None:
        await stores.executions.prune(_before(now, settings.history_days))
        await stores.identities.forget_expired()
        await stores.keys.forget()
        await stores.schedules.prune(_before(now, settings.history_days))
        await stores.notifications.prune(_before(now, settings.retention_days))

    await _by_trusted_clock(stores, prune, PRUNE_EVERY, "old data not deleted")


async def summarise_often(stores: Stores) -> None:
    """Sum up the hours that are over."""
    await _by_trusted_clock(stores, stores.figures.summarise, SUMMARISE_EVERY, "hours not summed up")


async def forget_runs_often(stores: Stores) -> None:
    """Delete what runners are no longer answered: it is what commands that run report."""

    async def forget(_: int) -> None:
        await stores.runners.forget()

    await _by_trusted_clock(stores, forget, FORGET_RUNS_EVERY, "old answers to runners not deleted")


async def take_up_often(runners: Runners) -> None:
    """Follow the executions on runners whose servers have died or ended."""
    await _repeat(runners.take_up, TAKE_UP_EVERY, "executions on runners not taken up")


async def cut_audit_often(settings: Settings, stores: Stores) -> None:
    """Prune the old events of the audit, which verifies all of it."""

    async def cut(now: int) -> None:
        if gone := await stores.audit.prune(iso(_before(now, settings.audit_days))):
            structlog.get_logger().info("audit events deleted", count=gone)

    if settings.audit_days:
        await _by_trusted_clock(stores, cut, CUT_AUDIT_EVERY, "old audit events not deleted")


async def heartbeat_often(stores: Stores, stop_lost: Callable[[frozenset[str]], None]) -> None:
    """Extend the leases of this server; `stop_lost` is called with the ids of executions that were lost."""
    outage = Outage("leases not extended")
    while True:
        try:
            stop_lost(await stores.ownership.renew())
            outage.over()
        except StorageError as error:
            stores.recovery.contact.missed()
            outage.report(error)
        await asyncio.sleep(HEARTBEAT)


async def retry_often(stores: Stores) -> None:
    """Write the ends that could not be written when their executions ended. No lease waits for this."""
    while True:
        await stores.executions.retry_unwritten()
        await asyncio.sleep(HEARTBEAT)


async def recover_often(stores: Stores) -> None:
    """Close the executions of dead servers."""
    outage = Outage("executions of dead servers not closed")
    while True:
        await asyncio.sleep(RECOVER_EVERY)
        try:
            if closed := await stores.recovery.run_once():
                structlog.get_logger().warning("executions of dead servers closed", count=closed)
            outage.over()
        except (OSError, StorageError) as error:
            outage.report(error)


async def run_queue_often(runner: QueueRunner) -> None:
    """Start the executions that wait for this server."""
    await _repeat(runner.run_once, RUN_QUEUE_EVERY, "waiting executions not started")


async def run_schedules_often(runner: ScheduleRunner) -> None:
    """Start what schedules have due."""
    await _repeat(runner.run_once, RUN_SCHEDULES_EVERY, "schedules not run")


async def notify_often(notifier: Notifier) -> None:
    """Report how executions ended."""
    await _repeat(notifier.run_once, NOTIFY_EVERY, "notifications not sent")


async def _by_trusted_clock(stores: Stores, work: Callable[[int], Awaitable[None]], every: float, problem: str) -> None:
    """Do something with the time every so many seconds, but not while the clock has jumped."""
    while True:
        try:
            if now := await stores.clock.time():
                await work(now)
        except (OSError, StorageError) as error:
            structlog.get_logger().error(problem, reason=reason_of(error))
        await asyncio.sleep(every)


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


def _before(now_ms: int, days: float) -> int:
    """The time that many days earlier."""
    return now_ms - int(days * DAY_MS)
