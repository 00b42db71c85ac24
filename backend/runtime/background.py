"""The background jobs of a server: retention, and recovery of what another server left."""

import asyncio
import time

import structlog

from backend.core.errors import StorageError, reason_of
from backend.core.times import DAY_MS, iso
from backend.runtime.clock import now_ms
from backend.runtime.persistence import Stores
from backend.runtime.recovery import recover
from backend.runtime.settings import Settings
from backend.storage.recordings import Retention

PRUNE_EVERY = 3600.0  # seconds between two checks of the age and size of recordings
CUT_AUDIT_EVERY = 86400.0  # seconds between two checks of the age of the audit
RECOVER_EVERY = 30.0  # seconds between two checks for executions whose end is not on record


async def prune_often(settings: Settings, stores: Stores) -> None:
    """Delete what is older than it may be."""
    log = structlog.get_logger()
    retention = Retention(settings.retention_days * 86400, settings.retention_bytes)
    while True:
        try:
            if gone := await asyncio.to_thread(stores.recordings.prune, retention, time.time()):
                log.info("recordings deleted", count=gone)
            await stores.ledger.prune(_ago(settings.history_days))
            await stores.identities.forget_expired()
            await stores.keys.forget()
        except (OSError, StorageError) as error:
            log.error("old data not deleted", reason=reason_of(error))
        await asyncio.sleep(PRUNE_EVERY)


async def cut_audit_often(settings: Settings, stores: Stores) -> None:
    """Prune the old events of the audit, which verifies all of it."""
    log = structlog.get_logger()
    while settings.audit_days:
        try:
            if gone := await stores.ledger.prune_audit(iso(_ago(settings.audit_days))):
                log.info("audit events deleted", count=gone)
        except (OSError, StorageError) as error:
            log.error("old audit events not deleted", reason=reason_of(error))
        await asyncio.sleep(CUT_AUDIT_EVERY)


async def recover_often(stores: Stores) -> None:
    """Close what a server left when it died, and what could not be written when it ended."""
    while True:
        await asyncio.sleep(RECOVER_EVERY)
        try:
            await recover(stores.history, stores.recordings, stores.ledger)
        except (OSError, StorageError) as error:
            structlog.get_logger().error("endings not written", reason=reason_of(error))


def _ago(days: float) -> int:
    """The time so many days ago."""
    return now_ms() - int(days * DAY_MS)
