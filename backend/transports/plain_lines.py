"""What a client without a subprotocol is sent: whole lines of one stream, with decoration. No I/O; time is passed in.

Such a client knows `waking ready stdout error complete` and shows each `stdout` as a line of its own. So an unfinished
line is held back until it ends, for HOLD_TIME and up to HOLD_LIMIT (a longer one comes in parts that are marked
`partial`, as is a last line without an end); standard error comes as `stdout` with `"stream":"stderr"`; and of a line
that was overwritten after a carriage return, the text that remains is sent.
"""

import json
import re
from dataclasses import field
from json.encoder import encode_basestring

from backend.core.dataclasses import dataclass, replace
from backend.core.recording.batches import Batch, line_spans, read_batch, stored_lines
from backend.core.recording.lines import LINE_LIMIT

HOLD_TIME = 1.0  # seconds after which the beginning of a line is sent: a prompt, or progress that goes on
HOLD_LIMIT = LINE_LIMIT  # bytes of one line that are held back
ERROR, READY = b'{"type":"error",', b'{"type":"ready",'
MESSAGE = b'"message":"'
RETURN, ESCAPE = b"\\r", b"\\u001b"
STARTS = (ERROR, READY, b'{"type":"stderr"')  # of lines that are changed
PARTIAL, LINES = b'"partial":true', b'"lines":['  # neither can be in a text, where quotes are escaped
OVERWRITTEN = re.compile(rb"\\(?:r|u001b\[[0-9]{0,4}[GK])")  # in JSON
EXECUTION = re.compile(rb'"execution":"([^"]+)"')
OVERWRITE = re.compile(r"\r|\x1b\[[01]?G")
ERASE = re.compile(r"\x1b\[(?:[0-2]?K|[0-9]{1,4}G)")  # or go on at a column

Stream = tuple[bytes, bytes]  # an execution and `stdout` or `stderr`


@dataclass(frozen=True, slots=True)
class OpenLine:
    """The last line of a stream, which has not ended: `text` of it is held back since `since`.

    With `shown`, all before that was sent as a line of its own.
    """

    last: Batch
    text: bytes
    since: float
    shown: bool


@dataclass(slots=True)
class PlainLines:
    """The state of one connection."""

    open: dict[Stream, OpenLine] = field(default_factory=dict)

    def feed(self, block: bytes, now: float) -> bytes:
        """Add stored lines or messages; returns what is to be sent now."""
        if not self.open and not _needs_work(block):
            return block
        return b"".join(self._line(line, now) for line in stored_lines(block))

    @property
    def due(self) -> float | None:
        """When `expire` has something to send; None while nothing is held back."""
        return min((line.since + HOLD_TIME for line in self.open.values() if line.text), default=None)

    def expire(self, now: float) -> bytes:
        """What has been held back for long enough. It is a line of its own for the client, and so is what follows."""
        late = [stream for stream, line in self.open.items() if line.text and line.since + HOLD_TIME <= now]
        return b"".join(self._release(stream, shown=True) for stream in late)

    def _line(self, line: bytes, now: float) -> bytes:
        if batch := read_batch(line):
            return self._partial(batch, now) if batch.partial else self._ended(batch)
        return self._rest_before(line) + decorated(line) + b"\n"

    def _partial(self, batch: Batch, now: float) -> bytes:
        stream = (batch.execution, batch.stream)
        known = self.open.get(stream, OpenLine(batch, b"", now, shown=False))
        since = known.since if known.text else now
        self.open[stream] = OpenLine(batch, known.text + batch.lines[0], since, known.shown)
        return self._release(stream, shown=False) if len(self.open[stream].text) >= HOLD_LIMIT else b""

    def _release(self, stream: Stream, *, shown: bool) -> bytes:
        line = self.open[stream]
        self.open[stream] = replace(line, text=b"", shown=shown)
        return _sent(replace(line.last, partial=not shown, lines=[line.text]))

    def _ended(self, batch: Batch) -> bytes:
        """Complete lines, the first of which may have been begun before."""
        begun = self.open.pop((batch.execution, batch.stream), None)
        if begun is None:
            return _sent(batch)
        first = begun.text + batch.lines[0]
        if begun.shown and not first.replace(RETURN, b""):
            return _sent(batch.from_seq(batch.seq + 1))
        return _sent(replace(batch, lines=[first, *batch.lines[1:]]))

    def _rest_before(self, message: bytes) -> bytes:
        """What is held back of an execution, of which another message comes next."""
        found = EXECUTION.search(message) if self.open else None
        ended = [stream for stream in self.open if found and stream[0] == found[1]]
        rest = b"".join(self._release(stream, shown=False) for stream in ended if self.open[stream].text)
        for stream in ended:
            del self.open[stream]
        return rest


def _needs_work(block: bytes) -> bool:
    """Whether something of a block is changed. Nearly always nothing is, and most of its bytes are looked at once."""
    for at, end in line_spans(block):
        if block.startswith(STARTS, at) or PARTIAL in block[at : max(at, block.find(LINES, at, end))]:
            return True
    if b"\\" not in block or (RETURN not in block and ESCAPE not in block):
        return False
    return OVERWRITTEN.search(block) is not None


def decorated(line: bytes) -> bytes:
    """A message with the decoration that is shown before its text."""
    if line.startswith(ERROR):
        return line.replace(MESSAGE, MESSAGE + "❌ ".encode(), 1)
    if line.startswith(READY):
        return line.replace(MESSAGE, MESSAGE + "✅ ".encode(), 1)
    return line


def _sent(batch: Batch) -> bytes:
    """Lines as a stored line again."""
    lines = [_shown(line) if OVERWRITTEN.search(line.removesuffix(RETURN)) else line for line in batch.lines]
    shown = replace(batch, stream=b"stdout", lines=lines, merged=batch.stream == b"stderr")
    return shown.encode() + b"\n" if lines else b""


def _shown(line: bytes) -> bytes:
    """What remains to be read of a line that was overwritten; both are the inside of a JSON string."""
    versions = [ERASE.sub("", text) for text in OVERWRITE.split(json.loads(b'"' + line + b'"'))]
    text = next((text for text in reversed(versions) if text.strip()), "")
    return encode_basestring(text)[1:-1].encode()
