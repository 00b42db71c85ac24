"""What the search in C looks for of a plain pattern that begins with a text: that text, and what is around it.

It may find more than the pattern matches, and never less: the pattern itself is tried at each place that was found.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile

from backend.core.recording.native import Needle
from backend.core.recording.redaction.atoms import ONE, Atom

MOST = 255  # what a count is written as that is larger: fewer bytes are looked at
_EVERY = bytes(range(256))
_NOT_BEHIND = re.compile(r"\(\?<!([^()]*)\)")


def leading_needle(conditions: str, atoms: Sequence[Atom]) -> Needle:
    """What a match begins with; an empty text where that is no text."""
    text = b"".join(takewhile(bool, (atom.literal for atom in atoms)))
    return Needle(text, b"".join(_rows(conditions)), b"".join(_steps(atoms[len(text) :])))


def _rows(conditions: str) -> Iterator[bytes]:
    """What may not precede a match, as far as it is known: rows of single characters."""
    for row in _NOT_BEHIND.findall(conditions):
        ones = ONE.findall(row)
        if "".join(ones) == row and 0 < len(ones) <= MOST:
            yield bytes([len(ones)]) + b"".join(map(_bits, ones))


def _steps(atoms: Sequence[Atom]) -> Iterator[bytes]:
    """What has to follow, up to the first atom of which it is not known how many characters it matches."""
    for number, atom in enumerate(atoms):
        if atom.least != atom.most and not _ends_by_itself(atom, atoms[number + 1 :]):
            if atom.least:
                yield _step(atom.one, atom.least, atom.least)
            return
        yield _step(atom.one, atom.least, atom.most)


def _ends_by_itself(atom: Atom, following: Sequence[Atom]) -> bool:
    """Whether an atom matches all that it can, since nothing that may come next begins with more of it."""
    for each in following:
        if _members(atom.one) & _members(each.one):
            return False
        if each.least:
            return True
    return False


def _step(one: str, least: int, most: int | None) -> bytes:
    return _bits(one) + bytes([min(least, MOST), MOST if most is None else min(most, MOST)])


@cache
def _members(one: str) -> frozenset[int]:
    """The bytes that an atom may be."""
    return frozenset(b"".join(re.findall(one.encode(), _EVERY)))


@cache
def _bits(one: str) -> bytes:
    return sum(1 << byte for byte in _members(one)).to_bytes(32, "little")
