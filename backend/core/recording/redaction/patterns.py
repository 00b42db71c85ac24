"""What secrets look like: the patterns that are masked by default, and how a pattern is matched."""

import re
from collections.abc import Iterable, Iterator

from backend.core.dataclasses import dataclass
from backend.core.recording.native import Needle
from backend.core.recording.redaction.atoms import Atom, leading_word, partial_match, required_texts, split_pattern
from backend.core.recording.redaction.needles import leading_needle
from backend.core.recording.redaction.prefilters import LONG_WORD, Prefilter, everything, long_words
from backend.core.recording.redaction.spans import Span

SHORTEST_NEEDLE = 3  # bytes of a text that the search in C can look for
LONGEST_MATCH = 4096  # bytes of a match that is found in a line of any length

PRIVATE_KEY = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
_APART = r"(?<!\w\w)"  # not within a word; one letter may precede, as the n of a written-out \n
DEFAULT_PATTERNS = (
    *(rf"gh{kind}_[A-Za-z0-9]{{20,}}" for kind in "opsur"),
    r"github_pat_[A-Za-z0-9_]{20,}",
    rf"{_APART}AKIA[A-Z0-9]{{16}}",
    rf"{_APART}(?<!a)sk-[A-Za-z0-9_-]{{20,}}",
    rf"{_APART}xox[a-z]-[A-Za-z0-9-]{{12,}}",
    # Not after a hyphen either: many starts in one long word would each read it to its end.
    r"(?<![\w-][\w-])eyJ[A-Za-z0-9_-]{13,}\.eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{10,}",
    *(rf"{_APART}g{kind}_[A-Za-z0-9_-]{{20,}}" for kind in "pl"),
    rf"{_APART}dc_[A-Za-z0-9_-]{{40,}}",  # longer than the names of variables that begin so
    rf"{_APART}whsec_[A-Za-z0-9+/]{{24,}}",
    r"://[^\s:/@]*:(?P<secret>[^\s/@]+)@",
    PRIVATE_KEY,  # with the lines that follow, up to and including its END
)


@dataclass(frozen=True, slots=True)
class SecretPattern:
    """What secrets of a kind look like. Without `start`, where a match may begin cannot be known.

    A text without `needle` contains no match. With `leading` each match begins with it.
    """

    complete: re.Pattern[bytes]
    start: re.Pattern[bytes] | None
    by_line: bool
    prefilter: Prefilter
    required_substrings: tuple[bytes, ...]
    needle: Needle
    leading: bool

    @classmethod
    def of(cls, source: str) -> "SecretPattern":
        """Raises re.error for a pattern that cannot be used."""
        if not source.isascii():  # in bytes, a character is several and a set of characters is none
            raise re.error("a pattern is written in ASCII", source)
        complete = re.compile(source.encode())
        conditions, atoms = split_pattern(source)
        if not atoms:
            return cls(complete, None, True, everything, (b"",), Needle(b""), False)
        start = re.compile((conditions + partial_match(atoms)).encode())
        by_line = any(atom.admits(b"\n") for atom in atoms)
        needle = leading_needle(conditions, atoms)
        leading = len(needle.text) >= SHORTEST_NEEDLE and not by_line
        if not leading:
            needle = Needle(max(required_texts(atoms), key=len, default=b""))
        return cls(complete, start, by_line, *_prefiltered(atoms), needle, leading)

    def spans(self, text: bytes) -> Iterator[Span]:
        """Where it matches in a text."""
        if not self.by_line:
            yield from self._matches(text)
            return
        for at, line in _lines(text):
            for start, end in self._matches(line):
                yield at + start, at + end

    @property
    def _group(self) -> str | int:
        return "secret" if "secret" in self.complete.groupindex else 0

    def _matches(self, text: bytes) -> Iterator[Span]:
        group = self._group
        for start, end in _windows(len(text)) if self.start is None else [(0, len(text))]:
            for found in self.complete.finditer(text, start, end):
                if found[group]:
                    yield found.span(group)

    def spans_at(self, text: bytes, places: Iterable[int]) -> Iterator[Span]:
        """Where it matches in a text in which all matches begin at one of the places, which are in order."""
        group, behind = self._group, 0
        for place in places:
            if place >= behind and (found := self.complete.match(text, place)):
                behind = found.end()
                if found[group]:
                    yield found.span(group)

    def possible_start(self, text: bytes) -> int:
        """Where something begins that may become a match; the length of `text` if there is nothing."""
        if self.start is None:
            return 0
        found = self.start.search(text, max(0, len(text) - LONGEST_MATCH))
        return found.start() if found else len(text)


def _prefiltered(atoms: list[Atom]) -> tuple[Prefilter, tuple[bytes, ...]]:
    """The prefilter for a plain pattern, and the texts that every match contains."""
    word = list(leading_word(atoms))
    if sum(atom.least for atom in word) >= LONG_WORD:
        return long_words, (max(required_texts(word), key=len, default=b""),)
    # The cheapest to look for come first: single characters, then long texts.
    texts = sorted(required_texts(atoms), key=lambda text: (len(text) > 1, -len(text)))
    return everything, tuple(texts) or (b"",)


def _lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each line begins, and the line."""
    at = 0
    for line in text.split(b"\n"):
        yield at, line
        at += len(line) + 1


def _windows(length: int) -> Iterator[Span]:
    """The parts of a line that are searched; short ones bound the time that an unknown pattern can take."""
    for at in range(0, max(1, length - LONGEST_MATCH), LONGEST_MATCH):
        yield at, min(length, at + 2 * LONGEST_MATCH)
