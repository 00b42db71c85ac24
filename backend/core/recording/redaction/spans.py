"""Places in output: where something is in a text with its colours taken out, and the same bytes with it masked."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property

from backend.core.recording.native import output

MASK = b"[masked]"
ESCAPE = 0x1B  # as a number: for bytes, `in` first makes and forgets an exception
# The sequences that pass the terminal filter: colours, erasing in the line, moving to a column.
COLOUR = re.compile(rb"\x1b\[(?:[0-9:;]*m|[012]?K|[0-9]{0,4}G)")

Span = tuple[int, int]  # from the first byte to the one after the last


class Uncoloured:
    """Text without its colours, which could part a secret, and where its characters are in the original."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.text = _without_colours(data) if ESCAPE in data else data

    def place(self, at: int) -> int:
        """Where the character `at` is in the original."""
        starts, shifts = self._colours
        return at + shifts[bisect_right(starts, at) - 1]

    def span(self, span: Span) -> Span:
        """The span in the original."""
        return self.place(span[0]), self.place(span[1] - 1) + 1

    @cached_property
    def _colours(self) -> tuple[list[int], list[int]]:
        """Where in the text colours were, and how many bytes of colours are in the original up to there."""
        starts, shifts = [0], [0]
        for colour in COLOUR.finditer(self._data):
            starts.append(colour.start() - shifts[-1])
            shifts.append(shifts[-1] + colour.end() - colour.start())
        return starts, shifts


def uncoloured_in_python(data: bytes) -> bytes:
    """The text without its colours."""
    return COLOUR.sub(b"", data)


_without_colours = output.uncoloured if output else uncoloured_in_python


def merged(spans: Iterable[Span]) -> list[Span]:
    """In order; those that overlap become one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def masked(data: bytes, spans: Iterable[Span], start: int = 0, end: int | None = None) -> bytes:
    """`data` from `start` to `end` with the spans masked; colours within them stay."""
    end, parts = len(data) if end is None else end, []
    for begin, stop in spans:
        begin, stop = max(begin, start), min(stop, end)
        if begin < stop:
            parts += [data[start:begin], MASK, *COLOUR.findall(data[begin:stop])]
            start = stop
    return b"".join([*parts, data[start:end]]) if parts else data[start:end]
