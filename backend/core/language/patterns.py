"""The patterns of `case`: `*`, `?` and simple brackets, matched in bounded time."""

import re
from collections.abc import Iterator, Mapping

from backend.core.decisions import Decision
from backend.core.language.tree import Word
from backend.core.language.words import Unset, joined

WORK_LIMIT = 4_000_000  # characters of a value times those of a pattern
BRACKET = re.compile(r"\[(!?)([A-Za-z0-9_.,:/@%+=-]+)\]")
STAR, ANY = "*", "?"


class UnlikePattern(Exception):
    """Brackets that shells read differently, or that are partly quoted."""


Part = tuple[str, str]  # a kind, `*`, `?`, `[` or `!`, or `=` for a character itself; and the characters


def matches(value: str, pattern: Word, values: Mapping[str, str]) -> bool:
    """Whether all of a value matches. Raises Unset."""
    parts = [*parts_of_pattern(pattern, values)]
    if len(value) * len(parts) > WORK_LIMIT:
        raise Unset(_too_long())
    return _matches(value, parts)


def parts_of_pattern(pattern: Word, values: Mapping[str, str]) -> Iterator[Part]:
    """The parts of a pattern; its variables are quoted. Raises UnlikePattern and Unset."""
    at = 0
    for piece in pattern.pieces():
        if isinstance(piece, str):
            yield from _written(pattern, at, at + len(piece))
            at += len(piece)
        else:
            text = joined(pattern.part(piece.start, piece.end), values)
            yield from (("=", char) for char in text)
            at = piece.end


def _written(pattern: Word, at: int, end: int) -> Iterator[Part]:
    while at < end:
        char = pattern.text[at]
        found = BRACKET.match(pattern.text, at, end) if char == "[" and at in pattern.active else None
        if found and all(sign in pattern.active for sign in range(at, found.end()) if pattern.text[sign] in "!-]"):
            yield "!" if found[1] else "[", _members(found[2])
            at = found.end()
            continue
        if char == "[" and at in pattern.active:
            raise UnlikePattern
        yield (char, "") if char in {STAR, ANY} and at in pattern.active else ("=", char)
        at += 1


def _members(text: str) -> str:
    """The characters of a bracket."""
    found = re.sub("(.)-(.)", lambda pair: "".join(map(chr, range(ord(pair[1]), ord(pair[2]) + 1))), text)
    if "-" in re.sub("(.)-(.)", "", text).strip("-"):
        raise UnlikePattern
    return found


def _matches(value: str, parts: list[Part]) -> bool:
    """Match from left to right; after a mistake, the last star takes one character more."""
    at = part = 0
    star, resumed = -1, 0
    while at < len(value):
        if part < len(parts) and parts[part][0] == STAR:
            star, resumed = part, at
            part += 1
        elif part < len(parts) and _matches_one(value[at], parts[part]):
            at, part = at + 1, part + 1
        elif star >= 0:
            resumed += 1
            at, part = resumed, star + 1
        else:
            return False
    return all(kind == STAR for kind, _ in parts[part:])


def _matches_one(char: str, part: Part) -> bool:
    match part:
        case ("?", _):
            return True
        case ("!", members):
            return char not in members
        case (_, members):
            return char in members


def _too_long() -> Decision:
    reason = "A word of a case and its pattern are too long to be compared."
    return Decision.deny("limits.expansion", reason, "Compare a part of it: ${NAME%pattern}.")
