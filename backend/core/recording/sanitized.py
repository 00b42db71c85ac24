"""What viewers get of an unfiltered recording: the same messages, without what a terminal would act on."""

import re
from json.encoder import encode_basestring

from backend.core.dataclasses import dataclass, replace
from backend.core.recording.batches import Batch, read_batch, stored_lines
from backend.core.recording.reader import RecordingReader, Send
from backend.core.recording.terminal_filter import TerminalFilter

# What a stored line has where a terminal would act on its text: escapes of JSON, DEL, or characters beyond ASCII.
SUSPECT = re.compile(rb"\\[uf]|[\x7f-\xff]")


def sanitizing(send: Send) -> Send:
    """A `send` that accepts stored lines and passes them on filtered. Every line keeps its number."""
    filters = {b"stdout": TerminalFilter(), b"stderr": TerminalFilter()}

    async def filtered(block: bytes) -> None:
        lines = []
        for line in stored_lines(block):
            untouched = not (SUSPECT.search(line) or any(each.held for each in filters.values()))
            batch = None if untouched else read_batch(line)
            lines.append(_filter(batch, filters[batch.stream]).encode() if batch else line)
        await send(b"".join(line + b"\n" for line in lines))

    return filtered


@dataclass(frozen=True, slots=True)
class SanitizedRecording:
    """A recording as its viewers may see it, filtered; see `RecordingReader`."""

    log: RecordingReader

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        """Send what is stored now between two places."""
        return await self.log.copy(sanitizing(send), begin, end)

    async def follow(self, after_seq: int, send: Send) -> None:
        """Send what has a higher number, live, until the end."""
        await self.log.follow(after_seq, sanitizing(send))


def _filter(batch: Batch, terminal: TerminalFilter) -> Batch:
    end = b"" if batch.partial else b"\n"
    passed = [terminal.feed(text.encode() + end).removesuffix(end) for text in batch.texts]
    return replace(batch, lines=[encode_basestring(text.decode("utf-8", "replace"))[1:-1].encode() for text in passed])
