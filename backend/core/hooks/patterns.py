"""Patterns of texts: regular expressions without groups, alternatives and anchors, matched in bounded time.

The engine of the standard library tries one way after the other, and for some patterns that takes exponentially long.
Here all ways are followed at once, as the bits of a number: at most (elements) x (characters) steps.
"""

import re
from typing import Self

from backend.core.dataclasses import dataclass

LONGEST_PATTERN = 100  # characters
SET = r"\[\^?(?:\\[dws.\\\[\]^-]|[^\\\[\]])+\]"
ELEMENT = re.compile(
    rf"({SET}|\\[dws.\\*+?()\[\]{{}}|^$-]|[^\\*+?()\[\]{{}}|^$])(?:([*+?])|\{{([0-9]{{1,3}})(,?)([0-9]{{0,3}})\}})?"
)
SET_OPERATION = re.compile(r"--|&&|\|\||~~")  # reserved in sets
MANY = 1000  # more than the longest text has
QUANTIFIERS = {"*": (0, MANY), "+": (1, MANY), "?": (0, 1)}


class PatternError(ValueError):
    """The pattern cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Element:
    """A character or a set of them, and how often in a row it may be."""

    one: re.Pattern[str]
    least: int
    most: int

    def after(self, reached: int, text: str) -> int:
        """Where in the text the next element may begin, if this one may begin where `reached` has bits."""
        fits = sum(1 << place for place, character in enumerate(text) if self.one.fullmatch(character))
        found = 0 if self.least else reached
        for count in range(1, min(self.most, len(text)) + 1):
            reached = (reached & fits) << 1
            if count >= self.least:
                found |= reached
        return found


@dataclass(frozen=True, slots=True)
class Pattern:
    """Elements, one after the other."""

    elements: tuple[Element, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises PatternError."""
        if len(text) > LONGEST_PATTERN:
            raise PatternError(f"it is longer than {LONGEST_PATTERN} characters")
        elements, at = [], 0
        while at < len(text):
            found = ELEMENT.match(text, at)
            if found is None:
                raise PatternError(f"what begins at position {at + 1} is not supported")
            elements.append(_element(found))
            at = found.end()
        return cls(tuple(elements))

    def matches(self, text: str) -> bool:
        """Whether it matches the text as a whole."""
        reached = 1
        for element in self.elements:
            reached = element.after(reached, text)
        return bool(reached >> len(text) & 1)


def _element(found: re.Match[str]) -> Element:
    character, sign, least, comma, most = found.groups()
    if len(character) > 1 and SET_OPERATION.search(character):
        raise PatternError(f"the set at position {found.start() + 1} is not supported")
    try:
        one = re.compile(character, re.ASCII)
    except re.error as error:
        raise PatternError(f"the set at position {found.start() + 1} is invalid: {error.msg}") from error
    if least is None:
        return Element(one, *QUANTIFIERS.get(sign, (1, 1)))
    return Element(one, int(least), int(most or MANY if comma else least))
