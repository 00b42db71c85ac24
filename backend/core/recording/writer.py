"""Writing a recording: the messages of one execution, one JSON object a line, numbered from 1 without a gap.

The stored lines are exactly what viewers are sent.
"""

import json
from collections.abc import Callable
from typing import Protocol, Self

from backend.core.dataclasses import dataclass
from backend.core.errors import RecordingError, ShareUsedUpError
from backend.core.recording.batches import after, last_seq
from backend.core.recording.digest import RecordingDigest
from backend.core.recording.lines import Lines, encode_lines
from backend.core.recording.messages import ExecutionMessage
from backend.core.recording.reader import RecordingReader


class RecordingWriter(Protocol):
    """Where an execution writes its messages, each of which gets its number and time."""

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the recording began."""
        ...

    def lines(self, stream: str, lines: Lines) -> None:
        """Record output of `stdout` or `stderr`. Raises RecordingError, also where there is no room for it."""
        ...

    def say(self, stream: str, text: str) -> int:
        """Record a line of the service's own, as a program would have written it; returns its bytes.

        Raises RecordingError.
        """
        ...

    def add(self, message: ExecutionMessage) -> None:
        """Record any other message. Raises RecordingError."""
        ...


class RecordingLog(RecordingReader, Protocol):
    """What a recording is stored in: the stored lines of one execution."""

    def append(self, line: bytes) -> None:
        """Add stored lines. Raises RecordingError when they cannot be stored."""
        ...

    def seal(self, line: bytes) -> RecordingDigest:
        """Store the last line, which viewers do not get before `end`; the digest of all that is stored."""
        ...

    def end(self, lines: bytes = b"") -> None:
        """Let viewers have the sealed line, or `lines` instead of it; they get them even if they cannot be stored."""
        ...

    def discard(self) -> None:
        """Remove it: nothing was recorded. One that was resumed stays."""
        ...

    def leave(self) -> None:
        """Write no more, without an end: another server resumes it."""
        ...


@dataclass(frozen=True, slots=True)
class Resumed:
    """A log that is written on. It holds the messages up to number `seq`, the last of which came after `ms` milliseconds.

    `timeout` is that of the command, in seconds; None where no message is stored.
    """

    log: RecordingLog
    seq: int = 0
    ms: int = 0
    timeout: float | None = None

    @classmethod
    def of(cls, log: RecordingLog, first: bytes, last: bytes) -> Self:
        """A log whose first and last lines are these."""
        if not last:
            return cls(log)
        return cls(log, last_seq(last + b"\n"), json.loads(last)["ms"], json.loads(first).get("timeout"))


class Recorder:
    """The writer over a log. A muted recorder stores no output.

    `count` is called with the bytes of each line that is written, and says whether there is room for more output. What a
    log that is `resumed` holds already is numbered again, but not stored again.
    """

    def __init__(
        self,
        execution: str,
        log: RecordingLog,
        clock: Callable[[], float],
        *,
        mask: Callable[[str], str] = str,
        count: Callable[[int], bool] = bool,
        muted: bool = False,
        resumed: Resumed | None = None,
    ) -> None:
        self.execution = execution
        self._mask = mask
        self._count = count
        self._muted = muted
        self._log = log
        self._clock = clock
        self._stored = resumed.seq if resumed else 0
        self._begun = clock() - (resumed.ms / 1000 if resumed else 0)
        self._next = 1
        self._gap: RecordingError | None = None

    @property
    def elapsed_ms(self) -> int:
        return int((self._clock() - self._begun) * 1000)

    def lines(self, stream: str, lines: Lines) -> None:
        if self._muted:
            return
        partial = b'"partial":true,' if lines.partial else b""
        head = b'{"type":"%b","execution":"%b","seq":%d,"ms":%d,%b"lines":[' % (
            stream.encode(),
            self.execution.encode(),
            self._next,
            self.elapsed_ms,
            partial,
        )
        line = b"".join((head, lines.items, b"]}\n"))  # `%` would make room for it several times
        if self._next <= self._stored:
            line = after(line, self._stored)
        if line:
            self._store(line)
        self._next += lines.count

    def _store(self, line: bytes) -> None:
        """Append output. What follows on output that could not be stored is not stored: it would hide the gap."""
        if self._gap:
            raise self._gap
        try:
            if not self._count(len(line)):
                raise ShareUsedUpError
            self._log.append(line)
        except RecordingError as error:
            self._gap = error
            raise

    def say(self, stream: str, text: str) -> int:
        data = f"{self._mask(text)}\n".encode("utf-8", "replace")
        self.lines(stream, encode_lines(data))
        return len(data)

    @property
    def resumed(self) -> bool:
        """Whether the log holds messages of a server before this one."""
        return self._stored > 0

    def begin(self, message: ExecutionMessage) -> None:
        """Record the first message, unless the log holds it already."""
        if self._stored:
            self._next += 1
        else:
            self.add(message)

    def add(self, message: ExecutionMessage) -> None:
        self._log.append(self._line(message))

    def leave(self) -> None:
        """Write no more, without an end."""
        self._log.leave()

    def seal(self, message: ExecutionMessage) -> RecordingDigest:
        """Store the last message, which viewers do not get before `end`; the digest of all that is stored."""
        line = self._line(message)
        self._next -= 1  # until it is shown, another one may take its place
        return self._log.seal(line)

    def end(self, *messages: ExecutionMessage) -> None:
        """Let viewers have the sealed last message, or these instead of it."""
        self._log.end(b"".join(map(self._line, messages)))

    def _line(self, message: ExecutionMessage) -> bytes:
        # What is not output is always written: it is short, and says why there is no more.
        self._next = max(self._next, self._stored + 1)
        line = message.numbered(self.execution, self._next, self.elapsed_ms) + b"\n"
        self._next += 1
        self._count(len(line))
        return line
