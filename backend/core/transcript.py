"""Reads a recording back into text: what a program wrote, put together again from the stored lines."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from backend.core.recording import Batch, read_batch


def batch_text(batch: Batch) -> str:
    """The text of a batch, with its line ends."""
    return "\n".join(batch.texts) + ("" if batch.partial else "\n")


def pieces(block: bytes) -> Iterator[tuple[str, str]]:
    """The output in a block of stored lines: stream and text, in order."""
    for line in block.splitlines():
        if batch := read_batch(line):
            yield batch.stream.decode(), batch_text(batch)


@dataclass(slots=True)
class Transcript:
    """All output of an execution, both streams apart, and its last message."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, block: bytes) -> None:
        """Add a block of stored lines."""
        for line in block.splitlines():
            if batch := read_batch(line):
                (self.stdout if batch.stream == b"stdout" else self.stderr).append(batch_text(batch))
            else:
                self.messages.append(json.loads(line))

    def last(self, type: str) -> dict[str, Any]:
        """The last message of a type; empty when there is none."""
        return next((message for message in reversed(self.messages) if message["type"] == type), {})


@dataclass(slots=True)
class Slice:
    """A part of the output of `streams`: up to `limit` bytes of UTF-8 from `offset` on, cut between characters."""

    streams: frozenset[str]
    offset: int
    limit: int
    total: int = 0
    kept: list[bytes] = field(default_factory=list)
    ended: bool = False

    async def take(self, block: bytes) -> None:
        """Look at a block of stored lines."""
        for stream, text in pieces(block):
            if stream in self.streams:
                self._add(text.encode())
        self.ended = self.ended or b'{"type":"complete"' in block

    def _add(self, data: bytes) -> None:
        start, end = self.offset - self.total, self.offset + self.limit - self.total
        if end > 0 and start < len(data):
            self.kept.append(data[max(start, 0) : end])
        self.total += len(data)

    @property
    def data(self) -> str:
        """The text; a character that the limit would cut waits for the next slice."""
        return self._whole.decode("utf-8", "replace")

    @property
    def next_offset(self) -> int:
        return min(self.offset, self.total) + len(self._whole)

    @property
    def _whole(self) -> bytes:
        joined = b"".join(self.kept)
        if self.offset + len(joined) >= self.total:
            return joined
        cut = len(joined)
        while cut and len(joined) - cut < 3 and joined[cut - 1] & 0xC0 == 0x80:
            cut -= 1
        return joined[: cut - 1] if cut and joined[cut - 1] >= 0xC0 and not _is_whole(joined[cut - 1 :]) else joined


def _is_whole(character: bytes) -> bool:
    try:
        character.decode()
    except UnicodeDecodeError:
        return False
    return True
