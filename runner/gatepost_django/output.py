"""The output of a command on its way to the spool: decoded, masked, put into pieces."""

import codecs
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gatepost_django.masking import Masks
from gatepost_django.spool import PIECE, Text

WINDOW = 0.2  # seconds of output that become one piece; the first piece does not wait
TURNS = 8  # pieces of both streams in their order; where they take more turns, each is put together


@dataclass
class Stream:
    """One stream, whose characters and secrets may be cut by reads."""

    masks: Masks
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The text that can be passed on."""
        return self.masks.feed(self.decoder.decode(data, final), final=final)


@dataclass
class Output:
    """What a command prints. `add` gets the pieces. `clock` is monotonic."""

    streams: tuple[Stream, Stream]
    add: Callable[[Text], None]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    waiting: list[tuple[bool, str]] = field(default_factory=list)
    size: int = 0
    flushed: float = float("-inf")

    def feed(self, is_stderr: bool, data: bytes, *, final: bool = False) -> None:
        """Output that was read; with `final` there is no more of this stream."""
        if text := self.streams[is_stderr].feed(data, final=final):
            self.waiting.append((is_stderr, text))
            self.size += len(text)
        if self.due <= 0:
            self.flush()

    @property
    def due(self) -> float:
        """Seconds until what waits has to be flushed; infinite if nothing waits."""
        if not self.waiting:
            return float("inf")
        return 0.0 if self.size >= PIECE else self.flushed + WINDOW - self.clock()

    def flush(self) -> None:
        """Pass on what waits."""
        self.flushed = self.clock()
        waiting, self.waiting, self.size = self.waiting, [], 0
        for is_stderr, text in joined(waiting):
            self.add(Text(text, is_stderr, self.now()))


def joined(pieces: Iterable[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """The text of neighbours of the same stream as one, and none longer than a piece may be."""
    groups = [
        (stream, "".join(text for _, text in each)) for stream, each in itertools.groupby(pieces, lambda each: each[0])
    ]
    if len(groups) > TURNS:
        groups = [(stream, "".join(text for each, text in groups if each is stream)) for stream in (False, True)]
    return [(stream, text[at : at + PIECE]) for stream, text in groups for at in range(0, len(text), PIECE)]
