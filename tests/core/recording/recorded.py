"""A recording in memory, and messages for it."""

from backend.core.recording.digest import RecordingDigest
from backend.core.recording.lines import encode_lines
from backend.core.recording.messages import Complete, Problem, Started
from backend.core.recording.reader import Send
from backend.core.recording.writer import Recorder

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
STARTED = Started(
    command='echo "seq":9',
    argv=("echo", '"seq":9'),
    risk="safe",
    rule="allow.echo",
    cwd="/srv",
    time="2026-01-02T03:04:05.678Z",
    timeout=60,
    dry_run=False,
)
COMPLETE = Complete(
    status="succeeded",
    exit_code=0,
    signal=None,
    duration_ms=5,
    timed_out=False,
    truncated=False,
    stdout_bytes=1,
    stderr_bytes=0,
)


class Log:
    """Stores what is recorded in memory."""

    def __init__(self) -> None:
        self.stored = b""

    def append(self, line: bytes) -> None:
        self.stored += line

    def end(self, lines: bytes = b"") -> None:
        self.append(lines)

    def seal(self, line: bytes) -> RecordingDigest:
        raise NotImplementedError

    def discard(self) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        raise NotImplementedError

    async def follow(self, after_seq: int, send: Send) -> None:
        raise NotImplementedError


def record(outputs: list[list[str]]) -> bytes:
    log, now = Log(), iter(range(1000))
    recorder = Recorder(ID, log, lambda: next(now) / 10)
    recorder.add(STARTED)
    for number, texts in enumerate(outputs):
        data = "".join(f"{text}\n" for text in texts).encode()
        recorder.lines("stderr" if number % 2 else "stdout", encode_lines(data))
    recorder.add(Problem(message="x", rule="y"))
    recorder.end(COMPLETE)
    return log.stored
