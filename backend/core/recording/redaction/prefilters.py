"""What quickly rules out a secret in a text.

A search for each secret takes too long. Most secrets are long words or have capitals or digits in them, and most text
is short words in small letters: the parts that can contain a secret are taken out of a read once, and only these are
searched for the substring that a secret requires.
"""

from collections.abc import Callable
from typing import TypeAlias

Prefilter: TypeAlias = Callable[[bytes], bytes]

LONG_WORD = 16  # characters
CAPITALS_IN_A_ROW = 3  # once all else is taken out; fewer are found in any text
DIGITS_IN_A_ROW = 4  # likewise; numbers are more usual
WORD_CHARACTERS = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_WORD_SHAPE = bytes(0x77 if code in WORD_CHARACTERS else 0x20 for code in range(256))  # w in words, blanks elsewhere
_NO_CAPITALS = bytes(set(range(256)) - set(range(ord("A"), ord("Z") + 1)))
_NO_DIGITS = bytes(set(range(256)) - set(range(ord("0"), ord("9") + 1)))


def long_words(text: bytes) -> bytes:
    """The words of at least LONG_WORD characters."""
    shape, found, run = text.translate(_WORD_SHAPE), [], b"w" * LONG_WORD
    at = shape.find(run)
    while at >= 0:
        end = shape.find(b" ", at + LONG_WORD)
        end = len(text) if end < 0 else end
        found.append(text[at:end])
        at = shape.find(run, end)
    return b" ".join(found)


def capitals(text: bytes) -> bytes:
    """The capital letters, in order."""
    return text.translate(None, _NO_CAPITALS)


def digits(text: bytes) -> bytes:
    """The digits, in order."""
    return text.translate(None, _NO_DIGITS)


def everything(text: bytes) -> bytes:
    """All of it: for secrets that no prefilter fits."""
    return text
