"""The end of the audit, noted in a file beside the database: what cuts the database back does not reach it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from backend.core.audit.chain import Anchor
from backend.core.errors import StorageError, reason_of
from backend.storage.atomic_files import replace_file

EVERY = 1.0  # seconds between two writes, at least


Lost = Callable[[Anchor], Awaitable[str]]  # why a place is not in the chain any more, empty when it is


class AnchorFile:
    """Notes the last place at most once a second and at the end.

    A disk that does not take it loses nothing: an older place is as true, and the database stops commands by itself.
    Of servers that share the file, none puts an older place in the place of a newer one, nor covers up that one which
    another noted is lost.
    """

    def __init__(self, path: Path, lost: Lost) -> None:
        self.path = path
        self._lost = lost
        self._latest: Anchor | None = None
        self._done: Anchor | None = None
        self._known: Anchor | None = None  # the place in the file, as far as this process has read or written it
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def read(self) -> Anchor | None:
        """The place in the file, None where there is none. Raises StorageError where it is no place."""
        self._known = await asyncio.to_thread(read_anchor, self.path)
        return self._known

    def note(self, anchor: Anchor) -> None:
        """Take note of the end of the chain."""
        self._latest = anchor
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._latest != self._done and not self._closing.is_set():
            await self._write_latest()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), EVERY)

    async def _write_latest(self) -> None:
        latest = self._latest
        if latest is None or latest == self._done:
            return
        with suppress(OSError, StorageError):
            if await self._may_go(latest):
                await asyncio.to_thread(replace_file, self.path, f"{latest}\n".encode())
                self._known = latest
            self._done = latest

    async def _may_go(self, latest: Anchor) -> bool:
        """Whether the place in the file may make room. What another server noted may not when it is newer, or lost."""
        noted = await asyncio.to_thread(read_anchor, self.path)
        return noted in (None, self._known) or not (noted.seq > latest.seq or await self._lost(noted))

    async def close(self) -> None:
        """Write the last place."""
        self._closing.set()
        if self._writing:
            await self._writing
        await self._write_latest()


def read_anchor(path: Path) -> Anchor | None:
    """The place in a file, None where there is none. Raises StorageError for a file that does not tell one."""
    try:
        return Anchor.parse(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = reason_of(error)
        raise StorageError(f"The noted place of the audit cannot be read from {path}: {why}.") from error
