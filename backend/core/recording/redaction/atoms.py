"""Plain patterns taken apart: a sequence of characters and sets, each with its repeats.

Of such a pattern it is known how a match begins and which texts it contains. Any other regular expression is not plain.
"""

import re
from collections.abc import Iterable, Iterator

from backend.core.dataclasses import dataclass
from backend.core.recording.redaction.prefilters import WORD_CHARACTERS

# What stands for one character: a set, a class, an escaped character, or the character itself.
ONE = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[wWdDsStnrfv]|\\[^\w]|[^\\.*+?{}()|^$\[\]]|\.")
_ATOM = re.compile(
    r"(?P<condition>\\b|\(\?<![^()]*\))"
    r"|(?P<group>\(\?P<secret>|\))"
    rf"|(?P<one>{ONE.pattern})"
    r"(?P<times>[*+?](?![*+?])|\{\d+(?:,\d*)?\}(?![*+?]))?"
)


@dataclass(frozen=True, slots=True)
class Atom:
    """One step of a plain pattern: what a character may be, and how often."""

    one: str
    least: int = 1
    most: int | None = 1

    @property
    def unfinished(self) -> str:
        """Matches the step where it may still go on."""
        if self.most is None:
            return f"{self.one}*"
        return f"{self.one}{{0,{self.most - 1}}}"

    @property
    def complete(self) -> str:
        """Matches the step in full."""
        return f"{self.one}{{{self.least},{'' if self.most is None else self.most}}}"

    @property
    def literal(self) -> bytes:
        """The character, if only one is possible."""
        single = self.least == self.most == 1 and re.fullmatch(r"\\\W|[^.]", self.one)
        return self.one[-1].encode() if single else b""

    def admits(self, codes: Iterable[int]) -> bool:
        """Whether it matches any of the bytes."""
        return re.search(self.one.encode(), bytes(codes)) is not None


def split_pattern(source: str) -> tuple[str, list[Atom]]:
    """The conditions on where a plain pattern may begin, and its steps; no steps when it is not plain."""
    conditions, atoms, at = "", [], 0
    while at < len(source):
        found = _ATOM.match(source, at)
        if not found:
            return "", []
        at = found.end()
        if one := found["one"]:
            atoms.append(Atom(one, *_repeats(found["times"] or "")))
        elif (condition := found["condition"]) and not atoms:
            if not re.compile(condition.encode()).match(b"\n\n\n\n", 4) and condition != r"\b":
                return "", []  # it distinguishes the start of the text from the start of a line
            conditions += condition
    return conditions, atoms


def _repeats(written: str) -> tuple[int, int | None]:
    if not written:
        return 1, 1
    if written in "*+?":
        return int(written == "+"), 1 if written == "?" else None
    least, comma, most = written[1:-1].partition(",")
    return int(least), int(most) if most else None if comma else int(least)


def partial_match(atoms: list[Atom]) -> str:
    """Matches the end of a text that may go on to become a match."""
    rest = ""
    for atom in reversed(atoms):
        rest = rf"(?:{atom.unfinished}\Z|{atom.complete}{rest})" if rest else rf"{atom.unfinished}\Z"
    return rf"(?={atoms[0].one}){rest}"


def leading_word(atoms: list[Atom]) -> Iterator[Atom]:
    """The first steps, up to one that admits more than the characters of a word."""
    others = set(range(256)) - set(WORD_CHARACTERS)
    for atom in atoms:
        if atom.admits(others):
            return
        yield atom


def required_texts(atoms: list[Atom]) -> list[bytes]:
    """The texts that every match contains."""
    return b"".join(atom.literal or b" " for atom in atoms).split()
