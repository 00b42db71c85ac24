"""The anchor: the end of the audit in a file next to the database, which truncating the database does not change."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from backend.core.audit.chain import Anchor
from backend.core.errors import StorageError, reason_of
from backend.storage.atomic_files import replace_file

EVERY = 1.0  # seconds, at least, between two writes


Lost = Callable[[Anchor], Awaitable[str]]  # why a position is no longer in the chain, empty if it is


class AnchorFile:
    """Writes the last position at most once a second and at shutdown.

    A write that fails does no harm: an older position is still true, and a database that cannot write stops commands.
    Servers that share the file never replace a newer position by an older one, nor one that the audit has lost.
    """

    def __init__(self, path: Path, lost: Lost) -> None:
        self.path = path
        self._lost = lost
        self._latest: Anchor | None = None
        self._done: Anchor | None = None
        self._known: Anchor | None = None  # the position in the file, as this process last read or wrote it
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def read(self) -> Anchor | None:
        """The position in the file, None if there is no file. Raises StorageError if it cannot be parsed."""
        self._known = await asyncio.to_thread(read_anchor, self.path)
        return self._known

    def note(self, anchor: Anchor) -> None:
        """Write the end of the chain soon."""
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
        """Whether the position in the file may be replaced. That of another server may not if it is newer, or lost."""
        stored = await asyncio.to_thread(read_anchor, self.path)
        return stored in (None, self._known) or not (stored.seq > latest.seq or await self._lost(stored))

    async def close(self) -> None:
        """Write the last position."""
        self._closing.set()
        if self._writing:
            await self._writing
        await self._write_latest()


def read_anchor(path: Path) -> Anchor | None:
    """The position in a file, None if there is no file. Raises StorageError if it cannot be parsed."""
    try:
        return Anchor.parse(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = reason_of(error)
        raise StorageError(f"The recorded position of the audit cannot be read from {path}: {why}.") from error
