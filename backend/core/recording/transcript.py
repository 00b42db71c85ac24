"""The output of a recording as text, assembled from its stored lines.

A client that reads a long recording slice by slice does not cause it to be read from its beginning each time: an index
remembers how much output precedes some places in it.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import field
from itertools import pairwise
from typing import Any

from backend.core.dataclasses import dataclass
from backend.core.recording.batches import Batch, read_batch, read_plain, stored_lines
from backend.core.recording.reader import Send

SEGMENT = 256 * 1024  # least stored bytes between two marks of an index
REACH = 6 * SEGMENT  # most stored bytes between them; no stored line is as long as the difference
COMPLETE = b'{"type":"complete"'  # cannot occur in output, where quotes are escaped

# Sends the blocks between two places of a recording and returns where it ended; None when there is no recording.
Read = Callable[[Send, int, int | None], Awaitable[int | None]]


def batch_text(batch: Batch) -> str:
    """The text of a batch, with its line ends."""
    return "\n".join(batch.texts) + ("" if batch.partial else "\n")


def output_of(block: bytes) -> Iterator[tuple[str, bytes]]:
    """The output in a block of stored lines, batch by batch: stream and text in UTF-8.

    Raises ValueError where what claims to be output is none.
    """
    for line in stored_lines(block):
        if plain := read_plain(line):
            yield plain[0].decode(), plain[1]
        elif batch := read_batch(line):
            yield batch.stream.decode(), batch_text(batch).encode("utf-8", "replace")


@dataclass(slots=True)
class Transcript:
    """All output of an execution by stream, and its other messages."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    async def add(self, block: bytes) -> None:
        """Add a block of stored lines."""
        for line in stored_lines(block):
            if batch := read_batch(line):
                (self.stdout if batch.stream == b"stdout" else self.stderr).append(batch_text(batch))
            else:
                self.messages.append(json.loads(line))

    def last(self, type: str) -> dict[str, Any]:
        """The last message of a type; empty when there is none."""
        return next((message for message in reversed(self.messages) if message["type"] == type), {})


@dataclass(slots=True)
class Slice:
    """A part of the output of `streams`: up to `limit` bytes of UTF-8 from `offset` on, cut at a character boundary."""

    streams: frozenset[str]
    offset: int
    limit: int
    total: int = 0
    parts: list[bytes] = field(default_factory=list)
    ended: bool = False

    async def add(self, block: bytes) -> None:
        """Add a block of stored lines."""
        for stream, data in output_of(block):
            if stream in self.streams:
                self._add(data)
        self.ended = self.ended or COMPLETE in block

    def _add(self, data: bytes) -> None:
        start, end = self.offset - self.total, self.offset + self.limit - self.total
        if end > 0 and start < len(data):
            self.parts.append(data[max(start, 0) : end])
        self.total += len(data)

    @property
    def data(self) -> str:
        """The text; a character that the limit would cut is left to the next slice."""
        return self._uncut.decode("utf-8", "replace")

    @property
    def next_offset(self) -> int:
        return min(self.offset, self.total) + len(self._uncut)

    @property
    def _uncut(self) -> bytes:
        joined = b"".join(self.parts)
        if self.offset + len(joined) >= self.total:
            return joined
        cut = len(joined)
        while cut and len(joined) - cut < 3 and joined[cut - 1] & 0xC0 == 0x80:
            cut -= 1
        return joined[: cut - 1] if cut and joined[cut - 1] >= 0xC0 and not _is_complete(joined[cut - 1 :]) else joined


@dataclass(slots=True)
class Count:
    """How much output of each stream was read, in bytes of UTF-8."""

    sizes: Counter[str] = field(default_factory=Counter)
    ended: bool = False

    async def add(self, block: bytes) -> None:
        """Add a block of stored lines."""
        for stream, data in output_of(block):
            self.sizes[stream] += len(data)
        self.ended = self.ended or COMPLETE in block


@dataclass(frozen=True, slots=True)
class Mark:
    """The place of a line: the bytes that are stored before it, and the output that they contain."""

    stored: int = 0
    stdout: int = 0
    stderr: int = 0
    ended: bool = False

    def size(self, streams: frozenset[str]) -> int:
        """Bytes of output of these streams."""
        return self.stdout * ("stdout" in streams) + self.stderr * ("stderr" in streams)


@dataclass(slots=True)
class Index:
    """The marks of one recording, from its beginning to less than a segment before its end."""

    marks: list[Mark] = field(default_factory=lambda: [Mark()])

    async def extend(self, read: Read) -> None:
        """Add marks for what has been stored since."""
        while True:
            last, count = self.marks[-1], Count()
            end = await read(count.add, last.stored, last.stored + REACH)
            if end is None or end - last.stored < SEGMENT:
                return
            if last is self.marks[-1]:  # not when another reader was faster
                stdout, stderr = last.stdout + count.sizes["stdout"], last.stderr + count.sizes["stderr"]
                self.marks.append(Mark(end, stdout, stderr, count.ended))

    def segments(self, streams: frozenset[str], begin: int, end: int) -> Iterator[tuple[Mark, int | None]]:
        """Where the output between two offsets is stored; the last segment has no mark behind it, and so no end, yet."""
        for mark, following in pairwise(self.marks):
            if mark.size(streams) < end and following.size(streams) > begin:
                yield mark, following.stored
        yield self.marks[-1], None


async def read_slice(read: Read, index: Index, part: Slice) -> bool:
    """Fill a slice, reading as little as the index permits. False when there is no recording."""
    await index.extend(read)
    for mark, end in list(index.segments(part.streams, part.offset, part.offset + part.limit)):
        part.total, part.ended = mark.size(part.streams), mark.ended
        if await read(part.add, mark.stored, end) is None:
            return False
    return True


def _is_complete(character: bytes) -> bool:
    try:
        character.decode()
    except UnicodeDecodeError:
        return False
    return True
