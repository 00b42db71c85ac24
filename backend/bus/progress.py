"""The progress of a relayed recording: where the next server continues, with nothing lost or repeated."""

from backend.core.dataclasses import dataclass
from backend.core.recording.batches import after, first_seq, last_seq
from backend.core.recording.reader import Send

# Seconds that a server which leaves lets its relays go on: what it ran has just ended, and viewers elsewhere get the end.
LAST_BLOCKS = 1.0


@dataclass(slots=True)
class FollowProgress:
    """A recording that is followed. `after_seq` is the last number that the viewer has."""

    execution: str
    send: Send
    after_seq: int

    async def pass_on(self, block: bytes) -> None:
        """Send what the viewer does not have yet."""
        if first_seq(block) <= self.after_seq:
            block = after(block, self.after_seq)
        if block:
            await self.send(block)
            self.after_seq = last_seq(block)


@dataclass(slots=True)
class CopyProgress:
    """A recording that is copied. `begin` is the offset after what was sent, in bytes."""

    execution: str
    send: Send
    begin: int
    end: int | None

    async def pass_on(self, block: bytes) -> None:
        """Send the block."""
        await self.send(block)
        self.begin += len(block)


Progress = FollowProgress | CopyProgress
