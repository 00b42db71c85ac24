"""The executions and recordings of this server, for its own clients and for the other servers."""

import asyncio
from contextlib import suppress

from backend.core.audit.attempts import Record
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.core.execution.model import Delivery, Instruction, Status, Usage
from backend.core.execution.registry import Registry
from backend.core.ports import ExecutionHistory, Recordings
from backend.core.recording.messages import Complete
from backend.core.recording.reader import RecordingReader, Send
from backend.core.recording.sanitized import SanitizedRecording

POLL = 0.5  # seconds between two looks at whether the end of an execution whose server died is on record


@dataclass(frozen=True, slots=True)
class LocalExecutions:
    """The executions and recordings of this server. With `raw`, recordings are filtered for their viewers.

    A recording without an end, whose server died or whose disk was full, gets the one that `history` has.
    """

    registry: Registry
    recordings: Recordings
    history: ExecutionHistory
    raw: bool = False

    async def deliver(self, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction to an execution of this server."""
        return await self.registry.deliver(execution, instruction)

    def reader(self, execution: str) -> RecordingReader | None:
        """A recording as its viewers may see it. Raises OSError if it cannot be read."""
        log = self.recordings.find(execution)
        return SanitizedRecording(log) if log and self.raw else log

    async def follow_here(self, execution: str, after_seq: int, send: Send) -> bool:
        """Send what is recorded after `after_seq`, live, until the end. False when there is no recording."""
        reader = self.reader(execution)
        if reader is None:
            return False
        if watched := self.registry.find(execution):
            watched.add_viewer()
            try:
                await reader.follow(after_seq, send)
            finally:
                watched.remove_viewer()
            return True
        await reader.follow(after_seq, send)
        if (last := self.recordings.cut_off(execution)) is not None:
            while not await self._finish(execution):
                await asyncio.sleep(POLL)
            await reader.follow(max(after_seq, last), send)
        return True

    async def copy_here(self, execution: str, send: Send, begin: int, end: int | None) -> int | None:
        """Send what is stored now between two offsets; returns the offset reached, None without a recording."""
        reader = self.reader(execution)
        if reader and end is None and self.recordings.cut_off(execution) is not None:
            await self._finish(execution)
        return await reader.copy(send, begin, end) if reader else None

    async def _finish(self, execution: str) -> bool:
        """End a recording that is cut off as the history says; False while its end is not on record."""
        with suppress(OSError, StorageError):
            record = await self.history.get(execution)
            if record and record.status.is_final:
                self.recordings.finish(execution, _recorded_end(record))
            return record is None or record.status.is_final
        return False


def _recorded_end(record: Record) -> Complete:
    """The last message of an execution, as far as its record contains it."""
    figures = {name: getattr(record, name) or None for name in Usage().figures}
    return Complete(
        status=record.status,
        exit_code=record.exit_code,
        signal=record.signal,
        duration_ms=record.duration_ms or 0,
        timed_out=record.status is Status.TIMED_OUT,
        truncated=False,
        stdout_bytes=0,
        stderr_bytes=0,
        dry_run=record.dry_run or None,
        **{name: value for name, value in figures.items() if value is not None},
    )
