"""A recording: the messages of one execution, one JSON object a line, numbered from 1 without a gap.

What is stored is what is sent. Output is stored as a whole read (a batch): its `seq` is that of the first line, and
the next message goes on after the last. These functions write such lines, cut them at a number, and take batches
apart for clients that want a message a line.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Protocol

from backend.core.recording.lines import Lines, encode_lines
from backend.core.recording.messages import ExecutionMessage

Send = Callable[[bytes], Awaitable[None]]

SEQ = re.compile(rb'"seq":(\d+)')
BATCH = re.compile(
    rb'\{"type":"(stdout|stderr)","execution":"([^"]+)","seq":(\d+),"ms":(\d+),("partial":true,)?"lines":\['
)


@dataclass(frozen=True, slots=True)
class Seal:
    """What a recording held when its execution had ended, before its last line: so many bytes with this SHA-256 (hex).

    It stands in the audit, so that a recording can be shown to be as it was.
    """

    size: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """As events have it."""
        return {"bytes": self.size, "sha256": self.sha256}

    @classmethod
    def read(cls, found: object) -> "Seal":
        """The other way round. Raises ValueError for anything else."""
        match found:
            case {"bytes": int(size), "sha256": str(sha256)} if size >= 0:
                return cls(size, sha256)
            case _:
                raise ValueError("it is no seal of a recording")


class RecordingReader(Protocol):
    """The reading end of one recording."""

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        """Send what is stored now from `begin`, the place of a line, to `end`, in blocks of whole lines.

        The place behind what was sent; places are bytes of what is stored.
        """
        ...

    async def follow(self, after_seq: int, send: Send) -> None:
        """Send blocks of whole stored lines with a higher number, live, until the end."""
        ...


class RecordingLog(RecordingReader, Protocol):
    """Where the stored lines of one execution go and come from."""

    def append(self, line: bytes) -> None:
        """Add stored lines. Raises RecordingError when they cannot be kept."""
        ...

    def end(self, line: bytes) -> None:
        """Add the last line; viewers get it even if it cannot be kept."""
        ...

    def seal(self) -> Seal:
        """What is stored until now."""
        ...

    def discard(self) -> None:
        """Forget it: nothing was recorded."""
        ...


class Recorder:
    """The writing end: gives every message its number and time. A muted one keeps no output."""

    def __init__(
        self,
        execution: str,
        log: RecordingLog,
        clock: Callable[[], float],
        *,
        mask: Callable[[str], str] = str,
        muted: bool = False,
    ) -> None:
        self.execution = execution
        self._mask = mask
        self._muted = muted
        self._log = log
        self._clock = clock
        self._begun = clock()
        self._next = 1

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the recording began."""
        return int((self._clock() - self._begun) * 1000)

    def lines(self, stream: str, lines: Lines) -> None:
        """Record output of `stdout` or `stderr`. Raises RecordingError."""
        if self._muted:
            return
        partial = b'"partial":true,' if lines.partial else b""
        self._log.append(
            b'{"type":"%b","execution":"%b","seq":%d,"ms":%d,%b"lines":[%b]}\n'
            % (stream.encode(), self.execution.encode(), self._next, self.elapsed_ms, partial, lines.items)
        )
        self._next += lines.count

    def say(self, stream: str, text: str) -> int:
        """Record a line of our own, as a program would have written it; how many bytes. Raises RecordingError."""
        data = f"{self._mask(text)}\n".encode("utf-8", "replace")
        self.lines(stream, encode_lines(data))
        return len(data)

    def add(self, message: ExecutionMessage) -> None:
        """Record any other message. Raises RecordingError."""
        self._log.append(self._line(message))

    def end(self, message: ExecutionMessage) -> None:
        """Record the last message."""
        self._log.end(self._line(message))

    def _line(self, message: ExecutionMessage) -> bytes:
        numbered = message.model_copy(update={"execution": self.execution, "seq": self._next, "ms": self.elapsed_ms})
        self._next += 1
        return numbered.encode() + b"\n"


def first_seq(line: bytes) -> int:
    """The number of a stored line. The id that stands before it cannot hold `"seq":`."""
    found = SEQ.search(line)
    return int(found[1]) if found else 0


def last_seq(block: bytes) -> int:
    """The number of the last message in a block of stored lines; 0 where there is none."""
    line = block[block.rfind(b"\n", 0, -1) + 1 :].rstrip(b"\n")
    batch = read_batch(line)
    return first_seq(line) + (len(batch.lines) - 1 if batch else 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """The output of one read: each of `lines` is the inside of a JSON string."""

    stream: bytes
    execution: bytes
    seq: int
    ms: int
    partial: bool
    lines: list[bytes]

    @property
    def texts(self) -> list[str]:
        """The lines as they are to be read."""
        texts: list[str] = json.loads(b'["' + b'","'.join(self.lines) + b'"]')
        return texts

    def from_seq(self, seq: int) -> "Batch":
        """The lines numbered `seq` and higher."""
        return Batch(self.stream, self.execution, seq, self.ms, self.partial, self.lines[seq - self.seq :])

    def encode(self) -> bytes:
        """The stored line, without its line end."""
        partial = b'"partial":true,' if self.partial else b""
        return b'{"type":"%b","execution":"%b","seq":%d,"ms":%d,%b"lines":["%b"]}' % (
            self.stream,
            self.execution,
            self.seq,
            self.ms,
            partial,
            b'","'.join(self.lines),
        )

    @property
    def head(self) -> bytes:
        """How a message of one line begins, up to the text of the line."""
        partial = b'"partial":true,' if self.partial else b""
        return b'{"type":"%b","execution":"%b","ms":%d,%b"line":"' % (
            self.stream,
            self.execution,
            self.ms,
            partial,
        )

    def messages(self) -> Iterator[bytes]:
        """A message a line."""
        head = self.head
        for seq, line in enumerate(self.lines, self.seq):
            yield b'%b%b","seq":%d}' % (head, line, seq)


def read_batch(line: bytes) -> Batch | None:
    """Take a stored line of output apart; None when it is another message."""
    found = BATCH.match(line)
    if not found:
        return None
    return Batch(found[1], found[2], int(found[3]), int(found[4]), found[5] is not None, _split(line[found.end() : -2]))


def _split(items: bytes) -> list[bytes]:
    """The texts of `"a","b"`. Without a backslash no quote can stand inside a text, so the commas tell."""
    if b"\\" not in items:
        return items[1:-1].split(b'","')
    return [encode_basestring(text)[1:-1].encode() for text in json.loads(b"[" + items + b"]")]


def after(block: bytes, seq: int) -> bytes:
    """What of a block of stored lines is numbered higher than `seq`; a batch is cut where it must be."""
    kept = []
    for line in block.splitlines():
        first = first_seq(line)
        if first > seq:
            kept.append(line)
        elif (batch := read_batch(line)) and first + len(batch.lines) - 1 > seq:
            kept.append(batch.from_seq(seq + 1).encode())
    return b"".join(line + b"\n" for line in kept)
