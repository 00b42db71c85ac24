"""Long recordings, read without blocking the loop for others."""

import asyncio

from backend.core.execution.low_priority import low_priority
from backend.core.recording.reader import Send

LONG_BLOCK = 4096  # bytes; the reader of a shorter one has caught up with its command, or soon has


def in_turns(send: Send) -> Send:
    """A `send` that lets others go first after each long block; neither a file nor a fast client makes it do so."""

    async def sent(block: bytes) -> None:
        await send(block)
        await (low_priority().turn() if len(block) > LONG_BLOCK else asyncio.sleep(0))

    return sent
