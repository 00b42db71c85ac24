"""Secrets known in full, in all the forms that programs give them."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from backend.core.dataclasses import dataclass
from backend.core.recording.native import Needle
from backend.core.recording.redaction.prefilters import (
    CAPITALS_IN_A_ROW,
    DIGITS_IN_A_ROW,
    LONG_WORD,
    Prefilter,
    capitals,
    digits,
    everything,
    long_words,
)
from backend.core.recording.redaction.spans import Span

SHORTEST_VALUE = 6  # characters; shorter values are words that ordinary output contains too


@dataclass(frozen=True, slots=True)
class SecretValue:
    """A secret known in full, in one of its forms."""

    form: bytes
    prefilter: Prefilter
    required_substrings: tuple[bytes, ...]

    @classmethod
    def of(cls, form: bytes) -> "SecretValue":
        run = max(re.findall(rb"[\w-]*", form), key=len)
        if len(run) >= LONG_WORD:
            return cls(form, long_words, (run,))
        if len(found := capitals(form)) >= CAPITALS_IN_A_ROW:
            return cls(form, capitals, (found,))
        if len(found := digits(form)) >= DIGITS_IN_A_ROW:
            return cls(form, digits, (found,))
        return cls(form, everything, (form,))

    leading = True  # it begins with its needle

    @property
    def needle(self) -> Needle:
        """What is searched for: all of it."""
        return Needle(self.form)

    def spans(self, text: bytes) -> Iterator[Span]:
        """Where it is in a text."""
        at = text.find(self.form)
        while at >= 0:
            yield at, at + len(self.form)
            at = text.find(self.form, at + 1)

    def spans_at(self, _text: bytes, places: Iterable[int]) -> Iterator[Span]:
        """Where it is in a text in which it is at these places."""
        return ((place, place + len(self.form)) for place in places)

    def possible_start(self, text: bytes) -> int:
        """Where the part of it begins that `text` ends with; the length of `text` if there is none."""
        at = text.find(self.form[:1], max(0, len(text) - len(self.form) + 1))
        while at >= 0 and not self.form.startswith(text[at:]):
            at = text.find(self.form[:1], at + 1)
        return len(text) if at < 0 else at


def forms(value: str) -> Iterator[bytes]:
    """The forms in which a value is masked; a value of several lines line by line too. None of one that is too short."""
    if len(value) < SHORTEST_VALUE:
        return
    raw = value.encode("utf-8", "surrogatepass")
    yield from (line for line in raw.splitlines() if len(line.decode("utf-8", "surrogatepass")) >= SHORTEST_VALUE)
    yield from _base64_forms(raw)
    for encoded in {quote(raw, safe=""), quote(raw), quote_plus(raw)}:
        yield encoded.encode()
        yield re.sub(r"%..", lambda found: found[0].lower(), encoded).encode()
    for ascii_only in (True, False):
        yield json.dumps(value, ensure_ascii=ascii_only)[1:-1].encode("utf-8", "surrogatepass")


def _base64_forms(raw: bytes) -> Iterator[bytes]:
    """base64 and base64url, wherever the value begins within the three bytes of a group, and cut at usual widths."""
    for before in range(3):
        encoded = b64encode(bytes(before) + raw)
        sure = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        lines = [sure[at : at + width] for width in (64, 76) for at in range(0, len(sure), width)] if not before else []
        for form in [sure, *(line for line in lines if len(line) >= 16)]:
            yield form
            yield form.translate(bytes.maketrans(b"+/", b"-_"))
