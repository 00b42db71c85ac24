"""Output of a command that runs elsewhere: cut into lines, and recorded as far as the limit of the execution permits."""

from collections.abc import Callable, Sequence
from dataclasses import field

from backend.core.dataclasses import dataclass
from backend.core.recording.lines import LineAssembler, Lines
from backend.core.recording.writer import RecordingWriter


@dataclass(slots=True)
class ReceivedOutput:
    """Records at most `limit` bytes of both streams. `lines` makes what cuts a stream into lines."""

    output: RecordingWriter
    limit: int
    lines: Callable[[], LineAssembler]
    stdout: int = 0
    stderr: int = 0
    _streams: dict[str, LineAssembler] = field(default_factory=dict)

    def add(self, stream: str, data: bytes) -> bool:
        """Record output; False if the limit has cut it. Raises RecordingError.

        A line that has not ended is recorded too: it was shown where it was written.
        """
        granted = data[: max(self.limit - self.stdout - self.stderr, 0)]
        self._count(stream, len(granted))
        if stream not in self._streams:
            self._streams[stream] = self.lines()
        lines = self._streams[stream]
        self._record(stream, lines.feed(granted))
        if not granted.endswith(b"\n"):
            self._record(stream, lines.flush())
        return len(granted) == len(data)

    def say(self, text: str) -> None:
        """Record a line of the service's own, behind what was received. Raises RecordingError."""
        self.flush()
        self._count("stderr", self.output.say("stderr", text))

    def flush(self) -> None:
        """Record what is held back, when nothing follows. Raises RecordingError."""
        for stream, lines in self._streams.items():
            self._record(stream, lines.flush(final=True))

    def _count(self, stream: str, size: int) -> None:
        if stream == "stdout":
            self.stdout += size
        else:
            self.stderr += size

    def _record(self, stream: str, ready: Sequence[Lines]) -> None:
        for lines in ready:
            self.output.lines(stream, lines)
