"""The output of one stream, masked while it comes, wherever its reads are cut."""

from typing import Protocol

from backend.core.recording.redaction.spans import COLOUR, Span, masked

LINE_HELD = 64 * 1024  # bytes of a line without end that are held so that it can be seen as one
HARMLESS_START = 2  # characters that may be released although they may be the start of a secret


class SecretFinder(Protocol):
    """Finds the secrets in lines, and where one may begin."""

    @property
    def longest(self) -> int:
        """Bytes that are held of a line without end."""
        ...

    def find(self, data: bytes, key_lines: int) -> tuple[list[Span], int]:
        """The secrets in complete lines, and how many lines of a private key may follow them."""
        ...

    def possible_start(self, line: bytes) -> int:
        """Where a secret may begin that a line does not contain in full."""
        ...


class MaskedStream:
    """The reads of one stream, masked."""

    def __init__(self, secrets: SecretFinder) -> None:
        self._secrets = secrets
        self._line: list[bytes] = []  # the line that has not ended; `_released` bytes of its first part are passed on
        self._released = 0
        self._size = 0
        self._key_lines = 0

    @property
    def held(self) -> bool:
        """Whether something is held back."""
        return self._size > self._released

    def feed(self, data: bytes) -> bytes:
        """Add a read; returns the lines that it ends."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._hold(data)
            return self._shorten() if self._size - self._released >= LINE_HELD else b""
        ready = self._complete(data if end == len(data) else memoryview(data)[:end])
        self._hold(data[end:])
        return ready

    def release(self) -> bytes:
        """Return what cannot be the start of a secret, and one or two characters that may be."""
        if not self.held or self._key_lines:
            return b""
        line = self._joined()
        end = self._secrets.possible_start(line)
        if len(COLOUR.sub(b"", line[end:])) <= HARMLESS_START:
            end = len(line)
        return self._release(line, end, 0)

    def finish(self) -> bytes:
        """The stream has ended: return the rest."""
        return self._complete(b"")

    def _complete(self, data: bytes | memoryview) -> bytes:
        """Return the held line and what completes it."""
        released = self._released
        lines = b"".join([*self._line, data])
        if not lines:
            return lines
        spans, self._key_lines = self._secrets.find(lines, self._key_lines)
        self._line, self._size, self._released = [], 0, 0
        return masked(lines, spans, released) if spans or released else lines

    def _shorten(self) -> bytes:
        """The line is long: return what cannot be the start of a secret, and in any case all but its end."""
        line, longest = self._joined(), self._secrets.longest
        end = max(self._secrets.possible_start(line), len(line) - longest)
        return self._release(line, end, len(line) - 2 * longest)

    def _release(self, line: bytes, end: int, least: int) -> bytes:
        """Return the line up to `end`, or up to the secret that this would cut if it begins after `least`."""
        spans, _ = self._secrets.find(line, self._key_lines)
        end = next((start for start, stop in spans if least <= start < end < stop), end)
        end = max(end, self._released)
        ready = masked(line, spans, self._released, end)
        context = max(0, end - self._secrets.longest)  # what was released before is part of secrets that had begun
        self._line, self._size, self._released = [line[context:]], len(line) - context, end - context
        return ready

    def _joined(self) -> bytes:
        line = b"".join(self._line)
        self._line = [line]
        return line

    def _hold(self, data: bytes) -> None:
        if data:
            self._line.append(data)
            self._size += len(data)
