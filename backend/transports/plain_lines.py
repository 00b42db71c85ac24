"""What a client without a subprotocol is sent: whole lines of one stream, with decoration. No I/O; time is passed in.

Such a client knows `waking ready stdout error complete` and shows each `stdout` as a line of its own. So an unfinished
line is held back until it ends, for HOLD_TIME and up to HOLD_LIMIT (a longer one comes in parts that are marked
`partial`, as is a last line without an end); standard error comes as `stdout` with `"stream":"stderr"`; and of a line
that was overwritten after a carriage return, the text that remains is sent.
"""

import re
from dataclasses import field

from backend.core.dataclasses import dataclass, replace
from backend.core.recording.batches import Batch, line_spans, read_head, split_items, stored_lines
from backend.core.recording.lines import LINE_LIMIT
from backend.transports.overwritten import is_overwritten, shown_lines

HOLD_TIME = 1.0  # seconds after which the beginning of a line is sent: a prompt, or progress that goes on
HOLD_LIMIT = LINE_LIMIT  # bytes of one line that are held back
ERROR, READY = b'{"type":"error",', b'{"type":"ready",'
MESSAGE = b'"message":"'
STARTS = (ERROR, READY, b'{"type":"stderr"')  # of lines that are changed
PARTIAL, LINES = b'"partial":true', b'"lines":['  # neither can be in a text, where quotes are escaped
MERE_END = re.compile(rb'"(?:\\r)*",?')  # a line in which there is nothing, and what parts it from the next
EXECUTION = re.compile(rb'"execution":"([^"]+)"')

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
        if found := read_head(line):
            batch, items = found[0], line[found[1] : -2]
            return self._partial(batch, items, now) if batch.partial else self._ended(batch, items)
        return self._rest_before(line) + decorated(line) + b"\n"

    def _partial(self, batch: Batch, items: bytes, now: float) -> bytes:
        stream = (batch.execution, batch.stream)
        known = self.open.get(stream, OpenLine(batch, b"", now, shown=False))
        since = known.since if known.text else now
        self.open[stream] = OpenLine(batch, known.text + split_items(items)[0], since, known.shown)
        return self._release(stream, shown=False) if len(self.open[stream].text) >= HOLD_LIMIT else b""

    def _release(self, stream: Stream, *, shown: bool) -> bytes:
        line = self.open[stream]
        self.open[stream] = replace(line, text=b"", shown=shown)
        return _sent(replace(line.last, partial=not shown), b'"%b"' % line.text)

    def _ended(self, batch: Batch, items: bytes) -> bytes:
        """Complete lines, the first of which may have been begun before."""
        begun = self.open.pop((batch.execution, batch.stream), None)
        if begun is None:
            return _sent(batch, items)
        items = b'"%b%b' % (begun.text, items[1:])
        if begun.shown and (empty := MERE_END.match(items)):
            return _sent(replace(batch, seq=batch.seq + 1), items[empty.end() :])
        return _sent(batch, items)

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
    return is_overwritten(block)


def decorated(line: bytes) -> bytes:
    """A message with the decoration that is shown before its text."""
    if line.startswith(ERROR):
        return line.replace(MESSAGE, MESSAGE + "❌ ".encode(), 1)
    if line.startswith(READY):
        return line.replace(MESSAGE, MESSAGE + "✅ ".encode(), 1)
    return line


def _sent(batch: Batch, items: bytes) -> bytes:
    """Lines as a stored line again."""
    if not items:
        return b""
    return replace(batch, stream=b"stdout", merged=batch.stream == b"stderr").with_items(shown_lines(items)) + b"\n"
