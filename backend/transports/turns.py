"""Long recordings, read without keeping the loop from others."""

import asyncio

from backend.core.recording.reader import Send


def in_turns(send: Send) -> Send:
    """A `send` that lets others have their turn after each block, which neither the file nor a fast client makes it do."""

    async def sent(block: bytes) -> None:
        await send(block)
        await asyncio.sleep(0)

    return sent
