"""Recordings as files: newline-delimited JSON, one file for each execution, named by its id, which sorts by time.

The executor appends; any number of viewers read after it, each at its own pace and from the file, so a slow viewer
costs no memory and a late one sees the same bytes.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.errors import RecordingError
from backend.core.recording.batches import after, first_seq
from backend.core.recording.digest import RecordingDigest
from backend.core.recording.lost import lost_after
from backend.core.recording.reader import Send

BLOCK = 32 * 1024  # bytes that a viewer reads at a time, unless one line is longer
HASHED = 1 << 20  # bytes read at a time to be hashed
POLL = 0.05  # seconds between two checks of a file that another process writes
NAME = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


class RecordingFile:
    """One recording. `live` while its execution runs."""

    def __init__(self, path: Path, fd: int = -1) -> None:
        self.path = path
        self._fd = fd
        self._ours = fd >= 0
        self._size = 0
        self._hash = hashlib.sha256()
        self._unwritten = b""
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def live(self) -> bool:
        return self._fd >= 0

    def append(self, line: bytes) -> None:
        """Add stored lines, all of them or none. Raises RecordingError."""
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise RecordingError(f"The recording cannot be written: {error.strerror}.") from error
        self._size += len(line)
        self._hash.update(line)
        self._wake()

    def end(self, line: bytes) -> None:
        """Add the last line; if the disk refuses it, viewers get it from memory."""
        try:
            self.append(line)
        except RecordingError:
            self._unwritten = line
        os.close(self._fd)
        self._fd = -1
        self._wake()

    def seal(self) -> RecordingDigest:
        """The digest of what is stored so far. Only the process that writes the recording may call it."""
        return RecordingDigest(self._size, self._hash.hexdigest())

    def discard(self) -> None:
        """Delete a recording that was only begun."""
        os.close(self._fd)
        self._fd = -1
        self.path.unlink(missing_ok=True)

    async def follow(self, after_seq: int, send: Send) -> None:
        """Send blocks of complete stored lines numbered above `after_seq`, live, until the recording ends."""
        with _reading(self.path) as fd:
            offset, wanted = _seek(fd, after_seq), after_seq
            while True:
                growing = self._grows(fd)
                if block := _read_block(fd, offset, self._stored(fd)):
                    offset += len(block)
                    if kept := after(block, wanted) if wanted else block:
                        wanted = 0
                        await send(kept)
                elif growing:
                    await self._growth()
                else:
                    break
        if self._unwritten:
            await send(self._unwritten)

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        """Send what is stored now from `begin`, the start of a line, to `end`, in blocks of complete lines.

        Returns the offset after what was sent; offsets are in bytes.
        """
        with _reading(self.path) as fd:
            stored = self._stored(fd)
            while block := _read_block(fd, begin, stored if end is None else min(stored, end)):
                begin += len(block)
                await send(block)
        if self._unwritten and end is None:
            await send(self._unwritten)
        return begin

    def _stored(self, fd: int) -> int:
        return self._size if self.live else os.fstat(fd).st_size

    def _grows(self, fd: int) -> bool:
        """Whether more may come, to be asked before the size is read. Ends a recording whose writer has died."""
        if self.live or _is_locked(fd):
            return True
        if not self._ours:
            _mend(self.path, self.path.stem)
        return False

    async def _growth(self) -> None:
        if not self.live:
            await asyncio.sleep(POLL)
            return
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


@dataclass(frozen=True, slots=True)
class Retention:
    """How long and how much is stored: seconds and bytes."""

    age: float
    size: int


class FileRecordings:
    """All recordings of this server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._live: dict[str, RecordingFile] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def create(self, execution: str) -> RecordingFile:
        """Begin a recording. Raises RecordingError."""
        path = self._path(execution)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RecordingError(f"The recording cannot be created: {error.strerror}.") from error
        # Shows other servers on the same folder that this one is still being written; one may be checking right now.
        fcntl.flock(fd, fcntl.LOCK_EX)
        recording = RecordingFile(path, fd)
        self._live = {name: file for name, file in self._live.items() if file.live}
        self._live[execution] = recording
        return recording

    def find(self, execution: str) -> RecordingFile | None:
        """A recording by its id; one that a crash left incomplete is ended as `lost` first."""
        if not NAME.fullmatch(execution):
            return None
        path = self._path(execution)
        if not path.exists():
            return None
        if known := self._live.get(execution):
            return known
        _mend(path, execution)
        return RecordingFile(path)

    def last_message(self, execution: str) -> dict[str, Any] | None:
        """How a recording ended, empty if there is none; None while a server still writes it."""
        found = self.find(execution)
        if found is None:
            return {}
        with _reading(found.path) as fd:
            last = _last_line(fd, os.fstat(fd).st_size)
        message: dict[str, Any] = json.loads(last) if last else {}
        return message if message.get("type") == "complete" else None

    def seal(self, execution: str) -> RecordingDigest | None:
        """The digest of an ended recording without its last line; None if there is no recording."""
        found = self.find(execution)
        if found is None:
            return None
        with _reading(found.path) as fd:
            size = os.fstat(fd).st_size
            end = _line_start(fd, size - 1) if size else 0
            return RecordingDigest(end, digest(fd, end))

    def writable(self) -> bool:
        """Whether a new recording could be created."""
        return os.access(self.folder, os.W_OK | os.X_OK)

    def prune(self, retention: Retention, now: float) -> int:
        """Delete what is too old, then the oldest until the rest is small enough; returns how many were deleted."""
        kept = sorted(self._ended(), key=lambda item: item[0].name, reverse=True)
        total, gone = 0, 0
        for path, info in kept:
            total += info.st_size
            too_much = total > retention.size or now - info.st_mtime > retention.age
            if too_much and not _is_written(path):
                path.unlink(missing_ok=True)
                gone += 1
        return gone

    def _ended(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*.ndjson"):
            file = self._live.get(path.stem)
            if file is None or not file.live:
                with suppress(FileNotFoundError):
                    yield path, path.stat()

    def _path(self, execution: str) -> Path:
        return self.folder / f"{execution}.ndjson"


def _is_locked(fd: int) -> bool:
    """Whether a server holds the lock of a file that it writes."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _is_written(path: Path) -> bool:
    with suppress(FileNotFoundError), _reading(path) as fd:
        return _is_locked(fd)
    return False


@contextmanager
def _reading(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_block(fd: int, offset: int, end: int) -> bytes:
    """Complete lines between `offset` and `end`: about BLOCK bytes, or one line if it is longer; empty at the end."""
    length = BLOCK
    while offset < end:
        data = os.pread(fd, min(length, end - offset), offset)
        if whole := data.rfind(b"\n") + 1:
            return data[:whole]
        if len(data) < length:
            return b""
        length *= 2
    return b""


def _seek(fd: int, seq: int) -> int:
    """The start of a line at or shortly before the first one numbered above `seq`, by bisection."""
    low, high = 0, os.fstat(fd).st_size
    while seq and high - low > BLOCK:
        middle = (low + high) // 2
        start, line = _line_after(fd, middle)
        if not line or start >= high or first_seq(line) > seq:
            high = middle
        else:
            low = start
    return low


def _line_after(fd: int, offset: int) -> tuple[int, bytes]:
    """The first line that begins after `offset`, or at least the part with its number."""
    while piece := os.pread(fd, BLOCK, offset):
        if found := piece.find(b"\n") + 1:
            start = offset + found
            return start, os.pread(fd, 256, start)
        offset += len(piece)
    return offset, b""


def _mend(path: Path, execution: str) -> None:
    """Append an end to a recording that has none, because its server died while the command ran."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        if _is_locked(file.fileno()):
            return
        fcntl.flock(file, fcntl.LOCK_EX)  # other servers may do the same; this takes no time
        size = file.seek(0, os.SEEK_END)
        whole = _line_start(file.fileno(), size)
        last = _last_line(file.fileno(), whole)
        if b'"type":"complete"' in last[:32]:
            return
        file.truncate(whole)
        file.seek(whole)
        file.write(lost_after(execution, last))


def digest(fd: int, size: int) -> str:
    """The SHA-256 of the first bytes, in hexadecimal."""
    found = hashlib.sha256()
    for offset in range(0, size, HASHED):
        found.update(os.pread(fd, min(HASHED, size - offset), offset))
    return found.hexdigest()


def _line_start(fd: int, before: int) -> int:
    """The offset after the last LF before `before`."""
    while before > 0:
        begin = max(0, before - BLOCK)
        if found := os.pread(fd, before - begin, begin).rfind(b"\n") + 1:
            return begin + found
        before = begin
    return 0


def _last_line(fd: int, whole: int) -> bytes:
    start = _line_start(fd, whole - 1) if whole else 0
    return os.pread(fd, whole - start, start).rstrip(b"\n")
