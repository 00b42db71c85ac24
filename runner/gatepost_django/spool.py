"""What the server has to be sent of an execution, on disk until the server has it.

A file has a line for each record: the claim, the output in pieces, the end. A second file has how much the server has.
Both are written by one runner, which has the lock of their folder.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatepost_django.protocol import End

FULL = 64 * 2**20  # bytes that wait to be sent; a command that prints more has to wait too
PIECE = 32 * 1024  # characters in a piece of output, at most
SMALLEST = 256  # characters, which no server finds too large


@dataclass(frozen=True)
class Text:
    """A piece of output. `time` is in Unix seconds."""

    text: str
    is_stderr: bool
    time: float


@dataclass(frozen=True)
class Chunk:
    """What is sent next: a piece of output, or the part of one, with its number; or the end."""

    number: int
    record: "Text | End"


@dataclass(frozen=True)
class Cursor:
    """How much the server has: the bytes of the file, the characters of the piece that follows, and the number of the next
    chunk. `most` is how many characters a chunk has."""

    place: int = 0
    skipped: int = 0
    number: int = 1
    most: int = PIECE


class Spool:
    """The records of one execution. One thread writes, another one sends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.grown = threading.Condition()
        self.size = path.stat().st_size if path.exists() else 0
        self.cursor = _read_cursor(path)

    @property
    def id(self) -> str:
        """The execution."""
        return self.path.stem

    @property
    def is_full(self) -> bool:
        """Whether the command has to wait until more has been sent."""
        return self.size - self.cursor.place > FULL

    def claim(self, nonce: str, command: str) -> None:
        """Record that the execution is about to be claimed."""
        self._add({"claim": nonce, "command": command})

    def confirm(self) -> None:
        """Record that the claim was accepted."""
        self._add({"claimed": True})

    def add(self, record: Text | End) -> None:
        """Record a piece of output, or the end. Raises OSError where the disk is full."""
        match record:
            case Text(text, is_stderr, at):
                self._add({"text": text, "stderr": is_stderr, "time": at})
            case End(exit_code, status):
                self._add({"exit_code": exit_code, "status": status})

    def _add(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(line)
        except OSError:
            with suppress(OSError):
                os.truncate(self.path, self.size)  # the part of the line that was written
            raise
        with self.grown:
            self.size += len(line)
            self.grown.notify_all()

    def next(self, seconds: float) -> Chunk | None:
        """What is to be sent next; waits so long for it."""
        deadline = time.monotonic() + seconds
        while (chunk := self._next()) is None:
            with self.grown:
                if self.cursor.place >= self.size and not self.grown.wait(deadline - time.monotonic()):
                    return None
        return chunk

    def _next(self) -> Chunk | None:
        while record := self._read(self.cursor.place):
            match record[0]:
                case {"text": str(text), "stderr": bool(is_stderr), "time": at}:
                    part = text[self.cursor.skipped : self.cursor.skipped + self.cursor.most]
                    return Chunk(self.cursor.number, Text(part, is_stderr, at))
                case {"exit_code": int(exit_code), "status": str(status)}:
                    return Chunk(self.cursor.number, End(exit_code, status))
            self._move(Cursor(record[1], 0, self.cursor.number, self.cursor.most))
        return None

    def advance(self, chunk: Chunk) -> None:
        """The server has this chunk."""
        record, now = self._read(self.cursor.place), self.cursor
        assert record
        if isinstance(chunk.record, Text) and now.skipped + len(chunk.record.text) < len(record[0]["text"]):
            skipped = now.skipped + len(chunk.record.text)
            self._move(Cursor(now.place, skipped, now.number + 1, now.most))
        else:
            self._move(Cursor(record[1], 0, now.number + 1, now.most))

    def divide(self, chunk: Chunk) -> bool:
        """Send less at once, since this chunk is too large; False if it cannot be less."""
        if not isinstance(chunk.record, Text) or (most := len(chunk.record.text) // 2) < SMALLEST:
            return False
        self._move(Cursor(self.cursor.place, self.cursor.skipped, self.cursor.number, most))
        return True

    def _move(self, cursor: Cursor) -> None:
        self.cursor = cursor
        text = json.dumps([cursor.place, cursor.skipped, cursor.number, cursor.most])
        place = self.path.with_suffix(".cursor")
        new = place.with_suffix(".new")
        new.write_text(text)
        new.replace(place)

    def _read(self, place: int) -> tuple[dict[str, Any], int] | None:
        """The record at this place of the file, and where the next one is."""
        if place >= self.size:
            return None
        with self.path.open("rb") as file:
            file.seek(place)
            line = file.readline()
        return (json.loads(line), place + len(line)) if line.endswith(b"\n") else None

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, from the claim on."""
        place = 0
        while record := self._read(place):
            yield record[0]
            place = record[1]

    def delete(self) -> None:
        """The server has all of it, or does not want it."""
        for each in (self.path, self.path.with_suffix(".cursor")):
            each.unlink(missing_ok=True)


def _read_cursor(path: Path) -> Cursor:
    try:
        return Cursor(*json.loads(path.with_suffix(".cursor").read_text()))
    except (OSError, ValueError, TypeError):
        return Cursor()


def left_behind(folder: Path) -> list[Spool]:
    """The spools that a runner has left which was killed, or stopped while the server was away."""
    return [_repaired(path) for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)]


def _repaired(path: Path) -> Spool:
    """A spool without the beginning of a line that was never finished."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
    return Spool(path)
