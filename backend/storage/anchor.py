"""The end of the audit, noted in a file beside the database: what cuts the database back does not reach it."""

import asyncio
from contextlib import suppress
from pathlib import Path

from backend.core.audit import Anchor
from backend.storage.files import replace_file

EVERY = 1.0  # seconds between two writes, at least


class AnchorFile:
    """Notes the last place at most once a second and at the end.

    A disk that does not take it loses nothing: an older place is as true, and the database stops commands by itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._latest: Anchor | None = None
        self._written: Anchor | None = None
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def read(self) -> Anchor | None:
        """The place in the file, None where there is none or it cannot be read."""
        return await asyncio.to_thread(read_anchor, self.path)

    def note(self, anchor: Anchor) -> None:
        """Take note of the end of the chain."""
        self._latest = anchor
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._latest != self._written and not self._closing.is_set():
            await self._write_latest()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), EVERY)

    async def _write_latest(self) -> None:
        latest = self._latest
        if latest and latest != self._written:
            with suppress(OSError):
                await asyncio.to_thread(replace_file, self.path, f"{latest}\n".encode())
                self._written = latest

    async def close(self) -> None:
        """Write the last place."""
        self._closing.set()
        if self._writing:
            await self._writing
        await self._write_latest()


def read_anchor(path: Path) -> Anchor | None:
    """The place in a file, None where there is none or it cannot be read."""
    try:
        return Anchor.parse(path.read_text())
    except (OSError, ValueError):
        return None
