"""Recordings in memory."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

from backend.core.errors import RecordingError
from backend.core.recording.batches import after
from backend.core.recording.digest import RecordingDigest
from backend.core.recording.messages import Complete
from backend.core.recording.reader import Send
from backend.core.recording.writer import Resumed

BLOCK = 32 * 1024  # bytes that a viewer gets at a time, unless one line is longer


class MemoryRecording:
    """One recording; see `RecordingLog`. `live` until its end."""

    def __init__(self, forget: Callable[[], object]) -> None:
        self.live = True
        self._forget = forget
        self._stored = bytearray()
        self._sealed = b""
        self._last = b""
        self._waiting: set[asyncio.Future[None]] = set()
        self._resumed = False

    def append(self, line: bytes) -> None:
        """Add stored lines."""
        self._stored += line
        self._wake()

    def seal(self, line: bytes) -> RecordingDigest:
        """Store the last line, which viewers do not get before `end`; the digest of all that is stored."""
        self._sealed = line
        return self.digest()

    def end(self, lines: bytes = b"") -> None:
        """Let viewers have the sealed line, or `lines` instead of it."""
        self._last, self._sealed, self.live = lines or self._sealed, b"", False
        self.append(self._last)

    def digest(self) -> RecordingDigest:
        """The digest of all that is stored."""
        stored = bytes(self._stored) + self._sealed
        return RecordingDigest(len(stored), hashlib.sha256(stored).hexdigest())

    def last_message(self) -> dict[str, Any] | None:
        """How it ended; None while it is live."""
        message: dict[str, Any] | None = None if self.live else json.loads(self._last.splitlines()[-1])
        return message

    def discard(self) -> None:
        """Delete a recording that was only begun."""
        self.leave()
        if not self._resumed:
            self._forget()

    def leave(self) -> None:
        """Write no more, without an end."""
        self.live = False
        self._wake()

    def resume(self) -> Resumed:
        """Write on."""
        self.live = self._resumed = True
        lines = bytes(self._stored).splitlines() or [b""]
        return Resumed.of(self, lines[0], lines[-1])

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        """Send what is stored now between two offsets, in blocks of complete lines; returns the offset reached."""
        stored = len(self._stored)
        while block := self._block(begin, stored if end is None else min(stored, end)):
            begin += len(block)
            await send(block)
        return begin

    async def follow(self, after_seq: int, send: Send) -> None:
        """Send blocks of complete stored lines numbered above `after_seq`, live, until the recording ends."""
        offset = 0
        while True:
            live = self.live
            if block := self._block(offset, len(self._stored)):
                offset += len(block)
                if kept := after(block, after_seq) if after_seq else block:
                    after_seq = 0
                    await send(kept)
            elif live:
                await self._growth()
            else:
                return

    def _block(self, begin: int, end: int) -> bytes:
        """Complete lines from `begin`: about BLOCK bytes, or one line if it is longer; empty at the end."""
        cut = self._stored.rfind(b"\n", begin, min(end, begin + BLOCK)) + 1
        if cut == 0:
            cut = self._stored.find(b"\n", begin, end) + 1
        return bytes(self._stored[begin:cut])

    async def _growth(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class MemoryRecordings:
    """All recordings of a server; see `Recordings`."""

    def __init__(self) -> None:
        self._recordings: dict[str, MemoryRecording] = {}

    def create(self, execution: str) -> MemoryRecording:
        """Begin a recording. Raises RecordingError for an id that has one."""
        if execution in self._recordings:
            raise RecordingError("The recording cannot be created: File exists.")
        recording = MemoryRecording(lambda: self._recordings.pop(execution))
        self._recordings[execution] = recording
        return recording

    def resume(self, execution: str) -> Resumed:
        """Write on one that was left without an end; begin it where there is none."""
        found = self.find(execution)
        return found.resume() if found else Resumed(self.create(execution))

    def find(self, execution: str) -> MemoryRecording | None:
        """A recording by its id."""
        return self._recordings.get(execution)

    def cut_off(self, execution: str) -> int | None:
        """What is in memory dies with its server."""
        return None

    def finish(self, execution: str, end: Complete) -> None:
        """Nothing is cut off."""

    def last_message(self, execution: str) -> dict[str, Any] | None:
        """How a recording ended, empty if there is none; None while it is live."""
        found = self.find(execution)
        return found.last_message() if found else {}

    def seal(self, execution: str) -> RecordingDigest | None:
        """The digest of an ended recording; None if there is none."""
        found = self.find(execution)
        return found.digest() if found else None
