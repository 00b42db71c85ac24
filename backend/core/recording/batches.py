"""Stored lines of output, taken apart and cut.

Output is stored as a complete read (a batch): its `seq` is the number of its first line, and the next message continues
after the last. These functions read the numbers of stored lines, cut blocks at a number, and take batches apart for
clients that expect one message a line.
"""

import json
import re
from collections.abc import Iterator
from json.encoder import encode_basestring

from backend.core.dataclasses import dataclass, replace
from backend.core.recording.native import output

SEQ = re.compile(rb'"seq":(\d+)')
BATCH = re.compile(
    rb'\{"type":"(stdout|stderr)","execution":"([^"]+)","seq":(\d+),"ms":(\d+),("partial":true,)?("stream":"stderr",)?"lines":\['
)


def line_spans(block: bytes) -> Iterator[tuple[int, int]]:
    """Where each line of a block is. They are long: `split` and `splitlines` take ten times as long to find their ends."""
    at = 0
    while (end := block.find(b"\n", at)) >= 0:
        yield at, end
        at = end + 1
    if at < len(block):
        yield at, len(block)


def stored_lines(block: bytes) -> Iterator[bytes]:
    """The lines of a block."""
    return (block[at:end] for at, end in line_spans(block))


def first_seq(line: bytes) -> int:
    """The number of a stored line. The id in front of it cannot contain `"seq":`."""
    found = SEQ.search(line)
    return int(found[1]) if found else 0


def last_seq(block: bytes) -> int:
    """The number of the last message in a block of stored lines; 0 where there is none."""
    at = block.rfind(b"\n", 0, -1) + 1
    if not (found := read_head(block, at)):
        return first_seq(block[at:])
    batch, begin = found
    return batch.seq + _parted(block[begin:].rstrip(b"\n")[:-2])


@dataclass(frozen=True, slots=True)
class Batch:
    """The output of one read: each of `lines` is the inside of a JSON string.

    With `merged` it is standard error that a client gets as `stdout`; such a batch is never stored.
    """

    stream: bytes
    execution: bytes
    seq: int
    ms: int
    partial: bool
    lines: list[bytes]
    merged: bool = False

    @property
    def texts(self) -> list[str]:
        """The lines, decoded."""
        texts: list[str] = json.loads(b'["' + b'","'.join(self.lines) + b'"]')
        return texts

    def from_seq(self, seq: int) -> "Batch":
        """The lines numbered `seq` and higher."""
        return replace(self, seq=seq, lines=self.lines[seq - self.seq :])

    def encode(self) -> bytes:
        """The stored line, without its line end."""
        return self.with_items(b'"%b"' % b'","'.join(self.lines))

    def with_items(self, items: bytes) -> bytes:
        """The stored line of other lines, which are the inside of an array."""
        return b'{"type":"%b","execution":"%b","seq":%d,"ms":%d,%b"lines":[%b]}' % (
            self.stream,
            self.execution,
            self.seq,
            self.ms,
            self._marks,
            items,
        )

    @property
    def head(self) -> bytes:
        """How a message of one line begins, up to the text of the line."""
        return b'{"type":"%b","execution":"%b","ms":%d,%b"line":"' % (
            self.stream,
            self.execution,
            self.ms,
            self._marks,
        )

    @property
    def _marks(self) -> bytes:
        return (b'"partial":true,' if self.partial else b"") + (b'"stream":"stderr",' if self.merged else b"")

    def messages(self) -> Iterator[bytes]:
        """One message for each line."""
        head = self.head
        for seq, line in enumerate(self.lines, self.seq):
            yield b'%b%b","seq":%d}' % (head, line, seq)


def read_head(block: bytes, at: int = 0) -> tuple[Batch, int] | None:
    """A stored line of output without its lines, and where they begin; None when it is another message."""
    found = BATCH.match(block, at)
    if not found:
        return None
    return Batch(found[1], found[2], int(found[3]), int(found[4]), bool(found[5]), [], bool(found[6])), found.end()


def read_batch(line: bytes) -> Batch | None:
    """Take a stored line of output apart; None when it is another message."""
    found = read_head(line)
    return replace(found[0], lines=split_items(line[found[1] : -2])) if found else None


def read_plain(line: bytes) -> tuple[bytes, bytes] | None:
    """The stream and the text of a stored line of output in which nothing is escaped; None when it is another one."""
    found = BATCH.match(line)
    if not found or b"\\" in line:
        return None
    return found[1], line[found.end() + 1 : -3].replace(b'","', b"\n") + (b"" if found[5] else b"\n")


def split_items(items: bytes) -> list[bytes]:
    """The texts of `"a","b"`. Without a backslash no text can contain a quote, so the commas part them.

    Raises ValueError where a text contains what a string of JSON cannot.
    """
    return items[1:-1].split(b'","') if items.find(b"\\") < 0 else _split_escaped(items)


def _parted(items: bytes) -> int:
    """How many texts of `"a","b"` follow the first one."""
    return items.count(b'","', 1, -1) if items.find(b"\\") < 0 else len(_split_escaped(items)) - 1


def split_in_python(items: bytes) -> list[bytes]:
    """The same by way of the decoded texts."""
    return [encode_basestring(text)[1:-1].encode() for text in json.loads(b"[" + items + b"]")]


_split_escaped = output.split_items if output else split_in_python


def after(block: bytes, seq: int) -> bytes:
    """The part of a block of stored lines that is numbered higher than `seq`; a batch is cut where necessary."""
    rest = []
    for line in stored_lines(block):
        first = first_seq(line)
        if first > seq:
            rest.append(line)
        elif (batch := read_batch(line)) and first + len(batch.lines) - 1 > seq:
            rest.append(batch.from_seq(seq + 1).encode())
    return b"".join(line + b"\n" for line in rest)
