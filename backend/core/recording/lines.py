"""Bytes of a program, cut into lines and encoded as JSON text, one read at a time.

The result is the inside of a JSON array of strings: `"first","second"`.

Before that, the bytes pass through transforms, one after the other: the terminal filter first, then masking, so that no
sequence within a secret can hide it.
"""

import codecs
from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import Protocol

from backend.core.dataclasses import dataclass
from backend.core.recording.native import output

LINE_LIMIT = 64 * 1024  # bytes of one line that are held back before it is passed on in parts
PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\')) + b"\n"


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines encoded for a message. `items` is the inside of a JSON array with `count` strings.

    With `partial` there is one string, whose line has not ended.
    """

    items: bytes
    count: int
    partial: bool = False


def encode_lines(ended: bytes) -> Lines:
    """Encode complete lines; `ended` ends in LF. Bytes that are not UTF-8 become U+FFFD."""
    return Lines(*_encode(ended))


def encode_in_python(ended: bytes) -> tuple[bytes, int]:
    """The inside of the array, and the number of lines.

    Most output is plain ASCII and needs no escaping, so one pass over a read at C speed replaces the line ends; other output
    is encoded line by line.
    """
    if not ended.translate(None, PLAIN):
        return b'"' + ended[:-1].replace(b"\n", b'","') + b'"', ended.count(b"\n")
    texts = ended.decode("utf-8", "replace").split("\n")[:-1]
    return _join(texts), len(texts)


_encode = output.encode_lines if output else encode_in_python


def _join(texts: Iterable[str]) -> bytes:
    return ",".join(map(encode_basestring, texts)).encode()


class Transform(Protocol):
    """Transforms the bytes of one stream. It may hold some back until it has seen more."""

    @property
    def held(self) -> bool:
        """Whether something is held back."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Add a read; returns what can be passed on."""
        ...

    def release(self) -> bytes:
        """No more has come for a while: return what need not be held back."""
        ...

    def finish(self) -> bytes:
        """The stream has ended: return the rest."""
        ...


class LineAssembler:
    """Cuts the reads of one stream, transformed in the given order, into lines. A line that has not ended is held back."""

    def __init__(self, *transforms: Transform) -> None:
        self._transforms = transforms
        self._tail: list[bytes] = []
        self._held = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def pending(self) -> bool:
        """Whether the start of a line is held back."""
        return self._held > 0 or any(transform.held for transform in self._transforms)

    def feed(self, data: bytes) -> list[Lines]:
        """Add a read; returns what can be passed on, in order."""
        for transform in self._transforms:
            data = transform.feed(data)
        return self._cut(data)

    def flush(self, *, final: bool = False) -> list[Lines]:
        """Return what is held back as a partial line, except incomplete characters and possible secrets, unless `final`."""
        if not self.pending:
            return []
        data = b""
        for transform in self._transforms:
            data = transform.feed(data) + (transform.finish() if final else transform.release())
        return self._cut(data) + self._partial(final=final) if data or self._held else []

    def _cut(self, data: bytes) -> list[Lines]:
        end = data.rfind(b"\n") + 1
        if not end:
            self._hold(data)
            return self._partial() if self._held >= LINE_LIMIT else []
        ready = [self._encode(data[:end])]
        self._hold(data[end:])
        return ready

    def _partial(self, *, final: bool = False) -> list[Lines]:
        held = self._drain()
        text = self._decoder.decode(held, final)
        if waiting := self._decoder.getstate()[0]:
            self._hold(waiting)
        self._decoder.reset()
        return [Lines(_join([text]), 1, partial=True)] if text else []

    def _encode(self, ended: bytes) -> Lines:
        return encode_lines(self._drain() + ended if self._held else ended)

    def _hold(self, data: bytes) -> None:
        if data:
            self._tail.append(data)
            self._held += len(data)

    def _drain(self) -> bytes:
        held = b"".join(self._tail)
        self._tail.clear()
        self._held = 0
        return held
