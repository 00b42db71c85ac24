"""Long recordings, read without blocking the loop for others."""

import asyncio

from backend.core.recording.reader import Send


def in_turns(send: Send) -> Send:
    """A `send` that yields to the loop after each block; neither a file nor a fast client makes it do so."""

    async def sent(block: bytes) -> None:
        await send(block)
        await asyncio.sleep(0)

    return sent
