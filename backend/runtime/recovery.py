"""Recovery after a server died: its executions are recorded as lost, or as they ended."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Protocol

import structlog

from backend.core.audit.attempts import Completion, Record
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError, reason_of
from backend.core.execution.model import Status, Usage
from backend.core.execution.ownership import Contact
from backend.core.ports import Ownership
from backend.core.recording.digest import NOTHING_STORED, RecordingDigest
from backend.storage.owner_locks import OwnerLocks

LOST = Completion(Status.LOST, None, 0)


class RecordedEnds(Protocol):
    """How the recordings of this server's data folder ended. Every method raises OSError."""

    def cut_off(self, execution: str) -> int | None:
        """The number of the last line of a recording that has no end and that no server writes; otherwise None."""
        ...

    def last_message(self, execution: str) -> Mapping[str, Any] | None:
        """The last message of a recording, empty if there is none; None while a server still writes it.

        One without an end is ended as lost.
        """
        ...

    def seal(self, execution: str) -> RecordingDigest | None:
        """The digest of an ended recording; None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Recovery:
    """Closes executions whose lease has run out. Several servers may do so at once: each end is written once.

    `folder` is the id of the data folder that holds `recordings`. An execution whose recording cannot be read now stays
    as it is, and is logged once; one on a target of which `goes_on` is true is left to the server that takes it up; one whose recording is invalid, and so will never report an end, is lost.
    """

    ownership: Ownership
    recordings: RecordedEnds
    folder: str
    locks: OwnerLocks
    contact: Contact
    now_ms: Callable[[], int]
    goes_on: Callable[[str], bool] = lambda target: False
    unreadable: set[str] = field(default_factory=set)

    async def run_once(self) -> int:
        """Close the executions of dead servers; returns how many. Raises StorageError and OSError."""
        try:
            closed = await self._close_expired()
        except StorageError:
            self.contact.missed()
            raise
        self.contact.reached(self.now_ms())
        return closed

    async def _close_expired(self) -> int:
        with self.locks.dead() as owners:
            if owners:
                await self.ownership.release_dead(owners)
        before = self.contact.judged_until(self.now_ms())
        return sum([await self._close(record, before) for record in await self.ownership.expired(before)])

    async def _close(self, record: Record, before: int) -> bool:
        try:
            if self.goes_on(record.target) and await self._is_open(record):
                return await self.ownership.requeue(record, before)
            end = await self._end(record)
        except OSError as error:
            if record.id not in self.unreadable:
                structlog.get_logger().error("recording not readable", execution=record.id, reason=reason_of(error))
            self.unreadable.add(record.id)
            return False  # the next round tries again
        return await self.ownership.close_expired(record, before, end)

    async def _is_open(self, record: Record) -> bool:
        """Whether no end was recorded here before its server died."""
        if record.folder != self.folder:
            return True
        return await asyncio.to_thread(self.recordings.cut_off, record.id) is not None

    async def _end(self, record: Record) -> Completion:
        if record.folder != self.folder:
            return LOST
        try:
            return await asyncio.to_thread(recorded_end, self.recordings, record.id)
        except ValueError as error:
            structlog.get_logger().error("recording invalid", execution=record.id, reason=reason_of(error))
            return LOST


def recorded_end(recordings: RecordedEnds, execution: str) -> Completion:
    """The end of an execution of this folder: as its recording says, otherwise lost."""
    last = recordings.last_message(execution)
    if last is None:
        return LOST  # its server still writes, but has lost the lease; it stops the execution when it notices
    return Completion(
        status=Status(last.get("status", Status.LOST)),
        exit_code=last.get("exit_code"),
        duration_ms=last.get("duration_ms", 0),
        signal=last.get("signal"),
        stdout_bytes=last.get("stdout_bytes", 0),
        stderr_bytes=last.get("stderr_bytes", 0),
        truncated=last.get("truncated", False),
        usage=Usage.of(last),
        recording=recordings.seal(execution) or NOTHING_STORED,
    )
