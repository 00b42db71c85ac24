"""The executions and recordings of this server, for its own clients and for the other servers."""

from dataclasses import dataclass

from backend.core.execution.model import Delivery, Instruction
from backend.core.execution.registry import Registry
from backend.core.ports import Recordings
from backend.core.recording.reader import RecordingReader, Send
from backend.core.recording.sanitized import SanitizedRecording


@dataclass(frozen=True, slots=True)
class LocalExecutions:
    """The executions and recordings of this server. With `raw`, recordings are filtered for their viewers."""

    registry: Registry
    recordings: Recordings
    raw: bool = False

    def deliver(self, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction to an execution of this server."""
        return self.registry.deliver(execution, instruction)

    def reader(self, execution: str) -> RecordingReader | None:
        """A recording as its viewers may see it. Raises OSError if it cannot be read."""
        log = self.recordings.find(execution)
        return SanitizedRecording(log) if log and self.raw else log

    async def follow_here(self, execution: str, after_seq: int, send: Send) -> bool:
        """Send what is recorded after `after_seq`, live, until the end. False when there is no recording."""
        reader = self.reader(execution)
        if reader is None:
            return False
        watched = self.registry.find(execution)
        if watched is None:
            await reader.follow(after_seq, send)
        else:
            with watched.viewed():
                await reader.follow(after_seq, send)
        return True

    async def copy_here(self, execution: str, send: Send, begin: int, end: int | None) -> int | None:
        """Send what is stored now between two offsets; returns the offset reached, None without a recording."""
        reader = self.reader(execution)
        return await reader.copy(send, begin, end) if reader else None
