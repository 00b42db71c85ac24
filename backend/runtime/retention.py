"""Measures what is recorded, and deletes recordings that are too old or too many."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import field
from functools import partial

import structlog

from backend.core.audit.execution_events import recordings_deleted
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.core.identity import VISITORS
from backend.core.recording.retention import RecordingShares, Retention, Stored, of_a_day, to_delete
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
    There may be a million of them, so whatever looks at each is done in a thread.
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
        stored = await self._stored(await asyncio.to_thread(self.recordings.sizes))
        self.shares.measured(await asyncio.to_thread(of_a_day, stored, now_ms()), before)
        trusted, unfinished = await self.clock.time(), await self.history.unfinished()
        needed = partial(self._is_needed, unfinished)
        found = await asyncio.to_thread(to_delete, stored, self.retention, trusted, needed)
        for begin in range(0, len(found), NAMED):
            await self._delete(found[begin : begin + NAMED])
        return len(found)

    def _is_needed(self, unfinished: frozenset[str], execution: str) -> bool:
        """Whether a server writes the recording, or will: the end of an execution whose server died is added to it."""
        return execution in unfinished or self.recordings.is_written(execution)

    async def _stored(self, sizes: Mapping[str, int]) -> list[Stored]:
        """The recordings with their owners. What has no record (any more) counts for visitors."""
        known = self._owners
        known |= await self.history.owners(await asyncio.to_thread(lambda: [id for id in sizes if id not in known]))
        self._owners = await asyncio.to_thread(lambda: {id: known[id] for id in sizes if id in known})
        owner = self._owners.get
        return await asyncio.to_thread(lambda: [Stored(id, owner(id, VISITORS), size) for id, size in sizes.items()])

    async def _delete(self, ids: list[str]) -> None:
        event = recordings_deleted(ids)
        await self.audit.record(event.kind, ITSELF, "", event.fields)
        await asyncio.to_thread(self.recordings.delete, ids)
