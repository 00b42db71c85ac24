"""Measures what is recorded, and deletes recordings that are too old or too many."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from backend.core.audit.execution_events import recordings_deleted
from backend.core.errors import StorageError
from backend.core.recording.retention import VISITORS, RecordingShares, Retention, Stored, to_delete
from backend.runtime.clock import now_ms
from backend.runtime.outage import Outage
from backend.runtime.trusted_clock import TrustedClock
from backend.storage.audit_log import SqlAuditLog
from backend.storage.execution_history import SqlExecutionHistory
from backend.storage.recordings import FileRecordings
from backend.storage.refusal_filter import ITSELF

MEASURE_EVERY = 5.0  # seconds, at least, between two measurements while something is recorded
IDLE = 60.0  # seconds between two measurements while nothing is
EASE = 20  # a measurement takes at most this part of the time
NAMED = 1000  # recordings that one event of the audit names


@dataclass(slots=True)
class RecordingRetention:
    """Keeps the recordings of the data folder within `retention`, and reports to `shares` whose they are.

    Before one is deleted, an event of the audit names it: a recording that is missing without one was deleted by others.
    """

    recordings: FileRecordings
    history: SqlExecutionHistory
    audit: SqlAuditLog
    shares: RecordingShares
    retention: Retention
    clock: TrustedClock
    _owners: dict[str, str] = field(default_factory=dict)

    async def keep(self) -> None:
        """Measure and delete for ever."""
        log, outage, measured = structlog.get_logger(), Outage("recordings not measured"), 0.0
        while True:
            begun = time.monotonic()
            if self.shares.changed or begun - measured >= IDLE:
                measured = begun
                try:
                    if gone := await self.run_once():
                        log.info("recordings deleted", count=gone)
                    outage.over()
                except (OSError, StorageError) as error:
                    outage.report(error)
            await asyncio.sleep(max(MEASURE_EVERY, EASE * (time.monotonic() - begun)))

    async def run_once(self) -> int:
        """Measure, then delete what is too old or too much; returns how many. Raises OSError and StorageError."""
        before = self.shares.begin()
        sizes = await asyncio.to_thread(self.recordings.sizes)
        await self._find_owners(sizes)
        stored = [Stored(id, self._owners.get(id, VISITORS), size) for id, size in sizes.items()]
        self.shares.measured(stored, now_ms(), before)
        trusted = await self.clock.time()
        found = await asyncio.to_thread(to_delete, stored, self.retention, trusted, self.recordings.is_written)
        for begin in range(0, len(found), NAMED):
            await self._delete(found[begin : begin + NAMED])
        return len(found)

    async def _find_owners(self, ids: Iterable[str]) -> None:
        """Learn who the recordings belong to. What has no record (any more) counts for visitors."""
        known, ids = self._owners, set(ids)
        known |= await self.history.owners(ids - known.keys())
        self._owners = {id: known[id] for id in ids & known.keys()}

    async def _delete(self, ids: list[str]) -> None:
        event = recordings_deleted(ids)
        await self.audit.record(event.kind, ITSELF, "", event.fields)
        await asyncio.to_thread(self.recordings.delete, ids)
