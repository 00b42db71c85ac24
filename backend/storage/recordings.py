"""Recordings as files: newline-delimited JSON, one file for each execution, named by its id, which sorts by time.

The executor appends; any number of viewers read after it, each at its own pace and from the file, so a slow viewer
costs no memory and a late one sees the same bytes.
"""

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from backend.core.errors import RecordingError
from backend.core.recording.batches import after, first_seq, last_seq
from backend.core.recording.digest import RecordingDigest
from backend.core.recording.lost import LOST, end_after
from backend.core.recording.messages import Complete
from backend.core.recording.reader import Send
from backend.core.recording.writer import Resumed
from backend.storage.modes import open_own, restore

BLOCK = 32 * 1024  # bytes that a viewer reads at a time, unless one line is longer
HASHED = 1 << 20  # bytes read at a time to be hashed
NEWEST = 256 * 1024  # bytes of a recording that its viewers get from memory, and
FOR_EACH = 16 * 1024  # more for each of them: one that is alone in its place reads blocks of its own
SHORT = 4096  # bytes of lines that are worth a copy, so that fewer are sent
FIRST_LINE = (
    0.01  # seconds that viewers wait for the first line unless more comes: a quick command wakes them once less
)
READING = os.O_RDONLY | os.O_NONBLOCK
POLL = 0.05  # seconds between two checks of a file that another process writes
SUFFIX = ".ndjson"
LOOKED_THROUGH = 64  # recordings after which those that viewers no longer need are let go
NAME = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
COMPLETE = b'"type":"complete"'  # near the beginning of a last line
HEAD = 32  # bytes of a line in which that is


class RecordingFile:
    """One recording. `live` while its execution runs."""

    def __init__(self, path: str, fd: int = -1) -> None:
        self.path = path  # as text: path objects take a dozen calls for each recording
        self._fd = fd
        self.live = fd >= 0
        self._size = 0
        self._shown = 0  # bytes that viewers may have
        self._showing: asyncio.TimerHandle | None = None
        self._hash = hashlib.sha256()
        self._sealed = b""  # the last line, stored after that
        self._unwritten = b""
        self._waiting: set[asyncio.Future[None]] = set()
        self.viewers = 0
        self._newest: dict[int, bytes] = {}  # blocks by their offsets, for viewers that are all at the same place
        self._resumed = self._ended = False

    @classmethod
    def resumed(cls, path: str, fd: int) -> "RecordingFile":
        """One that is written on, behind its last whole line."""
        recording = cls(path, fd)
        size = os.fstat(fd).st_size
        recording._size = _line_start(fd, size)
        os.ftruncate(fd, recording._size)
        for offset in range(0, recording._size, HASHED):
            recording._hash.update(os.pread(fd, min(HASHED, recording._size - offset), offset))
        recording._resumed = recording._size > 0
        recording._shown = recording._size
        return recording

    @property
    def held(self) -> bool:
        """Whether viewers need what only this process has: the place up to which they may read, or the end."""
        return self.live or bool(self._unwritten)

    def append(self, line: bytes) -> None:
        """Add stored lines, all of them or none. Raises RecordingError."""
        self._write(line)
        first, waiting = not self._size, bool(self._waiting)
        if self.viewers or not self._shown:
            self._remember(self._size, line)
        self._size += len(line)
        self._hash.update(line)
        if waiting or not first:
            self._show()

    def _show(self) -> None:
        """Let viewers have all that is stored."""
        if self._showing:
            self._showing.cancel()
            self._showing = None
        self._shown = self._size
        self._wake()

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise RecordingError(f"The recording cannot be written: {error.strerror}.") from error

    def seal(self, line: bytes) -> RecordingDigest:
        """Store the last line before the audit has it, so that the two agree whenever the server dies.

        Viewers get it by `end`. The digest covers it, unless the disk refuses it.
        """
        try:
            self._write(line)
        except RecordingError:
            self._unwritten = line
            return RecordingDigest(self._size, self._hash.hexdigest(), complete=False)
        self._sealed = line
        sealed = self._hash.copy()
        sealed.update(line)
        return RecordingDigest(self._size + len(line), sealed.hexdigest())

    def end(self, lines: bytes = b"") -> None:
        """Let viewers have the sealed line, or `lines` instead of it; what the disk refuses they get from memory."""
        if lines:
            self._replace_end(lines)
        if self._sealed:
            self._remember(self._size, self._sealed)
        self._size += len(self._sealed)
        self._ended = True
        self.leave()

    def _replace_end(self, lines: bytes) -> None:
        with suppress(OSError):
            os.ftruncate(self._fd, self._size)
        self._sealed = self._unwritten = b""
        try:
            self._write(lines)
            self._sealed = lines
        except RecordingError:
            self._unwritten = lines

    def discard(self) -> None:
        """Delete a recording that was only begun."""
        self.leave()
        if not self._resumed:
            _unlink(self.path)

    def leave(self) -> None:
        """Write no more, without an end."""
        os.close(self._fd)
        self._fd, self.live = -1, False
        self._show()

    def left(self) -> None:
        """A viewer has left. With the last one, nothing of what has ended remains in memory."""
        self.viewers -= 1
        if not self.viewers and not self.live:
            self._newest.clear()

    async def follow(self, after_seq: int, send: Send) -> None:
        """Send blocks of complete stored lines numbered above `after_seq`, live, until the recording ends."""
        with _Viewer(self) as file:
            offset, wanted = _seek(file.fd, after_seq) if after_seq else 0, after_seq
            while True:
                growing = self._grows(file)  # before its size is read
                if block := self._block(file, offset, growing):
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

    def _block(self, file: "_Viewer", offset: int, growing: bool) -> bytes:
        """The lines at `offset`. The first of many viewers at the same place reads them."""
        ours = self.live or self._ended
        if ours and offset >= self._shown:
            return b""
        if newest := self._newest_at(offset):
            return newest
        block = _read_block(file.fd, offset, self._shown if ours else self._stored(file, growing))
        if block and self.viewers > 1:
            self._remember(offset, block)
        return block

    def _newest_at(self, offset: int) -> bytes:
        """The lines at `offset` that are in memory: several short ones together, a long one as it is for all viewers."""
        blocks, end, most = list[bytes](), offset, min(self._shown, offset + BLOCK)
        while end < most and (block := self._newest.get(end)):
            if blocks and len(block) > SHORT:
                break
            blocks.append(block)
            end += len(block)
        return b"".join(blocks)

    def _remember(self, offset: int, block: bytes) -> None:
        self._newest.pop(offset, None)
        self._newest[offset] = block
        while sum(map(len, self._newest.values())) > NEWEST + FOR_EACH * self.viewers:
            del self._newest[next(iter(self._newest))]

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        """Send what is stored now from `begin`, the start of a line, to `end`, in blocks of complete lines.

        Returns the offset after what was sent; offsets are in bytes.
        """
        with _Viewer(self) as file:
            stored = self._stored(file, self._grows(file))
            while block := _read_block(file.fd, begin, stored if end is None else min(stored, end)):
                begin += len(block)
                await send(block)
        if self._unwritten and end is None:
            await send(self._unwritten)
        return begin

    def _stored(self, file: "_Viewer", growing: bool) -> int:
        """The bytes that are on record: not a last line that is stored before its execution has ended there."""
        if self.live or self._ended:
            return self._size
        size = os.fstat(file.fd).st_size
        return _line_start(file.fd, size - 1) if growing and _ended_at(file.fd, size) else size

    def _grows(self, file: "_Viewer") -> bool:
        """Whether more may come: a server, this one or another, still writes it."""
        return self.live or (not self._ended and _is_locked(file.fd))

    async def _growth(self) -> None:
        if not self.live:
            await asyncio.sleep(POLL)
            return
        loop = asyncio.get_running_loop()
        if self._shown < self._size and self._showing is None:
            self._showing = loop.call_later(FIRST_LINE, self._show)
        waiter = loop.create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class _Viewer:
    """A viewer, whose file is opened when it is needed: one of a quick command gets all from memory."""

    def __init__(self, recording: RecordingFile) -> None:
        self._recording = recording
        self._fd = -1

    def __enter__(self) -> Self:
        self._recording.viewers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._recording.left()
        if self._fd >= 0:
            os.close(self._fd)

    @property
    def fd(self) -> int:
        """The descriptor of its file. Raises OSError."""
        if self._fd < 0:
            self._fd = open_own(self._recording.path, READING)
        return self._fd


class FileRecordings:
    """All recordings of this server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prefix = os.path.join(folder, "")
        self._live: dict[str, RecordingFile] = {}
        self._look_through_at = LOOKED_THROUGH
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def create(self, execution: str) -> RecordingFile:
        """Begin a recording. Raises RecordingError."""
        path = self._path(execution)
        try:
            fd = _open_new(path)
        except OSError as error:
            raise RecordingError(f"The recording cannot be created: {error.strerror}.") from error
        # Shows other servers on the same folder that this one is still being written; one may be checking right now.
        fcntl.flock(fd, fcntl.LOCK_EX)
        recording = RecordingFile(path, fd)
        self._live[execution] = recording
        if len(self._live) >= self._look_through_at:
            self._live = {name: file for name, file in self._live.items() if file.held}
            self._look_through_at = len(self._live) + LOOKED_THROUGH
        return recording

    def resume(self, execution: str) -> Resumed:
        """Write on one that a server has left without an end; begin it where there is none. Raises RecordingError."""
        path = self._path(execution)
        try:
            fd = open_own(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            recording = RecordingFile.resumed(path, fd)
            first, last = _first_line(fd), _last_line(fd, os.fstat(fd).st_size)
        except OSError as error:
            raise RecordingError(f"The recording cannot be resumed: {error.strerror}.") from error
        self._live[execution] = recording
        return Resumed.of(recording, first, last)

    def find(self, execution: str) -> RecordingFile | None:
        """A recording by its id; see `cut_off` for one that a crash left without its end. Raises OSError."""
        if not NAME.fullmatch(execution):
            return None
        live = self._live.get(execution)
        if live and live.held:
            return live if os.path.lexists(live.path) else None
        path = self._path(execution)
        with suppress(FileNotFoundError), _reading(path) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is not a file")
            return live or RecordingFile(path)
        return None

    def cut_off(self, execution: str) -> int | None:
        """The number of the last line of a recording that has no end and that no server writes; otherwise None."""
        found = self.find(execution)
        if found is None or found.held:
            return None
        with _reading(found.path) as fd:
            if _is_locked(fd) or _ended_at(fd, size := os.fstat(fd).st_size):
                return None
            return last_seq(_last_line(fd, _line_start(fd, size)) + b"\n")

    def finish(self, execution: str, end: Complete) -> None:
        """Append the end that is on record to a recording that is cut off."""
        with suppress(FileNotFoundError), open(open_own(self._path(execution), os.O_RDWR), "r+b") as file:
            if _is_locked(file.fileno()):
                return
            fcntl.flock(file, fcntl.LOCK_EX)  # other servers may do the same; this takes no time
            size = file.seek(0, os.SEEK_END)
            if _ended_at(file.fileno(), size):
                return
            whole = _line_start(file.fileno(), size)
            file.truncate(whole)
            file.seek(whole)
            file.write(end_after(execution, _last_line(file.fileno(), whole), end))

    def last_message(self, execution: str) -> dict[str, Any] | None:
        """How a recording ended, empty if there is none; None while a server still writes it.

        One that is cut off is ended as lost: only for an execution whose end is not on record.
        """
        found = self.find(execution)
        if found is None:
            return {}
        self.finish(execution, LOST)
        with _reading(found.path) as fd:
            if _is_locked(fd):
                return None
            last = _last_line(fd, os.fstat(fd).st_size)
        message: dict[str, Any] = json.loads(last) if last else {}
        return message if message.get("type") == "complete" else None

    def seal(self, execution: str) -> RecordingDigest | None:
        """The digest of an ended recording; None if there is none."""
        found = self.find(execution)
        if found is None:
            return None
        with _reading(found.path) as fd:
            size = os.fstat(fd).st_size
            return RecordingDigest(size, digest(fd, size))

    def writable(self) -> bool:
        """Whether a new recording could be created."""
        restore(self.folder.parent, self.folder)
        return os.access(self.folder, os.W_OK | os.X_OK)

    def sizes(self) -> dict[str, int]:
        """The bytes of each recording. Raises OSError."""
        restore(self.folder.parent, self.folder)
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                name, suffix = os.path.splitext(entry.name)
                if suffix == SUFFIX and NAME.fullmatch(name):
                    with suppress(FileNotFoundError):
                        found[name] = entry.stat(follow_symlinks=False).st_size
        return found

    def is_written(self, execution: str) -> bool:
        """Whether a server writes it. Raises OSError."""
        with suppress(FileNotFoundError), _reading(self._path(execution)) as fd:
            return _is_locked(fd)
        return False

    def delete(self, executions: Iterable[str]) -> None:
        """Delete recordings. Raises OSError."""
        for execution in executions:
            _unlink(self._path(execution))

    def _path(self, execution: str) -> str:
        return f"{self._prefix}{execution}{SUFFIX}"


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _open_new(path: str) -> int:
    """Open a new file, or an empty one whose server died before its execution was on record. Raises OSError."""
    with suppress(FileExistsError):
        return open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
    fd = open_own(path, os.O_WRONLY | os.O_APPEND)
    if os.fstat(fd).st_size or _is_locked(fd):
        os.close(fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    return fd


def _is_locked(fd: int) -> bool:
    """Whether a server holds the lock of a file that it writes."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


@contextmanager
def _reading(path: str) -> Iterator[int]:
    fd = open_own(path, READING)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_block(fd: int, offset: int, end: int) -> bytes:
    """Complete lines between `offset` and `end`: about BLOCK bytes, or one line if it is longer; empty at the end.

    Blocks end at multiples of BLOCK, so that viewers who began at different places get the same ones.
    """
    length, more = BLOCK - offset % BLOCK, BLOCK
    while offset < end:
        data = os.pread(fd, min(length, end - offset), offset)
        if whole := data.rfind(b"\n") + 1:
            return data[:whole]
        if len(data) < length:
            return b""
        length, more = length + more, 2 * more
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


def _ended_at(fd: int, size: int) -> bool:
    """Whether the last of these bytes are a complete last line."""
    if not size or os.pread(fd, 1, size - 1) != b"\n":
        return False
    return COMPLETE in os.pread(fd, HEAD, _line_start(fd, size - 1))


def _first_line(fd: int) -> bytes:
    found = b""
    while b"\n" not in found and (block := os.pread(fd, BLOCK, len(found))):
        found += block
    return found.partition(b"\n")[0]


def _last_line(fd: int, whole: int) -> bytes:
    start = _line_start(fd, whole - 1) if whole else 0
    return os.pread(fd, whole - start, start).rstrip(b"\n")
