"""Brace expansion, as in bash: a{b,c} is ab ac, {1..3} is 1 2 3."""

import re
from collections.abc import Iterable

from backend.core.dataclasses import dataclass
from backend.core.language.words import Word

DEPTH_LIMIT = 8
WORD_LIMIT = 1000
LENGTH_LIMIT = 100_000  # characters of all words that one becomes
NUMBERS = re.compile(r"(-?(?:0|[1-9][0-9]{0,5}))\.\.(-?(?:0|[1-9][0-9]{0,5}))")
LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


class UnlikeBrace(Exception):
    """Braces that shells read differently; `at` is their position in the text."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class TooMany(Exception):
    """More words, or longer ones, than a word may become."""


def expand_braces(word: Word, signs: dict[int, str]) -> list[Word]:
    """The words that one becomes. `signs` are the positions of its unquoted braces and commas.

    Raises UnlikeBrace and TooMany.
    """
    if any(not each.name for each in word.parameters):
        raise UnlikeBrace(min(signs))  # an empty quote: only some shells keep a word for it
    if len(signs) > WORD_LIMIT:
        raise TooMany
    expanded = _Braces(word, signs, _pairs(signs)).words(0, len(word.text))
    return [each for each in expanded if each.text or each.parameters]


@dataclass(frozen=True, slots=True)
class _Pair:
    end: int
    commas: tuple[int, ...]


def _pairs(signs: dict[int, str]) -> dict[int, _Pair]:
    """Each opening brace with its closing one and the commas between, not those of inner braces."""
    pairs: dict[int, _Pair] = {}
    open_: list[tuple[int, list[int]]] = []
    for at, sign in sorted(signs.items()):
        if sign == "{":
            open_.append((at, []))
        elif open_ and sign == ",":
            open_[-1][1].append(at)
        elif open_:
            start, commas = open_.pop()
            pairs[start] = _Pair(at, tuple(commas))
        if len(open_) > DEPTH_LIMIT:
            raise TooMany
    if open_:
        raise UnlikeBrace(open_[0][0])
    return pairs


@dataclass(frozen=True, slots=True)
class _Braces:
    word: Word
    signs: dict[int, str]
    pairs: dict[int, _Pair]

    def words(self, start: int, end: int) -> list[Word]:
        """The words for the text from `start` to `end`."""
        found = [Word("")]
        at = start
        while at < end:
            if pair := self.pairs.get(at):
                found = _product(found, self._alternatives(at, pair))
                at = pair.end + 1
                continue
            following = min((each for each in self.pairs if at < each < end), default=end)
            found = _product(found, [self.word.part(at, following)])
            at = following
        return found

    def _alternatives(self, start: int, pair: _Pair) -> list[Word]:
        if pair.commas:
            starts, ends = (start, *pair.commas), (*pair.commas, pair.end)
            return _limited(
                each for first, last in zip(starts, ends, strict=True) for each in self.words(first + 1, last)
            )
        inner = self.word.part(start + 1, pair.end)
        if inner.parameters:
            raise UnlikeBrace(start)
        return _limited(map(Word, _range(inner.text, start)))


def _range(text: str, at: int) -> Iterable[str]:
    if found := NUMBERS.fullmatch(text):
        first, last = int(found[1]), int(found[2])
        return map(str, range(first, last + 1) if first <= last else range(first, last - 1, -1))
    if found := LETTERS.fullmatch(text):
        first, last = (ord(letter) for letter in found.groups() if letter)
        return map(chr, range(first, last + 1) if first <= last else range(first, last - 1, -1))
    raise UnlikeBrace(at)


def _product(starts: list[Word], ends: list[Word]) -> list[Word]:
    if len(starts) * len(ends) > WORD_LIMIT:
        raise TooMany
    length = len(ends) * sum(len(each.text) for each in starts) + len(starts) * sum(len(each.text) for each in ends)
    if length > LENGTH_LIMIT:
        raise TooMany
    return [start.plus(end) for start in starts for end in ends]


def _limited(words: Iterable[Word]) -> list[Word]:
    found = []
    for word in words:
        found.append(word)
        if len(found) > WORD_LIMIT:
            raise TooMany
    return found
