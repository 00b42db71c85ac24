"""The background jobs of a server and of an agent: extend leases, write ends that are late, close executions of dead
servers, delete old executions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import structlog

from backend.core.errors import StorageError, reason_of
from backend.core.execution.ownership import HEARTBEAT
from backend.core.times import DAY_MS
from backend.runtime.ledger import Ledger
from backend.runtime.outage import Outage
from backend.runtime.settings import Settings

PRUNE_EVERY = 3600.0  # seconds between two checks of the age of what is stored
RECOVER_EVERY = 5.0  # seconds between two searches for executions with an expired lease; this adds to the lease
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


async def heartbeat_often(ledger: Ledger, stop_lost: Callable[[frozenset[str]], None]) -> None:
    """Extend the leases of this server; `stop_lost` is called with the ids of executions that were lost."""
    outage = Outage("leases not extended")
    while True:
        try:
            stop_lost(await ledger.ownership.renew())
            outage.over()
        except StorageError as error:
            ledger.recovery.contact.missed()
            outage.report(error)
        await asyncio.sleep(HEARTBEAT)


async def retry_often(ledger: Ledger) -> None:
    """Write the ends that could not be written when their executions ended. No lease waits for this."""
    while True:
        await ledger.executions.retry_unwritten()
        await asyncio.sleep(HEARTBEAT)


async def recover_often(ledger: Ledger) -> None:
    """Close the executions of dead servers."""
    outage = Outage("executions of dead servers not closed")
    while True:
        await asyncio.sleep(RECOVER_EVERY)
        try:
            if closed := await ledger.recovery.run_once():
                structlog.get_logger().warning("executions of dead servers closed", count=closed)
            outage.over()
        except (OSError, StorageError) as error:
            outage.report(error)


async def prune_often(settings: Settings, ledger: Ledger) -> None:
    """Delete what is too old of executions."""

    async def prune(now: int) -> None:
        await ledger.executions.prune(before(now, settings.history_days))
        await ledger.keys.forget()

    await by_trusted_clock(ledger, prune, PRUNE_EVERY, "old data not deleted")


async def by_trusted_clock(ledger: Ledger, work: Callable[[int], Awaitable[None]], every: float, problem: str) -> None:
    """Do something with the time every so many seconds, but not while the clock has jumped."""
    while True:
        try:
            if now := await ledger.clock.time():
                await work(now)
        except (OSError, StorageError) as error:
            structlog.get_logger().error(problem, reason=reason_of(error))
        await asyncio.sleep(every)


def before(now_ms: int, days: float) -> int:
    """The time that many days earlier."""
    return now_ms - int(days * DAY_MS)
